"""Samples in files: lines of JSON, tensors, and for people a sheet, and music to listen to.

Shapes: n samples of a batch, N all samples, L tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from fewstep.data.base import Dataset
from fewstep.sampling.folder import TENSORS
from fewstep.sampling.sheets import save_sheet

_MOST_MIDI = 100
"""Samples that get a file each; with more of them nobody listens to all."""


def jsonl(numbers: range, tokens: Tensor, labels: Tensor | None, dataset: Dataset) -> str:
    """A line for each sample (`tokens` is LongTensor [n, L]), with its text or class where it has one.

    Args:
        labels: classes of all samples, LongTensor [N].
    """
    texts = dataset.to_text(tokens) if dataset.kind == "text" else None
    lines = []
    for row, number in enumerate(numbers):
        line: dict[str, object] = {"number": number, "tokens": tokens[row].tolist()}
        if labels is not None:
            line["label"] = int(labels[number])
        if texts is not None:
            line["text"] = texts[row]
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def write_samples(folder: Path, tokens: Tensor, labels: Tensor | None, dataset: Dataset) -> None:
    """Write tensors and sheet of all samples, `tokens` LongTensor [N, L]; music also as MIDI, the first 100 of them."""
    tensors = {"tokens": tokens} if labels is None else {"tokens": tokens, "labels": labels}
    save_file(tensors, folder / TENSORS)
    save_sheet(folder / "samples", dataset, tokens)
    _write_midi(folder / "midi", dataset.to_midi(tokens[:_MOST_MIDI]))


def _write_midi(folder: Path, files: list[bytes] | None) -> None:
    """A file each, named by the sample's number."""
    if files is None:
        return
    folder.mkdir()
    for number, content in enumerate(files):
        (folder / f"{number:03d}.mid").write_bytes(content)
