"""The suite: one validated YAML file that says which recipes are trained, sampled and compared, and how.

Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveInt, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from fewstep.bench.suites.needs import Need
from fewstep.bench.suites.sweep import SweepSpec
from fewstep.core.component import ComponentConfig, Strict, custom_error, did_you_mean
from fewstep.core.errors import Problem, RecipeError, UserError
from fewstep.core.fields import From
from fewstep.recipe import locate, validate_file
from fewstep.recipe.compose import compose
from fewstep.recipe.yaml_loader import Key, Node, dotted

REFERENCE = "data"
"""What the row of real samples is called."""

SPEED = {"tokens_per_second": "higher", "peak_memory_mb": "lower"}
"""Values of a suite with `speed`, and which way is better. They depend on the machine."""

Expectation = Literal["better", "not_worse"]


def _some(values: tuple[Any, ...]) -> tuple[Any, ...]:
    # pydantic's own `min_length` would also complain about a list whose only item is wrong.
    if not values:
        raise ValueError("at least one is needed")
    return values


Some = AfterValidator(_some)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Seed = Annotated[int, Field(ge=0)]
Steps = Annotated[tuple[PositiveInt, ...], Some]
Seeds = Annotated[tuple[Seed, ...], Some]
Found = Iterator[tuple[Key, str]]


class CaseSpec(Strict):
    """One model, and the numbers of steps to sample it with.

    It is trained by a recipe, or is a source's own oracle, or another case's model once more.
    """

    name: Name = Field(description="names it in results, claims and files")
    recipe: str | None = Field(None, description="shipped recipe, or a path relative to the suite")
    model: str | None = Field(None, description="earlier case whose model this is; nothing is trained")
    sampler: Annotated[ComponentConfig | None, From("samplers", optional=True)] = Field(
        None, description="in the place of the recipe's; with `model`"
    )
    grid_search: bool = Field(False, description="take the steps that cost the model least (`fewstep grid`)")
    steps: Steps = Field(description="numbers of sampling steps to measure")
    sweep: SweepSpec | None = Field(
        None, description="also measure it with several values of a setting of its sampler, as a curve"
    )
    label: str | None = Field(None, description="what plots and tables call it; its name if left out")
    teacher: str | None = Field(None, description="earlier case whose model is this one's teacher")
    start_from: dict[str, str] = Field({}, description="earlier case whose weights a role starts from, by role name")
    oracle: bool = Field(False, description="sample the data source's exact denoiser; nothing is trained")
    needs: tuple[Need, ...] = Field(
        (), description="what the machine must have; where it lacks that, the case is skipped"
    )
    set: tuple[str, ...] = Field((), description="changes to the recipe, such as train.steps=100")
    quick_set: tuple[str, ...] = Field((), description="further changes to it when the suite is to be quick")

    def shrunk(self, quick: QuickSpec) -> CaseSpec:
        """The case as `--quick` runs it."""
        changed = {"steps": quick.steps or self.steps, "set": (*self.set, *quick.set, *self.quick_set)}
        return self.model_copy(update={**changed, "sweep": self.sweep and self.sweep.shortened(quick.steps)})

    @property
    def needed(self) -> list[tuple[Key, str]]:
        """Cases that must be trained before this one, and the keys that name them."""
        single: list[tuple[Key, str | None]] = [(("teacher",), self.teacher), (("model",), self.model)]
        named = [(key, name) for key, name in single if name]
        return [*named, *((("start_from", role), name) for role, name in self.start_from.items())]


class ClaimSpec(Strict):
    """An expectation about the headline value, to be measured: `case` at `steps` against another at `at`."""

    case: str
    steps: PositiveInt
    against: str
    at: PositiveInt | None = Field(None, description="steps of the other case; the same if left out")
    expect: Expectation = Field(description="better: by over two standard errors; not_worse: not worse by so many")

    @property
    def sides(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """(case, steps) of both."""
        return (self.case, self.steps), (self.against, self.at or self.steps)


class SpeedSpec(Strict):
    """How the speed of drawing is measured, beside the metrics."""

    repeats: PositiveInt = Field(3, description="timed draws of all samples of a row, after one that is not timed")


class QuickSpec(Strict):
    """What `--quick` changes, so that a suite can be seen to run in a minute."""

    samples: PositiveInt | None = Field(None, description="samples of each row")
    seeds: Seeds | None = Field(None, description="sampling seeds")
    train_seeds: Seeds | None = Field(None, description="seeds of training")
    steps: Steps | None = Field(None, description="numbers of sampling steps, for every case")
    set: tuple[str, ...] = Field((), description="further changes to every recipe")
    tolerances: dict[str, NonNegativeFloat] | None = Field(None, description="in the place of the suite's")


class Suite(Strict):
    """Models of one dataset that are trained, sampled and scored under the same conditions."""

    schema_version: Literal[1] = Field(1, description="version of this format")
    name: Name = Field(description="names the folder of the results")
    title: str = Field(description="one line for the head of report and plot")
    seeds: Seeds = Field(description="sampling seeds; the spread of a value is over these")
    train_seeds: Seeds | None = Field(
        None, description="train each model once for each of these seeds; the spread is then over trainings"
    )
    set: tuple[str, ...] = Field((), description="changes to every recipe, such as data.order=2")
    samples: PositiveInt = Field(description="samples of each row")
    metrics: Annotated[tuple[Annotated[ComponentConfig, From("metrics")], ...], Some] = Field(description="by name")
    speed: SpeedSpec | None = Field(
        None, description="also measure how fast samples are drawn, and the memory that takes"
    )
    headline: str = Field(description="value that is plotted and that claims compare")
    diversity: str | None = Field(None, description="value that the headline is plotted against, beside NFE")
    tolerances: dict[str, NonNegativeFloat] = Field(
        {}, description="how much worse a value may be than in --compare; if left out: two standard errors"
    )
    cases: Annotated[tuple[CaseSpec, ...], Some]
    claims: tuple[ClaimSpec, ...] = ()
    quick: QuickSpec | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Suite:
        found = [
            *self._names(),
            *self._seeds(),
            *self._origins(),
            *self._teachers(),
            *self._headline(),
            *self._diversity(),
            *self._sweeps(),
            *self._tolerances(),
            *self._claims(),
        ]
        if found:
            details = [InitErrorDetails(type=custom_error("suite", m), loc=key, input=None) for key, m in found]
            raise ValidationError.from_exception_data("Suite", details)
        return self

    @property
    def directions(self) -> dict[str, str]:
        """Every value that is measured, and which way is better."""
        from fewstep.metrics.base import METRICS

        ways = {name: way for m in self.metrics for name, way in METRICS.get(m.type).cls.directions.items()}
        return ways | (SPEED if self.speed else {})

    @property
    def beside(self) -> dict[str, str]:
        """Values that are not to be seen alone, and what stands beside each (`Metric.beside`)."""
        from fewstep.metrics.base import METRICS

        return {name: other for m in self.metrics for name, other in METRICS.get(m.type).cls.beside.items()}

    @property
    def of_models(self) -> frozenset[str]:
        """Values that judge models and not samples: the same at any number of steps, and missing where none is."""
        from fewstep.metrics.base import METRICS

        found = (METRICS.get(m.type).cls for m in self.metrics)
        return frozenset(name for metric in found if metric.of_models for name in metric.directions)

    def shrunk(self) -> Suite:
        """The suite as `--quick` runs it; itself if it does not say how."""
        quick = self.quick
        if quick is None:
            return self
        cases = tuple(case.shrunk(quick) for case in self.cases)
        changed = {key: getattr(quick, key) for key in ("samples", "seeds", "train_seeds", "tolerances")}
        kept = {key: value for key, value in changed.items() if value is not None}
        return self.model_copy(update={"cases": cases, **kept})

    def _names(self) -> Found:
        """Names and steps occur once."""
        for index, case in enumerate(self.cases):
            if case.name == REFERENCE:
                yield ("cases", index, "name"), f"'{REFERENCE}' is the name of the row of real samples; use another"
            if case.name in [earlier.name for earlier in self.cases[:index]]:
                yield ("cases", index, "name"), f"another case is called '{case.name}' already"
            yield from _repeated(("cases", index, "steps"), case.steps)
        if self.quick:
            yield from _repeated(("quick", "steps"), self.quick.steps or ())

    def _seeds(self) -> Found:
        """Seeds occur once, and those of training are set in one place."""
        yield from _repeated(("seeds",), self.seeds)
        yield from _repeated(("train_seeds",), self.train_seeds or ())
        if self.quick:
            yield from _repeated(("quick", "seeds"), self.quick.seeds or ())
            yield from _repeated(("quick", "train_seeds"), self.quick.train_seeds or ())
        places: list[tuple[Key, tuple[str, ...]]] = [(("set",), self.set)]
        places += [(("cases", index, "set"), case.set) for index, case in enumerate(self.cases)]
        for key, changes in places if self.train_seeds else ():
            for number, change in enumerate(changes):
                if _sets_seed(change):
                    yield (*key, number), "the suite's `train_seeds` set the seed of every training; remove one of them"

    def _origins(self) -> Found:
        """A case says where its model comes from, in one way."""
        for index, case in enumerate(self.cases):
            key: Key = ("cases", index)
            if (case.recipe is None) == (case.model is None):
                yield key, "give `recipe`, to train a model, or `model`, to sample that of an earlier case; one of them"
            if case.model is None and case.sampler is not None:
                yield (
                    (*key, "sampler"),
                    "goes with `model`; a case that is trained sets its recipe's: set: [sampler.KEY=...]",
                )
            if case.model is None and case.grid_search:
                yield (*key, "grid_search"), "goes with `model`: steps are searched for a model that is trained already"
            for name in ("teacher", "start_from", "oracle", "set", "quick_set") if case.model else ():
                if getattr(case, name):
                    yield (*key, name), "nothing is trained for a case with `model`; remove it"

    def _teachers(self) -> Found:
        """What is learned from is an earlier case that is trained."""
        for index, case in enumerate(self.cases):
            earlier = {other.name: other for other in self.cases[:index]}
            for below, name in case.needed:
                key: Key = ("cases", index, *below)
                if case.oracle and not case.model:
                    yield key, f"an oracle learns from nobody; remove `{below[0]}` or `oracle`"
                elif name in earlier:
                    if earlier[name].oracle and below != ("model",):
                        yield key, f"case '{name}' is an oracle; what is learned from must be a trained model"
                elif name in [other.name for other in self.cases]:
                    yield key, f"case '{name}' must come before the case that learns from it"
                else:
                    yield key, _unknown("case", name, list(earlier))

    def _headline(self) -> Found:
        """It is a value that a metric returns, and one way is better."""
        ways = self.directions
        if self.headline not in ways:
            yield ("headline",), _unknown("value of these metrics", self.headline, list(ways))
        elif ways[self.headline] == "info":
            judged = ", ".join(name for name, way in ways.items() if way != "info") or "none"
            yield ("headline",), f"neither high nor low is better for '{self.headline}'; values that compare: {judged}"
        elif self.headline in self.of_models:
            yield ("headline",), _of_model(self.headline)

    def _diversity(self) -> Found:
        """It is a value that a metric returns."""
        if self.diversity is not None and self.diversity not in self.directions:
            yield ("diversity",), _unknown("value of these metrics", self.diversity, list(self.directions))
        elif self.diversity is not None and self.diversity in self.of_models:
            yield ("diversity",), _of_model(self.diversity)

    def _sweeps(self) -> Found:
        """They fit their cases, and there is what their curves are drawn against."""
        for index, case in enumerate(self.cases):
            if case.sweep is None:
                continue
            for key, message in case.sweep.problems(case.steps):
                yield ("cases", index, "sweep", *key), message
            if self.diversity is None and self.headline not in self.beside:
                message = "it is drawn as quality against diversity: name a value with the suite's `diversity`"
                yield ("cases", index, "sweep"), message

    def _tolerances(self) -> Found:
        """They are about values that a metric returns and that are better one way."""
        ways = self.directions
        places: list[tuple[Key, str]] = [(("tolerances",), name) for name in self.tolerances]
        places += [(("quick", "tolerances"), name) for name in (self.quick and self.quick.tolerances) or ()]
        for key, name in places:
            if name not in ways:
                yield (*key, name), _unknown("value of these metrics", name, list(ways))
            elif ways[name] == "info":
                yield (*key, name), "neither high nor low is better, so it is not compared; remove it"

    def _claims(self) -> Found:
        """Both sides are measured, and they are two."""
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


@dataclass(frozen=True)
class LoadedSuite:
    """A valid suite, reduced by then if it is to be quick, and where each of its values stands."""

    suite: Suite
    source: str
    path: Path
    root: Node
    quick: bool
    sets: tuple[str, ...] = ()
    """Further changes to every recipe, from the command line."""

    def problem(self, key: Key, message: str) -> Problem:
        """A problem at the value that `key` names, or at what surrounds it."""
        return self.root.follow(key)[0].problem(message, dotted(key))

    def set_key(self, index: int, number: int) -> Key:
        """Where the `number`-th change (from 1) of the case at `index` was written."""
        place = number - 1
        for key in (("set",), ("cases", index, "set"), ("quick", "set")):
            node, depth = self.root.follow(key)
            count = len(node.value) if depth == len(key) else 0
            if place < count:
                return (*key, place)
            place -= count
        return ("cases", index, "quick_set", place)


def load_suite(source: str, *, quick: bool = False, sets: Sequence[str] = ()) -> LoadedSuite:
    """Read a suite, a path or a shipped name; `sets` are changes to every recipe.

    Raises:
        RecipeError: everything that is wrong with it, or `quick` is asked of a suite that does not say how.
        UserError: `sets` has a seed, and the suite has seeds of training.
    """
    path, name = locate("suite", source)
    suite, root = validate_file(name, Suite), compose(Path(name), name)
    if quick and suite.quick is None:
        raise RecipeError([root.problem("--quick needs a section `quick:` that says what to reduce")])
    if suite.train_seeds and any(_sets_seed(change) for change in sets):
        raise UserError("--set seed: the suite trains with seeds of its own (train_seeds); leave it out")
    return LoadedSuite(suite.shrunk() if quick else suite, source, path, root, quick, tuple(sets))


def _sets_seed(change: str) -> bool:
    return change.partition("=")[0].strip() == "seed"


def _repeated(key: Key, values: Sequence[int]) -> Found:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        yield key, f"{twice[0]} is listed twice"


def _of_model(name: str) -> str:
    return f"'{name}' judges models, whatever their number of steps; name a value of samples"


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    return f"no {what} named '{name}'{did_you_mean(name, known) or ';'} known: {', '.join(known) or 'none'}"
