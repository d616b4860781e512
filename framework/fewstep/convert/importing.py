"""`fewstep import`: a public checkpoint becomes a file that fewstep exported, with a recipe in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.convert.layouts import LAYOUTS, Layout, Named, bare_names, from_public
from fewstep.convert.reading import Checkpoint, read_checkpoint
from fewstep.convert.report import compare
from fewstep.core.component import did_you_mean
from fewstep.core.errors import UserError
from fewstep.recipe import dump_recipe, load_recipe, parse_recipe
from fewstep.recipe.models import Recipe
from fewstep.runs.checkpoint import EXPORT_FORMAT, export_weights
from fewstep.runs.models import build_dataset

_USUAL_LENGTH = 1024
_USUAL_BASE = 10_000.0


@dataclass(frozen=True)
class ImportRequest:
    """What to import.

    Args:
        source: file, folder, or OWNER/NAME of the Hub.
        layout: name in `LAYOUTS`.
        out: `.safetensors` file to write.
        recipe: recipe whose data the model knows; without one it has data of bare token ids.
        heads: attention heads, where the checkpoint does not tell.
        length: tokens a sample, where it does not tell.
        mask_id: id of [MASK] in a tokenizer that has one of its own; the last row of the embedding if None.
        revision: branch, tag or commit on the Hub.
        weights: which weights of a training checkpoint.
        replace: overwrite `out`.
    """

    source: str
    layout: str
    out: Path
    recipe: str | None = None
    heads: int | None = None
    length: int | None = None
    mask_id: int | None = None
    revision: str | None = None
    weights: Literal["ema", "raw"] = "ema"
    replace: bool = False


@dataclass(frozen=True)
class Imported:
    """What was written."""

    file: Path
    recipe: Recipe
    parameters: int
    vocab_size: int
    length: int

    def __str__(self) -> str:
        size = f"{self.recipe.backbone.depth} blocks of {self.recipe.backbone.width}"  # type: ignore[attr-defined]
        return (
            f"wrote {self.file}: dit, {size}, {self.parameters / 1e6:.1f} M parameters, {self.recipe.process.type}, "
            f"{self.vocab_size} symbols, {self.length} tokens a sample"
        )


def import_checkpoint(request: ImportRequest) -> Imported:
    """Read, map, compare and write.

    Raises:
        UserError: no such checkpoint or layout, keys or shapes that do not fit (all of them are named), data of another
            vocabulary, or an `out` that exists or is no `.safetensors` file.
    """
    layout = _layout(request)
    read = read_checkpoint(request.source, revision=request.revision, weights=request.weights)
    named = bare_names(read.tensors, f"'{read.path}'")
    state = from_public(named.tensors, layout, mask_id=request.mask_id)
    settings = _settings(named, read, layout, request)
    vocab_size = state["vocab_embed.embedding"].shape[0] - (layout.process == "masked")
    recipe = _recipe(request, layout, settings, vocab_size, read.config)
    length = _length(request, recipe, vocab_size)
    states = vocab_size + (layout.process == "masked")
    with torch.device("meta"):
        backbone = BACKBONES.build(recipe.backbone, tokens=TokenSpace(states, vocab_size, length))
    compare(dict(backbone.state_dict()), {**state, **{key: read.tensors[key] for key in named.others}}, read.path)
    _write(request.out, state, recipe)
    return Imported(request.out, recipe, backbone.num_parameters(), vocab_size, length)


def _layout(request: ImportRequest) -> Layout:
    if request.layout not in LAYOUTS:
        near = did_you_mean(request.layout, LAYOUTS) or ";"
        raise UserError(f"no layout '{request.layout}'{near} known: {', '.join(LAYOUTS)}")
    if request.out.suffix != ".safetensors":
        raise UserError(f"--out: '{request.out}' must end in .safetensors")
    if request.out.exists() and not request.replace:
        raise UserError(f"'{request.out}' exists; name another file, or replace it with --force")
    if request.mask_id is not None and LAYOUTS[request.layout].process != "masked":
        raise UserError(f"--mask-id: layout '{request.layout}' has no [MASK]")
    return LAYOUTS[request.layout]


def _settings(named: Named, read: Checkpoint, layout: Layout, request: ImportRequest) -> dict[str, Any]:
    """The backbone's section: sizes from shapes, heads from rotary frequencies, config.json or --heads."""
    tensors = named.tensors
    blocks = {int(found[1]) for key in tensors if (found := re.match(r"blocks\.(\d+)\.", key))}
    width = tensors["vocab_embed.embedding"].shape[1]
    if not any("adaLN" in key for key in tensors):
        raise UserError(
            f"'{read.path}' is no network of layout '{layout.name}': it has no adaLN_modulation; that of an "
            "autoregressive baseline, which has none, cannot be imported"
        )
    settings = {
        "type": "dit",
        "width": width,
        "depth": len(blocks) or 1,
        "heads": _heads(named, read, width, request),
        "time_conditioned": layout.time_conditioned,
    }
    hidden, told = tensors.get("blocks.0.mlp.0.weight"), tensors.get("sigma_map.mlp.2.weight")
    if hidden is not None:
        settings["mlp_ratio"] = hidden.shape[0] / width
    if told is not None:
        settings["cond_width"] = told.shape[0]
    base = _rotary_base(named.inverse_frequencies)
    return settings if base is None else {**settings, "rotary_base": base}


