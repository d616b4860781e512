"""What `fewstep plan` says of a training's memory, beside the peak that the GPU allocates."""

from __future__ import annotations

from cases import Outcome, Setting
from flops import Shape
from networks import network, process_of, trainer

from fewstep.planning.hardware import GIB, gpu_named
from fewstep.planning.machine import Request
from fewstep.planning.plan import make_plan
from fewstep.recipe import parse_recipe
from fewstep.recipe.models import Recipe
from fewstep.runtime.memory import peak_megabytes, reset_peak

BATCH = 8
"""Few chunks of rows, so that the plan takes seconds."""
STEPS = 4
SECONDS = 10


def recipe(shape: Shape, length: int, vocab: int) -> Recipe:
    """The training of `networks.trainer` as a recipe."""
    return parse_recipe(
        {
            "name": "planned",
            "data": {"type": "token_ids", "vocab_size": vocab, "length": length},
            "process": {"type": "masked", "schedule": "log_linear"},
            "backbone": {**shape.config, "time_conditioned": False},
            "objective": "denoising",
            "train": {"steps": 1000, "batch_size": BATCH, "precision": "bf16"},
        }
    )


def planned(setting: Setting, shape: Shape, length: int, vocab: int) -> Outcome:
    """Planned and measured peak of denoising."""
    plan = make_plan(recipe(shape, length, vocab), Request(gpu_named("h200")), [False])
    expected = plan.options[0].total / GIB
    student = network(shape, process_of("masked", vocab), length, setting.device)
    run = trainer(
        "denoising", student, batch=BATCH, folder=setting.work, device=setting.device, precision="bf16", rows=8 * BATCH
    )
    reset_peak(setting.device)
    for _ in range(STEPS):
        run._step()
    measured = peak_megabytes(setting.device) / 1024
    run.loader.close()
    text = f"planned {expected:,.2f} GiB, measured {measured:,.2f}: {expected / measured:.3f}"
    return Outcome(text, {"planned_gib": expected, "memory_gib": measured})
