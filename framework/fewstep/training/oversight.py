"""What is said of a training's samples: looks at them, alarms of a collapse, and the comparison with the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.references import references
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Denoiser
from fewstep.objectives.base import Objective, StepContext
from fewstep.recipe.models import TrainerSettings
from fewstep.runtime.ranks import Ranks
from fewstep.samplers.base import Sampler
from fewstep.training.ema import Ema
from fewstep.training.judge import Judge, affordable, check_metric, compared, usable
from fewstep.training.loggers import RunLogger
from fewstep.training.shards import Shards, rest
from fewstep.training.watch import Best, Watch, section_of_teacher, shows_pictures, with_weights


class Oversight:
    """Watches a distillation, or a teacher whose samples are pictures. No weight that is trained depends on it.

    Args:
        settings: sections `watch`, `train` and `evaluate` say how often, how much, and by which metric.
        sampler: draws the samples.
        ctx: context of the training, with all networks and the present step.
        student: parameters of the student, as this rank holds them.
        ema: their average, with which samples are drawn.

    Raises:
        UserError: the metric of `watch.early_best` lacks a package or a file.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        *,
        dataset: Dataset,
        objective: Objective,
        sampler: Sampler,
        ctx: StepContext,
        student: Shards,
        ema: Ema,
        ranks: Ranks,
    ) -> None:
        self.settings, self.dataset, self.objective, self.sampler = settings, dataset, objective, sampler
        self.ctx, self.student, self.ema, self.ranks = ctx, student, ema, ranks
        self.watch = self._watch()

    def _watch(self) -> Watch | None:
        """The monitor; None for trainings without one."""
        section, metric = self.settings.watch, self.settings.watch.early_best
        distils = "teacher" in self.objective.roles
        if not distils:
            shown = self.objective.roles["student"].network.draws and shows_pictures(self.dataset)
            asks_others = any(True for _ in references(self.sampler.config))  # networks that may come later
            steps = self._steps if shown and not asks_others else 0
            section = section_of_teacher(section, self.settings.train, steps)
        if not section.times:
            return None
        judge = None
        if metric is not None:
            check_metric(metric, self.dataset)
            judge = self._judge_by(metric, section.judged, "early best")
        return Watch(
            section,
            dataset=self.dataset,
            sampler=self.sampler,
            steps=self._steps,
            total=self.settings.train.steps,
            seed=self.settings.seed,
            judge=judge,
            distils=distils,
        )

    @property
    def due(self) -> set[int]:
        """Steps after which to look."""
        return set() if self.watch is None else self.watch.due

    @property
    def _steps(self) -> int:
        """Sampling steps of a look."""
        return self.objective.usual_steps() or max(self.settings.evaluate.steps)

    def _judge_by(self, metric: ComponentConfig, samples: int, purpose: str) -> Judge:
        rows, seed = self.settings.evaluate.batch_size, self.settings.seed
        return Judge(metric, self.dataset, self.sampler, self._steps, samples, seed, purpose, rows, self.ranks)

    # --------------------------------------------------------------- looks

    def look(self, logger: RunLogger, folder: Path) -> dict[str, Tensor]:
        """Draw samples, log them, and warn of a collapse that they show; returns numbers for the log.

        Args:
            folder: the run's samples, to which a warning points.
        """
        watch = self.watch
        assert watch is not None
        look = watch.look(self.ctx.denoiser("student"), self.ema, self.student.own, self.ctx.step)
        numbers = {"watch/diversity": torch.tensor(look.diversity)} if watch.distils else {}
        if watch.judge is not None and look.score is not None:
            numbers[f"watch/{watch.judge.value}"] = torch.tensor(look.score, dtype=torch.float64)
        logger.sheet("samples/watch", self.dataset, look.samples, self.ctx.step)
        if look.collapsed:
            clause = f"the student's samples are {look.diversity:.0%} as diverse as the data"
            self._warn(f"{clause} (alarm below {watch.section.alarm:.0%})", logger, folder)
        return numbers

    def hear(self, values: Mapping[str, float], logger: RunLogger, folder: Path) -> None:
        """Warn of a collapse that the numbers of a log line show."""
        if self.watch and (clause := self.watch.hear(values)):
            self._warn(clause, logger, folder)

    def _warn(self, clause: str, logger: RunLogger, folder: Path) -> None:
        logger.warn(
            f"step {self.ctx.step}: {clause}; it may be collapsing: see {folder}; a lower optim.lr, a higher rate for "
            "the auxiliary (optim.roles), optim.betas with 0 first or more aux_steps may help",
            self.ctx.step,
        )

    # ------------------------------------------------------------- average

    @property
    def best(self) -> Best | None:
        """The best look so far, with `watch.early_best`."""
        return None if self.watch is None else self.watch.best

    @best.setter
    def best(self, best: Best | None) -> None:
        if self.watch is not None:
            self.watch.best = best

    @property
    def exported(self) -> Mapping[str, Tensor]:
        """The average that the run is known by: of the best look with `watch.early_best`, else the last one."""
        return self.ema.weights if self.best is None else self.best.weights

    def average(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Averaged weights of the student, of whole tensors; all ranks ask for it together."""
        return {name: self.student.whole(name, weight) for name, weight in weights.items()}

    def part(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's parts of a whole average, where and in the form that the average has them."""
        own = self.ema.weights.items()
        return {name: self.student.part(name, weights[name]).to(mine, copy=True) for name, mine in own}

    # ------------------------------------------------------------- the end

    def compare(self, logger: RunLogger) -> None:
        """Say how the finished student does beside its teacher, by the recipe's first metric that can say it."""
        section, train, roles = self.settings.watch, self.settings.train, self.ctx.roles
        role, teacher = self.objective.roles.get("teacher"), roles.get("teacher")
        if self.watch is None or role is None or role.refreshed or self.objective.sampler or not section.judged:
            return
        if self.best is not None and self.watch.judge is not None:
            value = f"{self.watch.judge.value} {self.best.score:.4g}"
            logger.say(f"the average of step {self.best.step} is the run's: {value}")
        metric = section.early_best or usable(self.settings.evaluate.metrics, self.dataset)
        samples = affordable(section.judged, self._steps, train.steps, train.batch_size)
        if metric is None or not samples or not isinstance(teacher, Denoiser):
            return
        student, judge = self.ctx.denoiser("student"), self._judge_by(metric, samples, "comparison")
        with with_weights(student, self.student.own, self.exported):
            sentence, worse = compared(judge, student, teacher)
        rest(roles.values())
        if worse:
            logger.warn(sentence, self.ctx.step)
        else:
            logger.say(sentence)
