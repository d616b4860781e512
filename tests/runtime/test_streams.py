"""Streams of samples: numbers that depend on the sample alone, and are never drawn twice."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fewstep.runtime.streams import SampleStreams, integers, normal, repeated, selected, spread, uniform

SHAPE = (3, 5)


def drawn(numbers: range | list[int], *, purpose: str = "sample") -> Tensor:
    """Two draws of each sample: uniform and normal numbers, [B, 2, 15]."""
    source = SampleStreams(7, numbers, purpose=purpose)
    parts = [draw((len(numbers), *SHAPE), source, device="cpu").double().flatten(1) for draw in (uniform, normal)]
    return torch.stack(parts, 1)


def test_a_sample_draws_the_same_in_any_batch_and_order() -> None:
    whole = drawn(range(10))
    assert torch.equal(drawn(range(4, 9)), whole[4:9])
    assert torch.equal(drawn([7, 2, 9]), whole[[7, 2, 9]])
    assert torch.equal(drawn([3]), whole[3:4])
    assert len({tuple(row) for row in whole.flatten(0, 1).tolist()}) == 20


def test_normal_numbers_do_not_depend_on_the_size_of_a_batch() -> None:
    """A vectorised cosine that ends in single numbers would round them differently."""
    whole = SampleStreams(1, range(37)).normal((37, 41), torch.float32)
    for number in (0, 5, 36):
        assert torch.equal(SampleStreams(1, [number]).normal((1, 41), torch.float32)[0], whole[number])


def test_purposes_and_seeds_have_other_numbers() -> None:
    assert not (drawn(range(3)) == drawn(range(3), purpose="noise")).any()
    first, second = (SampleStreams(seed, range(3)).uniform((3, 9), torch.float64) for seed in (0, 1))
    assert not (first == second).any()


def test_large_numbers_of_samples_are_apart() -> None:
    numbers = [0, 1, 2**32, 2**32 + 1, 2**48 - 1]
    assert len(set(SampleStreams(0, numbers).uniform((5,), torch.float64).tolist())) == 5


@pytest.mark.parametrize("numbers", [[-1, 2], [2**48], range(-1, 4)])
def test_numbers_out_of_range_are_refused(numbers: range | list[int]) -> None:
    with pytest.raises(ValueError, match="from 0 to 2"):
        SampleStreams(0, numbers)


@pytest.mark.parametrize("index", [False, True])
def test_selected_samples_go_on_where_their_streams_are(index: bool) -> None:
    rows = torch.tensor([True, False, True, False])
    streams = SampleStreams(0, range(4))
    part = selected(streams, rows.nonzero()[:, 0] if index else rows)
    assert isinstance(part, SampleStreams)
    assert len(part) == 2
    first = part.uniform((2, 6), torch.float64)
    rest = streams.uniform((4, 6), torch.float64)
    plain = SampleStreams(0, range(4))
    once, twice = plain.uniform((4, 6), torch.float64), plain.uniform((4, 6), torch.float64)
    assert torch.equal(first, once[rows])
    assert torch.equal(rest, torch.where(rows[:, None], twice, once))


def test_copies_draw_numbers_of_their_own_that_depend_on_the_sample_alone() -> None:
    whole = SampleStreams(0, range(3)).repeat(4).uniform((12, 6), torch.float64).view(4, 3, 6)
    assert whole.flatten().unique().numel() == whole.numel()
    part = SampleStreams(0, [2]).repeat(4).uniform((4, 6), torch.float64)
    assert torch.equal(part, whole[:, 2])


def test_no_number_is_drawn_twice() -> None:
    """Over draws of all, of a part, of copies, of copies of copies and of a part of those."""
    streams, rows = SampleStreams(0, range(4)), torch.tensor([True, False, True, True])
    copies, part = streams.repeat(3), streams.select(rows)
    twice = copies.repeat(2)
    few = twice.select(torch.arange(24) % 5 == 0)
    sources = [streams, part, copies, streams, twice, few, part.repeat(2), copies, few, streams.repeat(3), part]
    numbers = torch.cat([source.uniform((len(source), 7), torch.float64).flatten() for source in sources])
    assert numbers.unique().numel() == numbers.numel()


def test_too_many_copies_are_refused() -> None:
    with pytest.raises(ValueError, match="65536 copies"):
        SampleStreams(0, range(1)).repeat(256).repeat(256)


def test_rows_of_other_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rows of random numbers of 3 samples; `select`"):
        uniform((2, 2), SampleStreams(0, range(3)), device="cpu")


def test_more_rows_than_samples_are_those_of_copies() -> None:
    """An objective may add samples of its own to a batch."""
    rows = uniform((8, 4), SampleStreams(0, range(3)), device="cpu")
    assert torch.equal(rows, SampleStreams(0, range(3)).repeat(3).uniform((9, 4), torch.float64)[:8])
    times = spread(8, SampleStreams(0, range(3), batch=range(6)), device="cpu")
    assert (times * 8).floor().long().flatten().sort().values.tolist() == list(range(8))


def test_generators_serve_any_rows() -> None:
    generator = torch.Generator()
    assert repeated(generator, 3) is selected(generator, torch.ones(2, dtype=torch.bool)) is generator
    assert repeated(None, 2) is None
    assert uniform((6, 2), generator, device="cpu").shape == (6, 2)


@pytest.mark.parametrize("high", [2, 7, 50_257])
def test_integers_are_uniform(high: int) -> None:
    ids = integers(high, (100, 10_000), SampleStreams(0, range(100)), device="cpu").flatten()
    assert int(ids.min()) >= 0
    assert int(ids.max()) < high
    counts, expected = torch.bincount(ids, minlength=high).double(), ids.numel() / high
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert abs(statistic - (high - 1)) < 4 * math.sqrt(2 * (high - 1))


def test_empty_shapes_have_no_numbers() -> None:
    assert uniform((0, 4), SampleStreams(0, []), device="cpu").shape == (0, 4)
    assert normal((3, 0), SampleStreams(0, range(3)), device="cpu").shape == (3, 0)


@pytest.mark.parametrize("per", [1, 3])
@pytest.mark.parametrize("batch", [range(8), range(40, 48), range(2**33, 2**33 + 8)])
def test_numbers_are_spread_over_the_whole_batch(batch: range, per: int) -> None:
    """One in each of 8 `per` equal parts of [0, 1), and alike however the batch is divided."""
    whole = spread(8, SampleStreams(0, batch), device="cpu", per=per)
    assert (whole * 8 * per).floor().long().flatten().sort().values.tolist() == list(range(8 * per))
    parts = []
    for part in (batch[:3], batch[3:4], batch[4:]):
        parts.append(spread(len(part), SampleStreams(0, part, batch=batch), device="cpu", per=per))
    assert torch.equal(torch.cat(parts), whole)


def test_each_spread_has_a_shift_of_its_own() -> None:
    """Uniform over draws and batches, and none of the samples' own numbers."""
    streams = SampleStreams(0, range(6))
    shifts = [float(spread(6, streams, device="cpu", dtype=torch.float64)[0, 0]) for _ in range(50)]
    of_batches = []
    for start in range(0, 3000, 6):
        streams = SampleStreams(0, range(start, start + 6))
        of_batches.append(float(spread(6, streams, device="cpu", dtype=torch.float64)[0, 0]))
    assert len(set(shifts + of_batches)) == 549  # the first batch's first shift is in both
    values = torch.tensor(of_batches)
    assert abs(float(values.mean()) - 0.5) < 4 / math.sqrt(12 * len(values))
    own = SampleStreams(0, range(6)).uniform((6, 40), torch.float64)
    assert not any(shift in own.flatten().tolist() for shift in shifts)


