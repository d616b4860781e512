"""Plans of whole recipes: counts that are known exactly, strategies, and what is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import pytest
import torch

from fewstep.core.errors import UserError
from fewstep.planning.hardware import GIB, gpu_named
from fewstep.planning.machine import Request
from fewstep.planning.memory import Sharing, sharings
from fewstep.planning.plan import Followed, Plan, follow, make_plan, priced
from fewstep.planning.report import memory, options, summary, verdict
from fewstep.recipe import load_recipe
from fewstep.recipe.models import Recipe
from fewstep.runtime.philox import is_native

V, L, D, DEPTH = 97, 32, 32, 1
SMALL = [
    f"data={{type: token_ids, vocab_size: {V}, length: {L}}}",
    f"backbone={{type: dit, width: {D}, depth: {DEPTH}, heads: 2}}",
    "train.batch_size=16",
    "train.precision=fp32",
]


def small(name: str, *sets: str) -> Recipe:
    return load_recipe(name, [*SMALL, *sets]).recipe


@cache
def followed(name: str, gpus: int, *sets: str) -> dict[bool, Followed]:
    return follow(small(name, *sets), Request(gpu_named("h100"), gpus))


def planned(name: str, gpus: int = 1, *sets: str, request: Request | None = None) -> Plan:
    request = request or Request(gpu_named("h100"), gpus)
    return priced(small(name, *sets), request, followed(name, request.gpus, *sets))


def test_parameters_and_resident_memory_are_exact() -> None:
    plan = planned("text-dmmd")
    block = 12 * D * D + 5 * D + 2 * D + 128 * 6 * D + 6 * D
    outside = (V + 1) * D + (256 * 128 + 128) + (128 * 128 + 128) + D + 128 * 2 * D + 2 * D + D * V + V
    teacher = DEPTH * block + outside
    noise = plan.parameters["student"] - teacher
    assert plan.parameters["teacher"] == plan.parameters["auxiliary"] == teacher
    assert 0 < noise <= 32 * D + D
    parts = plan.options[0].parts
    assert parts["teacher"] == parts["auxiliary"] == 4 * teacher
    assert parts["ema"] == 4 * plan.parameters["student"]
    assert parts["optimiser"] == 2 * 4 * (plan.parameters["student"] + plan.parameters["auxiliary"])


def test_flops_are_those_of_the_formula() -> None:
    """A denoising step is three forward passes, and attention's backward pass five products where forward has two."""
    plan = planned("text-teacher")
    trunk, attention, head = DEPTH * 24 * D * D, DEPTH * 4 * L * D, 2 * D * V
    first, second, modulation = 256 * 128, 128 * 128, 128 * D * (6 * DEPTH + 2)
    once_a_batch = 2 * (2 * first + 3 * second + 3 * modulation)  # the time's embedding, which has no gradient itself
    assert plan.flops_per_token == 3 * (trunk + 0.5 * head) + 3.5 * attention + once_a_batch / (4 * L)


def test_flops_of_a_simultaneous_step_of_dmmd() -> None:
    """Seven passes of the trunk, 3 + 3 + 1; the heads run once more for the draw of x, and maybe for each loss."""
    trunk, attention, head, noise = DEPTH * 24 * D * D, DEPTH * 4 * L * D, 2 * D * V, 2 * 32 * D
    parts = 256 * 128, 128 * 128, 128 * D * (6 * DEPTH + 2)
    trained = 2 * sum(n * part for n, part in zip((2, 3, 3), parts, strict=True))
    once_a_batch = 2 * trained + 2 * sum(parts)
    others = 7 * trunk + 8 * attention + 2 * noise + once_a_batch / (4 * L)
    assert 7.9 < (planned("text-dmmd").flops_per_token - others) / (0.5 * head) < 11.1


def test_flops_of_a_warmup() -> None:
    """Three passes of the student and one of the teacher at each turn; a turn has its share of the heads' rows.

    Heads: 3 + 1 passes, each forward pass once more by chunks, and 3/4 for draws; more if turns had all rows.
    """
    groups, warm = 4, {"objective.warmup={groups: 4, share: 0.25}", "noise_input=stable", "train.steps=4000"}
    plan = planned("text-dmmd", 1, *sorted(warm))
    trunk, attention, head, noise = DEPTH * 24 * D * D, DEPTH * 4 * L * D, 2 * D * V, 2 * 2 * V * D
    parts = 256 * 128, 128 * 128, 128 * D * (6 * DEPTH + 2)
    once_a_batch = 2 * sum((n + groups) * part for n, part in zip((2, 3, 3), parts, strict=True))
    passes = (3 + groups) * trunk + (3.5 + groups) * attention + 2 * noise
    rest = plan.flops["warmup"] - passes - once_a_batch / (4 * L)
    assert 4.7 < rest / (0.5 * head) < 7.2
    assert plan.flops_per_token == pytest.approx(0.25 * plan.flops["warmup"] + 0.75 * plan.flops["both"])


