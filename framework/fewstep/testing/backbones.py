"""Conformance of backbones.

Shapes: B batch, L tokens, S input states, V output vocabulary, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fewstep.backbones.autoencoder import Autoencoder
from fewstep.backbones.base import BACKBONES, Backbone, TokenSpace
from fewstep.backbones.blockwise import BlockBackbone
from fewstep.core.registry import Raw
from fewstep.predictions.condition import Prefix
from fewstep.testing.autoencoders import check_autoencoder

TINY = TokenSpace(num_states=6, vocab_size=5, length=12, grid=(2, 3, 2))
"""A small space that suits sequences and images; it has one state more than symbols, as with masks."""

BATCH = 3


def predicting() -> list[str]:
    """Names of all backbones that predict tokens."""
    return [entry.name for entry in BACKBONES.entries() if not issubclass(entry.cls, Autoencoder)]


def check_backbone(config: Raw, *, tokens: TokenSpace = TINY) -> None:
    """Check a backbone's shapes, gradients, inputs, sense of time and order, determinism and mixed precision.

    Weights are perturbed first, since parts that are zero at the start would hide missing connections.

    Autoencoders are checked by `check_autoencoder`.

    Raises:
        AssertionError: a check fails.
    """
    if issubclass(BACKBONES.get(BACKBONES.parse(config).type).cls, Autoencoder):
        check_autoencoder(config)
        return
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _build(config, tokens)
        _check_initial_state(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        x, t = torch.randint(tokens.num_states, (BATCH, tokens.length)), torch.tensor([0.1, 0.5, 0.9])
        for check in (_check_gradients, _check_autocast):
            check(model, x, t)
        model.eval()
        with torch.no_grad():
            for check in (_check_inputs, _check_time, _check_mixing, _check_independence):
                check(model, x, t)
            _check_state(model, _build(config, tokens).eval(), x, t)
            if isinstance(model, BlockBackbone):
                check_blocks(model, x, t)


def _build(config: Raw, tokens: TokenSpace) -> Backbone:
    """The backbone; if it needs a context, calls without one get the same context for all samples."""
    model = BACKBONES.build(config, tokens=tokens)

    def give_context(
        _: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, object]
    ) -> tuple[tuple[Tensor, ...], dict[str, object]]:
        places = torch.arange(args[0].shape[1]) % tokens.length
        context = (places * 3 % tokens.vocab_size).expand(args[0].shape[:2])
        return args, {"context": context, **kwargs}

    if model.uses_context:
        model.register_forward_pre_hook(give_context, with_kwargs=True)
    return model


def _loss(model: Backbone, hidden: Tensor) -> Tensor:
    logits: Tensor = model.head(hidden)
    return (logits.float() * torch.linspace(-1, 1, logits.numel()).view_as(logits).cos()).sum()


def _differ(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() > 1e-4)


def _check_initial_state(model: Backbone) -> None:
    tokens = model.tokens
    hidden = model(torch.zeros(BATCH, tokens.length, dtype=torch.long), torch.full((BATCH,), 0.5))
    assert hidden.shape == (BATCH, tokens.length, model.width), f"hidden states have shape {tuple(hidden.shape)}"
    assert hidden.isfinite().all(), "the output is not finite"
    rows = model.head(hidden[0])
    assert rows.shape == (tokens.length, tokens.vocab_size), f"head turns [L, D] into {tuple(rows.shape)}"
    torch.testing.assert_close(model.head(hidden)[0], rows, msg=lambda m: f"head does not act on each row alone: {m}")
    torch.autograd.backward(_loss(model, hidden))
    assert any(p.grad is not None and p.grad.any() for p in model.parameters()), "nothing learns at the first step"
    model.zero_grad()


def _check_gradients(model: Backbone, x: Tensor, t: Tensor) -> None:
    probs = nn.functional.one_hot(x, model.tokens.num_states).float().requires_grad_()
    residual = torch.zeros(model.residual_sites, *x.shape, model.width, requires_grad=True)
    for tokens in (x, probs):
        torch.autograd.backward(_loss(model, model(tokens, t, residual=residual)))
    for name, tensor in [("probabilities", probs), ("residual", residual), *model.named_parameters()]:
        assert tensor.grad is not None, f"{name} gets no gradient"
        assert tensor.grad.any(), f"{name} gets a gradient of zero"
        assert tensor.grad.isfinite().all(), f"the gradient of {name} is not finite"
    model.zero_grad()


def _check_autocast(model: Backbone, x: Tensor, t: Tensor) -> None:
    was_training = model.training
    model.eval()
    exact = model.head(model(x, t)).detach()
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(x, t)
        loss = _loss(model, hidden)
        logits = model.head(hidden).float()
    torch.autograd.backward(loss)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters()), "bf16 gradients are not finite"
    error = (logits - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt()
    assert error < 0.1, f"bf16 changes the logits by {float(error):.0%}"
    model.zero_grad()
    model.train(was_training)


def _check_inputs(model: Backbone, x: Tensor, t: Tensor) -> None:
    base = model(x, t)
    torch.testing.assert_close(model(x, t), base, rtol=0, atol=0, msg=lambda m: f"two evaluations differ: {m}")
    one_hot = nn.functional.one_hot(x, model.tokens.num_states)
    for dtype in (torch.float32, torch.float64):
        soft = model(one_hot.to(dtype), t)
        torch.testing.assert_close(soft, base, msg=lambda m: f"ids and one-hot probabilities differ: {m}")
    residual = torch.zeros(model.residual_sites, *x.shape, model.width)
    torch.testing.assert_close(model(x, t, residual=residual), base, msg=lambda m: f"a zero residual matters: {m}")
    for site in range(model.residual_sites):
        changed = residual.clone()
        changed[site] = torch.randn_like(changed[site])
        assert _differ(model(x, t, residual=changed), base), f"the residual of site {site} is ignored"
        if site == 0:
            first = model(x, t, residual=changed[:1])
            assert _differ(first, base), "a residual for the embedding alone is ignored"


def _check_time(model: Backbone, x: Tensor, t: Tensor) -> None:
    matters = _differ(model(x, t), model(x, 1 - t + 0.05))
    assert matters == model.time_conditioned, f"time_conditioned is {model.time_conditioned}, but t says otherwise"


def _check_mixing(model: Backbone, x: Tensor, t: Tensor) -> None:
    base = model(x, t)
    last = model.block_size - 1 if isinstance(model, BlockBackbone) else -1
    for changed, place in ((0, last), (last, 0)):
        other = x.clone()
        other[:, changed] = (x[:, changed] + 1) % model.tokens.num_states
        assert _differ(model(other, t)[:, place], base[:, place]), f"token {place} does not see token {changed}"
    assert _differ(model(x.flip(1), t).flip(1), base), "the order of tokens makes no difference"


def _check_independence(model: Backbone, x: Tensor, t: Tensor) -> None:
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1]) for i in range(BATCH)])
    torch.testing.assert_close(model(x, t), alone, rtol=1e-4, atol=1e-5, msg=lambda m: f"samples see each other: {m}")


def _check_state(model: Backbone, other: Backbone, x: Tensor, t: Tensor) -> None:
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(
        other(x, t), model(x, t), rtol=0, atol=0, msg=lambda m: f"the state does not hold all: {m}"
    )
    assert model.num_parameters() == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0


def check_blocks(model: BlockBackbone, x: Tensor, t: Tensor) -> None:
    """Check the visible tokens of a block-autoregressive backbone, and that reading block by block changes nothing.

    Raises:
        AssertionError: a token is visible that must not be, or the other way round.
    """
    size, context = model.block_size, x % model.tokens.vocab_size
    base = model(x, t, context=context)
    for place in range(x.shape[1]):
        other, clean = x.clone(), context.clone()
        other[:, place] = (x[:, place] + 1) % model.tokens.num_states
        clean[:, place] = (context[:, place] + 1) % model.tokens.vocab_size
        for reader in range(x.shape[1]):
            for kind, inputs, expected in (
                ("noised", (other, context), reader // size == place // size),
                ("clean", (x, clean), reader // size > place // size),
            ):
                matters = _differ(model(inputs[0], t, context=inputs[1])[:, reader], base[:, reader])
                assert matters == expected, (
                    f"token {reader} {'sees' if matters else 'does not see'} {kind} token {place}"
                )
    _check_reading(model, x, t, context, base)


def _check_reading(model: BlockBackbone, x: Tensor, t: Tensor, context: Tensor, base: Tensor) -> None:
    prefix, parts = Prefix(context[:, :0]), []
    for block, clean in zip(x.split(model.block_size, 1), context.split(model.block_size, 1), strict=True):
        parts.append(model.forward(block, t, prefix=prefix))
        prefix = model.read(prefix, clean) if prefix.length + model.block_size < x.shape[1] else prefix
    torch.testing.assert_close(
        torch.cat(parts, 1), base, rtol=1e-4, atol=1e-5, msg=lambda m: f"block by block differs from all at once: {m}"
    )
    try:
        model.forward(x, t)
    except ValueError:
        return
    raise AssertionError("called without a context it must raise ValueError")
