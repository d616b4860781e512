"""Loaders: the order is the plain one for any number of ranks and threads, from any position; waiting is counted."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fewstep.training.loader import Loader
from fewstep.training.order import EpochOrder


def plain(count: int, seed: int, batch: int, batches: int) -> list[list[int]]:
    """A second, plain version: permutation after permutation, cut into batches."""
    stream: list[int] = []
    epoch = 0
    while len(stream) < batch * batches:
        stream += EpochOrder(count, seed).at(epoch * count, count).tolist()
        epoch += 1
    return [stream[i * batch : (i + 1) * batch] for i in range(batches)]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 17),
    seed=st.integers(0, 5),
    world=st.integers(1, 3),
    readers=st.integers(0, 3),
    stop=st.integers(0, 6),
)
def test_ranks_together_are_the_plain_order_after_any_resume(
    count: int, batch: int, seed: int, world: int, readers: int, stop: int
) -> None:
    wanted = plain(count, seed, batch, 7)
    shares = []
    for rank in range(world):
        taken: list[list[int]] = []
        position = 0
        for batches in (stop, 7 - stop):  # stopped after `stop` batches, and resumed by a new loader
            loader = Loader(
                EpochOrder(count, seed), lambda rows: rows * 10, batch, readers=readers, rank=rank, world=world
            )
            loader.position = position
            for _ in range(batches):
                numbers, tokens = loader.next()
                assert torch.equal(tokens, numbers * 10)
                taken.append(numbers.tolist())
            position = loader.position
            loader.close()
        shares.append(taken)
    for index, whole in enumerate(wanted):
        assert [row for share in shares for row in share[index]] == whole
        sizes = [len(share[index]) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_every_epoch_has_every_sample_once() -> None:
    order = EpochOrder(23, 1)
    epochs = [order.at(epoch * 23, 23).tolist() for epoch in range(3)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def slow(seconds: float) -> tuple[list[str], object]:
    """A source that takes its time, and the names of the threads that asked it."""
    asked: list[str] = []

    def fetch(rows: Tensor) -> Tensor:
        asked.append(threading.current_thread().name)
        time.sleep(seconds)
        return rows

    return asked, fetch


def test_reading_ahead_hides_a_slow_source() -> None:
    """Work of 50 ms a batch on a source of 40 ms: only the first batch is waited for."""
    asked, fetch = slow(0.04)
    loader = Loader(EpochOrder(64, 0), fetch, 4, readers=1)  # type: ignore[arg-type]
    for _ in range(10):
        loader.next()
        time.sleep(0.05)
    loader.close()
    assert all(name.startswith("loader") for name in asked)
    assert loader.stalled < 0.04 * 10 / 2


def test_waiting_is_counted() -> None:
    _, fetch = slow(0.03)
    loader = Loader(EpochOrder(64, 0), fetch, 4, readers=1)  # type: ignore[arg-type]
    for _ in range(6):
        loader.next()
    loader.close()
    assert loader.stalled >= 0.03 * 6 * 0.8


def test_what_reading_raises_is_raised_where_the_batch_is_asked_for() -> None:
    def fetch(rows: Tensor) -> Tensor:
        raise OSError("disk is gone")

    loader = Loader(EpochOrder(8, 0), fetch, 4, readers=1)
    with pytest.raises(OSError, match="disk is gone"):
        loader.next()
    loader.close()
