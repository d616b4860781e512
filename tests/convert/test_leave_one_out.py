"""Imported checkpoints of Duo's layout predict each token given the others: with exact weights their samples are exact.

The weights are set by hand (`public_checkpoints.exact_state`), for two tokens that agree more often than by chance.
Shapes: V vocabulary, L tokens.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from noised_laws import counts
from public_checkpoints import exact_state
from safetensors.torch import save_file
from torch import Generator, Tensor

from fewstep.convert.importing import ImportRequest, import_checkpoint
from fewstep.convert.layouts import LAYOUTS
from fewstep.denoisers.base import Denoiser
from fewstep.likelihood.step_costs import drawn_rows
from fewstep.objectives.base import OBJECTIVES, Batch, Phase, StepContext
from fewstep.processes.base import discrete, posterior_rows
from fewstep.runs.models import open_model
from fewstep.samplers.base import SAMPLERS

V, L = 3, 2
AGREE = 0.8
LAW = (AGREE * torch.eye(V) + (1 - AGREE) / V).double() / V
UNIFORM = [name for name, layout in LAYOUTS.items() if layout.process == "uniform"]


def exact_checkpoint(folder: Path, layout: str) -> Path:
    save_file(exact_state(AGREE), folder / "public.safetensors")
    out = folder / "exact.safetensors"
    import_checkpoint(ImportRequest(str(folder / "public.safetensors"), layout, out, length=L))
    return out


def apart(joint: Tensor) -> float:
    """Total variation of a joint distribution [V ** L] from that of the data."""
    return float((joint - LAW.flatten()).abs().sum() / 2)


def sampled(denoiser: Denoiser, posterior: str, steps: int) -> Tensor:
    """Distribution of the samples of `ancestral`, multiplied out over its steps: float64 [V ** L]."""
    states = torch.tensor(list(itertools.product(range(V), repeat=L)))
    grid, z, joint = torch.linspace(1, 0, steps + 1, dtype=torch.float64), states.flatten(), torch.ones(V**L).double()
    process, rows = discrete(denoiser.process), {"plugged": posterior_rows, "drawn": drawn_rows}[posterior]
    joint /= joint.sum()
    for t, s in itertools.pairwise(grid):
        prediction = denoiser(states, t.float().expand(len(states)))
        read = prediction.output if posterior == "plugged" else prediction
        step = rows(process, read.log_probs().double().exp(), z, t.expand(len(z)), s.expand(len(z)))
        step = step.view(V**L, L, V)
        joint = joint @ torch.stack([step[:, i, states[:, i]] for i in range(L)]).prod(0)
    return joint


@pytest.mark.parametrize("layout", UNIFORM)
def test_the_file_says_what_is_predicted_and_how_to_sample(layout: str, tmp_path: Path) -> None:
    model = open_model(exact_checkpoint(tmp_path, layout), device="cpu")
    assert model.recipe.output == "leave_one_out"
    assert model.network.output == "leave_one_out"  # type: ignore[attr-defined]
    assert model.recipe.sampler.posterior == "plugged"  # type: ignore[attr-defined]


@pytest.mark.parametrize("posterior", ["plugged", "drawn"])
def test_samples_are_those_of_the_data(posterior: str, tmp_path: Path) -> None:
    """Plugged rows and two-stage draws alike. Read as p(x | z_t), as before, two-stage draws miss by any number."""
    model = open_model(exact_checkpoint(tmp_path, "duo"), device="cpu")
    assert apart(sampled(model.denoiser, posterior, 256)) < 0.01
    sampler = SAMPLERS.build({"type": "ancestral", "posterior": posterior})
    drawn = sampler.sample(model.denoiser, 4000, steps=32, generator=Generator().manual_seed(0)).x
    assert apart(counts(drawn, V).double() / len(drawn)) < 0.05
    model.network.output = "x_mean"  # type: ignore[attr-defined]
    if posterior == "drawn":
        assert apart(sampled(model.denoiser, posterior, 256)) > 0.1


def test_moment_matching_rests_at_the_exact_network(tmp_path: Path) -> None:
    """Teacher, student and auxiliary are all exact, and steps are short: no gradient but noise."""
    file = exact_checkpoint(tmp_path, "duo")
    roles = {name: open_model(file, device="cpu").denoiser for name in ("teacher", "student", "auxiliary")}
    streams = {name: Generator().manual_seed(seed) for seed, name in enumerate(("time", "noise", "sample"))}
    ctx = StepContext(dict(roles), roles["student"].process, streams, torch.device("cpu"))
    index = torch.multinomial(LAW.flatten(), 20_000, replacement=True, generator=Generator().manual_seed(9))
    data = torch.stack((index // V, index % V), 1)
    objective = OBJECTIVES.build({"type": "dmmd", "k": 256})

    def gradient(role: str) -> float:
        head = roles[role].backbone.head.weight  # type: ignore[union-attr]
        head.requires_grad_()
        loss = objective.loss(Phase(role, (role,)), Batch(data), ctx).loss  # type: ignore[attr-defined]
        (found,) = torch.autograd.grad(loss, head)  # type: ignore[arg-type]
        return float(found.abs().max())

    assert gradient("student") < 1e-6
    assert gradient("auxiliary") < 0.01
    roles["teacher"].output = "x_mean"  # type: ignore[assignment]
    assert gradient("auxiliary") > 0.05, "a teacher that is read otherwise pulls"
    assert gradient("student") > 0.05
