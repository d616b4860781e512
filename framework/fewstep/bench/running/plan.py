"""From a suite to prepared cases: recipes, data and digests, all checked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fewstep.bench.results.results import digest_of, model_id
from fewstep.bench.running.code import plugin_versions
from fewstep.bench.running.external import contents_digest
from fewstep.bench.suites.needs import lacking
from fewstep.bench.suites.suite import CaseSpec, LoadedSuite, Suite
from fewstep.core.component import ComponentConfig
from fewstep.core.errors import Problem, RecipeError, UserError
from fewstep.core.names import did_you_mean
from fewstep.core.references import Reference, references, replace_references
from fewstep.data.base import DATASETS, Dataset
from fewstep.data.synthetic.source import Source
from fewstep.metrics.base import MetricConfig, ToScore
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe import LoadedRecipe, load_recipe, with_sampler
from fewstep.recipe.models import Recipe
from fewstep.recipe.shipped import is_path
from fewstep.recipe.yaml_loader import Key, undotted
from fewstep.runs.folder import RunDir
from fewstep.runs.models import build_dataset


@dataclass(frozen=True)
class PreparedCase:
    """One training of a case: `digest` changes with anything that its model depends on, the teacher's included."""

    spec: CaseSpec
    train_seed: int | None
    """Seed that the suite trains it with; None where the recipe's own is taken, and for an oracle."""
    loaded: LoadedRecipe
    digest: str
    run: RunDir
    """Where it is trained; unused by an oracle."""
    lacks: str | None = None
    """Why it cannot run here: what it, or a case that it needs, asks of the machine; it is skipped then."""

    @property
    def trained(self) -> bool:
        """Whether there is a model to train for it."""
        return not (self.spec.oracle or self.spec.model)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def id(self) -> str:
        """Tells all trainings of a suite apart."""
        return model_id(self.spec.name, self.train_seed)

    @property
    def dependencies(self) -> list[str]:
        """`id`s of the trainings that must end before this one."""
        return [model_id(name, self.train_seed) for _, name in self.spec.dependencies]

    @property
    def label(self) -> str:
        return self.spec.label or self.spec.name

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe

    @property
    def train_work(self) -> float:
        """Forward passes over a sample, or what costs as much, that the training takes."""
        if not self.trained:
            return 0.0
        train, objective = self.recipe.train, OBJECTIVES.build(self.recipe.objective)
        phases = objective.phases()
        trained = sum(len(phase.train) * phase.repeat for phase in phases) / sum(phase.repeat for phase in phases)
        # Every role looks at the batch, and a backward pass costs about two forward ones.
        return train.steps * train.batch_size * (len(objective.roles) + 2 * trained)


@dataclass(frozen=True)
class Plan:
    """Everything that a suite needs to run in `folder`."""

    loaded: LoadedSuite
    folder: Path
    dataset: Dataset
    cases: tuple[PreparedCase, ...]
    code: str | None
    """Digest of the code that the digests of cases and rows cover; None where they are to cover none."""

    @property
    def suite(self) -> Suite:
        return self.loaded.suite

    def case(self, id: str) -> PreparedCase:
        """One training, by its `id`."""
        return next(case for case in self.cases if case.id == id)

    def trained_as(self, case: PreparedCase) -> PreparedCase | None:
        """The case whose training makes this one's model: itself, or that which it samples once more; None: oracle."""
        return next((other for other in self.cases if other.trained and other.run.path == case.run.path), None)

    @property
    def references(self) -> dict[str, PreparedCase]:
        """Cases whose models metrics ask, by name; the first training of each."""
        named = {found.value for metric in self.suite.metrics for found in references(metric)}
        return {case.name: case for case in reversed(self.cases) if case.name in named}

    def metrics(self, *, by: Literal["run", "digest"]) -> list[dict[str, object]]:
        """The suite's metrics as plain data; a reference stands as its run, or as the digest of what it holds.

        Digests of references from outside are made of their files at each call, for nothing else tells that weights
        were replaced.
        """
        cases, outside = self.references, dict[str, str]()

        def stands_for(named: Reference) -> str:
            name = named.value
            if name in cases:
                return str(cases[name].run.path) if by == "run" else cases[name].digest
            if by == "digest" and (named.kind != "file" or Path(name).is_file()):
                outside[name] = outside.get(name) or contents_digest(name) or name
            return outside.get(name, name)

        metrics = [replace_references(metric, stands_for) for metric in self.suite.metrics]
        return [metric.model_dump(mode="json") for metric in metrics]

    @property
    def digest(self) -> str:
        """Changes with what is measured and with every model."""
        suite = self.suite.model_dump(mode="json", exclude={"title", "quick", "tolerances"})
        return digest_of({"suite": suite, "cases": [case.digest for case in self.cases]})


