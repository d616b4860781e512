"""Templates: the tokens of a sample that are given, from a prompt or from a file with blanks.

Shapes: M templates, N samples, L tokens.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.data.text import TextWindows
from fewstep.errors import UserError
from fewstep.sampling.request import SampleRequest

FREE = -1
"""In the place of a token that is drawn."""
BLANK = "_"
"""The usual character for it in text."""


def templates(request: SampleRequest, dataset: Dataset) -> Tensor | None:
    """The templates that are asked for (LongTensor [M, L]), or None if samples are free.

    Raises:
        UserError: they do not fit the data, each other, or the number of samples.
    """
    if request.blank is not None and request.infill is None:
        raise UserError("--blank: says what a blank looks like in a file of templates; name one with --infill")
    if request.prompt is not None and request.infill is not None:
        raise UserError("--prompt and --infill both say which tokens are given; leave one out")
    if request.prompt is not None:
        return _row(_encode(request.prompt, "--prompt", dataset), "--prompt", dataset)[None]
    if request.infill is None:
        return None
    file = Path(request.infill)
    rows = _from_tensors(file, dataset) if file.suffix == ".safetensors" else _from_text(file, request, dataset)
    if len(rows) > request.count:
        raise UserError(f"--infill: '{file}' has {len(rows)} templates; ask for as many samples or more (-n)")
    return rows


def in_turn(rows: Tensor, count: int) -> Tensor:
    """The template of each sample: `rows` [M, L] in turn, LongTensor [N, L]."""
    return rows[torch.arange(count) % len(rows)]


def _from_tensors(file: Path, dataset: Dataset) -> Tensor:
    """`tokens` of a safetensors file, LongTensor [M, L]."""
    place, spec = f"--infill: '{file}'", dataset.spec
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{place} cannot be read ({_reason(error)})") from None
    if "tokens" not in tensors:
        found = ", ".join(sorted(tensors)) or "nothing"
        raise UserError(f"{place} holds {found}, but no 'tokens'")
    tokens = tensors["tokens"]
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise UserError(f"{place}: 'tokens' should be whole numbers, not {str(tokens.dtype).removeprefix('torch.')}")
    if tokens.ndim != 2 or tokens.shape[1] != spec.length or not len(tokens):
        raise UserError(f"{place}: 'tokens' should have the shape [N, {spec.length}], not {list(tokens.shape)}")
    tokens = tokens.long()
    wrong = (tokens < FREE) | (tokens >= spec.vocab_size)
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        raise UserError(
            f"{place}: tokens[{row}, {column}] is {int(tokens[row, column])}; tokens go from 0 to "
            f"{spec.vocab_size - 1}, and {FREE} is drawn"
        )
    return tokens


def _from_text(file: Path, request: SampleRequest, dataset: Dataset) -> Tensor:
    """One template a line, LongTensor [M, L]; what a line leaves at the end is drawn."""
    blank = BLANK if request.blank is None else request.blank
    if len(blank) != 1:
        raise UserError(f"--blank: expected one character, not '{blank}'")
    if isinstance(dataset, TextWindows) and dataset.config.tokenizer != "char":
        raise UserError("--infill: pieces have no fixed length, so text has no blanks; give a safetensors file")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--infill: '{file}' cannot be read ({_reason(error)})") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if line:
            place = f"--infill: '{file}', line {number}"
            known = iter(_encode(line.replace(blank, ""), place, dataset))
            rows.append(_row([FREE if c == blank else next(known) for c in line], place, dataset))
    if not rows:
        raise UserError(f"--infill: '{file}' is empty")
    return torch.stack(rows)


def _encode(text: str, place: str, dataset: Dataset) -> list[int]:
    """Ids of a text; what the tokenizer cannot write is an error."""
    if not isinstance(dataset, TextWindows):
        raise UserError(f"{place}: data '{dataset.config.type}' are no text; give a safetensors file to --infill")
    try:
        ids = dataset.tokenizer.encode(text)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    if dataset.tokenizer.decode(ids) != text:
        raise UserError(f"{place}: {text!r} cannot be written with the pieces of the model's vocabulary")
    return ids


def _row(ids: list[int], place: str, dataset: Dataset) -> Tensor:
    """A template that starts with `ids`, LongTensor [L]."""
    length = dataset.spec.length
    if len(ids) > length:
        raise UserError(f"{place}: {len(ids)} tokens, but a sample has {length}")
    return torch.tensor(ids + [FREE] * (length - len(ids)))


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
