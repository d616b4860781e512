"""A suite that takes a second: a Markov source of four states and a network of a few thousand weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fewstep.bench.results.results import Estimate, Row, Summary

TEACHER = {
    "name": "tiny-teacher",
    "data": {"type": "markov", "vocab_size": 4, "length": 6, "successors": 2, "size": 512},
    "process": {"type": "masked"},
    "backbone": {"type": "transformer", "width": 16, "depth": 1, "heads": 2},
    "objective": {"type": "denoising"},
    "train": {"steps": 20, "batch_size": 32, "log_every": 5, "checkpoint_every": 10, "device": "cpu"},
}
STUDENT = {"extends": "./teacher.yaml", "name": "tiny-student", "objective": {"type": "dmmd", "k": 4}}
SUITE: dict[str, Any] = {
    "name": "tiny",
    "title": "D-MMD on a tiny <Markov> source",
    "seeds": [0, 1, 2],
    "samples": 60,
    "metrics": [{"type": "ngram_distance", "order": 2}, "exact_nll"],
    "headline": "ngram_tv",
    "cases": [
        {"name": "teacher", "recipe": "./teacher.yaml", "steps": [2, 4]},
        {"name": "student", "recipe": "./student.yaml", "teacher": "teacher", "steps": [1, 2], "label": "D-MMD"},
        {"name": "oracle", "recipe": "./teacher.yaml", "oracle": True, "steps": [2]},
    ],
    "claims": [
        {"case": "student", "steps": 2, "against": "teacher", "at": 4, "expect": "not_worse"},
        {"case": "oracle", "steps": 2, "against": "teacher", "expect": "better"},
    ],
    "quick": {"samples": 16, "seeds": [5], "steps": [2], "set": ["train.steps=4"]},
}


def write_files(folder: Path, **changes: Any) -> str:
    suite = {key: value for key, value in {**SUITE, **changes}.items() if value is not None}
    for name, content in (("teacher", TEACHER), ("student", STUDENT), ("suite", suite)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return str(folder / "suite.yaml")


def made_up_row(case: str, steps: int | None, seed: int, value: float, train_seed: int | None = None) -> Row:
    """A row as it could have been measured."""
    return Row(
        key=f"{case}/{train_seed}/{steps}/{seed}",
        case=case,
        train_seed=train_seed,
        steps=steps,
        nfe=steps,
        seed=seed,
        samples=10,
        seconds=0.1,
        sampler=None,
        values={"score": value},
        sheet=None,
        commit=None,
    )


def made_up_summary(case: str, steps: int, mean: float, stderr: float | None) -> Summary:
    n = 1 if stderr is None else 3
    return Summary(case=case, steps=steps, nfe=steps, values={"score": Estimate(mean=mean, stderr=stderr, n=n)})