def _heads(named: Named, read: Checkpoint, width: int, request: ImportRequest) -> int:
    """Attention heads; they change no shape, so a wrong number would go unnoticed.

    Raises:
        UserError: nothing tells, or two things tell differently.
    """
    model = read.config.get("model")
    nested = model if isinstance(model, Mapping) else {}
    frequencies = named.inverse_frequencies
    told = {
        "--heads": request.heads,
        "config.json": read.config.get("n_heads", nested.get("n_heads")),
        "rotary_emb.inv_freq": None if frequencies is None else width // (2 * len(frequencies)),
    }
    given = {source: int(heads) for source, heads in told.items() if heads is not None}
    if not given:
        raise UserError(f"'{read.path}' does not tell how many attention heads it has; say so with --heads")
    if len(set(given.values())) > 1:
        raise UserError(f"attention heads: {', '.join(f'{source} says {heads}' for source, heads in given.items())}")
    return next(iter(given.values()))


def _rotary_base(frequencies: Tensor | None) -> float | None:
    """The base that these frequencies were made from, if it is not the usual one."""
    if frequencies is None or len(frequencies) < 2:
        return None
    base = float(frequencies.double()[1] ** -len(frequencies))
    return None if abs(base / _USUAL_BASE - 1) < 1e-3 else base


def _recipe(
    request: ImportRequest, layout: Layout, settings: dict[str, Any], vocab_size: int, config: Mapping[str, Any]
) -> Recipe:
    """The recipe that goes into the file: the layout's process and backbone, over the data of `request.recipe`."""
    if request.recipe is None:
        length = request.length or config.get("model_length") or _USUAL_LENGTH
        plain: dict[str, Any] = {
            "data": {"type": "token_ids", "vocab_size": vocab_size, "length": length},
            "train": {"steps": 1},
        }
    else:
        whole = load_recipe(request.recipe).recipe.model_dump(mode="json")
        plain = {key: whole[key] for key in ("seed", "plugins", "data", "optim", "train", "ema", "evaluate")}
        plain["optim"]["roles"] = {}
    plain |= {
        "name": re.sub(r"[^A-Za-z0-9._-]", "-", request.out.stem).lstrip("._-") or layout.name,
        "process": {"type": layout.process, "schedule": {"type": "log_linear", "eps": 1e-3}},
        "backbone": settings,
        "objective": "denoising",
    }
    return parse_recipe(plain, source=f"the recipe of '{request.out}'")


def _length(request: ImportRequest, recipe: Recipe, vocab_size: int) -> int:
    """Tokens a sample of the data, whose vocabulary must be the checkpoint's."""
    spec = build_dataset(recipe).spec
    if spec.vocab_size != vocab_size:
        raise UserError(
            f"recipe '{request.recipe}': its data have {spec.vocab_size} symbols, the checkpoint knows {vocab_size}; "
            "name a recipe with the tokenizer that it was trained with"
        )
    return spec.length


def _write(file: Path, state: dict[str, Tensor], recipe: Recipe) -> None:
    named = {f"backbone.{key}": tensor for key, tensor in state.items()}
    export_weights(file, named, {"recipe": dump_recipe(recipe), "step": "0", "format": EXPORT_FORMAT})