def test_drawing_pairs_takes_time_before_the_first_step() -> None:
    sets = ["sampler=flow", "evaluate.metrics=[]", "objective.pairs=8192"]
    few, many = (planned("text-uniform-rectified", 2, *sets, f"objective.teacher_steps={n}") for n in (16, 64))
    assert few.flops == many.flops
    assert many.flops_before == 4 * few.flops_before > 8192 * 16 * L * DEPTH * 24 * D * D
    assert many.options[0].step_seconds == few.options[0].step_seconds
    launching = (many.options[0].hours - few.options[0].hours) * 3600
    assert 0 < launching == pytest.approx(3 * (few.options[0].hours * 3600 - few.steps * few.options[0].step_seconds))
    assert "after a set-up of" in summary(many)[-1]


def test_pairs_may_need_most_memory() -> None:
    """512 samples at once go through the teacher, before there are moments."""
    sets = ["sampler=flow", "evaluate.metrics=[]", "objective.pairs=4096", "train.batch_size=1"]
    parts = planned("text-uniform-rectified", 1, *sets).options[0].parts
    assert parts["optimiser"] == parts["gradients"] == 0
    assert parts["activations"] + parts["loss"] > 3 * 8 * 4096 * L


def test_what_else_a_recipe_may_ask_for() -> None:
    plain = planned("text-dmmd").options[0].parts
    best = planned("text-dmmd", 1, "watch.early_best=nearest_neighbour").options[0].parts
    assert best["ema"] == 2 * plain["ema"]
    sparse = planned("text-teacher", 1, "supervision={type: sparse}").options[0].parts
    assert sparse["loss"] >= planned("text-teacher").options[0].parts["loss"] + 16 * L


def test_what_is_left_out_is_said_in_one_line() -> None:
    *_, line = planned("text-dmmd", 1, "train.compile=trunk").remarks
    for key in ("watch.samples", "evaluate.batch_size", "train.compile", "checkpoint"):
        assert key in line
    *_, line = planned("text-teacher").remarks
    assert line.startswith("left out: data that are held in memory; ")
    assert "watch" not in line


def test_phases_alternate() -> None:
    plan = planned("text-dmmd", 1, "objective.updates=alternating", "objective.aux_steps=3", "train.steps=4001")
    assert plan.flops.keys() == {"student", "auxiliary"}
    student, auxiliary = plan.flops["student"], plan.flops["auxiliary"]
    assert plan.flops_per_token == pytest.approx((1001 * student + 3000 * auxiliary) / 4001)


def test_a_rank_of_fsdp_holds_a_share() -> None:
    plan = planned("text-teacher", 4)
    ddp, fsdp = (
        next(o for o in plan.options if o.strategy == name and not o.checkpointing) for name in ("ddp", "fsdp")
    )
    for part in ("optimiser", "ema"):
        assert fsdp.parts[part] == ddp.parts[part] // 4
    changing = ("gradients", "activations", "loss")  # at the peak, which may be at another moment
    assert sum(fsdp.parts[part] for part in changing) < sum(ddp.parts[part] for part in changing)
    assert fsdp.parts["gradients"] <= ddp.parts["gradients"] <= 4 * plan.parameters["student"]
    assert fsdp.parts["gathered"] > 0 == ddp.parts["gathered"]


def test_weights_that_are_shared_count_once() -> None:
    """An auxiliary of low rank has the teacher's weights; a teacher in bfloat16 takes half for its linear layers."""
    whole, low = planned("text-dmmd"), planned("text-dmmd", 1, "objective.auxiliary_rank=2")
    assert low.options[0].parts["teacher"] == whole.options[0].parts["teacher"]
    assert low.options[0].parts["auxiliary"] < 0.1 * whole.options[0].parts["auxiliary"]
    assert low.options[0].parts["optimiser"] < 0.6 * whole.options[0].parts["optimiser"]
    head = planned("text-dmmd", 1, "objective.auxiliary_rank=0")
    assert head.options[0].parts["auxiliary"] == 4 * (D * V + V)
    trunks = (whole.flops_per_token - head.flops_per_token) / (DEPTH * 24 * D * D)
    assert 3 < trunks < 6, "the auxiliary's three passes, with attention and the time's embedding"
    half = planned("text-dmmd", 1, "teacher.dtype=bfloat16", "train.precision=bf16")
    assert 0.5 < half.options[0].parts["teacher"] / whole.options[0].parts["teacher"] < 0.8


@pytest.mark.parametrize("setting", ["auxiliary_rank=2", "adversarial={}", "teacher_training={}"])
def test_objectives_that_need_whole_networks_are_not_sharded(setting: str) -> None:
    plan = planned("text-dmmd", 2, f"objective.{setting}")
    assert [(o.strategy, o.available) for o in plan.options if not o.checkpointing] == [("ddp", True), ("fsdp", False)]


