"""Batches get smaller when memory runs out, and sampling loads no compiler."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from fewstep.core.errors import OperationError
from fewstep.pipeline import Pipeline
from fewstep.runs.folder import RunDir
from fewstep.sampling.job import Job
from fewstep.sampling.memory import bounded_memory, draw_fitting, free_memory

CPU = torch.device("cpu")
OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:137] . DefaultCPUAllocator: can't allocate memory: you tried to"),
]


def limited(most: int, error: Exception, calls: list[int]) -> Callable[[range], list[int]]:
    """Draws numbers; more than `most` at once do not fit."""

    def draw(numbers: range) -> list[int]:
        calls.append(len(numbers))
        if len(numbers) > most:
            raise error
        return list(numbers)

    return draw


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_batches_are_halved_until_they_fit(error: Exception) -> None:
    calls: list[int] = []
    batches = list(draw_fitting(limited(10, error, calls), range(5, 105), 64, CPU))
    assert [number for _, numbers in batches for number in numbers] == list(range(5, 105))
    assert all(list(batch) == numbers for batch, numbers in batches)
    assert calls == [64, 32, 16, *[8] * 12, 4]


def test_one_sample_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(MemoryError):
        list(draw_fitting(limited(0, MemoryError(), []), range(4), 2, CPU))


def test_other_errors_are_not_retried() -> None:
    calls: list[int] = []
    with pytest.raises(RuntimeError, match="shape"):
        list(draw_fitting(limited(1, RuntimeError("wrong shape"), calls), range(4), 4, CPU))
    assert calls == [4]


def test_what_exceeds_free_memory_is_an_error_and_not_the_end_of_the_process() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with bounded_memory(CPU):
        torch.zeros(1000)
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            torch.empty(2 * free_memory(), dtype=torch.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_samples_are_those_of_large_batches(train: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline.from_pretrained(train("smoke-teacher", "run").path, device="cpu")
    whole = pipeline.sample(10, steps=2)
    draw = Job.draw

    def small(job: Job, numbers: range, on_step: None = None) -> object:
        if len(numbers) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return draw(job, numbers, on_step)

    monkeypatch.setattr(Job, "draw", small)
    assert torch.equal(pipeline.sample(10, steps=2).tokens, whole.tokens)
    with pytest.raises(OperationError, match="out of memory with 5 samples at once; pass a smaller batch_size"):
        pipeline.sample(10, steps=2, batch_size=5)


@pytest.mark.medium
@pytest.mark.parametrize(
    "command",
    [
        ["sample", "RUN", "-n", "4"],
        ["evaluate", "RUN", "--samples", "4"],
        ["train", "smoke-teacher", "--set", "train.steps=2", "--run-dir", "RUN-2"],
    ],
)
def test_no_command_without_compilation_loads_the_compiler(train: Callable[..., RunDir], command: list[str]) -> None:
    run = train("smoke-teacher", "run").path
    code = (
        "import sys\nfrom fewstep.cli.main import main\n"
        f"try: main({[part.replace('RUN', str(run)) for part in command]})\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
