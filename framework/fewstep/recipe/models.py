"""The recipe: one validated YAML file with all settings of a model's data, training, sampling and evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from fewstep.adapters.label import LabelInputConfig
from fewstep.adapters.step import StepInputConfig
from fewstep.core.component import ComponentConfig, Strict
from fewstep.core.fields import From
from fewstep.core.kinds import registry
from fewstep.core.references import Ref
from fewstep.predictions.evidence import Output
from fewstep.processes.base import Process
from fewstep.runtime.compiling import CompileMode, TrainCompileMode
from fewstep.runtime.precision import TrainPrecision

Rows = Annotated[int, Field(gt=0, le=1 << 20)]
"""A number of samples that are in memory at once; its limit is far above what helps."""
Unit = Annotated[float, Field(ge=0, lt=1)]


class TeacherSection(Strict):
    """The teacher of a distillation."""

    run: Annotated[str, Ref("run", weights_key="weights")] = Field(
        description="run folder of the teacher, or an exported file; `runs/NAME/latest` is recipe NAME's newest run"
    )
    weights: Literal["ema", "raw"] = Field("ema", description="averaged or raw weights of the teacher")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="type of the weights of its linear layers; bfloat16 halves their memory, and in a bf16 training "
        "changes no result",
    )
    latents: int = Field(
        16, ge=1, description="latents over which a teacher with a noise input is averaged, where only its mean counts"
    )


class OptimOverride(Strict):
    """Optimiser settings of one role; missing keys come from `optim`."""

    lr: float | None = Field(None, gt=0, description="peak learning rate")
    betas: tuple[Unit, Unit] | None = Field(None, description="Adam's decay rates")
    weight_decay: float | None = Field(None, ge=0, description="decoupled weight decay (adamw)")
    clip: float | None = Field(None, gt=0, description="largest gradient norm")


class OptimSection(Strict):
    """Optimiser and learning-rate schedule of every trained role."""

    optimizer: Literal["adam", "adamw"] = Field("adamw", description="torch.optim algorithm")
    lr: float = Field(3e-4, gt=0, description="peak learning rate")
    betas: tuple[Unit, Unit] = Field((0.9, 0.999), description="Adam's decay rates")
    eps: float = Field(1e-8, gt=0, description="Adam's denominator offset")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay (adamw)")
    clip: float | None = Field(1.0, gt=0, description="largest gradient norm of a role; null for none")
    warmup_steps: int = Field(0, ge=0, description="steps of a role over which its rate rises from 0")
    decay: Literal["constant", "linear", "cosine", "wsd"] = Field(
        "constant",
        description="shape after the warm-up; wsd (warm-up, stable, decay) is constant, and linear in its last part",
    )
    decay_share: float = Field(0.2, gt=0, le=1, description="last share of a role's updates in which wsd decays")
    floor: float = Field(0.0, ge=0, lt=1, description="rate at the end of a decay, as a share of the peak")
    roles: dict[str, OptimOverride] = Field({}, description="settings of single roles, by role name")


Mishap = Literal["stop", "skip", "back"]
"""What becomes of a step that must not change the weights: the training ends, the step is left out, or the training
goes back to its last checkpoint and on from there with other noise and data."""


class SpikeSection(Strict):
    """Spikes of the loss: values far above the last ones of their phase."""

    window: int = Field(100, ge=10, le=100_000, description="last losses of a phase to compare with")
    factor: float = Field(8.0, gt=0, description="standard deviations above their median that make a spike")
    action: Mishap = Field("skip", description="stop, skip the update, or go back to the last checkpoint")


class TrainSection(Strict):
    """Length, batches, device and logs of the training."""

    steps: PositiveInt = Field(description="optimiser steps of all phases together (Algorithm 1's i)")
    batch_size: Rows = Field(128, description="samples per optimiser step, all micro-batches together")
    accumulate: Rows = Field(1, description="micro-batches per step")
    precision: TrainPrecision = Field(
        "auto",
        description="bf16 runs the networks under autocast, losses stay fp32; auto is bf16 on a GPU that has it, else "
        "fp32, whose matrix products are TF32 on a GPU",
    )
    compile: TrainCompileMode = Field(
        "off",
        description="trunk compiles the trunk of each network (torch.compile), step also losses over rows; auto: "
        "trunks on a GPU, and none if that fails",
    )
    cuda_graphs: bool = Field(
        False,
        description="record CUDA graphs of compiled trunks on a GPU, so that small networks do not wait for the host; "
        "takes memory, and no sharded networks",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto takes a GPU if there is one; cpu applies to sampling too"
    )
    log_every: PositiveInt = Field(100, description="steps between two lines of the log")
    checkpoint_every: PositiveInt = Field(1000, description="steps between two checkpoints")
    checkpoint_minutes: float | None = Field(
        None, gt=0, description="minutes after which a checkpoint is due as well; null for none"
    )
    keep_last: PositiveInt = Field(2, description="number of newest checkpoints to keep")
    keep_every: PositiveInt | None = Field(
        None, description="checkpoints of multiples of this number of steps are kept too; null for none"
    )
    non_finite: Mishap = Field(
        "stop",
        description="at a loss or gradient that is not finite: stop, skip the step, or go back to a checkpoint",
    )
    spike: SpikeSection | None = Field(None, description="the same at spikes of the loss; null for none")
    mishap_budget: PositiveInt = Field(10, description="steps skipped or gone back from before the training stops")
    timeout_minutes: float | None = Field(
        None, gt=0, description="ends a training whose step takes longer, with all stacks in its log; null for none"
    )


class ParallelSection(Strict):
    """A training on several ranks, the processes that `torchrun` starts; without it this section changes nothing."""

    strategy: Literal["auto", "ddp", "fsdp", "hybrid"] = Field(
        "auto",
        description="ddp: each rank has all weights; fsdp: it has a shard of weights, gradients, moments and averages; "
        "hybrid: ranks of a group divide them, and groups have the same; auto: ddp, or fsdp if a GPU is too small",
    )
    shards: PositiveInt | None = Field(
        None, description="ranks of a group of the strategy hybrid; null: those of one machine"
    )
    parameters: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="type of the weights that fsdp and hybrid gather; with bf16 shards, sums of gradients and moments "
        "stay fp32",
    )
    backend: Literal["auto", "nccl", "gloo"] = Field(
        "auto", description="engine of sums over ranks; auto: nccl for GPUs, gloo for the CPU"
    )
    timeout_minutes: float = Field(
        10.0, gt=0, description="a rank that does not answer for so long counts as lost, and the training ends"
    )


class EmaSection(Strict):
    """Exponential moving average of the student's weights."""

    decay: Unit = Field(0.999, description="weight of the old average at each update of the student")


