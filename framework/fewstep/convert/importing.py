"""`fewstep import`: convert a public checkpoint into a fewstep export, a file with a recipe in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.convert.layouts import LAYOUTS, Layout, NetworkTensors, bare_names, from_public
from fewstep.convert.reading import Checkpoint, read_checkpoint
from fewstep.convert.report import compare
from fewstep.core.errors import UserError
from fewstep.core.names import did_you_mean
from fewstep.recipe import dump_recipe, load_recipe, parse_recipe
from fewstep.recipe.models import Recipe
from fewstep.runs.checkpoint import EXPORT_FORMAT, export_weights
from fewstep.runs.models import build_dataset

_DEFAULT_LENGTH = 1024
_DEFAULT_ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class ImportRequest:
    """Source, layout and destination of an import.

    Args:
        source: file, folder, or OWNER/NAME of the Hub.
        layout: name in `LAYOUTS`.
        out: `.safetensors` file to write.
        recipe: recipe with the model's data; None gives data of bare token ids.
        heads: attention heads, if the checkpoint does not state them.
        length: tokens per sample, if the checkpoint does not state it.
        mask_id: id of [MASK] in a tokenizer with its own mask token; None for the last row of the embedding.
        revision: branch, tag or commit on the Hub.
        weights: averaged or raw weights of a training checkpoint.
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
    """The written file and the sizes of its model."""

    file: Path
    recipe: Recipe
    parameters: int
    vocab_size: int
    length: int

    def __str__(self) -> str:
        size = f"{self.recipe.backbone.depth} blocks of {self.recipe.backbone.width}"  # type: ignore[attr-defined]
        return (
            f"wrote {self.file}: dit, {size}, {self.parameters / 1e6:.1f} M parameters, {self.recipe.process.type}, "
            f"{self.vocab_size} symbols, {self.length} tokens per sample"
        )


def import_checkpoint(request: ImportRequest) -> Imported:
    """Read a checkpoint, rename its tensors, compare them with the backbone and write the file.

    Raises:
        UserError: the checkpoint or layout does not exist; keys or shapes do not fit (the message names them all); the
            data have another vocabulary; or `out` exists or does not end in `.safetensors`.
    """
    layout = _layout(request)
    checkpoint = read_checkpoint(request.source, revision=request.revision, weights=request.weights)
    network = bare_names(checkpoint.tensors, f"'{checkpoint.path}'")
    state = from_public(network.tensors, layout, mask_id=request.mask_id)
    settings = _settings(network, checkpoint, layout, request)
    vocab_size = state["vocab_embed.embedding"].shape[0] - (layout.process == "masked")
    recipe = _recipe(request, layout, settings, vocab_size, checkpoint.config)
    length = _length(request, recipe, vocab_size)
    states = vocab_size + (layout.process == "masked")
    with torch.device("meta"):
        backbone = BACKBONES.build(recipe.backbone, tokens=TokenSpace(states, vocab_size, length))
    foreign = {key: checkpoint.tensors[key] for key in network.foreign_keys}
    compare(dict(backbone.state_dict()), {**state, **foreign}, checkpoint.path)
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


def _settings(
    network: NetworkTensors, checkpoint: Checkpoint, layout: Layout, request: ImportRequest
) -> dict[str, object]:
    """The recipe's backbone section: sizes from shapes; heads from rotary frequencies, config.json or --heads."""
    tensors = network.tensors
    blocks = {int(match[1]) for key in tensors if (match := re.match(r"blocks\.(\d+)\.", key))}
    width = tensors["vocab_embed.embedding"].shape[1]
    if not any("adaLN" in key for key in tensors):
        raise UserError(
            f"'{checkpoint.path}' is no network of layout '{layout.name}': it has no adaLN_modulation; autoregressive "
            "baselines have none and cannot be imported"
        )
    settings = {
        "type": "dit",
        "width": width,
        "depth": len(blocks) or 1,
        "heads": _heads(network, checkpoint, width, request),
        "time_conditioned": layout.time_conditioned,
    }
    mlp, sigma_map = tensors.get("blocks.0.mlp.0.weight"), tensors.get("sigma_map.mlp.2.weight")
    if mlp is not None:
        settings["mlp_ratio"] = mlp.shape[0] / width
    if sigma_map is not None:
        settings["cond_width"] = sigma_map.shape[0]
    base = _rotary_base(network.inverse_frequencies)
    return settings if base is None else {**settings, "rotary_base": base}


