"""Rows of evaluations, and the file beside a model that keeps them by what their values depend on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fewstep.core.component import Strict
from fewstep.core.errors import OperationError
from fewstep.runtime.files import read_json, rewrite

_PUBLIC = ("steps", "nfe", "passes", "seed", "samples", "precision", "sampler", "weights", "metrics")


class ScoredBy(Strict):
    """Values of one metric of one row."""

    model_config = ConfigDict(allow_inf_nan=True)

    key: str = Field(description="digest of the metric's settings, and of the models and files that they name")
    metric: dict[str, Any] = Field(description="its settings")
    values: dict[str, float]


class EvaluatedRow(Strict):
    """Values of one set of samples. Rows of earlier versions lack whatever has a default."""

    model_config = ConfigDict(allow_inf_nan=True)

    steps: int
    nfe: int | float
    passes: int | float | None = None
    seed: int
    samples: int
    precision: str = "fp32"
    sampler: dict[str, Any] | None = None
    weights: Literal["ema", "raw"] = "ema"
    metrics: dict[str, float] = Field(description="all values, by name")
    scored: tuple[ScoredBy, ...] = Field((), description="the values by metric")
    key: str = Field("", description="digest of what the samples depend on: weights, sampler, steps, seed, code, ...")
    data: str = Field("", description="fingerprint of the data")
    model: str = Field("", description="first digits of the SHA-256 of the weights")
    hardware: str = ""
    commit: str | None = None
    sheet: str | None = Field(None, description="picture or text of the first samples, beside this file")

    def public(self) -> dict[str, Any]:
        """What `fewstep evaluate` prints: conditions, cost and values."""
        return self.model_dump(mode="json", include=set(_PUBLIC))

    def values_by(self, key: str) -> dict[str, float] | None:
        """Values of the metric with this key; None if it has not scored the row."""
        return next((entry.values for entry in self.scored if entry.key == key), None)

    def of_metrics(self, keys: Sequence[str]) -> EvaluatedRow:
        """The row with the values of these metrics alone, in their order."""
        entries = [entry for key in keys for entry in self.scored if entry.key == key]
        values = {name: value for entry in entries for name, value in entry.values.items()}
        return self.model_copy(update={"scored": tuple(entries), "metrics": values})

    def with_scores(self, scores: Iterable[ScoredBy]) -> EvaluatedRow:
        """The row with further metrics, which replace those with the same key or the same names of values."""
        new = list(scores)
        names = {name for entry in new for name in entry.values}
        keys = {entry.key for entry in new}
        old = [entry for entry in self.scored if entry.key not in keys and not names & entry.values.keys()]
        scored = (*old, *new)
        metrics = {name: value for entry in scored for name, value in entry.values.items()}
        return self.model_copy(update={"scored": scored, "metrics": metrics})

    @property
    def place(self) -> tuple[int, int, int, str, str, str]:
        """What a row is found by; a newer row of the same place replaces it."""
        sampler = json.dumps(self.sampler, sort_keys=True)
        return self.steps, self.seed, self.samples, self.precision, sampler, self.weights


_ROWS = TypeAdapter(list[EvaluatedRow])


def load_rows(file: Path) -> list[EvaluatedRow]:
    """Rows of a file; none if there is no file.

    Raises:
        OperationError: the file is damaged.
    """
    if not file.exists():
        return []
    try:
        return _ROWS.validate_python(read_json(file, "delete it to evaluate anew"))
    except ValidationError:
        raise OperationError(f"'{file}' is damaged; delete it to evaluate anew") from None


def store_rows(file: Path, rows: Iterable[EvaluatedRow]) -> None:
    """Add rows to a file, sorted; they replace rows of the same place."""
    merged = {row.place: row for row in (*load_rows(file), *rows)}
    plain = [merged[place].model_dump(mode="json", exclude_unset=True) for place in sorted(merged)]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        rewrite(file, json.dumps(plain, indent=2) + "\n")
    except OSError as error:
        print(f"warning: '{file}' cannot be written ({error.strerror}); values are shown only", file=sys.stderr)