def test_checkpointing_takes_less_memory_and_more_time() -> None:
    plan = planned("text-teacher")
    plain, recomputed = plan.options
    assert recomputed.parts["activations"] < plain.parts["activations"]
    assert recomputed.step_seconds > plain.step_seconds


def test_accumulation_divides_the_micro_batch() -> None:
    whole, parts = planned("text-teacher"), planned("text-teacher", 1, "train.accumulate=4")
    assert (whole.micro_batch, parts.micro_batch) == (16, 4)
    assert parts.options[0].parts["activations"] < 0.5 * whole.options[0].parts["activations"]
    assert parts.flops_per_token == pytest.approx(whole.flops_per_token, rel=0.01)


def test_bf16_takes_less_than_fp32() -> None:
    bf16 = planned("text-teacher", 1, "train.precision=bf16")
    assert bf16.options[0].parts["activations"] < planned("text-teacher").options[0].parts["activations"]


def test_strategies_by_number_of_gpus() -> None:
    assert [s.strategy for s in sharings(1, 8)] == ["one GPU"]
    assert [s.strategy for s in sharings(8, 8)] == ["ddp", "fsdp"]
    assert sharings(32, 8)[-1] == Sharing("hybrid", 32, 8)
    assert [s.strategy for s in sharings(12, 8)] == ["ddp", "fsdp"]


def test_numbers_of_the_machine_are_the_users() -> None:
    request = Request(gpu_named("a100"), memory=40.0, price=2.0, mfu=0.5, launch=1e-12, peak=100e12)
    plan = planned("text-teacher", request=request)
    option = plan.options[0]
    flops = plan.flops_per_token * plan.tokens
    assert option.hours == pytest.approx(flops / 50e12 / 3600, rel=1e-6)
    assert option.cost == pytest.approx(2 * option.hours)
    assert plan.assumed["--memory"].startswith("40 GiB")
    assert option.fits == (option.total <= 38 * GIB)


def test_nothing_fits_into_no_memory() -> None:
    plan = planned("text-teacher", request=Request(gpu_named("h100"), memory=2.0))
    assert plan.best is None
    assert verdict(plan).startswith("nothing fits: the smallest, one GPU, checkpointing, takes 0.0")


def test_messages_may_bound_a_step() -> None:
    fast, slow = (
        make_plan(small("text-teacher"), Request(gpu_named("h100"), 2, bandwidth=bandwidth))
        for bandwidth in (1e15, 1e3)
    )
    bytes_sent = 4 * slow.parameters["student"]
    assert slow.options[0].step_seconds == pytest.approx(bytes_sent / 1e3, rel=0.05)
    assert fast.options[0].step_seconds < 1


def test_a_small_step_is_as_fast_as_its_operators_are_launched() -> None:
    slow, fast = (planned("text-teacher", request=Request(gpu_named("h100"), launch=launch)) for launch in (1e-3, 1e-5))
    assert slow.options[0].step_seconds == pytest.approx(100 * fast.options[0].step_seconds)
    operators = slow.options[0].step_seconds / 1e-3
    assert 100 < operators == pytest.approx(round(operators), abs=1e-6)


def test_a_plan_leaves_random_numbers_as_they_are() -> None:
    """Which operator draws them is found out once a process; tensors without values cannot tell."""
    cpu = torch.device("cpu")
    native, first = is_native(cpu), followed("text-teacher", 1)[False].memory
    is_native.cache_clear()
    followed.cache_clear()
    again = followed("text-teacher", 1)[False].memory
    assert {phase: peak.operators for phase, peak in again.items()} == {p: peak.operators for p, peak in first.items()}
    assert is_native(cpu) is native


def test_tables_name_every_strategy() -> None:
    plan = planned("text-teacher", 4)
    names = [str(row["strategy"]) for row in options(plan)]
    assert names == ["ddp", "fsdp", "ddp, checkpointing", "fsdp, checkpointing"]
    assert set(memory(plan)[-1]) == {"GiB", *names}
    assert any(f"{V} symbols" in line for line in summary(plan))
    assert verdict(plan) == "take: ddp"


def test_a_batch_that_does_not_divide() -> None:
    with pytest.raises(UserError, match=r"train.batch_size: 16 samples do not divide into 3 GPUs .*; take 15"):
        make_plan(small("text-teacher"), Request(gpu_named("h100"), 3))


def test_a_gpu_that_is_not_known() -> None:
    with pytest.raises(UserError, match=r"did you mean 'h100'.*--bandwidth"):
        gpu_named("h10")


def plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return value is None or isinstance(value, str | int | bool) or (isinstance(value, float) and math.isfinite(value))


def test_it_is_plain_data() -> None:
    assert plain(planned("text-teacher").as_dict())
