"""Templates: the fixed tokens of a sample, from a prompt or from a file with blanks.

Shapes: M templates, N samples, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.base import Dataset
from fewstep.data.text.text import TextDataset
from fewstep.denoisers.base import Denoiser
from fewstep.runtime.plain_text import decoded_file, plain_text
from fewstep.sampling.request import SampleRequest

FREE = -1
"""Mark of a token to draw."""
BLANK = "_"
"""Default character of a token to draw, in text."""


def templates(request: SampleRequest, dataset: Dataset) -> Tensor | None:
    """The templates of a request (LongTensor [M, L]); None if all tokens are drawn.

    Raises:
        UserError: the templates do not fit the data, each other, or the number of samples.
    """
    if request.blank is not None and request.infill is None:
        raise UserError("--blank: says what a blank looks like in a file of templates; name one with --infill")
    if request.prompt is not None and request.infill is not None:
        raise UserError("--prompt and --infill both say which tokens are given; leave one out")
    if request.prompt is not None:
        return text_as_tokens(request.prompt, "--prompt", dataset)[None]
    if request.infill is None:
        return None
    file = Path(request.infill)
    rows = _from_tensors(file, dataset) if file.suffix == ".safetensors" else _from_text(file, request, dataset)
    if len(rows) > request.count:
        raise UserError(f"--infill: '{file}' has {len(rows)} templates; ask for as many samples or more (-n)")
    return rows


def approximation(denoiser: Denoiser, rows: Tensor) -> str | None:
    """Reason why samples follow their conditional distribution given templates only approximately; None if exactly.

    A network that goes block by block reads no known token of later blocks. Within what it predicts at once, a process
    with masks shows which tokens are known; of any other process the network must take times per token.

    Args:
        rows: templates, LongTensor [M, L].
    """
    process, size = denoiser.process, denoiser.block_size or rows.shape[1]
    known = (rows != FREE).unflatten(1, (-1, size))  # [M, K, S]
    gaps = (~known.all(2)).long().cumsum(1)
    if (known.any(2) & (gaps > (~known.all(2)).long())).any():
        return (
            "samples follow known tokens only if all tokens before them are known, since this network draws block by "
            "block and reads earlier ones; a model of whole samples follows all"
        )
    if process.carry_over or denoiser.takes_token_times or not (known.any(2) & ~known.all(2)).any():
        return None
    return (
        f"samples follow the known tokens only approximately: in the {process.config.type} process a known token looks "
        "like noise to a network with one time for all tokens; a masked model conditions exactly"
    )


def cycle_rows(rows: Tensor, count: int) -> Tensor:
    """The template of each sample, LongTensor [N, L]: `rows` [M, L] in turn."""
    return rows[torch.arange(count) % len(rows)]


def _from_tensors(file: Path, dataset: Dataset) -> Tensor:
    """`tokens` of a safetensors file, LongTensor [M, L]."""
    place = f"--infill: '{file}'"
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{place} cannot be read ({_reason(error)})") from None
    if "tokens" not in tensors:
        names = ", ".join(sorted(tensors)) or "nothing"
        raise UserError(f"{place} holds {names}, but no 'tokens'")
    return checked_tokens(tensors["tokens"], place, dataset)


def checked_tokens(tokens: Tensor, place: str, dataset: Dataset, *, complete: bool = False) -> Tensor:
    """Templates as LongTensor [M, L] on the CPU, after a check; with `complete`, no token may be free.

    Raises:
        UserError: wrong shape or type, or tokens outside the vocabulary; `place` begins the message.
    """
    spec, minimum = dataset.spec, 0 if complete else FREE
    if tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise UserError(f"{place}: 'tokens' should be whole numbers, not {str(tokens.dtype).removeprefix('torch.')}")
    if tokens.ndim != 2 or tokens.shape[1] != spec.length or not len(tokens):
        raise UserError(f"{place}: 'tokens' should have the shape [N, {spec.length}], not {list(tokens.shape)}")
    tokens = tokens.long().cpu()
    invalid = (tokens < minimum) | (tokens >= spec.vocab_size)
    if invalid.any():
        row, column = invalid.nonzero()[0].tolist()
        free_token = "; none may be left open" if complete else f", and {FREE} is drawn"
        raise UserError(
            f"{place}: tokens[{row}, {column}] is {int(tokens[row, column])}; tokens go from 0 to "
            f"{spec.vocab_size - 1}{free_token}"
        )
    return tokens


def text_as_tokens(text: str, place: str, dataset: Dataset) -> Tensor:
    """A template that starts with a text, LongTensor [L]; the tokens after it are drawn.

    Raises:
        UserError: the data are not text, or the text has unknown characters or is too long.
    """
    return _row(_encode(plain_text(text), place, dataset), place, dataset)


def _from_text(file: Path, request: SampleRequest, dataset: Dataset) -> Tensor:
    """One template per line, LongTensor [M, L]; tokens after the end of a line are drawn."""
    blank = BLANK if request.blank is None else request.blank
    if len(blank) != 1:
        raise UserError(f"--blank: expected one character, not '{blank}'")
    _check_blanks(dataset, "--infill")
    try:
        lines = decoded_file(file.read_bytes()).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--infill: '{file}' cannot be read ({_reason(error)})") from None
    if not any(lines):
        raise UserError(f"--infill: '{file}' is empty")
    return lines_as_templates(lines, blank, f"--infill: '{file}', line", dataset)


def _check_blanks(dataset: Dataset, place: str) -> None:
    if isinstance(dataset, TextDataset) and not dataset.tokenizer.fixed_pieces:
        raise UserError(f"{place}: pieces have no fixed length, so text has no blanks; give a safetensors file")


def lines_as_templates(lines: Sequence[str], blank: str, place: str, dataset: Dataset) -> Tensor:
    """One template per line that is not empty, LongTensor [M, L]; every `blank` is drawn.

    Raises:
        UserError: the data are not text of characters, or a line does not fit them; the message names its number.
    """
    if len(blank) != 1:
        raise UserError(f"{place}: a blank is one character, not '{blank}'")
    _check_blanks(dataset, place)
    rows = []
    for number, line in enumerate(map(plain_text, lines), start=1):
        if line:
            line_place = f"{place} {number}"
            ids = iter(_encode(line.replace(blank, ""), line_place, dataset))
            rows.append(_row([FREE if c == blank else next(ids) for c in line], line_place, dataset))
    if not rows:
        raise UserError(f"{place}: there is no template")
    return torch.stack(rows)


def _encode(text: str, place: str, dataset: Dataset) -> list[int]:
    """Ids of a text.

    Raises:
        UserError: the data are not text, or the tokenizer has no ids for the text.
    """
    if not isinstance(dataset, TextDataset):
        raise UserError(f"{place}: data '{dataset.config.type}' are no text; give tokens instead (infill)")
    try:
        text.encode()
        ids = dataset.tokenizer.encode(text)
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: character {error.start + 1} ({text[error.start]!r}) is no text of Unicode") from None
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
