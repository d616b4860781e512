"""The plan of a suite: prepared cases with recipes, data and digests, all checked before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from fewstep.bench.results.results import model_id
from fewstep.bench.suites.loading import LoadedSuite
from fewstep.bench.suites.needs import unmet_need
from fewstep.bench.suites.suite import CaseSpec, Suite
from fewstep.core.component import ComponentConfig
from fewstep.core.errors import FewstepError, Problem, RecipeError, UserError
from fewstep.core.names import did_you_mean
from fewstep.core.references import Reference, references, replace_references
from fewstep.data.base import DATASETS, Dataset
from fewstep.data.synthetic.source import Source
from fewstep.evaluation.target import find_source
from fewstep.metrics.base import METRICS, MetricConfig, ToScore
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe import LoadedRecipe, load_recipe, with_sampler
from fewstep.recipe.models import Recipe
from fewstep.recipe.shipped import is_path
from fewstep.recipe.yaml_loader import Key, undotted
from fewstep.runs.code import plugin_versions
from fewstep.runs.contents import contents_digest
from fewstep.runs.folder import RunDir
from fewstep.runs.models import build_dataset
from fewstep.runtime.hashing import digest_of
from fewstep.trackers.base import refuse_missing
from fewstep.training.turns import Turns


@dataclass(frozen=True)
class PreparedCase:
    """One training of a case. `digest` changes with everything that its model depends on, including the teacher."""

    spec: CaseSpec
    train_seed: int | None
    """Seed of training that the suite sets; None for the recipe's own, and for an oracle."""
    loaded: LoadedRecipe
    digest: str
    run: RunDir
    """Run folder of the training; unused for an oracle."""
    unmet_need: str | None = None
    """Why it is skipped here: its need, or the need of a case that it depends on; None if it can run."""

    @property
    def trained(self) -> bool:
        """Whether the case trains a model."""
        return not (self.spec.oracle or self.spec.model)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def id(self) -> str:
        """Unique name of the training within the suite."""
        return model_id(self.spec.name, self.train_seed)

    @property
    def label(self) -> str:
        return self.spec.label or self.spec.name

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe

    @property
    def train_passes(self) -> float:
        """Cost of the training, in forward passes over a sample."""
        if not self.trained:
            return 0.0
        train, objective = self.recipe.train, OBJECTIVES.build(self.recipe.objective)
        turns = Turns(objective.phases(), train.steps)
        updates = sum(turns.updates(role) for role in objective.roles)
        # Every role evaluates the batch; a backward pass costs about two forward passes.
        return train.batch_size * (train.steps * len(objective.roles) + 2.0 * updates)


@dataclass(frozen=True)
class Plan:
    """A suite with its prepared cases and data, to run in `folder`."""

    loaded: LoadedSuite
    folder: Path
    dataset: Dataset
    cases: tuple[PreparedCase, ...]
    code: str | None
    """Digest of the code, part of the digests of cases and rows; None leaves the code out of them."""

    @property
    def suite(self) -> Suite:
        return self.loaded.suite

    def case(self, id: str) -> PreparedCase:
        """One training, by its `id`."""
        return next(case for case in self.cases if case.id == id)

    def dependencies(self, case: PreparedCase) -> list[PreparedCase]:
        """Cases that must be trained before this one. A model that exists has no seed of training."""
        known = {other.id: other for other in self.cases}
        return [known.get(model_id(name, case.train_seed)) or known[name] for _, name in case.spec.dependencies]

    def training_of(self, case: PreparedCase) -> PreparedCase | None:
        """The case that trains this case's model: itself, or the case that it samples again; None for an oracle, and
        for a model that exists."""
        return next((other for other in self.cases if other.trained and other.run.path == case.run.path), None)

    @property
    def references(self) -> dict[str, PreparedCase]:
        """Cases that metrics refer to, by name; the first training of each."""
        names = {entry.value for metric in self.suite.metrics for entry in references(metric)}
        return {case.name: case for case in reversed(self.cases) if case.name in names}

    @property
    def judges(self) -> dict[str, str]:
        """Values that a case's own model measures, and the name of that case."""
        cases = {case.name for case in self.cases}
        return {
            value: entry.value
            for metric in self.suite.metrics
            for entry in references(metric)
            if entry.value in cases
            for value in METRICS.get(metric.type).cls.directions
        }

    def metrics(self, *, by: Literal["run", "digest"]) -> list[dict[str, object]]:
        """The suite's metrics as plain data, with each reference as its run, or as the digest of its contents.

        Each call reads the files of external references again, since only their contents show that weights changed.
        """
        cases, external = self.references, dict[str, str]()

        def replacement(reference: Reference) -> str:
            name = reference.value
            if name in cases:
                return str(cases[name].run.path) if by == "run" else cases[name].digest
            if by == "digest" and (reference.kind != "file" or Path(name).is_file()):
                external[name] = external.get(name) or contents_digest(name) or name
            return external.get(name, name)

        metrics = [replace_references(metric, replacement) for metric in self.suite.metrics]
        return [metric.model_dump(mode="json") for metric in metrics]

    @property
    def digest(self) -> str:
        """Digest that changes with the conditions and with every model."""
        suite = self.suite.model_dump(mode="json", exclude={"title", "quick", "tolerances"})
        return digest_of({"suite": suite, "cases": [case.digest for case in self.cases]})


