"""The objective: its contract, its optimum, and what it and the process refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fewstep_flm.exact import ExactFlowMap
from fewstep_flm.flow_map import two_jumps
from torch import Generator

from fewstep import OBJECTIVES, PROCESSES
from fewstep.core.errors import RecipeError, UserError
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import NOTHING
from fewstep.denoisers.exact import exact_denoiser
from fewstep.objectives.base import Batch, StepContext
from fewstep.planning.hardware import gpu_named
from fewstep.planning.machine import Request
from fewstep.planning.plan import follow
from fewstep.recipe import load_recipe
from fewstep.runtime.streams import SampleStreams
from fewstep.testing import check_objective

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
TWO_TIMES = {"step_input": {"form": "linear"}, "backbone.time_conditioned": True}


def context(count: int, **roles: object) -> StepContext:
    streams = {
        name: SampleStreams(0, range(count), purpose=name, batch=range(count)) for name in ("time", "noise", "sample")
    }
    process = PROCESSES.build("onehot_gaussian", vocab_size=4)
    return StepContext(roles, process, streams, torch.device("cpu"))


def test_it_keeps_the_contract() -> None:
    config = {"type": "flow_map", "target_decay": 0.9}
    check_objective(config, processes=("onehot_gaussian",), sections=TWO_TIMES)


def test_denoising_trains_its_teachers() -> None:
    check_objective("denoising", processes=("onehot_gaussian",))


def test_the_exact_flow_map_is_its_optimum() -> None:
    """Its two half jumps are the whole one up to the error of the integration; so the loss is the targets' entropy."""
    source = Markov(Markov.Config(vocab_size=4, length=6, size=64))
    process = PROCESSES.build("onehot_gaussian", vocab_size=4)
    oracle = exact_denoiser(source, process)
    ctx, objective = context(32), OBJECTIVES.build("flow_map")
    t, s = objective.jumps(32, ctx)
    others = objective.halves(32, ctx)[1]
    z_t = process.corrupt(source.train[:32], t, generator=ctx.generators["noise"]).x_t.double()
    gaps = []
    for steps in (8, 64):
        exact = ExactFlowMap(oracle, steps)
        target = two_jumps(process, exact, z_t, t, s, NOTHING, others)
        whole = exact(z_t[others], t[others], s[others]).dense_probs()
        gaps.append(float((target - whole).abs().mean()))
    assert gaps[1] < 0.003
    assert gaps[1] < 0.3 * gaps[0]  # the error of Euler steps falls with their number


def test_a_loss_at_the_optimum_is_the_entropy_of_its_targets() -> None:
    source = Markov(Markov.Config(vocab_size=4, length=6, size=64))
    oracle = exact_denoiser(source, PROCESSES.build("onehot_gaussian", vocab_size=4))
    exact = ExactFlowMap(oracle, 32)
    ctx = context(32, teacher=oracle, student=exact, target=exact)
    ctx.diagnose = True
    objective = OBJECTIVES.build("flow_map")
    out = objective.loss(objective.phases()[0], Batch(source.train[:32]), ctx)
    totals = {name: float(total / count) for name, (total, count) in out.metrics.items()}
    assert totals["kl_diagonal"] == pytest.approx(0, abs=1e-5)
    assert totals["kl_jumps"] == pytest.approx(0, abs=2e-3)
    by_data = OBJECTIVES.build({"type": "flow_map", "diagonal_target": "data"})
    ctx = context(32, student=exact, target=exact)  # no teacher is asked
    assert float(by_data.loss(by_data.phases()[0], Batch(source.train[:32]), ctx).loss) > 0


