"""Every registered backbone, those of installed plugins and those that come later included."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from fewstep.backbones import block_transformer, blockwise, layers
from fewstep.backbones.base import BACKBONES, Backbone, TokenSpace
from fewstep.backbones.layers import rotary_table, rotate
from fewstep.backbones.trunk import TransformerTrunk
from fewstep.core.errors import UserError
from fewstep.testing.backbones import TINY, check_backbone, check_blocks

Forward = Callable[..., Tensor]

SMALL = {"width": 32, "depth": 2, "heads": 2}
TRANSFORMERS = ["image_transformer", "transformer"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"time_conditioned": True},
    {"qk_norm": True},
    {"qk_norm": True, "time_conditioned": True},
    {"attention": "math"},
    {"positions": "rotary"},
]


def label(options: dict[str, Any]) -> str:
    return "-".join(f"{key}={value}" for key, value in options.items()) or "defaults"


def build(name: str, tokens: TokenSpace = TINY, **options: Any) -> Backbone:
    torch.manual_seed(0)
    model = BACKBONES.build({"type": name, **SMALL, **options}, tokens=tokens)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(tokens: TokenSpace = TINY) -> tuple[Tensor, Tensor]:
    return torch.randint(tokens.num_states, (3, tokens.length)), torch.tensor([0.1, 0.5, 0.9])


@pytest.mark.parametrize("name", BACKBONES.names())
def test_conforms_with_its_defaults(name: str) -> None:
    check_backbone(name)


@pytest.mark.parametrize("options", [*OPTIONS, {"block_size": 1}, {"block_size": 12}], ids=label)
def test_block_transformer_conforms_with_every_option(options: dict[str, Any]) -> None:
    check_backbone({"type": "block_transformer", **SMALL, **options})


LEAKS: dict[str, tuple[Any, str]] = {
    "own block": (lambda block, given: block >= given, "token 0 sees clean token 0"),
    "later block": (lambda block, given: block != given, "token 0 sees clean token 0"),
    "nothing": (lambda block, given: block < -1, "token 4 does not see clean token 0"),
}


@pytest.mark.parametrize("what", LEAKS)
def test_the_check_finds_a_block_that_sees_too_much_or_too_little(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sees, message = LEAKS[what]

    def broken(blocks: Tensor, clean: Tensor) -> Tensor:
        mask = blockwise.block_mask(blocks, clean)
        mask[: len(blocks), len(blocks) :] = sees(blocks[:, None], clean[None, :])
        return mask

    monkeypatch.setattr(block_transformer, "block_mask", broken)
    with pytest.raises(AssertionError, match=message), torch.no_grad():
        check_blocks(build("block_transformer").eval(), *batch())  # type: ignore[arg-type]


@pytest.mark.parametrize("options", OPTIONS, ids=label)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_conform_with_every_option(name: str, options: dict[str, Any]) -> None:
    check_backbone({"type": name, **SMALL, **options})


def test_single_channel_image_conforms() -> None:
    check_backbone(
        {"type": "image_transformer", **SMALL}, tokens=TokenSpace(num_states=4, vocab_size=4, length=12, grid=(4, 3, 1))
    )


def _broken(change: Callable[[Backbone, Forward, Tensor, Tensor, Tensor | None], Tensor]) -> Any:
    """A forward pass in which `change` calls the true one wrongly."""
    true = TransformerTrunk.forward

    def forward(self: Any, x_t: Tensor, t: Tensor, *, residual: Any = None) -> Tensor:
        return change(self, lambda *a, **k: true(self, *a, **k), x_t, t, residual)

    return forward


BREAKS: dict[str, tuple[Any, str]] = {
    "residual": (lambda self, true, x, t, r: true(x, t), "residual gets no gradient"),
    "frozen": (lambda self, true, x, t, r: true(x, t, residual=r).detach(), "probabilities gets no gradient"),
    "random": (lambda self, true, x, t, r: true(x, t, residual=r) + 1e-3 * torch.rand(1), "two evaluations differ"),
    "time": (lambda self, true, x, t, r: true(x, t, residual=r) + t.mean(), "time_conditioned is False"),
    "batch": (lambda self, true, x, t, r: (h := true(x, t, residual=r)) + 0.1 * h.mean(0), "samples see each other"),
    "infinite": (lambda self, true, x, t, r: true(x, t, residual=r) / 0, "the output is not finite"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_the_check_finds_what_is_broken(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, message = BREAKS[what]
    monkeypatch.setattr(TransformerTrunk, "forward", _broken(change))
    with pytest.raises((AssertionError, RuntimeError, ValueError), match=message):
        check_backbone({"type": "transformer", **SMALL})


def test_the_check_finds_a_one_way_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    def causal(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    monkeypatch.setattr(layers, "attention", causal)
    with pytest.raises(AssertionError, match="token 0 does not see token -1"):
        check_backbone({"type": "transformer", **SMALL})


def test_attention_gets_one_dtype_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """xformers refuses mixed ones; norms and rotations compute in float32 and have to come back."""
    seen, true = [], layers.attention

    def spy(q: Tensor, k: Tensor, v: Tensor, **rest: Any) -> Tensor:
        seen.append({q.dtype, k.dtype, v.dtype})
        return true(q, k, v, **rest)

    monkeypatch.setattr(layers, "attention", spy)
    model, (x, t) = build("transformer", qk_norm=True, time_conditioned=True), batch()
    with torch.autocast("cpu", torch.bfloat16):
        model(x, t)
    assert seen == [{torch.bfloat16}] * 2


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_absolute_positions_tell_equal_tokens_apart(name: str) -> None:
    """At t = 1 a masked state is the same symbol everywhere; rotary positions then predict the same everywhere."""
    x, t = torch.full((1, TINY.length), 5), torch.ones(1)
    with torch.no_grad():
        rotary = build(name, positions="rotary", **_one_channel(name)).eval()(x, t)[0]
        both = build(name, positions="rotary_absolute", **_one_channel(name)).eval()(x, t)[0]
    torch.testing.assert_close(rotary, rotary[:1].expand_as(rotary))
    assert (both[1:] - both[:-1]).abs().amax(-1).min() > 1e-3


def _one_channel(name: str) -> dict[str, Any]:
    return {"tokens": TokenSpace(6, 5, TINY.length, (4, 3, 1))} if name == "image_transformer" else {}


def test_image_tokens_of_one_pixel_differ_by_channel() -> None:
    model = build("image_transformer", positions="rotary").eval()
    with torch.no_grad():
        hidden = model(torch.full((1, TINY.length), 5), torch.ones(1))[0].view(-1, 2, 32)
    assert (hidden[:, 0] - hidden[:, 1]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("axes", [1, 2])
def test_rotations_know_distances_only(axes: int) -> None:
    """The product of a query at m and a key at n is that of a query at m + d and a key at n + d."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 8)
    places = torch.tensor([[0.0, 0.0], [2.0, 1.0], [3.0, 5.0], [5.0, 6.0]])[:, :axes]
    table = rotary_table(places, 8, base=100.0)
    turned_q, turned_k = (rotate(x.expand(1, 4, 8), table)[0] for x in (q, k))
    products = turned_q @ turned_k.T
    torch.testing.assert_close(products[0, 1], products[2, 3])
    torch.testing.assert_close(products[0, 0], q @ k)
    assert (products[0, 0] - products[0, 1]).abs() > 1e-2
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(4))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_starts_without_time_or_absolute_positions_but_learns_them(name: str) -> None:
    torch.manual_seed(0)
    model = BACKBONES.build({"type": name, **SMALL, "time_conditioned": True}, tokens=TINY)
    x, t = batch()
    torch.testing.assert_close(model(x, t), model(x, 1 - t), rtol=0, atol=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model.head(model(x, t)).flatten(0, 1), x.flatten() % 5).backward()
        optimizer.step()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert not torch.equal(model(x, t), model(x, 1 - t))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_dropout_acts_in_training_only(name: str) -> None:
    model, (x, t) = build(name, dropout=0.5), batch()
    assert not torch.equal(model(x, t), model(x, t))
    model.eval()
    assert torch.equal(model(x, t), model(x, t))


