"""What backbones share: tied weights, activation checkpointing, dropout."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fewstep.backbones.base import BACKBONES, Backbone, TokenSpace
from fewstep.backbones.heads import TiedHead
from fewstep.testing.backbones import TINY, check_backbone, predicting

SMALL: dict[str, Any] = {"width": 32, "depth": 3, "heads": 2}
X, T = torch.arange(36).view(3, 12) % 6, torch.tensor([0.1, 0.5, 0.9])


def having(option: str) -> list[str]:
    """Backbones with this setting."""
    return [entry.name for entry in BACKBONES.entries() if option in entry.cls.Config.model_fields]


def build(name: str, tokens: TokenSpace = TINY, **options: Any) -> Backbone:
    torch.manual_seed(0)
    model = BACKBONES.build({"type": name, **small(name), **options}, tokens=tokens)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def small(name: str) -> dict[str, Any]:
    fields = BACKBONES.get(name).cls.Config.model_fields
    return {key: value for key, value in SMALL.items() if key in fields}


def run(model: Backbone) -> Tensor:
    given = {"context": X % 5} if model.uses_context else {}
    return model(X, T, **given)


def gradients(model: Backbone, saved: list[int]) -> list[Tensor]:
    """Of a loss, dropout seeded; `saved` takes the bytes kept for the backward pass."""

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.nbytes)
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.head(run(model)).square().mean()
    loss.backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_every_backbone_has_these_options() -> None:
    assert having("activation_checkpointing") == having("dropout") == predicting()


@pytest.mark.parametrize("name", having("activation_checkpointing"))
def test_checkpointing_changes_no_gradient_and_keeps_less(name: str) -> None:
    plain, again = (build(name, dropout=0.3, activation_checkpointing=on) for on in (False, True))
    kept: tuple[list[int], list[int]] = ([], [])
    expected, found = gradients(plain, kept[0]), gradients(again, kept[1])
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert len(found) == len(list(again.parameters()))
    assert sum(kept[1]) < sum(kept[0]) / 2
    without = build(name, activation_checkpointing=True)
    assert any(not torch.equal(a, b) for a, b in zip(gradients(without, []), expected, strict=True)), "no dropout"


@pytest.mark.parametrize("name", having("dropout"))
def test_dropout_acts_in_training_only(name: str) -> None:
    model = build(name, dropout=0.5)
    assert not torch.equal(run(model), run(model))
    model.eval()
    assert torch.equal(run(model), run(model))


@pytest.mark.parametrize("name", having("tie_weights"))
def test_tied_weights_conform(name: str) -> None:
    check_backbone({"type": name, **small(name), "tie_weights": True})


@pytest.mark.parametrize("name", having("tie_weights"))
def test_a_tied_head_is_the_embedding_and_has_no_weight_of_its_own(name: str) -> None:
    tied, free = build(name, tie_weights=True), build(name)
    assert set(free.state_dict()) - set(tied.state_dict()) == {"head.weight"}
    assert free.num_parameters() - tied.num_parameters() == free.head.weight.numel()
    assert isinstance(tied.head, TiedHead)
    tables = [p for p in tied.parameters() if p.shape == (6, tied.head.weight.shape[1])]
    assert any(torch.equal(tied.head.weight, table[:5]) for table in tables)


def test_copies_and_functional_calls_of_a_tied_head_follow_their_own_embedding() -> None:
    model = build("transformer", tie_weights=True)
    rows = torch.randn(4, 32)
    before = model.head(rows)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.embedding.weight.zero_()
    torch.testing.assert_close(other.head(rows), other.head.bias.expand(4, -1))
    torch.testing.assert_close(model.head(rows), before)

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return model.head(rows)

    called = functional_call(Whole(), {"model.embedding.weight": torch.zeros(6, 32)}, ())
    torch.testing.assert_close(called, model.head.bias.expand(4, -1))


def test_only_heads_that_score_symbols_are_tied() -> None:
    """A discriminator with its teacher's backbone scores one number."""
    model = build("transformer", tokens=TokenSpace(6, 1, 12), tie_weights=True)
    assert isinstance(model.head, nn.Linear)