class WatchSection(Strict):
    """Samples drawn during a distillation, to detect a collapse."""

    times: int = Field(10, ge=0, description="number of draws, evenly spaced; 0 for none")
    samples: int = Field(64, ge=2, le=1 << 20, description="samples drawn each time, always from the same noise")
    alarm: float = Field(
        0.7, ge=0, le=1, description="warn of a collapse when their diversity falls below this share of the data's"
    )
    entropy: float = Field(
        0.5,
        ge=0,
        le=1,
        description="warn of a collapse when the student's output entropy is below this share of the teacher's at some "
        "times, and the log-ratio is above its limit",
    )
    log_ratio: float = Field(
        2.0,
        ge=0,
        description="limit in nats of the mean |log auxiliary - log teacher| at some times, above which it must fall "
        "from look to look",
    )
    early_best: Annotated[ComponentConfig | None, From("metrics", optional=True)] = Field(
        None, description="metric by which the average of the best look is kept and exported; null for the last average"
    )
    judged: int = Field(
        256,
        ge=0,
        le=1 << 20,
        description="samples of each of four draws that early_best scores, and that compare student and teacher at the "
        "end (fewer in short trainings); 0 for no comparison",
    )


class EvaluateSection(Strict):
    """Scoring of samples of the trained model."""

    steps: tuple[PositiveInt, ...] = Field((8,), min_length=1, description="sampling steps to evaluate at")
    samples: PositiveInt = Field(1000, description="samples drawn for each number of steps")
    batch_size: Rows = Field(500, description="samples drawn at once")
    weights: Literal["ema", "raw"] = Field("ema", description="averaged or raw weights for sampling")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16 runs the network under autocast; probabilities and draws keep their precision"
    )
    compile: CompileMode = Field("off", description="as train.compile, for the network that samples")
    metrics: tuple[Annotated[ComponentConfig, From("metrics")], ...] = Field((), description="metrics, by name")


