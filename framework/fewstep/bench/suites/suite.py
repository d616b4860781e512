"""The suite: one validated YAML file with the recipes to train, sample and compare, and the conditions.

Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveInt, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from fewstep.bench.suites.needs import Need
from fewstep.bench.suites.recipe_sweep import Point
from fewstep.bench.suites.sweep import SweepSpec
from fewstep.core.component import ComponentConfig, Strict, custom_error
from fewstep.core.echo import shown
from fewstep.core.fields import From
from fewstep.core.names import did_you_mean
from fewstep.recipe.yaml_loader import Key

REFERENCE = "data"
"""Case name of the rows of real samples."""

SPEED = {"tokens_per_second": "higher", "peak_memory_mb": "lower"}
"""Values of a suite with `speed`, and their better direction. They depend on the machine."""

Expectation = Literal["better", "not_worse"]


def _non_empty(values: tuple[object, ...]) -> tuple[object, ...]:
    # pydantic's own `min_length` would also complain about a list whose only item is wrong.
    if not values:
        raise ValueError("at least one is needed")
    return values


NonEmpty = AfterValidator(_non_empty)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Seed = Annotated[int, Field(ge=0)]
Steps = Annotated[tuple[PositiveInt, ...], NonEmpty]
Seeds = Annotated[tuple[Seed, ...], NonEmpty]
Problems = Iterator[tuple[Key, str]]


class CaseSpec(Strict):
    """One model, and the numbers of steps to sample it with.

    The model is trained by a recipe, or is a source's exact oracle, or the model of another case.
    """

    name: Name = Field(description="name in results, claims and files")
    recipe: str | None = Field(None, description="shipped recipe, or a path relative to the suite")
    model: str | None = Field(
        None, description="earlier case, or path of a run or export (./few), to sample; nothing is trained"
    )
    sampler: Annotated[ComponentConfig | None, From("samplers", optional=True)] = Field(
        None, description="replaces the recipe's; with `model`"
    )
    grid_search: bool = Field(False, description="sample at the step times of least cost (`fewstep grid`)")
    steps: Steps = Field(description="numbers of sampling steps to measure")
    sweep: SweepSpec | None = Field(
        None,
        description="also measure a curve over values of a setting of the sampler; or train a case for each "
        "combination of values of recipe keys",
    )
    label: str | None = Field(None, description="label in plots and tables; the name if left out")
    teacher: str | None = Field(None, description="earlier case whose model is the teacher")
    start_from: dict[str, str] = Field({}, description="earlier cases whose weights initialise roles, by role name")
    oracle: bool = Field(False, description="sample the data source's exact denoiser; nothing is trained")
    needs: tuple[Need, ...] = Field((), description="needs of the case; it is skipped on a machine without them")
    set: tuple[str, ...] = Field((), description="changes to the recipe, such as train.steps=100")
    quick_set: tuple[str, ...] = Field((), description="further changes to the recipe under --quick")

    def reduced(self, quick: QuickSpec) -> CaseSpec:
        """The case for `--quick`."""
        changes = {"steps": quick.steps or self.steps, "set": (*self.set, *quick.set, *self.quick_set)}
        return self.model_copy(update={**changes, "sweep": self.sweep and self.sweep.reduced(quick.steps)})

    @property
    def points(self) -> list[Point]:
        """Values of the recipe keys that it sweeps, a case for each; none if it is one case."""
        return self.sweep.recipe_points if self.sweep else []

    @property
    def existing(self) -> bool:
        """Whether its model was trained before, outside of the suite: `model` is a path, not the name of a case."""
        return self.model is not None and ("/" in self.model or self.model.endswith(".safetensors"))

    @property
    def dependencies(self) -> list[tuple[Key, str]]:
        """Keys that name other cases, and those cases. They must be trained before this one."""
        origin = None if self.existing else self.model
        single: list[tuple[Key, str | None]] = [(("teacher",), self.teacher), (("model",), origin)]
        named = [(key, name) for key, name in single if name]
        return [*named, *((("start_from", role), name) for role, name in self.start_from.items())]


class ClaimSpec(Strict):
    """An expectation about the headline value: `case` at `steps` compared with `against` at `at`."""

    case: str
    steps: PositiveInt
    against: str
    at: PositiveInt | None = Field(None, description="steps of the other case; the same if left out")
    expect: Expectation = Field(
        description="better: by more than two standard errors; not_worse: not worse by more than two"
    )

    @property
    def sides(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """(case, steps) of both sides."""
        return (self.case, self.steps), (self.against, self.at or self.steps)


class SpeedSpec(Strict):
    """Measurement of the sampling speed."""

    repeats: PositiveInt = Field(3, description="timed draws of all samples of a row, after one without timing")


class QuickSpec(Strict):
    """Changes of `--quick`, so that a suite can be tried in a minute."""

    samples: PositiveInt | None = Field(None, description="samples of each row")
    seeds: Seeds | None = Field(None, description="sampling seeds")
    train_seeds: Seeds | None = Field(None, description="seeds of training")
    steps: Steps | None = Field(None, description="numbers of sampling steps, for every case")
    set: tuple[str, ...] = Field((), description="further changes to every recipe")
    tolerances: dict[str, NonNegativeFloat] | None = Field(None, description="replace the suite's")


class Suite(Strict):
    """Models of one dataset, trained, sampled and scored under the same conditions."""

    schema_version: Literal[1] = Field(1, description="version of this format")
    name: Name = Field(description="name of the results' folder")
    title: str = Field(description="one line, the title of report and plot")
    seeds: Seeds = Field(description="sampling seeds; standard errors are over these")
    train_seeds: Seeds | None = Field(
        None, description="train each model once for each of these seeds; standard errors are then over trainings"
    )
    set: tuple[str, ...] = Field((), description="changes to every recipe, such as data.order=2")
    samples: PositiveInt = Field(description="samples of each row")
    metrics: Annotated[tuple[Annotated[ComponentConfig, From("metrics")], ...], NonEmpty] = Field(
        description="names, or settings with `type`"
    )
    speed: SpeedSpec | None = Field(None, description="also measure the speed of sampling, and its memory")
    headline: str = Field(description="value of the plot and of the claims")
    diversity: str | None = Field(None, description="value for a second plot of the headline, in the place of NFE")
    tolerances: dict[str, NonNegativeFloat] = Field(
        {}, description="by how much a value may be worse than in --compare; two standard errors if left out"
    )
    cases: Annotated[tuple[CaseSpec, ...], NonEmpty]
    claims: tuple[ClaimSpec, ...] = ()
    quick: QuickSpec | None = None

    @model_validator(mode="after")
    def _check(self) -> Suite:
        problems = [
            *self._check_names(),
            *self._check_seeds(),
            *self._check_origins(),
            *self._check_teachers(),
            *self._check_headline(),
            *self._check_diversity(),
            *self._check_sweeps(),
            *self._check_tolerances(),
            *self._check_claims(),
        ]
        if problems:
            details = [InitErrorDetails(type=custom_error("suite", m), loc=key, input=None) for key, m in problems]
            raise ValidationError.from_exception_data("Suite", details)
        return self

    @property
    def directions(self) -> dict[str, str]:
        """All measured values, and their better direction."""
        from fewstep.metrics.base import METRICS

        ways = {name: way for m in self.metrics for name, way in METRICS.get(m.type).cls.directions.items()}
        return ways | (SPEED if self.speed else {})

    @property
    def beside(self) -> dict[str, str]:
        """Values that say nothing alone, and the value that stands beside each (`Metric.beside`)."""
        from fewstep.metrics.base import METRICS

        return {name: other for m in self.metrics for name, other in METRICS.get(m.type).cls.beside.items()}

    @property
    def of_models(self) -> frozenset[str]:
        """Values of models and not of samples: equal at all numbers of steps, and missing for real samples."""
        from fewstep.metrics.base import METRICS

        metrics = (METRICS.get(m.type).cls for m in self.metrics)
        return frozenset(name for metric in metrics if metric.of_models for name in metric.directions)

    def reduced(self) -> Suite:
        """The suite for `--quick`; unchanged without a section `quick`."""
        quick = self.quick
        if quick is None:
            return self
        cases = tuple(case.reduced(quick) for case in self.cases)
        fields = {key: getattr(quick, key) for key in ("samples", "seeds", "train_seeds", "tolerances")}
        changes = {key: value for key, value in fields.items() if value is not None}
        return self.model_copy(update={"cases": cases, **changes})

    def _check_names(self) -> Problems:
        """Names and numbers of steps are unique."""
        for index, case in enumerate(self.cases):
            if case.name == REFERENCE:
                yield ("cases", index, "name"), f"'{REFERENCE}' is the name of the row of real samples; use another"
            if case.name in [earlier.name for earlier in self.cases[:index]]:
                yield ("cases", index, "name"), f"another case is called '{case.name}' already"
            yield from _repeated(("cases", index, "steps"), case.steps)
        if self.quick:
            yield from _repeated(("quick", "steps"), self.quick.steps or ())

    def _check_seeds(self) -> Problems:
        """Seeds are unique, and seeds of training are set in one place."""
        yield from _repeated(("seeds",), self.seeds)
        yield from _repeated(("train_seeds",), self.train_seeds or ())
        if self.quick:
            yield from _repeated(("quick", "seeds"), self.quick.seeds or ())
            yield from _repeated(("quick", "train_seeds"), self.quick.train_seeds or ())
        places: list[tuple[Key, tuple[str, ...]]] = [(("set",), self.set)]
        places += [(("cases", index, "set"), case.set) for index, case in enumerate(self.cases)]
        for key, changes in places if self.train_seeds else ():
            for number, change in enumerate(changes):
                if sets_seed(change):
                    yield (*key, number), "the suite's `train_seeds` set the seed of every training; remove one of them"

    def _check_origins(self) -> Problems:
        """Each case has exactly one origin of its model."""
        for index, case in enumerate(self.cases):
            key: Key = ("cases", index)
            if (case.recipe is None) == (case.model is None):
                yield (
                    key,
                    "give `recipe`, to train a model, or `model`, to sample an earlier one; exactly one of them",
                )
            if case.model is None and case.sampler is not None:
                yield (
                    (*key, "sampler"),
                    "goes with `model`; a case with a recipe changes its sampler by set: [sampler.KEY=...]",
                )
            if case.model is None and case.grid_search:
                yield (*key, "grid_search"), "goes with `model`: steps are searched for a model of an earlier case"
            for name in ("teacher", "start_from", "oracle", "set", "quick_set") if case.model else ():
                if getattr(case, name):
                    yield (*key, name), "nothing is trained for a case with `model`; remove it"

    def _check_teachers(self) -> Problems:
        """Teachers and origins of weights are earlier cases that are trained."""
        for index, case in enumerate(self.cases):
            earlier = {other.name: other for other in self.cases[:index]}
            for below, name in case.dependencies:
                key: Key = ("cases", index, *below)
                if case.oracle and not case.model:
                    yield key, f"an oracle has no teacher and no training; remove `{below[0]}` or `oracle`"
                elif name in earlier:
                    if earlier[name].oracle and below != ("model",):
                        yield key, f"case '{name}' is an oracle; it must be a trained model"
                elif name in [other.name for other in self.cases]:
                    yield key, f"case '{name}' must come before this case, which needs it"
                else:
                    path = "; a run or an export is named by its path, such as ./few" if below == ("model",) else ""
                    yield key, _unknown("case", name, list(earlier)) + path

    def _check_headline(self) -> Problems:
        """The headline is a value of a metric with a better direction."""
        ways = self.directions
        if self.headline not in ways:
            yield ("headline",), _unknown("value of these metrics", self.headline, list(ways))
        elif ways[self.headline] == "info":
            comparable = ", ".join(name for name, way in ways.items() if way != "info") or "none"
            yield (
                ("headline",),
                f"neither high nor low is better for '{self.headline}'; comparable values: {comparable}",
            )
        elif self.headline in self.of_models:
            yield ("headline",), _model_value(self.headline)

    def _check_diversity(self) -> Problems:
        """The diversity is a value of a metric, of samples."""
        if self.diversity is not None and self.diversity not in self.directions:
            yield ("diversity",), _unknown("value of these metrics", self.diversity, list(self.directions))
        elif self.diversity is not None and self.diversity in self.of_models:
            yield ("diversity",), _model_value(self.diversity)

    def _check_sweeps(self) -> Problems:
        """Sweeps fit their cases and each other, and the suite names a value to plot curves against."""
        yield from self._check_swept_cases()
        for index, case in enumerate(self.cases):
            if case.sweep is None:
                continue
            for key, message in case.sweep.problems(case.steps):
                yield ("cases", index, "sweep", *key), message
            if not case.sweep.keys and self.diversity is None and self.headline not in self.beside:
                message = "its plot is quality against diversity: name a value with the suite's `diversity`"
                yield ("cases", index, "sweep"), message

    def _check_swept_cases(self) -> Problems:
        """Cases that sweep keys of their recipes are trained, and no other case needs them."""
        swept = {case.name: case for case in self.cases if case.sweep and case.sweep.keys}
        for index, case in enumerate(self.cases):
            if case.name in swept and (case.model or case.oracle):
                message = (
                    "nothing is trained for this case, so keys of a recipe change nothing; sweep temperature or top_p"
                )
                yield ("cases", index, "sweep"), message
            for below, name in case.dependencies:
                if name in swept:
                    yield (
                        ("cases", index, *below),
                        f"case '{name}' is swept into several models; name a case that is one",
                    )
        for index, claim in enumerate(self.claims):
            for place, name in (("case", claim.case), ("against", claim.against)):
                if name in swept:
                    yield (
                        ("claims", index, place),
                        f"case '{name}' is swept into several models; name a case that is one",
                    )
        yield from self._check_budgets(swept)

    def _check_budgets(self, swept: Mapping[str, CaseSpec]) -> Problems:
        """Swept cases have equally many trainings: a search that tries more finds more."""
        sizes = {name: _point_count(case) for name, case in swept.items()}
        sizes = {name: size for name, size in sizes.items() if size}
        if len(set(sizes.values())) > 1:
            counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
            least = min(sizes.values())
            for index, case in enumerate(self.cases):
                if sizes.get(case.name, least) > least:
                    message = (
                        f"its sweep has more trainings than another ({counts}), so that it would win by trying more; "
                        f"add `draws: {least}` for an equal budget"
                    )
                    yield ("cases", index, "sweep"), message

    def _check_tolerances(self) -> Problems:
        """Tolerances name values of metrics with a better direction."""
        ways = self.directions
        places: list[tuple[Key, str]] = [(("tolerances",), name) for name in self.tolerances]
        places += [(("quick", "tolerances"), name) for name in (self.quick and self.quick.tolerances) or ()]
        for key, name in places:
            if name not in ways:
                yield (*key, name), _unknown("value of these metrics", name, list(ways))
            elif ways[name] == "info":
                yield (*key, name), "neither high nor low is better, so it is not compared; remove it"

    def _check_claims(self) -> Problems:
        """Both sides of a claim are measured, and they differ."""
        steps = {case.name: case.steps for case in self.cases}
        for index, claim in enumerate(self.claims):
            places = (("case", "steps"), ("against", "at" if claim.at else "steps"))
            for (name, count), (name_key, count_key) in zip(claim.sides, places, strict=True):
                if name not in steps:
                    yield ("claims", index, name_key), _unknown("case", name, list(steps))
                elif count not in steps[name]:
                    listed = ", ".join(map(str, steps[name]))
                    yield (
                        ("claims", index, count_key),
                        f"case '{name}' is not measured at {count} steps; it is at {listed}",
                    )
            if claim.sides[0] == claim.sides[1]:
                yield ("claims", index), "compares a case with itself"


def _point_count(case: CaseSpec) -> int:
    """Number of trainings of a sweep; 0 if it has problems of its own."""
    if case.sweep is None or any(True for _ in case.sweep.problems(case.steps)):
        return 0
    return len(case.points)


def sets_seed(change: str) -> bool:
    """Whether a change of a recipe sets its seed."""
    return change.partition("=")[0].strip() == "seed"


def _repeated(key: Key, values: Sequence[int]) -> Problems:
    duplicates = sorted({value for value in values if values.count(value) > 1})
    if duplicates:
        yield key, f"{duplicates[0]} is listed twice"


def _model_value(name: str) -> str:
    return f"'{shown(name)}' is a value of models, not of samples; name a value of samples"


def _unknown(label: str, name: str, known: Sequence[str]) -> str:
    return f"no {label} named '{shown(name)}'{did_you_mean(name, known) or ';'} known: {', '.join(known) or 'none'}"
