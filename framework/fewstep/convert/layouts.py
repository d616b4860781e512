"""Layouts of public checkpoints: the names of their keys, and the counterparts in backbone `dit`.

MDLM, Duo, SDTT and IDLM share one network (DDiT of SEDD). They differ in the process of the training, in whether the
network is conditioned on the time, and in the wrapper of the network, which adds a prefix to all keys.

Shapes: S rows of the embedding, V symbols, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fewstep.core.errors import UserError

State = dict[str, Tensor]

_ANCHOR = "vocab_embed.embedding"
_INVERSE_FREQUENCIES = "rotary_emb.inv_freq"
_COMPILED = "_orig_mod."
_HEAD, _PUBLIC_HEAD = "head.", "output_layer.linear."
_ZERO_LOGIT = -1e4
"""Logit of a symbol that is never predicted: probability 0, and finite, in every precision."""


@dataclass(frozen=True)
class Layout:
    """One family of checkpoints.

    Args:
        name: value of `--layout`.
        source: repositories with such checkpoints, for people.
        process: masked (the embedding has a row for [MASK]) or uniform.
        time_conditioned: whether the network is conditioned on sigma; otherwise it gets 0.

    Networks of a uniform layout minimise Duo's bound, or are distilled from one that does: their output is
    leave-one-out. With masks this is p(x | z_t), as everywhere.
    """

    name: str
    source: str
    process: Literal["masked", "uniform"]
    time_conditioned: bool

    @property
    def sections(self) -> dict[str, object]:
        """Sections of a recipe that say how such networks are trained and sampled."""
        if self.process == "masked":
            return {"objective": "denoising"}
        return {
            "objective": {"type": "denoising", "loss": "bound"},
            "output": "leave_one_out",
            "sampler": {"type": "ancestral", "posterior": "plugged"},
        }


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("mdlm", "kuleshov-group/mdlm-owt", "masked", False),
        Layout("sdtt", "jdeschena/sdtt", "masked", False),
        Layout("idlm-mdlm", "kekchpek/idlm-mdlm", "masked", False),
        Layout("duo", "s-sahoo/duo and duo-distilled", "uniform", True),
        Layout("idlm-duo", "kekchpek/idlm-duo and idlm-dcd", "uniform", True),
    )
}


@dataclass(frozen=True)
class NetworkTensors:
    """Tensors of one network by their bare names; `foreign_keys` belong to no network."""

    tensors: State
    foreign_keys: tuple[str, ...]
    inverse_frequencies: Tensor | None


def bare_names(state: Mapping[str, Tensor], label: str) -> NetworkTensors:
    """Remove the wrapper's prefix from all keys (`backbone.`, `backbone.backbone.`, `model.`, ...).

    Rotary frequencies are not weights. They are returned separately, since they determine the number of heads.

    Args:
        state: tensors by key.
        label: name of the checkpoint in messages.

    Raises:
        UserError: the checkpoint holds no network of this kind, or several.
    """
    plain = {key.replace(_COMPILED, ""): tensor for key, tensor in state.items()}
    prefixes = sorted(key.removesuffix(_ANCHOR) for key in plain if key.endswith(_ANCHOR))
    if not prefixes:
        keys = ", ".join(sorted(plain)[:3]) or "none"
        raise UserError(f"{label} holds no network of this layout: no key ends in {_ANCHOR} (keys: {keys}, ...)")
    if len(prefixes) > 1:
        names = ", ".join(prefix or "(none)" for prefix in prefixes)
        raise UserError(f"{label} holds several networks, with prefixes {names}; save the one to import on its own")
    tensors = {key.removeprefix(prefixes[0]): tensor for key, tensor in plain.items() if key.startswith(prefixes[0])}
    foreign_keys = tuple(key for key in plain if not key.startswith(prefixes[0]))
    frequencies = tensors.pop(_INVERSE_FREQUENCIES, None)
    return NetworkTensors(tensors, foreign_keys, frequencies)


def from_public(tensors: Mapping[str, Tensor], layout: Layout, *, mask_id: int | None = None) -> State:
    """Weights of `dit` from bare public weights, in float32; unknown tensors keep their names.

    Masked layouts: the embedding's last row is [MASK]'s, as in fewstep. The head's last row is dropped, since a masked
    process never predicts [MASK]. A tokenizer with its own mask token (`mask_id`, 103 of BERT's) keeps all its ids:
    the row of that token is copied to the end, and the token has probability 0 as a symbol.

    Raises:
        UserError: `mask_id` is not a token of the checkpoint.
    """
    state = {_dit_name(key): tensor.float() for key, tensor in tensors.items()}
    if layout.process != "masked" or _ANCHOR not in state:
        return state
    last = state[_ANCHOR].shape[0] - 1
    if mask_id is None or mask_id == last:
        return {key: tensor[:last] if key.startswith(_HEAD) else tensor for key, tensor in state.items()}
    if not 0 <= mask_id < last:
        raise UserError(f"--mask-id {mask_id}: the checkpoint's tokens are 0 to {last}")
    state[_ANCHOR] = torch.cat((state[_ANCHOR], state[_ANCHOR][mask_id : mask_id + 1]))
    for key, value in (("head.weight", 0.0), ("head.bias", _ZERO_LOGIT)):
        if key in state:
            state[key] = state[key].clone()
            state[key][mask_id] = value
    return state


def to_public(state: Mapping[str, Tensor], layout: Layout) -> State:
    """Bare public names and shapes for the weights of a `dit`; the head's unused row for [MASK] is 0."""
    public = {}
    for key, tensor in state.items():
        if key.startswith(_HEAD) and layout.process == "masked":
            tensor = torch.cat((tensor, torch.zeros_like(tensor[:1])))
        public[key.replace(_HEAD, _PUBLIC_HEAD, 1) if key.startswith(_HEAD) else key] = tensor
    return public


def _dit_name(key: str) -> str:
    return key.replace(_PUBLIC_HEAD, _HEAD, 1) if key.startswith(_PUBLIC_HEAD) else key