Trackers = tuple[Annotated[ComponentConfig, From("trackers")], ...]


class TrainerSettings(Strict):
    """The sections of a recipe that the trainer itself reads; all that a training without a recipe has to say."""

    seed: int = Field(0, ge=0, description="seed of data order and noise")
    optim: OptimSection = OptimSection()
    train: TrainSection
    parallel: ParallelSection = ParallelSection()
    ema: EmaSection = EmaSection()
    watch: WatchSection = WatchSection()
    evaluate: EvaluateSection = EvaluateSection()
    trackers: Trackers = Field(("tensorboard",), validate_default=True, description="where numbers go as well")


class Recipe(Strict):
    """All settings of one model: data, training or distillation, sampling and evaluation."""

    schema_version: Literal[1] = Field(1, description="version of this format")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's folder")
    seed: int = Field(0, ge=0, description="seed of initialisation, data order and noise")
    plugins: tuple[str, ...] = Field((), description="required plugins: distribution, module or ./file.py")
    data: Annotated[ComponentConfig, From("datasets")]
    process: Annotated[ComponentConfig, From("processes")]
    backbone: Annotated[ComponentConfig, From("backbones")]
    noise_input: Annotated[ComponentConfig | None, From("noise_inputs", optional=True)] = Field(
        None, description="fresh noise into the student; null for none"
    )
    step_input: StepInputConfig | None = Field(
        None, description="conditions the student on the end of its step, for several NFE; null for none"
    )
    label_input: LabelInputConfig | None = Field(
        None, description="conditions every network on the class of labelled data; null for none"
    )
    objective: Annotated[ComponentConfig, From("objectives")]
    output: Output | None = Field(
        None,
        validate_default=True,
        description="what the network predicts: x given z_t, or each token given the others of z_t (`leave_one_out`, "
        "uniform process only); null: what the objective's loss on posteriors has as its optimum, else `x_mean`",
    )
    supervision: Annotated[ComponentConfig | None, From("supervisions", optional=True)] = Field(
        None, description="tokens that the losses of a step count; null for all"
    )
    teacher: TeacherSection | None = Field(None, description="needed by distillation objectives")
    start_from: dict[str, Annotated[str, Ref("run")]] = Field(
        {}, description="run or exported file whose weights a role starts from, by role name; else its teacher's"
    )
    sampler: Annotated[ComponentConfig, From("samplers")] = Field("ancestral", validate_default=True)
    optim: OptimSection = OptimSection()
    train: TrainSection
    parallel: ParallelSection = ParallelSection()
    ema: EmaSection = EmaSection()
    watch: WatchSection = WatchSection()
    evaluate: EvaluateSection = EvaluateSection()
    trackers: Trackers = Field(
        ("tensorboard",),
        validate_default=True,
        description="trackers of the training, by name; [] for none",
    )

    @field_validator("sampler")
    @classmethod
    def _as_the_process_has_it(cls, sampler: ComponentConfig, info: ValidationInfo) -> ComponentConfig:
        """Write out what the sampler leaves to the process, so that a resolved recipe says it."""
        process = info.data.get("process")
        if process is None or getattr(sampler, "greedy_tail", 0) is not None:
            return sampler
        return sampler.model_copy(update={"greedy_tail": registry("processes").get(process.type).cls.greedy_tail})

    @field_validator("output")
    @classmethod
    def _as_the_objective_has_it(cls, output: Output | None, info: ValidationInfo) -> Output | None:
        """Write out what is left to the objective, so that a resolved recipe says it."""
        objective, process = info.data.get("objective"), info.data.get("process")
        if output is not None or objective is None or process is None:
            return output
        kind: type[Process] = registry("processes").get(process.type).cls
        learned: Output = registry("objectives").get(objective.type).cls.output(objective)
        return "x_mean" if kind.carry_over or kind.space != "discrete" else learned

    @property
    def settings(self) -> TrainerSettings:
        """What of it the trainer reads."""
        return TrainerSettings(
            seed=self.seed,
            optim=self.optim,
            train=self.train,
            parallel=self.parallel,
            ema=self.ema,
            watch=self.watch,
            evaluate=self.evaluate,
            trackers=self.trackers,
        )
