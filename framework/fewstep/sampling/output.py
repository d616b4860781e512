"""Samples in files: lines of JSON, tensors, a sheet to look at, and MIDI files to listen to.

Shapes: n samples of a batch, N all samples, L tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from fewstep.data.base import Dataset, Files
from fewstep.runtime.tensors import save_tensors
from fewstep.sampling.folder import TENSORS
from fewstep.sampling.sheets import save_sheet

_MAX_FILES = 100
"""Limit on samples with a file of their own, such as MIDI; nobody listens to more."""


def jsonl(numbers: range, tokens: Tensor, labels: Tensor | None, dataset: Dataset) -> str:
    """A line per sample, with its text or class if it has one.

    Args:
        numbers: numbers of the samples.
        tokens: LongTensor [n, L].
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
    """Write tensors and sheet of all samples, LongTensor [N, L], and the files of the first 100 samples
    of data that have such a view, such as MIDI."""
    tensors = {"tokens": tokens} if labels is None else {"tokens": tokens, "labels": labels}
    save_tensors(tensors, folder / TENSORS)
    save_sheet(folder / "samples", dataset, tokens)
    for name, view in dataset.views().items():
        if isinstance(view, Files):
            (folder / name).mkdir()
            for number, content in enumerate(view.write(tokens[:_MAX_FILES])):
                (folder / name / f"{number:03d}{view.suffix}").write_bytes(content)
