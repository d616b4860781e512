"""The files of a study, from templates."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from fewstep.bench.studies.looked_at import OwnData
from fewstep.bench.studies.sizes import BATCH, Size
from fewstep.core.echo import shown

TEMPLATES = Path(__file__).with_name("templates")
STUDENT_SHARE = 0.6
"""Steps of the student and of the reference, as a share of the teacher's."""
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
_WORDS = {"true", "false", "null", "y", "n", "yes", "no", "on", "off"}
"""Words that are no strings to a reader of YAML."""
_DRAWN_AT_ONCE = 200
_WARMUP = 200
_MOST_COMPARED = 2 * 10**7
"""Tokens of training data up to which samples are compared with all of them."""


@dataclass(frozen=True)
class Design:
    """All that a study's files say.

    Args:
        name: of the recipes and the suite.
        folder: the study's, as the user wrote it.
        prepared: where tokenised text is kept.
        steps: of the teacher's training.
        samples: of each row of the suite.
        limit: pictures to read; None for all.
        minutes: time of each training and of all, in words, by name.
        device: where its trainings compute.
    """

    name: str
    folder: str
    data: OwnData
    size: Size
    prepared: Path
    steps: int = 1000
    samples: int = 600
    limit: int | None = None
    minutes: Mapping[str, str] = field(default_factory=dict)
    device: str = "auto"

    @property
    def is_text(self) -> bool:
        return self.data.kind == "text"

    @property
    def trained(self) -> tuple[str, ...]:
        """Recipes, in the order of their training."""
        return ("reference", "teacher", "student") if self.is_text else ("teacher", "student")

    @property
    def shares(self) -> dict[str, float]:
        """Steps of each training, as a share of the teacher's."""
        return {name: 1.0 if name == "teacher" else STUDENT_SHARE for name in self.trained}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics without a reference model."""
        tokens = self.data.samples * (self.size.tokens if self.is_text else self.size.tokens**2)
        compared = tokens <= _MOST_COMPARED
        if self.is_text:
            return (*(("nearest_neighbour" if self.data.length else "longest_copy",) * compared), "sample_entropy")
        classes = ("class_coverage",) * (self.data.classes > 1)
        return ("feature_frechet", *classes, *(("nearest_neighbour",) * compared), "sample_entropy")

    @property
    def headline(self) -> str:
        return "gradient_moment" if self.is_text else "feature_frechet"

    @property
    def section(self) -> dict[str, object]:
        """The recipe's `data`."""
        data = dict(self.data.section)
        if self.is_text:
            return {**data, "length": self.size.tokens, "prepared": str(self.prepared.absolute())}
        return {**data, "size": self.size.tokens, **({} if self.limit is None else {"limit": self.limit})}

    def recipes(self) -> dict[str, str]:
        """Content of each recipe, by file."""
        student = "student-text.yaml" if self.is_text else "student-pictures.yaml"
        names = {"base.yaml": "base.yaml", "teacher.yaml": "teacher.yaml", "student.yaml": student}
        names |= {"reference.yaml": "reference.yaml"} if self.is_text else {}
        return {file: self.filled(template) for file, template in names.items()}

    def suite(self) -> dict[str, str]:
        """The suite, by its file."""
        return {"suite.yaml": self.filled("suite-text.yaml" if self.is_text else "suite-pictures.yaml")}

    def filled(self, template: str, **more: str) -> str:
        """A template with this study's values."""
        text = (TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
        return Template(text).substitute({**self._values(), **more})

    def _values(self) -> dict[str, object]:
        size, source = self.size, shown(Path(str(self.data.section["path"])).name)
        backbone: dict[str, object] = {"type": "transformer" if self.is_text else "image_transformer"}
        backbone |= {"width": size.width, "depth": size.depth, "heads": 4}
        backbone |= {"time_conditioned": True} if self.is_text else {}
        steps = {f"steps_{name}": max(1, round(share * self.steps)) for name, share in self.shares.items()}
        minutes = {f"minutes_{name}": self.minutes.get(name, "a minute") for name in (*self.trained, "all")}
        return {
            "name": self.name,
            "folder": self.folder,
            "label": self.data.label,
            "source": source,
            "title": _yaml(f"D-MMD on {source}"),
            "data": "\n".join(f"  {key}: {_yaml(value)}" for key, value in self.section.items()),
            "process": "uniform" if self.is_text else "masked",
            "backbone": f"backbone: {_yaml(backbone)}",
            "width": size.width,
            "depth": size.depth,
            "rate": f"{size.rate:g}",
            "batch": BATCH,
            "log_every": min(100, max(1, self.steps // 10)),
            "device": "" if self.device == "auto" else f", device: {self.device}",
            "warmup": min(_WARMUP, self.steps // 10),
            "samples": self.samples,
            "drawn_at_once": _DRAWN_AT_ONCE,
            "own_metrics": ", ".join(self.metrics),
            "metrics": ", ".join(self.metrics),
            "listed_metrics": "\n".join(f"  - {metric}" for metric in self.metrics),
            "headline": self.headline,
            **steps,
            **minutes,
        }


def write_files(files: Mapping[str, str], folder: Path) -> None:
    """Write texts into a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _yaml(value: object) -> str:
    """Plain data on one line, as a person would write it."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_yaml(item)}' for key, item in value.items())}}}"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(value, ensure_ascii=False)