@pytest.mark.parametrize("options", [{}, {"qk_norm": True, "time_conditioned": True}], ids=label)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_attention_implementations_agree(name: str, options: dict[str, Any]) -> None:
    results = {}
    for attention in ("sdpa", "math"):
        model, (x, t) = build(name, attention=attention, **options), batch()
        hidden = model(x, t)
        hidden.square().sum().backward()
        results[attention] = [hidden, *(p.grad for p in model.parameters())]
    torch.testing.assert_close(results["sdpa"], results["math"], rtol=1e-4, atol=1e-4)


def test_half_of_a_head_turns_with_rows_and_half_with_columns() -> None:
    model = build("image_transformer")
    turns = model.rotations.view(2, 3, 2, 8, 2)
    rows, columns = turns[..., :4, :], turns[..., 4:, :]
    assert torch.equal(rows, rows[:, :1, :1].expand_as(rows))
    assert torch.equal(columns, columns[:1, :, :1].expand_as(columns))
    assert not torch.equal(rows[0], rows[1])
    assert not torch.equal(columns[:, 0], columns[:, 1])


def test_tables_follow_the_model_but_stay_out_of_its_state() -> None:
    model = build("image_transformer")
    assert not {"rotations", "positions"} & set(model.state_dict())
    assert model.to("meta").rotations.is_meta


