"""Two networks of one walk: whose steps they are, what they come to, and what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from enumerable_denoisers import JointOracle
from torch import Generator, Tensor

from fewstep.core.errors import RecipeError, UserError
from fewstep.denoisers.hybrid import HybridDenoiser
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.processes.base import PROCESSES
from fewstep.recipe import load_recipe
from fewstep.samplers.base import SAMPLERS
from fewstep.training.launch import launch

V, L = 2, 2
MASKED = PROCESSES.build("masked", vocab_size=V)
COPIES = torch.tensor([0.5, 0.0, 0.0, 0.5], dtype=torch.float64)
"""Both tokens are equal."""
ZEROS = torch.tensor([1.0, 1e-9, 1e-9, 1e-18], dtype=torch.float64)
"""Independent tokens that are 0, whatever is shown."""


def sampled(first: Tensor, closer: Tensor, last: int, steps: int) -> tuple[Tensor, float]:
    """Samples of a walk with two oracles, and its evaluations."""
    denoiser = HybridDenoiser(JointOracle(MASKED, L, first), JointOracle(MASKED, L, closer))
    sampler = SAMPLERS.build({"type": "hybrid", "closer": {"run": "unused", "steps": last}})
    samples = sampler.sample(denoiser, 4000, steps=steps, generator=Generator().manual_seed(0))
    return samples.x, samples.nfe


@pytest.mark.parametrize(("last", "share"), [(0, 0.5), (1, 0.375), (2, 0.25), (3, 0.125), (4, 0.0)])
def test_the_closer_takes_exactly_the_last_steps(last: int, share: float) -> None:
    """The first network draws 1 with chance 1/2, the closer never, and each of 4 steps draws a fourth of the tokens."""
    independent = torch.full((4,), 0.25, dtype=torch.float64)
    x, nfe = sampled(independent, ZEROS, last, steps=4)
    assert float(x.float().mean()) == pytest.approx(share, abs=0.02)
    assert nfe == 4, "steps of both networks are evaluations"


def test_a_closer_repairs_what_few_steps_break() -> None:
    """Tokens drawn in one step are independent; the closer cannot change them, but it sees those of an earlier step."""
    x, _ = sampled(COPIES, COPIES, 3, steps=4)
    assert float((x[:, 0] == x[:, 1]).float().mean()) == pytest.approx(1 - 0.5 / 4, abs=0.02)


@pytest.mark.medium
def test_a_run_hands_its_last_steps_to_its_teacher(tmp_path: Path) -> None:
    """From the command's point of view; a network that does not fit is refused in a sentence."""
    small = ["data.vocab_size=8", "data.length=8", "train.steps=4", "train.log_every=2"]
    teacher, student, other = tmp_path / "teacher", tmp_path / "student", tmp_path / "other"
    launch("markov-teacher", run_dir=str(teacher), sets=small)
    launch("markov-sdtt", run_dir=str(student), teacher=str(teacher), sets=small)
    launch("markov-uniform-teacher", run_dir=str(other), sets=small)
    sampler = f"{{type: hybrid, closer: {{run: {teacher}, steps: 2}}}}"
    assert evaluate_run(str(student), [4], samples=20, sampler=sampler)[0]["nfe"] == 4
    with pytest.raises(UserError, match=r"closer\.run: .* knows another process"):
        evaluate_run(str(student), [4], samples=20, sampler=f"{{type: hybrid, closer: {{run: {other}}}}}")


def test_a_recipe_must_name_the_closer() -> None:
    with pytest.raises(RecipeError, match=r"name the network of the last steps"):
        load_recipe("markov-teacher", ["sampler.type=hybrid"])