def make_plan(loaded: LoadedSuite, folder: Path, code: str | None = None) -> Plan:
    """Load every recipe and the data; where each model is trained with several seeds, seed after seed.

    Args:
        code: what models and rows are keyed by, beside recipe and data (`code.code_digest`).

    Raises:
        RecipeError: everything that is wrong with them, each where it was written.
    """
    planner = _Planner(loaded, folder, code)
    seeds = loaded.suite.train_seeds or (None,)
    for seed in seeds:
        for index, spec in enumerate(loaded.suite.cases):
            if spec.model:
                planner.add_again(index, seed)
            elif not spec.oracle:
                planner.add(index, seed)
            elif seed == seeds[0]:
                planner.add(index, None)
    planner.check_metrics()
    if planner.problems or planner.dataset is None:
        raise RecipeError(list(dict.fromkeys(planner.problems)))
    return Plan(loaded, folder, planner.dataset, tuple(planner.cases.values()), code)


@dataclass
class _Planner:
    loaded: LoadedSuite
    folder: Path
    code: str | None
    cases: dict[str, PreparedCase] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    dataset: Dataset | None = None
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _first: str = ""
    _data_type: type[Dataset] | None = None

    def add(self, index: int, seed: int | None) -> None:
        """Prepare one case with one seed of training, or note why it cannot be."""
        suite = self.loaded.suite
        spec = suite.cases[index]
        changes = [*suite.set, *spec.set, *self.loaded.sets, *([] if seed is None else [f"seed={seed}"])]
        teacher = self.cases.get(model_id(spec.teacher or "", seed))
        origins = {role: self.cases.get(model_id(name, seed)) for role, name in spec.start_from.items()}
        # As for the teacher: where an origin could not be prepared, its case is checked with its name.
        changes += [f"start_from.{role}={case.run.path if case else role}" for role, case in origins.items()]
        # Of a teacher that could not be prepared only the problems matter; its student is checked all the same.
        path = str(teacher.run.path) if teacher else spec.teacher
        try:
            recipe = load_recipe(self._source(spec), changes, teacher=path)
        except RecipeError as error:
            self.problems += [self._placed(index, problem) for problem in error.problems]
            return
        if recipe.recipe.teacher and spec.teacher is None:
            self._note(index, "recipe", f"'{spec.recipe}' learns from a teacher; name its case with `teacher: CASE`")
        for role in recipe.recipe.start_from.keys() - spec.start_from.keys():
            message = (
                f"in '{spec.recipe}' the {role} starts from a run; name its case with `start_from: {{{role}: CASE}}`"
            )
            self._note(index, "recipe", message)
        dataset = self._data(index, recipe.recipe)
        if dataset is None:
            return
        learned_from = {str(case.run.path): case.digest for case in (teacher, *origins.values()) if case}
        settings = replace_references(recipe.recipe, lambda named: learned_from.get(named.value, named.value))
        facts = {"recipe": settings.model_dump(mode="json"), "data": dataset.fingerprint, "oracle": spec.oracle}
        if self.code is not None:
            facts |= {"code": self.code, "plugins": plugin_versions(recipe.recipe.plugins)}
        digest = digest_of(facts)
        run = RunDir(self.folder / "runs" / f"{model_id(spec.name, seed)}-{digest[:8]}")
        lacks = lacking(spec.needs) or next((c.lacks for c in (teacher, *origins.values()) if c and c.lacks), None)
        self._check_sweep(index, recipe.recipe)
        case = PreparedCase(spec, seed, recipe, digest, run, lacks)
        self.cases[case.id] = case

    def add_again(self, index: int, seed: int | None) -> None:
        """Prepare a case that samples the model of an earlier one, or note why it cannot be."""
        spec = self.loaded.suite.cases[index]
        origin = self.cases.get(model_id(spec.model or "", seed)) or self.cases.get(spec.model or "")
        if origin is None:
            return  # what is wrong with it was noted
        recipe = origin.recipe
        if spec.sampler:
            try:
                recipe = with_sampler(recipe, spec.sampler.model_dump_json(), steps=spec.steps)
            except RecipeError as error:
                self.problems += [
                    self.loaded.problem(("cases", index, "sampler"), problem.message) for problem in error.problems
                ]
                return
        if spec.grid_search and (origin.spec.oracle or "grid" not in type(recipe.sampler).model_fields):
            what = "an oracle has no run" if origin.spec.oracle else f"sampler '{recipe.sampler.type}' has no grid"
            self._note(index, "grid_search", f"steps cannot be searched for it: {what}")
        self._check_sweep(index, recipe)
        names = ("name", "label", "steps", "sweep", "model", "sampler", "grid_search", "needs")
        own = {key: getattr(spec, key) for key in names}
        lacks = lacking(spec.needs) or origin.lacks
        spec = origin.spec.model_copy(update=own)
        case = replace(origin, spec=spec, loaded=replace(origin.loaded, recipe=recipe), lacks=lacks)
        self.cases[case.id] = case

    def _check_sweep(self, index: int, recipe: Recipe) -> None:
        """The sampler has the setting, and takes every value of it."""
        spec = self.loaded.suite.cases[index]
        for key, values in spec.sweep.settings.items() if spec.sweep else ():
            place: Key = ("cases", index, "sweep", key)
            if key not in type(recipe.sampler).model_fields:
                self.problems.append(self.loaded.problem(place, f"sampler '{recipe.sampler.type}' has no {key}"))
                continue
            for number, value in enumerate(values):
                try:
                    with_sampler(recipe, settings={key: value}, steps=spec.steps)
                except RecipeError as error:
                    told = [self.loaded.problem((*place, number), problem.message) for problem in error.problems]
                    self.problems += told

    def check_metrics(self) -> None:
        """Metrics can score these data, and what they refer to is there."""
        names = [case.name for case in self.loaded.suite.cases if not case.oracle]
        for index, config in enumerate(self.loaded.suite.metrics):
            for named in references(config):
                reference, key = named.value, undotted(f"metrics[{index}].{named.key}")
                outside = reference.startswith("hf:") or Path(reference).exists()
                if reference not in names and not outside:
                    message = f"no case, run or file named '{reference}'{did_you_mean(reference, names) or ''}"
                    self.problems.append(self.loaded.problem(key, message))
                asked = next((case for case in self.cases.values() if case.name == reference), None)
                if asked and asked.lacks:
                    message = f"case '{reference}' is skipped here, so that nothing can be measured: {asked.lacks}"
                    self.problems.append(self.loaded.problem(key, message))
            for message in self._refusals(config):
                self.problems.append(self.loaded.problem(("metrics", index), message))

    def _refusals(self, config: ComponentConfig) -> Iterator[str]:
        """Why a metric cannot score the cases' data, or cannot do it here."""
        assert isinstance(config, MetricConfig)
        if self._data_type is None:
            return
        if reason := config.refuses(ToScore(self._data_type)):
            yield f"metric '{config.type}' cannot score these data: {reason}"
        elif reason := config.refuses(ToScore(self._data_type, here=True)):
            yield f"metric '{config.type}' cannot be had here: {reason}"

    def _data(self, index: int, recipe: Recipe) -> Dataset | None:
        """The case's data, which must be those of all cases."""
        key = recipe.data.model_dump_json()
        self._data_type = self._data_type or DATASETS.get(recipe.data.type).cls
        try:
            dataset = self._datasets.get(key) or build_dataset(recipe)
        except UserError as error:
            self._note(index, "recipe", str(error))
            return None
        self._datasets[key] = dataset
        spec = self.loaded.suite.cases[index]
        if self.dataset is None:
            self.dataset, self._first = dataset, spec.name
        if dataset.fingerprint != self.dataset.fingerprint:
            self._note(index, "recipe", f"its data are not those of case '{self._first}'; all cases must share them")
        if spec.oracle and not isinstance(dataset, Source):
            known = ", ".join(entry.name for entry in DATASETS.entries() if issubclass(entry.cls, Source))
            self._note(index, "oracle", f"dataset '{recipe.data.type}' has no oracle; those that have one: {known}")
        return dataset

    def _source(self, spec: CaseSpec) -> str | Path:
        recipe = spec.recipe or ""
        relative = is_path(recipe) or len(Path(recipe).parts) > 1
        return self.loaded.path.parent / recipe if relative else recipe

    def _note(self, index: int, key: str, message: str) -> None:
        self.problems.append(self.loaded.problem(("cases", index, key), message))

    def _placed(self, index: int, problem: Problem) -> Problem:
        """A recipe's problem, moved to the suite if that is where the mistake was made."""
        text = f"{problem.key}: {problem.message}" if problem.key else problem.message
        if problem.source == "--set" and problem.line is not None:
            beyond = problem.line - len(self.loaded.suite.set) - len(self.loaded.suite.cases[index].set)
            if beyond > len(self.loaded.sets):  # it was made of `start_from`
                return self.loaded.problem(("cases", index, *undotted(problem.key)), problem.message)
            if beyond > 0:
                return replace(problem, line=beyond)
            return self.loaded.problem(self.loaded.set_key(index, problem.line), text)
        if problem.source == "--teacher":
            return self.loaded.problem(("cases", index, "teacher"), problem.message)
        if problem.key == "teacher":
            recipe = self.loaded.suite.cases[index].recipe
            message = f"'{recipe}' learns from a teacher; name its case with `teacher: CASE`"
            return self.loaded.problem(("cases", index, "recipe"), message)
        if problem.line is None:
            return self.loaded.problem(("cases", index, "recipe"), f"'{problem.source}': {text}")
        return problem
