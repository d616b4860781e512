"""Positions of a mask are found once, with one wait, and found anew when the mask changes."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.predictions.positions import (
    Positions,
    count_together,
    covers,
    difference,
    everywhere,
    expected_share,
    intersection,
    known_mask,
    nowhere,
    of_samples,
    positions,
    remembered,
    split,
)
from fewstep.testing.synchronisations import Synchronisations


def mask() -> Tensor:
    return torch.tensor([[True, False, True], [False, False, True]])


def test_rows_are_taken_and_put_as_by_the_mask() -> None:
    where, x = mask(), torch.arange(12.0).view(2, 3, 2)
    places = positions(where)
    assert places.count == 3
    assert torch.equal(places.take(x), x[where])
    assert torch.equal(places.put(x[where]), x * where[..., None])
    base = -torch.ones(2, 3, 2)
    assert torch.equal(places.put(x[where], base), torch.where(where[..., None], x, base))
    assert torch.equal(base, -torch.ones(2, 3, 2))


def test_a_mask_of_all_tokens_needs_no_index() -> None:
    x = torch.arange(6).view(2, 3)
    for where in (torch.ones(2, 3, dtype=torch.bool), everywhere(x)):
        assert positions(where).index is None
        assert positions(where).take(x).data_ptr() == x.data_ptr()
        assert positions(where).put(x.flatten()).data_ptr() == x.data_ptr()
    assert positions(nowhere(x)).count == 0
    assert positions(torch.zeros(0, 3, dtype=torch.bool)).count == 0


def test_one_wait_answers_everything_about_a_mask() -> None:
    where, wide, narrow, x = mask(), torch.ones(2, 3, dtype=torch.bool), mask() & mask().roll(1, 1), mask().long()
    with Synchronisations() as seen:
        positions(where, [wide, narrow])
        assert covers(wide, where)
        assert not covers(narrow, where)
        assert covers(where, where)
        assert covers(everywhere(x), where)
        positions(where).take(x)
        positions(where).put(positions(where).take(x))
        positions(where).repeated(2)
        positions(everywhere(x)).take(x)
    assert seen.counts == {"tolist": 1}


def test_masks_are_counted_together() -> None:
    masks = [mask(), mask().roll(1, 1), torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)]
    with Synchronisations() as seen:
        count_together(masks, [(masks[3], masks[0]), (masks[0], masks[1])])
        places = [positions(where) for where in masks]
        answers = covers(masks[3], masks[0]), covers(masks[0], masks[1])
        count_together(masks)
    assert seen.counts == {"tolist": 1}
    assert answers == (True, bool((masks[0] | ~masks[1]).all()))
    for where, known in zip(masks, places, strict=True):
        assert torch.equal(known.put(torch.ones(known.count)) > 0, where)


def test_parts_of_a_mask_are_known_to_lie_within_it() -> None:
    whole, rows = mask(), torch.tensor([[True], [False]])
    top, bottom = split(whole, rows)
    left, right = split(top, torch.tensor([[True, False, False]]))
    assert torch.equal(top, whole & rows)
    assert torch.equal(bottom, whole & ~rows)
    with Synchronisations() as seen:
        assert all(covers(whole, part) for part in (top, bottom, left, right))
        assert covers(top, left)
        count_together([whole, left])
        rest = difference(whole, left)
        assert positions(rest).count == positions(whole).count - positions(left).count
    assert seen.counts == {"tolist": 1}
    assert torch.equal(known_mask(positions(rest), rest.device), whole & ~left)


def test_a_mask_that_changes_is_looked_up_again() -> None:
    where, other = mask(), mask()
    assert positions(where).count == 3
    assert covers(other, where)
    where[0, 1] = True
    assert positions(where).count == 4
    assert not covers(other, where)
    other[0, 1] = True
    assert covers(other, where)


def test_intersections_and_differences_of_masks_that_cover_one_another_are_known() -> None:
    where, other = mask(), ~mask()
    whole, results = everywhere(where), []
    with Synchronisations() as seen:
        for a, b in ((where, where), (whole, where), (where, whole), (whole, everywhere(where)), (where, other)):
            both, left = intersection(a, b), difference(a, b)
            results.append((a, b, both, left))
            if a is not where or b is where:
                positions(both)
        assert positions(of_samples(whole, slice(1))).count == 3
    assert seen.counts == {"aten::_local_scalar_dense": 1}  # of `where`
    for a, b, both, left in results:
        assert torch.equal(both, a & b)
        assert torch.equal(left, a & ~b)


def test_repeated_positions_are_those_of_the_repeated_mask() -> None:
    where = mask()
    repeated = positions(where).repeated(3)
    assert torch.equal(known_mask(repeated, where.device), where.repeat(3, 1))
    assert Positions(where.shape, None).repeated(2).count == 12


def test_pieces_have_their_shares_where_masks_have_no_values() -> None:
    whole = torch.ones(10, 8, dtype=torch.bool)
    with expected_share(0.5):
        first, left = split(whole, whole, 0.25)
        second, rest = split(left, whole, 1 / 3)
        assert [positions(mask).count for mask in (whole & whole, first, left, second, rest)] == [40, 10, 30, 10, 20]
        assert positions(split(whole, whole)[0]).count == 40


def test_what_is_remembered_is_made_once_and_forgotten_with_its_tensor() -> None:
    calls: list[int] = []
    x = torch.zeros(2)
    for _ in range(2):
        assert remembered(x, "key", lambda: calls.append(1) or len(calls)) == 1  # type: ignore[func-returns-value]
    x.add_(1)
    assert remembered(x, "key", lambda: calls.append(1) or len(calls)) == 2  # type: ignore[func-returns-value]