def _heads(network: NetworkTensors, checkpoint: Checkpoint, width: int, request: ImportRequest) -> int:
    """Number of attention heads; it changes no shape, so a wrong number would go unnoticed.

    Raises:
        UserError: no source states the number, or two sources contradict each other.
    """
    model = checkpoint.config.get("model")
    nested = model if isinstance(model, Mapping) else {}
    frequencies = network.inverse_frequencies
    sources = {
        "--heads": request.heads,
        "config.json": checkpoint.config.get("n_heads", nested.get("n_heads")),
        "rotary_emb.inv_freq": None if frequencies is None else width // (2 * len(frequencies)),
    }
    statements = {source: int(heads) for source, heads in sources.items() if heads is not None}
    if not statements:
        raise UserError(f"'{checkpoint.path}' does not state its number of attention heads; set it with --heads")
    if len(set(statements.values())) > 1:
        contradiction = ", ".join(f"{source} says {heads}" for source, heads in statements.items())
        raise UserError(f"attention heads: {contradiction}")
    return next(iter(statements.values()))


def _rotary_base(frequencies: Tensor | None) -> float | None:
    """The base of these rotary frequencies; None for the default base."""
    if frequencies is None or len(frequencies) < 2:
        return None
    # Frequency i of n is base^(-i/n).
    base = float(frequencies.double()[1] ** -len(frequencies))
    return None if abs(base / _DEFAULT_ROTARY_BASE - 1) < 1e-3 else base


def _recipe(
    request: ImportRequest, layout: Layout, settings: dict[str, object], vocab_size: int, config: Mapping[str, object]
) -> Recipe:
    """The recipe in the file: the layout's process and backbone, over the data of `request.recipe`."""
    if request.recipe is None:
        length = request.length or config.get("model_length") or _DEFAULT_LENGTH
        plain: dict[str, Any] = {
            "data": {"type": "token_ids", "vocab_size": vocab_size, "length": length},
            "train": {"steps": 1},
        }
    else:
        base = load_recipe(request.recipe).recipe.model_dump(mode="json")
        plain = {key: base[key] for key in ("seed", "plugins", "data", "optim", "train", "ema", "evaluate")}
        plain["optim"]["roles"] = {}
    plain |= {
        "name": re.sub(r"[^A-Za-z0-9._-]", "-", request.out.stem).lstrip("._-") or layout.name,
        "process": {"type": layout.process, "schedule": {"type": "log_linear", "eps": 1e-3}},
        "backbone": settings,
        **layout.sections,
    }
    return parse_recipe(plain, source=f"the recipe of '{request.out}'")


def _length(request: ImportRequest, recipe: Recipe, vocab_size: int) -> int:
    """Tokens per sample of the data.

    Raises:
        UserError: the data have another vocabulary than the checkpoint.
    """
    spec = build_dataset(recipe).spec
    if spec.vocab_size != vocab_size:
        raise UserError(
            f"recipe '{request.recipe}': its data have {spec.vocab_size} symbols, the checkpoint knows {vocab_size}; "
            "name a recipe with the checkpoint's tokenizer"
        )
    return spec.length


def _write(file: Path, state: dict[str, Tensor], recipe: Recipe) -> None:
    tensors = {f"backbone.{key}": tensor for key, tensor in state.items()}
    export_weights(file, tensors, {"recipe": dump_recipe(recipe), "step": "0", "format": EXPORT_FORMAT})
