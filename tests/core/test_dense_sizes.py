"""Dense tensors are refused above their limit, with a size that never reads as the limit itself."""

from __future__ import annotations

import pytest

from fewstep.core.sizes import too_large


def test_states_up_to_the_limit_pass() -> None:
    assert too_large(5, 1000, 50_000, 1.0) is None
    assert too_large(6, 1000, 50_000, 1.0) is not None


@pytest.mark.parametrize(("count", "size"), [(6, "1.2"), (251, "51"), (2510, "502")])
def test_the_message_rounds_up(count: int, size: str) -> None:
    message = too_large(count, 1000, 50_000, 1.0, label="samples of noise")
    assert message == (
        f"{count:,} samples of noise of 1,000 tokens and 50,000 symbols are dense vectors of {size} GB, above the "
        "limit of 1 GB"
    )
