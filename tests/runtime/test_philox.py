"""The counter-based generator: published vectors, and the distributions of what is made of its words."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fewstep.runtime import philox
from fewstep.runtime.seeding import derived_seed

VECTORS = {
    "zeros": ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    "ones": ((2**32 - 1,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0_A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}
"""philox4x32, 10 rounds, of Random123's `kat_vectors`: counter, key and result."""


@pytest.mark.parametrize("name", VECTORS)
def test_published_vectors(name: str) -> None:
    counter, key, expected = VECTORS[name]
    words = philox.philox([torch.tensor([word]) for word in counter], torch.tensor([signed(key)]))
    assert tuple(int(word) for word in words) == expected


def signed(word: int) -> int:
    """64 bits as an int64."""
    return word - (1 << 64) if word >= 1 << 63 else word


@pytest.mark.parametrize("draw", [philox.plain_uniform, philox.uniform])
def test_numbers_are_the_published_words(draw: Callable[[Tensor, int, torch.dtype], Tensor]) -> None:
    """The operator of torch and the plain operations, for key and counter 0."""
    words, keys = VECTORS["zeros"][2], torch.zeros(1, 2, dtype=torch.long)
    assert draw(keys, 4, torch.float32)[0].tolist() == [word % 2**24 / 2**24 for word in words]
    pairs = [(words[0] << 32) + words[1], (words[2] << 32) + words[3]]
    assert draw(keys, 2, torch.float64)[0].tolist() == [pair % 2**53 / 2**53 for pair in pairs]


def by_hand(counter: tuple[int, ...], key: int) -> tuple[int, ...]:
    """The rounds in Python's integers, as the paper writes them."""
    c, k = list(counter), [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [second >> 32 ^ c[1] ^ k[0], second & 0xFFFFFFFF, first >> 32 ^ c[3] ^ k[1], first & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return tuple(c)


def test_many_counters_are_those_of_integers_without_limits() -> None:
    counters = torch.randint(2**32, (4, 200), generator=torch.Generator().manual_seed(0))
    key = derived_seed(5, "sample") * 2 + 1
    words = torch.stack(philox.philox(list(counters), torch.tensor([signed(key)])))
    assert [tuple(column) for column in words.T.tolist()] == [by_hand(tuple(c), key) for c in counters.T.tolist()]


def some_keys(count: int) -> Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (count, 2), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 5, 64, 1001])
def test_the_operator_of_torch_gives_the_numbers_of_plain_operations(size: int, dtype: torch.dtype) -> None:
    keys = some_keys(50)
    numbers = philox.uniform(keys, size, dtype)
    assert numbers.shape == (50, size)
    assert numbers.dtype == dtype
    assert torch.equal(philox.plain_uniform(keys, size, dtype), numbers)
    assert torch.equal(philox.uniform(keys, 1002, dtype)[:, :size], numbers), "a number depends on its place alone"


