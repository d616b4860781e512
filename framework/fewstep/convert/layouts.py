"""Layouts of public checkpoints: what their keys are called, and what each becomes in backbone `dit`.

MDLM, Duo, SDTT and IDLM share one network (DDiT of SEDD). They differ in the process that it was trained for, in
whether it is told the time, and in what wraps it, which shows in a prefix of all keys.

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
_HEAD, _THEIR_HEAD = "head.", "output_layer.linear."
_NEVER = -1e4
"""Logit of a symbol that is never predicted: probability 0 in any precision, and finite in all of them."""


@dataclass(frozen=True)
class Layout:
    """One family of checkpoints.

    Args:
        name: what `--layout` says.
        source: where they come from, for people.
        process: masked (the embedding has a row for [MASK]) or uniform.
        time_conditioned: whether the network is told sigma, or always 0.
    """

    name: str
    source: str
    process: Literal["masked", "uniform"]
    time_conditioned: bool


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
class Named:
    """The tensors of one network by their bare names, and the keys that belong to no network."""

    tensors: State
    others: tuple[str, ...]
    inverse_frequencies: Tensor | None


def bare_names(state: Mapping[str, Tensor], what: str) -> Named:
    """Take the wrapper's prefix off all keys (`backbone.`, `backbone.backbone.`, `model.`, ...).

    Rotary frequencies are no weights; they are told apart, since they tell how many heads there are.

    Raises:
        UserError: no network of this kind, or several of them.
    """
    plain = {key.replace(_COMPILED, ""): tensor for key, tensor in state.items()}
    prefixes = sorted(key.removesuffix(_ANCHOR) for key in plain if key.endswith(_ANCHOR))
    if not prefixes:
        some = ", ".join(sorted(plain)[:3]) or "none"
        raise UserError(f"{what} holds no network of this layout: no key ends in {_ANCHOR} (keys: {some}, ...)")
    if len(prefixes) > 1:
        names = ", ".join(prefix or "(none)" for prefix in prefixes)
        raise UserError(f"{what} holds several networks, with prefixes {names}; save the one to import on its own")
    found = {key.removeprefix(prefixes[0]): tensor for key, tensor in plain.items() if key.startswith(prefixes[0])}
    others = tuple(key for key in plain if not key.startswith(prefixes[0]))
    frequencies = found.pop(_INVERSE_FREQUENCIES, None)
    return Named(found, others, frequencies)


def from_public(tensors: Mapping[str, Tensor], layout: Layout, *, mask_id: int | None = None) -> State:
    """Weights of `dit` from bare public ones, in float32; what does not belong is kept under its own name.

    Masked: the embedding's last row is [MASK]'s, as in fewstep, and the head's last row is left out, since a masked
    process never predicts [MASK]. A tokenizer with a mask token of its own (`mask_id`, 103 of BERT's) keeps all its
    ids: its row is copied to the end, and as a symbol it has probability 0.
    """
    state = {_our_name(key): tensor.float() for key, tensor in tensors.items()}
    if layout.process != "masked" or _ANCHOR not in state:
        return state
    last = state[_ANCHOR].shape[0] - 1
    if mask_id is None or mask_id == last:
        return {key: tensor[:last] if key.startswith(_HEAD) else tensor for key, tensor in state.items()}
    if not 0 <= mask_id < last:
        raise UserError(f"--mask-id {mask_id}: the checkpoint's tokens are 0 to {last}")
    state[_ANCHOR] = torch.cat((state[_ANCHOR], state[_ANCHOR][mask_id : mask_id + 1]))
    for key, value in (("head.weight", 0.0), ("head.bias", _NEVER)):
        if key in state:
            state[key] = state[key].clone()
            state[key][mask_id] = value
    return state


def to_public(state: Mapping[str, Tensor], layout: Layout) -> State:
    """Bare public names and shapes for the weights of a `dit`; the head's row for [MASK], which is never read, is 0."""
    public = {}
    for key, tensor in state.items():
        if key.startswith(_HEAD) and layout.process == "masked":
            tensor = torch.cat((tensor, torch.zeros_like(tensor[:1])))
        public[key.replace(_HEAD, _THEIR_HEAD, 1) if key.startswith(_HEAD) else key] = tensor
    return public


def _our_name(key: str) -> str:
    return key.replace(_THEIR_HEAD, _HEAD, 1) if key.startswith(_THEIR_HEAD) else key
