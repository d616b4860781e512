"""One call of `fewstep benchmark`: its results so far, and its remaining tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from itertools import groupby
from typing import Any

from fewstep.bench.report.tables import titled
from fewstep.bench.results.results import CaseResult, Failure, Results, Row, SuiteInfo, model_id
from fewstep.bench.results.summary import estimate, judge, summarise, summarise_sweeps, value_text
from fewstep.bench.running.plan import Plan, PreparedCase
from fewstep.bench.running.progress import Stage, SuiteClock
from fewstep.bench.running.reuse import Earlier, check_same_suite
from fewstep.bench.running.rows import Slot, describe_case, plan_slots, trained_steps
from fewstep.bench.running.tasks import Task, TaskRunner, error_message, evaluations
from fewstep.bench.suites.suite import REFERENCE
from fewstep.bench.suites.sweep import sweep_text
from fewstep.core.errors import OperationError
from fewstep.runs.environment import describe_environment


class Session:
    """State of a suite's run. At any moment `results.json` is valid and holds every measured row.

    The session is the `tasks.Reporter` of all processes, and the only writer of `results.json`.

    Args:
        plan: the suite with its recipes and data.
        command: command line that repeats the run.
        say: prints a line on the console.
        setup: number of processes and of threads, recorded in the results; None for this process alone.
        earlier: results of other folders. Their rows are not measured again, and a model with all its rows is trained
            only where another model needs it.

    Raises:
        UserError: the folder's results are damaged, or not this suite's.
    """

    def __init__(
        self,
        plan: Plan,
        command: str,
        say: Callable[[str], None],
        setup: dict[str, int] | None = None,
        earlier: Earlier | None = None,
    ) -> None:
        self.plan, self.suite, self.command, self.say = plan, plan.suite, command, say
        self.file = plan.folder / "results.json"
        self.environment: dict[str, Any] = {**describe_environment(), **(setup or {})}
        self.parallel = 1 if setup is None else setup["jobs"]
        self.slots = plan_slots(plan)
        self.rows: dict[str, Row] = {}
        self.cases: dict[str, CaseResult] = {}
        self.failures: list[Failure] = []
        self.untrained: set[str] = set()
        self.finished = False
        self._recall()
        self._elsewhere = self._take(earlier or Earlier())
        self.stages = [Task("sample", REFERENCE)]
        for case in (case for case in plan.cases if not case.unmet_need):
            self.stages += [Task("train", case.id)] * case.trained + [Task("sample", case.id)]
        self.clock = SuiteClock([self._stage(task) for task in self.stages], parallel=self.parallel)

    def _recall(self) -> None:
        """Load the rows and cases that an earlier call measured under the same conditions."""
        if not self.file.exists():
            return
        old = Results.load(self.file)
        message = f"'{self.plan.folder}' holds {{run}}; choose another folder with --out"
        check_same_suite(old, self.suite, self.plan.loaded.quick, message)
        complete = [row for row in old.rows if row.sheet is None or (self.plan.folder / row.sheet).exists()]
        self.rows = {row.key: row for row in complete}
        digests = {case.id: case.digest for case in self.plan.cases}
        self.cases = {case.id: case for case in old.cases if digests.get(case.id) == case.digest}

    def _take(self, earlier: Earlier) -> set[str]:
        """Take rows and models over from other folders. Returns the ids of known models without a run in this one."""
        missing = [slot.key for slot in self.slots if slot.key not in self.rows and slot.key in earlier.rows]
        self.rows |= {key: earlier.rows[key] for key in missing}
        absent = [case for case in self.plan.cases if not trained_steps(case.run)]
        known = {case.id: earlier.cases.get((case.id, case.digest)) for case in absent if case.id not in self.cases}
        self.cases |= {id: case for id, case in known.items() if case}
        if earlier.rows:
            models = sum(case.trained for case in absent if known.get(case.id))
            self.say(f"reused: {len(missing)} of {len(self.slots)} rows, and {models} trained models")
        return {case.id for case in absent if case.id in self.cases}

    def _stage(self, task: Task) -> Stage:
        """A task's number of forward passes over a sample, in total and completed by earlier calls."""
        if task.kind == "train":
            case = self.plan.case(task.model)
            total = case.train_passes
            done = trained_steps(case.run) / case.recipe.train.steps if self.is_open(task) else 1.0
            return Stage("train", total, total * done)
        slots = self._model_slots(task.model)
        passes = {slot.key: float(self.suite.samples * evaluations(self.plan, slot)) for slot in slots}
        return Stage("sample", sum(passes.values()), sum(p for key, p in passes.items() if key in self.rows))

    def _model_slots(self, model: str) -> list[Slot]:
        return [slot for slot in self.slots if model_id(slot.case, slot.train_seed) == model]

    @property
    def skipped(self) -> tuple[Failure, ...]:
        """Cases that this machine cannot run, and why."""
        reasons = {case.name: case.unmet_need for case in self.plan.cases if case.unmet_need}
        return tuple(Failure(case=name, reason=reason) for name, reason in reasons.items())

    # --------------------------------------------------------------- tasks

    @property
    def tasks(self) -> list[Task]:
        """All tasks in the suite's order, each after the tasks that it needs."""
        ordered: dict[Task, None] = {}

        def add(task: Task) -> None:
            if task not in ordered:
                for need in self.needs(task):
                    add(need)
                ordered[task] = None

        for task in self.stages:
            add(task)
        return list(ordered)

    def needs(self, task: Task) -> list[Task]:
        """Trainings that must end before a task can begin."""
        if task.kind == "train":
            cases = self.plan.dependencies(self.plan.case(task.model))
        else:
            cases = list(self.plan.references.values())
            cases += [] if task.model == REFERENCE else [self.plan.case(task.model)]
        trained = [self.plan.training_of(case) for case in cases]
        return [Task("train", case.id) for case in trained if case]

    def critical_path(self, task: Task) -> float:
        """Remaining forward passes of a task and of the longest chain of tasks that need it."""
        dependents = [self.critical_path(other) for other in self.stages if task in self.needs(other)]
        return self.clock.stages[self.stages.index(task)].remaining + max(dependents, default=0.0)

    def begin(self, task: Task) -> list[Slot] | None:
        """Announce a task. Returns its missing rows (an empty list for a training), or None for nothing to run.

        Raises:
            OperationError: a model that metrics refer to could not be trained, so nothing can be measured.
        """
        if self.is_skipped(task):
            self._skip(task, next(need.model for need in self.needs(task) if need.model in self.untrained))
            return None
        if task.kind == "train":
            return self._begin_training(task, self.plan.case(task.model))
        return self._begin_sampling(task)

    def _skip(self, task: Task, failed: str) -> None:
        """Skip a task whose model, teacher or reference could not be trained."""
        if task.model == REFERENCE:  # real samples need only the models that metrics refer to
            reason = next(failure.reason for failure in self.failures if failure.case == failed)
            raise OperationError(f"nothing can be measured without '{failed}', to which metrics refer: {reason}")
        if task.model != failed:
            verb = "learns from" if task.kind == "train" else "samples the model of"
            self.fail(task, f"skipped, since it {verb} '{failed}', which failed")

    def _begin_training(self, task: Task, case: PreparedCase) -> list[Slot] | None:
        title = f"train {titled(case.id, case.label)}"
        if not self.is_open(task):
            reason = "finished before, reused" if trained_steps(case.run) else "not needed, its rows are reused"
            self._announce(task, f"{title}: {reason}")
            self._record(case)
            return None
        self._announce(task, f"{title}: {case.recipe.train.steps} steps")
        return []

    def _begin_sampling(self, task: Task) -> list[Slot] | None:
        case = None if task.model == REFERENCE else self.plan.case(task.model)
        if case:
            text = f"sample {titled(case.id, case.label)}: {self._amount(case.spec.steps)}"
            text += f"; {case.spec.sweep.text(case.spec.steps)}" if case.spec.sweep else ""
            self._record(case)
        else:
            text = f"score real samples: {self._amount(())}"
        self._announce(task, text)
        slots = self._model_slots(task.model)
        for _, group in groupby(slots, key=lambda slot: (slot.steps, slot.sweep)):
            rows = [self.rows.get(slot.key) for slot in group]
            if all(rows):
                self._say_scores(task, [row for row in rows if row], reused=True)
        return self.missing(task) if self.is_open(task) else None

    def missing(self, task: Task) -> list[Slot]:
        """Rows of a task of sampling that are not measured."""
        return [slot for slot in self._model_slots(task.model) if slot.key not in self.rows]

    def is_open(self, task: Task) -> bool:
        """Whether something of a task remains to be done."""
        case = None if task.model == REFERENCE else self.plan.case(task.model)
        if task.kind == "train":
            assert case
            if trained_steps(case.run) == case.recipe.train.steps and case.run.status["state"] == "finished":
                return False
            if case.id not in self._elsewhere:
                return True
            return any(task in self.needs(other) and self.is_open(other) for other in self.stages)
        known = self.cases.get(task.model)
        unsized = case is not None and case.trained and (known is None or known.parameters is None)
        return unsized or bool(self.missing(task))

    def is_skipped(self, task: Task) -> bool:
        """Whether a task cannot run, since a model that it needs could not be trained."""
        return any(need.model in self.untrained for need in self.needs(task))

    def end(self, task: Task, reason: str | None = None) -> None:
        """A task ended or was stopped, or it failed for a `reason`."""
        if task.kind == "train":
            self._record(self.plan.case(task.model))
        if reason is not None:
            self.fail(task, reason)

    def run(self) -> bool:
        """Run the remaining tasks one after another. Returns False if a signal to the trainer stopped it.

        Raises:
            OperationError: a model that metrics refer to could not be trained, so nothing can be measured.
            KeyboardInterrupt: stopped while sampling.
        """
        runner = TaskRunner(self.plan, self, self.environment["commit"])
        for task in self.tasks:
            slots = self.begin(task)
            if slots is None:
                continue
            try:
                finished, reason = runner.run(task, slots), None
            except Exception as error:
                finished, reason = True, error_message(error)
            self.end(task, reason)
            if not finished:
                return False
        return self.complete()

    def complete(self) -> bool:
        """Mark the suite as finished, after its last task."""
        self.finished = True
        self.save()
        return True

    # ------------------------------------------------------------- reports

    def line(self, task: Task, text: str, timed: bool = False) -> None:
        """Print a line about a running task."""
        prefix = f"{task.model}: " if self.parallel > 1 else ""
        self.say(f"  {prefix}{text}" + (f"  | {self.clock.text()}" if timed else ""))

    def progressed(self, task: Task, passes: float) -> None:
        """Count forward passes that a task completed."""
        self.clock.advance(self.stages.index(task), passes)

    def opened(self, task: Task, parameters: int | None) -> None:
        """Record the size of a model that is about to be sampled."""
        self._record(self.plan.case(task.model), parameters)

    def measured(self, task: Task, row: Row) -> None:
        """Store a row, and print its scores once all seeds are measured."""
        self.rows[row.key] = row
        self.save()
        point = (row.steps, row.sweep)
        same = [slot for slot in self._model_slots(task.model) if (slot.steps, slot.sweep) == point]
        rows = [self.rows.get(slot.key) for slot in same]
        if all(rows):
            self._say_scores(task, [row for row in rows if row], reused=False)

    # ---------------------------------------------------------------- text

    def _announce(self, task: Task, text: str) -> None:
        index = self.stages.index(task)
        self.clock.start(index)
        self.say(f"[{index + 1}/{len(self.stages)}] {text}  | {self.clock.text()}")

    def _amount(self, steps: Sequence[int]) -> str:
        """ "at 4, 8 steps, 600 samples, 3 seeds"."""
        seeds = len(self.suite.seeds)
        parts = [f"at {', '.join(map(str, steps))} steps"] if steps else []
        return ", ".join([*parts, f"{self.suite.samples} samples", f"{seeds} seed{'s' if seeds > 1 else ''}"])

    def _say_scores(self, task: Task, rows: Sequence[Row], *, reused: bool) -> None:
        headline, beside = self.suite.headline, self.suite.beside
        scored = [row.values for row in rows if headline in row.values]
        where = "real samples" if rows[0].nfe is None else f"{rows[0].nfe} NFE"
        where = ", ".join(filter(None, (where, sweep_text(rows[0].sweep))))
        values = {
            name: estimate([row[name] for row in scored])
            for name in (headline, beside.get(headline))
            if scored and name in scored[0]
        }
        text = f"{where}: {headline} {value_text(values, headline, beside)}" if values else f"{where}: scored"
        self.line(task, f"{text}  (measured before)" if reused else text, timed=not reused)

    # ------------------------------------------------------------- results

    def _record(self, case: PreparedCase, parameters: int | None = None) -> None:
        previous = self.cases.get(case.id)
        if parameters is None and previous:
            parameters = previous.parameters
        if case.id not in self._elsewhere or trained_steps(case.run):
            self.cases[case.id] = describe_case(self.plan, case, parameters)
        self.save()

    def fail(self, task: Task, reason: str) -> None:
        """Record that a case cannot be completed, and drop its remaining tasks."""
        self.say(f"  {task.model} is not complete: {reason}")
        self.failures = [*self.failures, Failure(case=task.model, reason=reason)]
        if task.kind == "train":
            self.untrained.add(task.model)
        for index, stage in enumerate(self.stages):
            if stage == task or (task.kind == "train" and stage.model == task.model):
                self.clock.drop(index)
        self.save()

    def save(self) -> None:
        """Write `results.json` atomically."""
        self.results().save(self.file)

    def results(self) -> Results:
        """All results so far, in the suite's order."""
        suite, order = self.suite, [task.model for task in self.stages]
        rows = [self.rows[slot.key] for slot in self.slots if slot.key in self.rows]
        summary = summarise(rows)
        direction = suite.directions[suite.headline]
        return Results(
            suite=self._suite_info(),
            complete=self.finished and not self.failures,
            environment=self.environment,
            commit=self.environment["commit"],
            date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC"),
            headline=suite.headline,
            diversity=suite.diversity or suite.beside.get(suite.headline),
            direction="higher" if direction == "higher" else "lower",
            directions=suite.directions,
            beside=suite.beside,
            judges=self.plan.judges,
            cases=tuple(self.cases[case.id] for case in self.plan.cases if case.id in self.cases),
            rows=tuple(rows),
            summary=tuple(summary),
            frontier=tuple(summarise_sweeps(rows)),
            claims=tuple(judge(claim, suite.headline, direction, summary, suite.beside) for claim in suite.claims),
            skipped=self.skipped,
            failures=tuple(sorted(self.failures, key=lambda failure: order.index(failure.case))),
        )

    def _suite_info(self) -> SuiteInfo:
        return SuiteInfo(
            name=self.suite.name,
            title=self.suite.title,
            digest=self.plan.digest,
            quick=self.plan.loaded.quick,
            seeds=self.suite.seeds,
            train_seeds=self.suite.train_seeds,
            samples=self.suite.samples,
            command=self.command,
            data=self.plan.dataset.fingerprint,
            code=self.plan.code,
        )
