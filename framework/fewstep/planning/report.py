"""A plan as tables for people."""

from __future__ import annotations

from fewstep.planning.hardware import GIB
from fewstep.planning.memory import PARTS
from fewstep.planning.plan import Option, Plan


def summary(plan: Plan) -> list[str]:
    """Lines on the training itself."""
    parameters = ", ".join(f"{name} {number / 1e6:,.1f} M" for name, number in plan.parameters.items())
    by_phase = ", ".join(f"{phase} {value / 1e9:,.3f} G" for phase, value in plan.flops.items())
    micro = f" x {plan.accumulate} micro-batches" if plan.accumulate > 1 else ""
    before = f", after a set-up of {plan.flops_before / 1e18:,.3g} EFLOP" if plan.flops_before else ""
    return [
        f"parameters: {parameters}",
        f"FLOPs a token of a step: {by_phase}",
        f"data: {plan.vocab:,} symbols, {plan.length:,} tokens a sample",
        f"batch: {plan.batch:,} samples = {plan.gpus} {plan.gpu}{micro} x {plan.micro_batch:,} samples",
        f"training: {plan.steps:,} steps, {plan.tokens / 1e9:,.1f} G tokens, "
        f"{plan.tokens * plan.flops_per_token / 1e18:,.2f} EFLOP{before}",
    ]


def options(plan: Plan) -> list[dict[str, object]]:
    """A row for each strategy."""
    return [
        {
            "strategy": name(option),
            "memory a GPU (GiB)": _gib(option.total),
            "fits": ("yes" if option.fits else "no") + ("" if option.available else ", not this objective"),
            "step (ms)": f"{1e3 * option.step_seconds:,.0f}",
            "hours": f"{option.hours:,.1f}",
            "cost ($)": f"{option.cost:,.0f}",
        }
        for option in plan.options
    ]


def memory(plan: Plan) -> list[dict[str, object]]:
    """A row for each part of the memory, with a column for each strategy."""
    rows: list[dict[str, object]] = [
        {"GiB": part, **{name(option): _gib(option.parts[part]) for option in plan.options}}
        for part in PARTS
        if any(option.parts[part] for option in plan.options)
    ]
    return [*rows, {"GiB": "total", **{name(option): _gib(option.total) for option in plan.options}}]


def verdict(plan: Plan) -> str:
    """What to take."""
    if plan.best is not None:
        switch = " with backbone.activation_checkpointing" if plan.best.checkpointing else ""
        return f"take: {plan.best.strategy}{switch}"
    smallest = min(plan.options, key=lambda option: option.total)
    return (
        f"nothing fits: the smallest, {name(smallest)}, takes {_gib(smallest.total)} GiB a GPU; raise train.accumulate "
        "(fewer samples at once) or take more or larger GPUs"
    )


def name(option: Option) -> str:
    """A strategy for people."""
    return option.strategy + (", checkpointing" if option.checkpointing else "")


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}"