@pytest.mark.parametrize("fault", ["other numbers", "missing"])
def test_an_operator_that_differs_is_not_used(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(keys: Tensor, size: int, dtype: torch.dtype) -> Tensor:
        if fault == "missing":
            raise AttributeError("'_OpNamespace' 'aten' object has no attribute '_philox_uniform_'")
        return torch.zeros(len(keys), size, dtype=dtype)

    monkeypatch.setattr(philox, "_native", other)
    philox.is_native.cache_clear()
    try:
        assert torch.equal(
            philox.uniform(some_keys(3), 9, torch.float64), philox.plain_uniform(some_keys(3), 9, torch.float64)
        )
    finally:
        philox.is_native.cache_clear()


def streams(samples: int, draw: int = 0, key: int = 0) -> Tensor:
    """Keys of a draw of the first samples, as `SampleStreams` makes them."""
    return torch.stack((torch.arange(samples) ^ key, torch.full((samples,), draw << 32)), 1)


def uniform(
    samples: int, size: int, dtype: torch.dtype = torch.float64, *, purpose: str = "a", draw: int = 0
) -> Tensor:
    return philox.uniform(streams(samples, draw, derived_seed(1, purpose)), size, dtype)


def chi_square(counts: Tensor, expected: float) -> float:
    """The statistic's distance from its mean in standard deviations; about normal for many cells."""
    freedom = counts.numel() - 1
    return (float(((counts - expected) ** 2 / expected).sum()) - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_are_uniform(dtype: torch.dtype) -> None:
    u = uniform(100, 10_000, dtype).double().flatten()
    assert (u >= 0).all()
    assert (u < 1).all()
    assert abs(chi_square(torch.bincount((u * 1000).long(), minlength=1000).double(), 1000)) < 4
    assert abs(float(u.mean()) - 0.5) < 4 / math.sqrt(12 * u.numel())


def test_all_53_bits_are_fair() -> None:
    bits = (uniform(10, 10_000).flatten() * 2**53).long()
    for place in range(53):
        assert abs(float((bits >> place & 1).double().mean()) - 0.5) < 4.5 * 0.5 / math.sqrt(bits.numel()), place


def test_all_24_bits_are_fair() -> None:
    bits = (uniform(10, 10_000, torch.float32).flatten() * 2**24).long()
    for place in range(24):
        assert abs(float((bits >> place & 1).double().mean()) - 0.5) < 4.5 * 0.5 / math.sqrt(bits.numel()), place


def test_other_dtypes_are_refused_since_they_would_round_to_one() -> None:
    with pytest.raises(ValueError, match=r"float32 or float64, not torch\.bfloat16"):
        uniform(1, 1, torch.bfloat16)


PAIRS = {
    "positions": lambda: (uniform(1000, 200)[:, :-1], uniform(1000, 200)[:, 1:]),
    "halves of a block": lambda: (uniform(1000, 200)[:, :100], uniform(1000, 200)[:, 100:]),
    "samples": lambda: (uniform(1001, 200)[:-1], uniform(1001, 200)[1:]),
    "draws": lambda: (uniform(1000, 200), uniform(1000, 200, draw=1)),
    "purposes": lambda: (uniform(1000, 200), uniform(1000, 200, purpose="b")),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_neighbours_are_independent(kind: str) -> None:
    """No correlation, and all cells of a pair are equally frequent."""
    first, second = (part.flatten() for part in PAIRS[kind]())
    count = first.numel()
    assert abs(float(torch.corrcoef(torch.stack((first, second)))[0, 1])) < 4 / math.sqrt(count)
    cells = torch.bincount((first * 16).long() * 16 + (second * 16).long(), minlength=256).double()
    assert abs(chi_square(cells, count / 256)) < 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_moments_and_tails(dtype: torch.dtype) -> None:
    x = philox.normal(streams(100, key=7), 10_000, dtype).double().flatten()
    count = x.numel()
    for power, value, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((x**power).mean()) - value) < 4 * math.sqrt(variance / count), power
    for edge in (1.0, 2.0, 3.0, 4.0):
        share = math.erfc(edge / math.sqrt(2))
        assert abs(float((x.abs() > edge).double().mean()) - share) < 4.5 * math.sqrt(share / count), edge
    expected = torch.special.ndtr(torch.linspace(-3, 3, 61, dtype=torch.float64)).diff() * count
    inside = torch.histc(x, 60, -3, 3)
    assert float(((inside - expected) ** 2 / expected).sum()) < 60 + 4 * math.sqrt(120)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers_of_a_block_are_independent(dtype: torch.dtype) -> None:
    """Also their squares: both of a pair share a radius."""
    x = philox.normal(streams(200, key=8), 4000, dtype).double().unflatten(1, (2, -1))
    for values in (x, x**2):
        table = torch.corrcoef(values.transpose(0, 1).flatten(1))
        assert abs(float(table[0, 1])) < 4 / math.sqrt(values[:, 0].numel())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("u", "size"), [(0.0, 0.0), (1 - 2.0**-53, 8.5716)])
def test_normal_numbers_end_where_their_bits_do(
    u: float, size: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(philox, "uniform", lambda keys, size, dtype: torch.full((len(keys), size), u, dtype=dtype))
    x = philox.normal(streams(1), 8, dtype)
    assert float(x.abs().max()) == pytest.approx(size, abs=1e-4)


def test_small_types_are_rounded_from_float32() -> None:
    plain, small = (philox.normal(streams(3), 9, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert torch.equal(plain.bfloat16(), small)
