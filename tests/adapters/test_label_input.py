"""The label input: an adapter that tells a network the class, and starts as if it were not there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewstep.adapters.label import LabelInput, LabelInputConfig
from fewstep.adapters.noise.base import NOISE_INPUTS
from fewstep.adapters.step import StepInput, StepInputConfig
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES

TOKENS = TokenSpace(num_states=4, vocab_size=3, length=6)
X, T = torch.full((2, 6), 3), torch.tensor([1.0, 1.0])


def denoiser(
    *, init_std: float = 1.0, told: bool = True, noise: str | None = None, step: bool = False
) -> NetworkDenoiser:
    torch.manual_seed(0)
    backbone = BACKBONES.build({"type": "transformer", "width": 16, "depth": 2, "heads": 2}, tokens=TOKENS)
    labels = LabelInput(LabelInputConfig(init_std=init_std), 5, backbone.width) if told else None
    adapter = None
    if noise:
        config = NOISE_INPUTS.parse({"type": "gaussian", "inject": noise})
        adapter = NOISE_INPUTS.build(config, tokens=TOKENS, width=16, sites=backbone.residual_sites)
    steps = StepInput(StepInputConfig(init_std=1.0), 16) if step else None
    return NetworkDenoiser(backbone, PROCESSES.build("masked", vocab_size=3), adapter, steps, labels)


def rows(model: NetworkDenoiser, labels: Any, s: float = 0.5) -> torch.Tensor:
    cond = Condition(None if labels is None else torch.tensor(labels))
    prediction = model(X, T, torch.full((2,), s), cond=cond, generator=torch.Generator().manual_seed(1))
    return prediction.log_probs().view(2, 6, 3)


@pytest.mark.parametrize("noise", [None, "once", "every_block"])
@pytest.mark.parametrize("step", [False, True])
def test_each_sample_has_its_own_label(noise: str | None, step: bool) -> None:
    model = denoiser(noise=noise, step=step)
    both = rows(model, [0, 4])
    torch.testing.assert_close(both[0], rows(model, [0, -1])[0])
    torch.testing.assert_close(both[1], rows(model, [2, 4])[1])
    assert not torch.allclose(both[0], rows(model, [1, 4])[0], atol=1e-3)
    assert not torch.allclose(both[0], rows(model, [-1, 4])[0], atol=1e-3)
    assert torch.allclose(both, rows(model, [0, 4], 0.25), atol=1e-3) != step


def test_none_is_a_vector_of_its_own() -> None:
    model = denoiser()
    assert model.label_input is not None
    assert torch.equal(model.label_input(torch.tensor([-1]))[0, 0, 0], model.label_input.vectors.weight[5])


@pytest.mark.parametrize("noise", [None, "every_block"])
def test_it_starts_as_the_network_without(noise: str | None) -> None:
    model, plain = denoiser(init_std=0.0, noise=noise), denoiser(told=False, noise=noise)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "label" not in k})
    assert torch.equal(rows(model, [3, -1]), rows(plain, None))


def test_a_label_must_be_told() -> None:
    with pytest.raises(ValueError, match=r"call it with cond\.labels \(-1 for none\)"):
        denoiser()(X, T)
    assert denoiser().conditioned_on_labels
    assert not denoiser(told=False).conditioned_on_labels


def test_a_start_takes_over_labels_too() -> None:
    source, fresh = denoiser(), denoiser(init_std=0.0, noise="once")
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1.0)
    fresh.start_from(source)
    assert fresh.label_input is not None
    assert source.label_input is not None
    assert torch.equal(fresh.label_input.vectors.weight, source.label_input.vectors.weight)
    for mine, theirs in zip(fresh.backbone.parameters(), source.backbone.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_it_works_in_bf16_beside_a_step_input() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(rows(denoiser(step=True, noise="every_block"), [0, 1])).all()


def test_labels_are_dropped_by_chance_and_repeatably() -> None:
    cond = Condition(torch.arange(40_000) % 3)
    drawn = [cond.with_labels_dropped(0.1, torch.Generator().manual_seed(0)).labels for _ in range(2)]
    assert drawn[0] is not None
    assert drawn[1] is not None
    assert torch.equal(drawn[0], drawn[1])
    dropped = drawn[0] == -1
    assert abs(float(dropped.double().mean()) - 0.1) < 0.0075  # five standard deviations
    assert torch.equal(drawn[0][~dropped], cond.labels[~dropped])  # type: ignore[index]
    assert (cond.with_labels_dropped(1.0, None).labels == -1).all()
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert cond.with_labels_dropped(0.0, generator) is cond
    assert Condition().with_labels_dropped(0.5, generator) == Condition()
    assert torch.equal(generator.get_state(), before)
