"""Results of a suite: a versioned file with the values, the machine, and the commands that repeat the measurement."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from fewstep.bench.suites.suite import SPEED, Expectation
from fewstep.core.component import Strict
from fewstep.core.errors import UserError
from fewstep.runtime.files import MAX_JSON, rewrite

VERSION = 4
_READABLE = (1, 2, 3, 4)
Verdict = Literal["better", "level", "worse"]
"""Outcome of a comparison: better or worse by more than two standard errors of the difference, else level."""


def model_id(case: str, train_seed: int | None) -> str:
    """Name of one training of a case: `student`, or `student-s1` for a suite with seeds of training."""
    return case if train_seed is None else f"{case}-s{train_seed}"


def results_file(path: str | Path) -> Path:
    """Path of the results file: in a folder, or the file itself."""
    return Path(path) / "results.json" if Path(path).is_dir() else Path(path)


class SuiteInfo(Strict):
    """The suite of the results, and its conditions."""

    name: str
    title: str
    digest: str = Field(description="changes with the conditions and with every model")
    quick: bool = Field(description="reduced by --quick: the numbers show only that the suite runs")
    seeds: tuple[int, ...] = Field(description="sampling seeds")
    train_seeds: tuple[int, ...] | None = Field(None, description="seeds of training; null for the recipes' own")
    samples: int = Field(description="samples of each row")
    command: str
    data: str | None = Field(None, description="fingerprint of the data; null in version 1")
    code: str | None = Field(
        None,
        description="digest of the code, part of the keys of models and rows; null in version 1, which had no such key",
    )


class SweepPoint(Strict):
    """Where a model stands in a sweep of recipe keys."""

    case: str = Field(description="case of the suite's file that was swept")
    label: str = Field(description="label of that case")
    steps: int = Field(description="number of sampling steps that its points are judged by")
    point: dict[str, str | int | float | bool | None] = Field(description="values of the swept keys")


class CaseResult(Strict):
    """One model. A case with several seeds of training has several."""

    name: str
    train_seed: int | None = Field(None, description="seed of training, if the suite sets it")
    label: str
    recipe: str = Field(description="as the suite names it")
    set: tuple[str, ...] = Field(description="changes to that recipe")
    digest: str = Field(description="changes with everything that the model depends on")
    teacher: str | None = Field(description="case of its teacher")
    oracle: bool
    model: str | None = Field(None, description="case whose model it samples, if it has no model itself")
    swept: SweepPoint | None = Field(None, description="its place in a sweep of recipe keys")
    parameters: int | None = Field(description="weights of the sampled network; null if it was not trained")
    train_steps: int | None
    train_seconds: float | None = Field(description="time in the training loop, over all sessions")
    train_tokens_per_second: float | None = Field(
        None,
        description="training speed, the median over the intervals of the log; null for too few intervals",
    )
    run: str | None = Field(description="run folder, relative to this file")
    commit: str | None = Field(description="of fewstep, at the training")
    logged: dict[str, float] = Field(
        default_factory=dict, description="last line of the training log, such as losses and output entropies"
    )
    resolved: dict[str, Any] = Field(
        description="the recipe with every default; the teacher's run relative to this file"
    )

    @property
    def id(self) -> str:
        return model_id(self.name, self.train_seed)


def _relative_sheet(name: str) -> str:
    """A sheet as a report may embed it; the file may be of a stranger."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.suffix not in (".png", ".txt"):
        raise PydanticCustomError("sheet", "expected a .png or .txt below the folder of the results")
    return name


class Row(Strict):
    """The values of one set of samples; `steps` and `nfe` are null for real samples."""

    key: str = Field(
        description="digest of everything that the values depend on; a row with the same key is not measured again"
    )
    case: str
    train_seed: int | None = Field(None, description="seed of training of the model, if the suite sets one")
    steps: int | None
    nfe: int | float | None = Field(description="mean network evaluations of a sample, counted by the network")
    passes: int | float | None = Field(
        None, description="tokens that they computed, in lengths of a sample; null if it is not known"
    )
    seed: int
    samples: int
    seconds: float = Field(description="time to draw the samples")
    sampler: dict[str, Any] | None
    sweep: dict[str, float] | None = Field(
        None, description="the sampler's setting that the sweep changed; null for a row without a sweep"
    )
    values: dict[str, float]
    sheet: Annotated[str, AfterValidator(_relative_sheet)] | None = Field(
        description="picture or text of samples, relative to this file"
    )
    commit: str | None = Field(description="of fewstep, at the measurement")


class Estimate(Strict):
    """Mean over `n` seeds and its standard error (standard deviation / sqrt(n)); no error with one seed.

    With several seeds of training, `n` counts these, and each contributes its mean over sampling seeds.
    """

    mean: float
    stderr: float | None
    n: int


