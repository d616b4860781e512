"""Sizes of data and networks that are not here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS, DataSpec
from fewstep.objectives.base import Batch, LossOutput, Phase, StepContext
from fewstep.objectives.denoising import Denoising
from fewstep.planning.ledger import Ledger
from fewstep.planning.outline import outline, outline_data
from fewstep.planning.rehearsal import Line, Settings, rehearse, set_up
from fewstep.recipe import load_recipe
from fewstep.runs.models import build_component

GRID = (32, 32, 3)


@pytest.mark.parametrize(
    ("recipe", "sets", "spec"),
    [
        ("openwebtext-teacher", [], DataSpec(50_257, 1024)),
        ("tinystories-teacher", [], None),
        ("text8-teacher", [], None),
        ("openwebtext-teacher", ["data.tokenizer={type: byte}"], DataSpec(257, 1024)),
        ("cifar10-full-teacher", [], DataSpec(256, 3072, GRID)),
        ("mnist-teacher", [], DataSpec(4, 196, (14, 14, 1))),
    ],
)
def test_settings_say_sizes(recipe: str, sets: list[str], spec: DataSpec | None) -> None:
    sizes = outline_data(load_recipe(recipe, sets).recipe).spec
    assert sizes == spec if spec else sizes.vocab_size > 16


@pytest.mark.parametrize("data", [{"type": "token_ids", "vocab_size": 7, "length": 5, "random": 3}])
def test_outlines_are_what_data_have(data: dict[str, object]) -> None:
    dataset = build_component(DATASETS, data)
    assert type(dataset).outline(dataset.config) == dataset.spec


def test_sizes_that_no_one_knows_are_asked_for(tmp_path: Path) -> None:
    recipe = load_recipe("chorales-teacher", [f"data.path={tmp_path / 'none.json'}"]).recipe
    with pytest.raises(UserError, match=r"settings of 'chorales' say no sizes, .*; name them by --vocab and --length"):
        outline_data(recipe)
    assert outline_data(recipe, 60, 128).spec == DataSpec(60, 128)


def test_what_is_named_comes_first() -> None:
    recipe = load_recipe("openwebtext-teacher").recipe
    assert outline_data(recipe, vocab=100).spec == DataSpec(100, 1024)


FOLLOWED = (
    *("markov-sdtt", "markov-consistency", "markov-didi", "markov-dimo", "markov-dmmd-instant"),
    *("markov-block-dmmd", "markov-duo-teacher", "digits-vq", "digits-classifier"),
    *("markov-uniform-rectified", "markov-shared-noise", "markov-sparse-dmmd"),
)


@pytest.mark.medium
@pytest.mark.parametrize("name", FOLLOWED)
def test_every_objective_can_be_followed(name: str) -> None:
    recipe = load_recipe(name, ["backbone.depth=1"] if name != "digits-vq" else []).recipe
    for ledger in rehearse(outline(recipe, outline_data(recipe)), Settings(8, diagnose=True)).values():
        assert ledger.flops > 0
        assert ledger.peak()["activations"] > 0


class ByValues(Denoising):
    """An objective whose loss depends on values."""

    def loss(self, phase: Phase, batch: Batch, ctx: StepContext) -> LossOutput:
        out = super().loss(phase, batch, ctx)
        return replace(out, loss=out.loss * float(out.loss.detach()))


def test_a_step_that_depends_on_values_cannot() -> None:
    recipe = load_recipe("coins-teacher").recipe
    shapes = replace(outline(recipe, outline_data(recipe)), objective=ByValues(recipe.objective))
    with pytest.raises(UserError, match=r"objective: a step of 'denoising' cannot be followed by sizes alone"):
        rehearse(shapes, Settings(8))


def test_a_store_is_drawn_by_sizes_alone() -> None:
    """A file of pairs is on the device while the last ones are drawn, and no folder is made."""
    recipe = load_recipe("coins-uniform-rectified", ["objective.pairs=512", "objective.teacher_steps=6"]).recipe
    shapes = outline(recipe, outline_data(recipe))
    setup, size = set_up(shapes), 512 * shapes.dataset.spec.length
    assert setup.flops == 6 / 2 * setup.memory.flops > 0  # type: ignore[attr-defined]
    assert setup.memory.peak()["loss"] >= 2 * 8 * size
    assert "gradients" not in setup.memory.peak()
    step = rehearse(shapes, Settings(8), prepared=True)["train"].peak()
    assert step["loss"] >= 2 * 4 * size, "what was read of the store stays in memory"


def test_following_leaves_no_trace() -> None:
    """Global states of torch, and caches of tensors, are as before."""
    before = torch.random.get_rng_state()
    recipe = load_recipe("coins-dmmd").recipe
    rehearse(outline(recipe, outline_data(recipe)), Settings(4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert type(torch.ones(2) + 1) is torch.Tensor


def test_larger_batches_lie_on_a_line() -> None:
    """A stage that is small in small batches may be the largest in a large one."""

    def ledger(size: int) -> Ledger:
        mode, ledger = FakeTensorMode(), Ledger()
        with mode, ledger:
            chunk = torch.empty(250)
            with ledger.during("activations"):
                del chunk
                states = torch.empty(25 * size)
        assert len(states) == 25 * size
        return ledger

    line = Line(ledger(2), ledger(4), distance=49.0)
    assert ledger(2).peak() == {"loss": 1000}
    assert line.peak() == ledger(100).peak() == {"activations": 10_000}
    assert line.operators == ledger(100).operators