def test_shares_of_a_batch() -> None:
    """Half of every part of a batch has s = t; a share of the other half goes all the way."""
    objective = OBJECTIVES.build({"type": "flow_map", "boundary": 0.25})
    (t, s), (same, others) = objective.jumps(64, context(64)), objective.halves(64, context(64))
    assert torch.cat((same, others)).sort().values.tolist() == list(range(64))
    assert torch.bincount(same // 8).tolist() == [4] * 8
    assert torch.equal(t[same], s[same])
    assert int(((t == 1) & (s == 0)).sum()) == 8
    lengths = (t - s)[others].sort().values
    assert bool((lengths >= 0).all())
    assert lengths[:24].diff().abs().max() < 0.1  # they are spread evenly
    parts = [context(64).select(slice(first, first + 16)) for first in range(0, 64, 16)]
    for number, part in enumerate(parts):
        part.place = 16 * number
    pieces = [objective.jumps(16, part) for part in parts]
    for whole, *split in zip((t, s), *pieces, strict=True):
        assert torch.equal(whole, torch.cat(split))


def test_a_plan_follows_its_step() -> None:
    (path,) = [path for path in RECIPES if path.stem == "coins-fmlm"]
    followed = follow(load_recipe(path).recipe, Request(gpu_named("h100"), 1), checkpointing=(False,))
    assert followed[False].shapes.roles.keys() == {"teacher", "student", "target"}


def test_targets_follow_the_student() -> None:
    for decay, share in ((0.0, 1.0), (0.75, 0.25)):
        target, student = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        before = target.weight.detach().clone()
        objective = OBJECTIVES.build({"type": "flow_map", "target_decay": decay})
        objective.after_step(objective.phases()[0], context(1, target=target, student=student))
        torch.testing.assert_close(target.weight, before + share * (student.weight - before))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid(path: Path) -> None:
    assert load_recipe(path).recipe.process.type == "onehot_gaussian"


REFUSED = {
    "a sampler of ids": (["sampler=flow"], "sampler 'flow' works on discrete data, .* samplers for it: .*flow_map"),
    "a sampler of masks": (["sampler=confidence"], "sampler 'confidence' works on discrete data"),
    "an objective of ids": (["objective=dmmd", "teacher.run=x"], "objective 'dmmd' works on discrete data"),
    "a bound": (["objective.loss=bound"], "objective.loss: no likelihood bound is known"),
    "rows without evidence": (["output=leave_one_out"], "output: leave_one_out is for processes of ids"),
    "a flow map of ids": (
        ["process=masked", "objective=flow_map", "teacher.run=x", "step_input={}"],
        "objective 'flow_map' works on continuous data, .* is discrete; objectives for it: .*denoising",
    ),
    "a flow-map sampler of ids": (["process=uniform", "sampler=flow_map"], "sampler 'flow_map' works on continuous"),
    "a student that knows one time": (
        ["objective=flow_map", "teacher.run=x"],
        r"objective: the student must know the end of its jump; add `step_input: \{form: linear\}`",
    ),
    "a step that jumps at its end": (
        ["objective=flow_map", "teacher.run=x", "step_input={}"],
        "step_input.form log tells short jumps from none, .* set step_input.form to linear",
    ),
    "a student that knows no time": (
        ["objective=flow_map", "teacher.run=x", "step_input={form: linear}", "backbone.time_conditioned=false"],
        "set backbone.time_conditioned to true",
    ),
    "a schedule that ends elsewhere": (
        ["process={type: onehot_gaussian, schedule: log_linear}"],
        r"process.schedule: alpha goes from 1 to 0.001 and not from 1 to 0.* set schedule to \{type: linear, eps: 0\}",
    ),
    "states beyond memory": (
        ["data={type: token_ids, path: x, vocab_size: 50257, length: 1024}", "evaluate.metrics=[sample_entropy]"],
        "process.max_gigabytes: 256 states of 1,024 tokens and 50,257 symbols are dense vectors of 53 GB, above the "
        "limit of 1 GB in training; raise train.accumulate",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(RecipeError, match=message):
        load_recipe(next(path for path in RECIPES if path.stem == "coins-flm"), changes)


def test_a_refusal_has_file_line_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(
        "extends: coins-teacher\nname: bad\nplugins: [fewstep-flm]\nprocess: onehot_gaussian\nsampler: remdm\n"
    )
    with pytest.raises(RecipeError, match=r"bad\.yaml:5: sampler: .*samplers for it: ancestral, .*flow_map"):
        load_recipe(tmp_path / "bad.yaml")


def test_states_that_no_recipe_told_are_refused_when_they_are_made() -> None:
    process = PROCESSES.build({"type": "onehot_gaussian", "max_gigabytes": 0.001}, vocab_size=1000)
    assert process.prior((2, 100), device="cpu", generator=None).shape == (2, 100, 1000)
    with pytest.raises(UserError, match=r"3 states of 100 tokens and 1,000 symbols are dense vectors of 0\.0012 GB"):
        process.corrupt(torch.zeros(3, 100, dtype=torch.long), torch.rand(3), generator=Generator().manual_seed(0))