@pytest.mark.parametrize(
    ("config", "key", "message"),
    [
        ({"type": "transformer", "width": 100, "heads": 8}, "heads", "heads (8) must divide width (100)"),
        ({"type": "transformer", "width": 30, "heads": 2}, "heads", "width / heads is 15; it must be a multiple of 2"),
        ({"type": "transformer", "width": 102}, "heads", "heads (4) must divide width (102)"),
        (
            {"type": "image_transformer", "width": 60, "heads": 6},
            "heads",
            "width / heads is 10; it must be a multiple of 4",
        ),
        ({"type": "transformer", "atention": "sdpa"}, "atention", "did you mean 'attention'?"),
        ({"type": "transformer", "dropout": 1.0}, "dropout", "less than 1"),
    ],
)
def test_refuses_settings_that_do_not_fit(config: dict[str, Any], key: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        BACKBONES.parse(config)
    (error,) = caught.value.errors()
    assert error["loc"] == (key,)
    assert message in error["msg"]


def test_a_transformer_with_odd_multiples_is_good_for_sequences_only() -> None:
    assert BACKBONES.build({"type": "transformer", "width": 60, "heads": 6}, tokens=TINY).width == 60


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (TokenSpace(6, 5, 12), "needs image data"),
        (TokenSpace(6, 5, 12, (2, 2, 2)), "2 x 2 x 2 does not hold 12 tokens"),
    ],
)
def test_image_transformer_needs_a_grid(tokens: TokenSpace, message: str) -> None:
    with pytest.raises(UserError, match=message):
        BACKBONES.build({"type": "image_transformer", **SMALL}, tokens=tokens)


def test_a_sequence_that_is_too_long_is_refused() -> None:
    model = build("transformer")
    with pytest.raises(ValueError, match="13 tokens is longer than the 12"):
        model(torch.zeros(1, 13, dtype=torch.long), torch.ones(1))


def _recipe(device: str, dataset: str = "") -> Any:
    return SimpleNamespace(train=SimpleNamespace(device=device), data=SimpleNamespace(type=dataset))


@pytest.mark.parametrize(("attention", "device", "keys"), [("xformers", "cpu", ["attention"]), ("auto", "cpu", [])])
def test_recipe_check_knows_that_xformers_needs_a_gpu(attention: str, device: str, keys: list[str]) -> None:
    config = BACKBONES.parse({"type": "transformer", "attention": attention})
    assert [key for key, _ in config.check_recipe(_recipe(device))] == keys


@pytest.mark.parametrize(("kind", "complaints"), [("text", 1), ("image", 0)])
def test_recipe_check_knows_that_images_are_needed(kind: str, complaints: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.data.base import DATASETS

    monkeypatch.setattr(DATASETS, "get", lambda name: SimpleNamespace(cls=SimpleNamespace(kind=kind)))
    problems = list(BACKBONES.parse("image_transformer").check_recipe(_recipe("auto", "x")))
    assert len(problems) == complaints
    assert all("needs image data, and x holds text" in message for _, message in problems)
