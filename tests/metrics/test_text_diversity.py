"""distinct-n, self-BLEU and n-gram novelty on examples worked out by hand, and self-BLEU by plain counting."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Generator, Tensor

from fewstep.core.errors import UserError
from fewstep.data.synthetic.markov import Markov
from fewstep.metrics.base import METRICS
from fewstep.metrics.text.distinct_ngrams import distinct
from fewstep.metrics.text.ngram_novelty import novelty
from fewstep.metrics.text.ngrams import ngram_numbers
from fewstep.metrics.text.self_bleu import self_bleu

ROWS = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 2], [3, 3, 3, 3]])
ALL = torch.ones_like(ROWS, dtype=torch.bool)


def test_distinct_shares() -> None:
    """Of twelve tokens four differ; bigrams are 01 10 01, 01 12 22, 33 33 33: five of nine."""
    assert distinct(ROWS, 1, ALL) == pytest.approx(4 / 12)
    assert distinct(ROWS, 2, ALL) == pytest.approx(5 / 9)
    assert distinct(ROWS, 4, ALL) == pytest.approx(3 / 3)
    assert distinct(ROWS, 5, ALL) == 0


def test_novel_shares() -> None:
    """Of the bigrams of the first two rows, 10 12 and 22 do not stand in the source: three of six."""
    source = torch.tensor([[0, 1, 3, 3]])
    of_source = torch.ones_like(source, dtype=torch.bool)
    assert novelty(ROWS[:2], source, 2, ALL[:2], of_source) == pytest.approx(3 / 6)
    assert novelty(ROWS, ROWS, 3, ALL, ALL) == 0
    assert novelty(ROWS[:2], source, 1, ALL[:2], of_source) == pytest.approx(2 / 8)
    assert novelty(ROWS, source, 5, ALL, of_source) == 0


def test_bleu_by_hand() -> None:
    """0 1 0 1 against 0 1 2 2: one 0 and one 1 match, and 01 once; the other way round the same; 3 3 3 3 has nothing.

    Precisions are 2/4 and 1/3 for both of the first rows, so BLEU of order 2 is sqrt(1/6).
    """
    assert self_bleu(ROWS, 2, ALL) == pytest.approx(2 * math.sqrt(1 / 6) / 3)
    assert self_bleu(ROWS[[0, 0]], 4, ALL[[0, 0]]) == pytest.approx(1)


def counted_bleu(rows: list[list[int]], order: int) -> float:
    """The definition, by dictionaries."""
    total = 0.0
    for i, row in enumerate(rows):
        logs = []
        for n in range(1, order + 1):
            grams = [Counter(tuple(r[j : j + n]) for j in range(len(r) + 1 - n)) for r in rows]
            others = [g for j, g in enumerate(grams) if j != i]
            matched = sum(min(c, max(g[gram] for g in others)) for gram, c in grams[i].items())
            logs.append(math.log(matched / (len(row) + 1 - n)) if matched else -math.inf)
        total += math.exp(sum(logs) / order)
    return total / len(rows)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_bleu_by_counting(order: int) -> None:
    rows = torch.randint(3, (12, 9), generator=Generator().manual_seed(order))
    assert self_bleu(rows, order, torch.ones_like(rows, dtype=torch.bool)) == pytest.approx(
        counted_bleu(rows.tolist(), order), rel=1e-12
    )


@pytest.mark.parametrize("order", [1, 2, 4])
def test_bleu_is_that_of_nltk(order: int) -> None:
    """Mean of `sentence_bleu` against all other rows. All are equally long, so that its brevity penalty is 1."""
    nltk = pytest.importorskip("nltk.translate.bleu_score", reason="nltk comes with the extra `test`")
    rows = torch.randint(3, (12, 20), generator=Generator().manual_seed(order))
    rows[0] = torch.arange(20) % 3
    texts = [list(map(str, row)) for row in rows.tolist()]
    weights = [1 / order] * order
    theirs = [nltk.sentence_bleu(texts[:i] + texts[i + 1 :], text, weights) for i, text in enumerate(texts)]
    assert min(theirs) > 0.1, "nltk replaces zeros"
    found = self_bleu(rows, order, torch.ones_like(rows, dtype=torch.bool))
    assert found == pytest.approx(sum(theirs) / len(theirs), rel=1e-12)


def test_numbers_are_equal_where_ngrams_are() -> None:
    rows, more = (torch.randint(4, (6, 7), generator=Generator().manual_seed(seed)) for seed in (0, 1))
    found = ngram_numbers(rows, more, n=3)
    names: dict[int, Tensor] = {}
    for source, numbers in zip((rows, more), found, strict=True):
        for row, line in zip(source, numbers, strict=True):
            for place, number in enumerate(line.tolist()):
                gram = row[place : place + 3]
                assert torch.equal(names.setdefault(number, gram), gram)
    assert len({tuple(gram.tolist()) for gram in names.values()}) == len(names)


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=6, length=12, successors=2, size=300))


def scored(name: str, source: Markov, samples: Tensor) -> dict[str, float]:
    metric = METRICS.build(name, dataset=source)
    metric.update(samples)
    return metric.compute()


def test_copies_and_repeats_show(source: Markov) -> None:
    same, fresh = source.train[:1].expand(60, 12), source.draw(60, Generator().manual_seed(1))
    assert scored("self_bleu", source, same)["self_bleu"] == pytest.approx(1)
    values = scored("self_bleu", source, fresh)
    assert values["self_bleu"] == pytest.approx(values["self_bleu_data"], abs=0.1)
    assert scored("distinct_ngrams", source, same)["distinct_4"] < 0.1 * values["self_bleu_data"]
    assert scored("ngram_novelty", source, source.train[:60])["novel_8"] == 0
    values = scored("ngram_novelty", source, fresh)
    assert 0 < values["novel_8"] == pytest.approx(values["novel_8_data"], abs=0.15)


def test_one_sample_has_no_other(source: Markov) -> None:
    with pytest.raises(UserError, match="self_bleu: one sample has no other to be compared with"):
        scored("self_bleu", source, source.train[:1])