def test_numbers_are_spread_over_samples_of_a_batch_only() -> None:
    for source in (SampleStreams(0, [3, 1]), SampleStreams(0, range(2)).repeat(2)):
        with pytest.raises(ValueError, match="consecutive"):
            spread(len(source), source, device="cpu")


def test_a_draw_asks_the_device_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No value of a tensor is read: a GPU would have to be waited for."""
    streams, rows = SampleStreams(0, range(6)), torch.tensor([0, 2, 3])
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy", "cpu"):
        monkeypatch.setattr(Tensor, name, lambda *args, name=name: pytest.fail(f"{name} reads a tensor"))
    part = streams.select(rows)
    part.uniform((3, 4), torch.float64)
    part.repeat(2).normal((6, 4), torch.float32)
    streams.spread(6, 2, torch.float32)
    integers(5, (6, 4), streams, device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a GPU with the CPU")
def test_bits_are_those_of_the_cpu() -> None:
    sources = [SampleStreams(3, range(100), device=device) for device in ("cpu", "cuda")]
    for dtype in (torch.float32, torch.float64):
        ours, theirs = (source.uniform((100, 1001), dtype).cpu() for source in sources)
        assert torch.equal(ours, theirs)
        ours, theirs = (source.normal((100, 1001), dtype).cpu() for source in sources)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
