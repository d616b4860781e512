"""Conformance of autoencoders.

Shapes: B batch, L tokens, C, H, W channels, height and width of an image, h, w those of its codes, E width of a code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.backbones.autoencoder import Autoencoder, straight_through
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.core.registry import Raw

BATCH = 3


def check_autoencoder(config: Raw) -> None:
    """Check an autoencoder's shapes, gradients and choice of codes, and that images do not affect each other.

    Raises:
        AssertionError: a check fails.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _build(config, 1)
        tokens = model.tokens
        x = torch.randint(tokens.vocab_size, (BATCH, tokens.length))
        _check_shapes(model, x)
        _check_gradients(model, x)
        model.eval()
        with torch.no_grad():
            _check_codes(model, x)
            _check_independence(model, x)
            _check_sizes(model, _build(config, 2).eval(), x)


def _build(config: Raw, times: int) -> Autoencoder:
    """An autoencoder for images of two channels and 2 t x 3 t codes, where t is `times`."""
    factor = 2 ** BACKBONES.parse(config).halvings  # type: ignore[attr-defined]
    grid = 2 * factor * times, 3 * factor * times, 2
    model = BACKBONES.build(config, tokens=TokenSpace(6, 5, grid[0] * grid[1] * 2, grid))
    assert isinstance(model, Autoencoder), "a backbone that gives images back must be an Autoencoder"
    return model


def _check_shapes(model: Autoencoder, x: Tensor) -> None:
    values = model.values(x)
    assert float(values.min()) >= 0, "values lie in [0, 1]"
    assert float(values.max()) <= 1, "values lie in [0, 1]"
    vectors = model.encode(values)
    shape = (BATCH, *model.grid, model.config.code_width)
    assert vectors.shape == shape, f"vectors are {tuple(vectors.shape)}, not {shape}"
    output = model.decode(vectors)
    assert output.shape == values.shape, f"images become {tuple(output.shape)}"
    assert output.isfinite().all(), "images are not finite"
    assert model(x, torch.zeros(BATCH)).shape == (*x.shape, 1), "forward gives a value for each token"


def _check_gradients(model: Autoencoder, x: Tensor) -> None:
    vectors = model.encode(model.values(x))
    output = model.decode(straight_through(vectors, model.codebook.detach()[model.nearest(vectors)]))
    torch.autograd.backward(output.square().mean())
    for name, parameter in model.named_parameters():
        if parameter is model.codebook:
            assert parameter.grad is None, "a gradient reaches the codebook, which moves by averages"
        else:
            assert parameter.grad is not None, f"{name} gets no gradient"
            assert parameter.grad.any(), f"{name} gets a gradient of zero"
    model.zero_grad()


def _check_codes(model: Autoencoder, x: Tensor) -> None:
    vectors = model.encode(model.values(x))
    distances = (vectors.double()[..., None, :] - model.codebook.double()).square().sum(-1)
    codes = model.nearest(vectors)
    best = distances.min(-1).values
    torch.testing.assert_close(distances.gather(-1, codes[..., None])[..., 0], best, msg="another code is nearer")
    assert torch.equal(model.nearest(model.codebook), torch.arange(len(model.codebook))), "a code is its own code"


def _check_independence(model: Autoencoder, x: Tensor) -> None:
    values = model.values(x)
    together = model.decode(model.encode(values))
    alone = torch.cat([model.decode(model.encode(image)) for image in values.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5, msg=lambda m: f"images see each other: {m}")
    again = model.decode(model.encode(values))
    assert torch.equal(together, again), "two evaluations differ"


def _check_sizes(model: Autoencoder, larger: Autoencoder, x: Tensor) -> None:
    larger.load_state_dict(model.state_dict())
    values = torch.rand(BATCH, 2, *(side * larger.factor for side in larger.grid))
    assert larger.encode(values).shape[1:3] == larger.grid, "the weights must fit images of other sizes"