def make_plan(loaded: LoadedSuite, folder: Path, code: str | None = None) -> Plan:
    """Load every recipe and the data. Several seeds of training are planned one after another.

    Args:
        code: digest of the code (`code.code_digest`), part of the keys of models and rows.

    Raises:
        RecipeError: all problems, each at its place in its file.
    """
    planner = _Planner(loaded, folder, code)
    seeds = loaded.suite.train_seeds or (None,)
    for seed in seeds:
        for index, spec in enumerate(loaded.suite.cases):
            if spec.model:
                planner.add_resampled(index, seed)
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
    """Prepares cases one by one, and collects the problems of all of them."""

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
        """Prepare one case with one seed of training, or record its problems."""
        suite = self.loaded.suite
        spec = suite.cases[index]
        changes = [*suite.set, *spec.set, *self.loaded.sets, *([] if seed is None else [f"seed={seed}"])]
        teacher = self._earlier(spec.teacher, seed)
        origins = {role: self._earlier(name, seed) for role, name in spec.start_from.items()}
        # A teacher or origin that could not be prepared has reported its problems. A placeholder takes the place of its
        # run, so that this case is checked too.
        changes += [f"start_from.{role}={case.run.path if case else role}" for role, case in origins.items()]
        path = str(teacher.run.path) if teacher else spec.teacher
        try:
            recipe = load_recipe(self._source(spec), changes, teacher=path, trust_plugins=True)
        except RecipeError as error:
            self.problems += [self._relocated(index, problem) for problem in error.problems]
            return
        try:
            refuse_missing(recipe.recipe.trackers)
        except UserError as error:
            self._report(index, "recipe", str(error))
        if recipe.recipe.teacher and spec.teacher is None:
            self._report(index, "recipe", f"'{spec.recipe}' learns from a teacher; name its case with `teacher: CASE`")
        for role in recipe.recipe.start_from.keys() - spec.start_from.keys():
            message = (
                f"in '{spec.recipe}' the {role} starts from a run; name its case with `start_from: {{{role}: CASE}}`"
            )
            self._report(index, "recipe", message)
        dataset = self._data(index, recipe.recipe)
        if dataset is None:
            return
        run_digests = {str(case.run.path): case.digest for case in (teacher, *origins.values()) if case}
        settings = replace_references(recipe.recipe, lambda entry: run_digests.get(entry.value, entry.value))
        recorded = settings.model_dump(mode="json", exclude={"trackers"})  # no value depends on them
        facts = {"recipe": recorded, "data": dataset.fingerprint, "oracle": spec.oracle}
        if self.code is not None:
            facts |= {"code": self.code, "plugins": plugin_versions(recipe.recipe.plugins)}
        digest = digest_of(facts)
        run = RunDir(self.folder / "runs" / f"{model_id(spec.name, seed)}-{digest[:8]}")
        needed_cases = [case for case in (teacher, *origins.values()) if case]
        need = unmet_need(spec.needs) or next((case.unmet_need for case in needed_cases if case.unmet_need), None)
        self._check_sweep(index, recipe.recipe)
        case = PreparedCase(spec, seed, recipe, digest, run, need)
        self.cases[case.id] = case

    def add_resampled(self, index: int, seed: int | None) -> None:
        """Prepare a case that samples an earlier case's model or one that exists, or record its problems."""
        spec = self.loaded.suite.cases[index]
        origin = self._existing(index) if spec.existing else self._earlier(spec.model, seed)
        if origin is None:
            return  # its problems were recorded
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
            reason = "an oracle has no run" if origin.spec.oracle else f"sampler '{recipe.sampler.type}' has no grid"
            self._report(index, "grid_search", f"steps cannot be searched for it: {reason}")
        self._check_sweep(index, recipe)
        names = ("name", "label", "steps", "sweep", "model", "sampler", "grid_search", "needs")
        fields = {key: getattr(spec, key) for key in names}
        need = unmet_need(spec.needs) or origin.unmet_need
        spec = origin.spec.model_copy(update=fields)
        case = replace(origin, spec=spec, loaded=replace(origin.loaded, recipe=recipe), unmet_need=need)
        self.cases[case.id] = case

    def _earlier(self, name: str | None, seed: int | None) -> PreparedCase | None:
        """An earlier case: its training with a seed, or one that has no seed; None if it has problems."""
        return self.cases.get(model_id(name or "", seed)) or self.cases.get(name or "")

    def _existing(self, index: int) -> PreparedCase | None:
        """A run or export that a case names; None after its problem was recorded."""
        spec = self.loaded.suite.cases[index]
        try:
            source = find_source(str(spec.model))
        except FewstepError as error:
            self._report(index, "model", str(error))
            return None
        dataset = self._data(index, source.recipe, place="model")
        if dataset is None:
            return None
        if source.exported and source.data_fingerprint != dataset.fingerprint:
            self._report(index, "model", f"'{spec.model}' was trained on other data than the suite's (its fingerprint)")
            return None
        if spec.grid_search and (source.exported or source.path.suffix):
            self._report(index, "grid_search", f"steps are searched for runs, and '{spec.model}' is none")
        recorded = source.recipe.model_dump(mode="json", exclude={"trackers"})
        facts = {"recipe": recorded, "weights": source.digest, "data": dataset.fingerprint}
        if self.code is not None:
            facts |= {"code": self.code, "plugins": plugin_versions(source.recipe.plugins)}
        loaded = LoadedRecipe(source.recipe, source.path, "")
        return PreparedCase(spec, None, loaded, digest_of(facts), RunDir(source.path))

    def _check_sweep(self, index: int, recipe: Recipe) -> None:
        """Check that the sampler has the swept setting and accepts all its values."""
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
                    key_of_value = (*place, number)
                    self.problems += [self.loaded.problem(key_of_value, problem.message) for problem in error.problems]

    def check_metrics(self) -> None:
        """Check that metrics can score the data, and that their references exist."""
        names = [case.name for case in self.loaded.suite.cases if not case.oracle]
        for index, config in enumerate(self.loaded.suite.metrics):
            for entry in references(config):
                reference, key = entry.value, undotted(f"metrics[{index}].{entry.key}")
                hub, file = reference.startswith("hf:"), Path(reference.removeprefix("hf:"))
                external = (hub and file.suffix != ".gguf") or file.exists()
                if reference not in names and not external:
                    message = f"no case, run or file named '{reference}'{did_you_mean(reference, names) or ''}"
                    self.problems.append(self.loaded.problem(key, message))
                case = next((case for case in self.cases.values() if case.name == reference), None)
                if case and case.unmet_need:
                    message = f"case '{reference}' is skipped here, so that nothing can be measured: {case.unmet_need}"
                    self.problems.append(self.loaded.problem(key, message))
            for message in self._refusals(config):
                self.problems.append(self.loaded.problem(("metrics", index), message))

    def _refusals(self, config: ComponentConfig) -> Iterator[str]:
        """Why a metric cannot score the cases' data, or cannot score anything on this machine."""
        assert isinstance(config, MetricConfig)
        if self._data_type is None:
            return
        if reason := config.refuses(ToScore(self._data_type)):
            yield f"metric '{config.type}' cannot score these data: {reason}"
        elif reason := config.refuses(ToScore(self._data_type, here=True)):
            yield f"metric '{config.type}' is not available here: {reason}"

    def _data(self, index: int, recipe: Recipe, place: str = "recipe") -> Dataset | None:
        """Data of the case. All cases must have the same data; `place` is the key that problems are reported at."""
        key = recipe.data.model_dump_json()
        self._data_type = self._data_type or DATASETS.get(recipe.data.type).cls
        try:
            dataset = self._datasets.get(key) or build_dataset(recipe)
        except UserError as error:
            self._report(index, place, str(error))
            return None
        self._datasets[key] = dataset
        spec = self.loaded.suite.cases[index]
        if self.dataset is None:
            self.dataset, self._first = dataset, spec.name
        if dataset.fingerprint != self.dataset.fingerprint:
            self._report(index, place, f"its data differ from those of case '{self._first}'; all cases must share them")
        if spec.oracle and not isinstance(dataset, Source):
            known = ", ".join(entry.name for entry in DATASETS.entries() if issubclass(entry.cls, Source))
            self._report(index, "oracle", f"dataset '{recipe.data.type}' has no oracle; datasets with one: {known}")
        return dataset

    def _source(self, spec: CaseSpec) -> str | Path:
        recipe = spec.recipe or ""
        relative = is_path(recipe) or len(Path(recipe).parts) > 1
        return self.loaded.path.parent / recipe if relative else recipe

    def _report(self, index: int, key: str, message: str) -> None:
        self.problems.append(self.loaded.problem(("cases", index, key), message))

    def _relocated(self, index: int, problem: Problem) -> Problem:
        """A problem of a recipe, moved into the suite if its cause is there."""
        text = f"{problem.key}: {problem.message}" if problem.key else problem.message
        if problem.source == "--set" and problem.line is not None:
            # Changes were joined in this order: the suite's, the case's, the command line's, those of `start_from`.
            number = problem.line - len(self.loaded.suite.set) - len(self.loaded.suite.cases[index].set)
            if number > len(self.loaded.sets):
                return self.loaded.problem(("cases", index, *undotted(problem.key)), problem.message)
            if number > 0:
                return replace(problem, line=number)
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