class Summary(Strict):
    """The rows of one case at one number of steps, over seeds."""

    case: str
    steps: int | None
    nfe: int | float | None
    passes: int | float | None = None
    values: dict[str, Estimate]
    trainings: dict[int, dict[str, float]] = Field(
        default_factory=dict, description="means over sampling seeds for each seed of training, if there are several"
    )


class FrontierPoint(Summary):
    """The rows of one case with one value of the swept setting, over seeds."""

    sweep: dict[str, float] = Field(description="the swept setting and its value")


class ClaimResult(Strict):
    """One expectation and its measurement; null where a side is missing."""

    case: str
    steps: int
    against: str
    at: int
    expect: Expectation
    value: str
    ours: Estimate | None
    theirs: Estimate | None
    difference: float | None = Field(description="ours - theirs")
    stderr: float | None = Field(
        description="of the difference, paired by several seeds of training; null if neither side has a standard error"
    )
    verdict: Verdict | None
    holds: bool | None
    text: str = Field(description="the result as one sentence")


class Failure(Strict):
    """An incomplete case and the reason, which may be an incomplete teacher."""

    case: str
    reason: str


class Results(Strict):
    """All of `results.json`."""

    schema_version: Literal[4] = 4
    suite: SuiteInfo
    complete: bool = Field(description="false while the suite runs, after it was stopped, and if a case failed")
    environment: dict[str, Any] = Field(description="versions, hardware, threads")
    commit: str | None = Field(description="of fewstep, at the last write of this file")
    date: str = Field(description="time of the last write of this file, UTC")
    headline: str
    diversity: str | None = Field(None, description="value of the second plot of the headline, if there is one")
    direction: Literal["lower", "higher"] = Field(description="better direction of the headline")
    directions: dict[str, str] = Field(description="every value: lower or higher is better, or info (neither)")
    beside: dict[str, str] = Field(
        {}, description="values that say nothing alone, and the value that stands beside each"
    )
    judges: dict[str, str] = Field(
        {}, description="values that a model of the suite measures, and its case, which they cannot judge"
    )
    cases: tuple[CaseResult, ...]
    rows: tuple[Row, ...]
    summary: tuple[Summary, ...]
    frontier: tuple[FrontierPoint, ...] = Field((), description="points of sweeps, which are not in the summary")
    claims: tuple[ClaimResult, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[Failure, ...] = Field((), description="cases that this machine cannot run, and the missing need")

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read a results file.

        Raises:
            UserError: no such file, a damaged file, or a file of another version of fewstep.
        """
        path = Path(path)
        try:
            if path.stat().st_size > MAX_JSON:
                raise UserError(
                    f"'{path}' has more than the {MAX_JSON:,} bytes that are read; delete it to measure again"
                )
            raw = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read '{path}': {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"'{path}' is damaged ({error}); delete it to measure again") from None
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version not in _READABLE:
            known = f"{', '.join(map(str, _READABLE[:-1]))} and {_READABLE[-1]}"
            raise UserError(f"'{path}' has schema_version {version!r}, this fewstep reads {known}; use another folder")
        try:
            return cls.model_validate({**raw, "schema_version": VERSION})  # keys that older versions lack have defaults
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            raise UserError(f"'{path}' is damaged ({key}: {first['msg']}); delete it to measure again") from None

    def save(self, path: Path) -> None:
        """Write the file atomically, so that it is complete at any moment."""
        path.parent.mkdir(parents=True, exist_ok=True)
        rewrite(path, self.model_dump_json(indent=2) + "\n")

    def without_times(self) -> dict[str, object]:
        """Plain data without times, speeds, dates and the command, so that two runs of a suite compare equal."""
        from fewstep.training.loggers import VOLATILE

        plain = self.model_dump(mode="json", exclude={"date": True, "suite": {"command"}})
        for case in plain["cases"]:
            del case["train_seconds"], case["train_tokens_per_second"]
            case["logged"] = {key: value for key, value in case["logged"].items() if key not in VOLATILE}
        for row in plain["rows"]:
            del row["seconds"]
        for part in (*plain["rows"], *plain["summary"], *plain["frontier"]):
            for values in (part["values"], *part.get("trainings", {}).values()):
                for name in SPEED.keys() & values.keys():
                    del values[name]
        plain["claims"] = [claim for claim in plain["claims"] if claim["value"] not in SPEED]
        return plain

    def find(self, case: str, steps: int | None) -> Summary | None:
        """Summary of one case at one number of steps."""
        return next((s for s in self.summary if (s.case, s.steps) == (case, steps)), None)

    def case(self, name: str, train_seed: int | None = None) -> CaseResult | None:
        """Model of a case: the first one, or that of a seed of training; None if it is not in the results."""
        models = (case for case in self.cases if case.name == name)
        return next((case for case in models if train_seed in (None, case.train_seed)), None)
