"""The recipe: one validated YAML file that says how a model is trained, sampled and evaluated, and on what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from fewstep.adapters.label import LabelInputConfig
from fewstep.adapters.step import StepInputConfig
from fewstep.core.component import ComponentConfig, Strict
from fewstep.core.fields import From
from fewstep.core.references import Ref

Unit = Annotated[float, Field(ge=0, lt=1)]


class TeacherSection(Strict):
    """The trained model that a distillation learns from."""

    run: Annotated[str, Ref("run", weights_key="weights")] = Field(
        description="run folder of the teacher, or an exported file; `runs/NAME/latest` is recipe NAME's newest run"
    )
    weights: Literal["ema", "raw"] = Field("ema", description="which of the teacher's weights to use")


class OptimOverride(Strict):
    """Optimiser settings that one role has for itself; what is left out comes from `optim`."""

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
    decay: Literal["constant", "linear", "cosine"] = Field("constant", description="shape after the warm-up")
    roles: dict[str, OptimOverride] = Field({}, description="settings of single roles, by role name")


class TrainSection(Strict):
    """How long and on what the training runs."""

    steps: PositiveInt = Field(description="optimiser steps of all phases together (Algorithm 1's i)")
    batch_size: PositiveInt = Field(128, description="samples an optimiser step, all micro-batches together")
    accumulate: PositiveInt = Field(1, description="micro-batches that a step is split into")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16 runs the networks under autocast; losses stay fp32"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto takes a GPU where there is one; cpu: for its samples too"
    )
    log_every: PositiveInt = Field(100, description="steps between two lines of the log")
    checkpoint_every: PositiveInt = Field(1000, description="steps between two checkpoints")
    keep_last: PositiveInt = Field(2, description="checkpoints kept")


class EmaSection(Strict):
    """Exponential moving average of the student's weights."""

    decay: Unit = Field(0.999, description="share of the average kept at each update of the student")


class WatchSection(Strict):
    """Samples drawn while a student is distilled, to see what becomes of them."""

    times: int = Field(10, ge=0, description="how often, at even distances; 0 for never")
    samples: int = Field(64, ge=2, description="samples drawn each time, always from the same noise")
    alarm: float = Field(
        0.7, ge=0, le=1, description="warn of a collapse when their diversity falls below this share of the data's"
    )


class EvaluateSection(Strict):
    """How samples of the trained model are scored."""

    steps: tuple[PositiveInt, ...] = Field((8,), min_length=1, description="sampling steps to evaluate at")
    samples: PositiveInt = Field(1000, description="samples drawn for each number of steps")
    batch_size: PositiveInt = Field(500, description="samples drawn at once")
    weights: Literal["ema", "raw"] = Field("ema", description="which weights are sampled from")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16 runs the network under autocast; probabilities and draws stay as they are"
    )
    metrics: tuple[Annotated[ComponentConfig, From("metrics")], ...] = Field((), description="metrics, by name")


class Recipe(Strict):
    """One model: how it is trained or distilled, sampled and evaluated."""

    schema_version: Literal[1] = Field(1, description="version of this format")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the run's folder")
    seed: int = Field(0, ge=0, description="seed of initialisation, data order and noise")
    plugins: tuple[str, ...] = Field((), description="plugins it needs: distribution, module or ./file.py")
    data: Annotated[ComponentConfig, From("datasets")]
    process: Annotated[ComponentConfig, From("processes")]
    backbone: Annotated[ComponentConfig, From("backbones")]
    noise_input: Annotated[ComponentConfig | None, From("noise_inputs", optional=True)] = Field(
        None, description="fresh Gaussian noise into the student; null for none"
    )
    step_input: StepInputConfig | None = Field(
        None, description="tells the student how far its step goes, for one student at several NFE; null for none"
    )
    label_input: LabelInputConfig | None = Field(
        None, description="tells every network the class that is asked for, on labelled data; null for none"
    )
    objective: Annotated[ComponentConfig, From("objectives")]
    teacher: TeacherSection | None = Field(None, description="needed by distillation objectives")
    start_from: dict[str, Annotated[str, Ref("run")]] = Field(
        {}, description="run or exported file whose weights a role starts from, by role name; else its teacher's"
    )
    sampler: Annotated[ComponentConfig, From("samplers")] = Field("ancestral", validate_default=True)
    optim: OptimSection = OptimSection()
    train: TrainSection
    ema: EmaSection = EmaSection()
    watch: WatchSection = WatchSection()
    evaluate: EvaluateSection = EvaluateSection()
