"""From a suite to prepared cases: recipes, data and digests, all checked before anything is trained."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.bench.suite import CaseSpec, LoadedSuite, Suite
from fewstep.data.base import DATASETS, Dataset
from fewstep.errors import Problem, RecipeError, UserError
from fewstep.metrics.base import METRICS
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe import LoadedRecipe, load_recipe
from fewstep.recipe.models import Recipe
from fewstep.recipe.shipped import is_path
from fewstep.training.build import build_dataset
from fewstep.training.rundir import RunDir


def digest_of(value: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PreparedCase:
    """A case with its recipe; `digest` changes with anything that its model depends on, the teacher's included."""

    spec: CaseSpec
    loaded: LoadedRecipe
    digest: str
    run: RunDir
    """Where it is trained; unused by an oracle."""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def label(self) -> str:
        return self.spec.label or self.spec.name

    @property
    def recipe(self) -> Recipe:
        return self.loaded.recipe

    @property
    def train_work(self) -> float:
        """Forward passes over a sample, or what costs as much, that the training takes."""
        if self.spec.oracle:
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

    @property
    def suite(self) -> Suite:
        return self.loaded.suite

    @property
    def digest(self) -> str:
        """Changes with what is measured and with every model."""
        suite = self.suite.model_dump(mode="json", exclude={"title", "quick"})
        return digest_of({"suite": suite, "cases": [case.digest for case in self.cases]})


def make_plan(loaded: LoadedSuite, folder: Path) -> Plan:
    """Load every recipe and the data.

    Raises:
        RecipeError: everything that is wrong with them, each where it was written.
    """
    planner = _Planner(loaded, folder)
    for index in range(len(loaded.suite.cases)):
        planner.add(index)
    planner.check_metrics()
    if planner.problems or planner.dataset is None:
        raise RecipeError(list(dict.fromkeys(planner.problems)))
    return Plan(loaded, folder, planner.dataset, tuple(planner.cases.values()))


@dataclass
class _Planner:
    loaded: LoadedSuite
    folder: Path
    cases: dict[str, PreparedCase] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    dataset: Dataset | None = None
    _datasets: dict[str, Dataset] = field(default_factory=dict)
    _first: str = ""

    def add(self, index: int) -> None:
        """Prepare one case, or note why it cannot be."""
        spec = self.loaded.suite.cases[index]
        teacher = self.cases.get(spec.teacher or "")
        # Of a teacher that could not be prepared only the problems matter; its student is checked all the same.
        path = str(teacher.run.path) if teacher else spec.teacher
        try:
            recipe = load_recipe(self._source(spec), spec.set, teacher=path)
        except RecipeError as error:
            self.problems += [self._placed(index, problem) for problem in error.problems]
            return
        if recipe.recipe.teacher and spec.teacher is None:
            self._note(index, "recipe", f"'{spec.recipe}' learns from a teacher; name its case with `teacher: CASE`")
        dataset = self._data(index, recipe.recipe)
        if dataset is None:
            return
        settings = recipe.recipe.model_dump(mode="json")
        if teacher:
            settings["teacher"]["run"] = teacher.digest
        digest = digest_of({"recipe": settings, "data": dataset.fingerprint, "oracle": spec.oracle})
        run = RunDir(self.folder / "runs" / f"{spec.name}-{digest[:8]}")
        self.cases[spec.name] = PreparedCase(spec, recipe, digest, run)

    def check_metrics(self) -> None:
        """Metrics can score these data."""
        for index, config in enumerate(self.loaded.suite.metrics):
            reason = self.dataset and METRICS.get(config.type).cls.unsuited(type(self.dataset))
            if reason:
                message = f"metric '{config.type}' cannot score these data: {reason}"
                self.problems.append(self.loaded.problem(("metrics", index), message))

    def _data(self, index: int, recipe: Recipe) -> Dataset | None:
        """The case's data, which must be those of all cases."""
        key = recipe.data.model_dump_json()
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
        if spec.oracle and not hasattr(dataset, "oracle"):
            known = ", ".join(entry.name for entry in DATASETS.entries() if hasattr(entry.cls, "oracle"))
            self._note(index, "oracle", f"dataset '{recipe.data.type}' has no oracle; those that have one: {known}")
        return dataset

    def _source(self, spec: CaseSpec) -> str | Path:
        relative = is_path(spec.recipe) or len(Path(spec.recipe).parts) > 1
        return self.loaded.path.parent / spec.recipe if relative else spec.recipe

    def _note(self, index: int, key: str, message: str) -> None:
        self.problems.append(self.loaded.problem(("cases", index, key), message))

    def _placed(self, index: int, problem: Problem) -> Problem:
        """A recipe's problem, moved to the suite if that is where the mistake was made."""
        text = f"{problem.key}: {problem.message}" if problem.key else problem.message
        if problem.source == "--set" and problem.line is not None:
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
