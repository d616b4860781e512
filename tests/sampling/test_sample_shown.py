"""What is measured and shown around a sampling job: memory, pages."""

from __future__ import annotations

import json
import re

import pytest
import torch

from fewstep.sampling import memory
from fewstep.sampling.memory import LiveMemory, fitting_batch
from fewstep.sampling.page import page


def test_live_memory_is_what_lives_at_once() -> None:
    for _ in range(2):
        with LiveMemory() as watched:
            kept = torch.zeros(1000, dtype=torch.float64)
            for _ in range(5):
                twice = kept * 2
                view = twice.view(10, 100)
            del twice, view
            more = torch.zeros(100, dtype=torch.float64)
        assert watched.peak == 3 * 8000  # the last product is made before the one of the round before is let go
        del kept, more


class Counted:
    """What `fitting_batch` needs of a denoiser."""

    nfe, evaluated, device = 3, 30, torch.device("cpu")


@pytest.mark.parametrize(("free", "fits"), [(0, 1), (8_000_000, 4), (16_000_000, 8), (10**12, 64)])
def test_batches_take_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch, free: int, fits: int) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    denoiser = Counted()

    def draw(numbers: range) -> None:
        denoiser.nfe += 1
        torch.zeros(len(numbers), 1_000_000, dtype=torch.uint8)

    assert fitting_batch(denoiser, draw, 500) == fits  # type: ignore[arg-type]
    assert denoiser.nfe == 3


def test_there_is_some_free_memory() -> None:
    assert 1 << 20 < memory.free_memory(torch.device("cpu")) < 1 << 50


def test_a_page_holds_all_frames_and_cannot_be_broken_by_text() -> None:
    frames = [[[3, 3, 3]], [[3, 1, 3]], [[0, 1, 2]]]
    text = page("a < b", ["</script>", "\n", "'\""], [1.0, 0.5, 0.0], frames, [[-1, 1, -1]], flowing=True)
    assert text.count("</script>") == 2
    assert "<h1>a &lt; b</h1>" in text
    found = re.search(r'id="data">(.*?)</script>', text)
    assert found
    data = json.loads(found[1])
    assert data["symbols"] == ["</script>", "\n", "'\""]
    assert (data["masks"], data["given"]) == (True, [[-1, 1, -1]])
    tokens = [data["first"]]
    for changes in data["changes"]:
        after = [list(row) for row in tokens[-1]]
        for sample, changed in enumerate(changes):
            for place, token in changed:
                after[sample][place] = token
        tokens.append(after)
    assert tokens == frames
