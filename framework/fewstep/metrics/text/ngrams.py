"""N-grams of token sequences as single numbers.

Shapes: N samples, L tokens, n tokens an n-gram.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ngram_mask(text: Tensor, n: int) -> Tensor:
    """N-grams that lie within the text (BoolTensor [N, L + 1 - n]) of samples with the mask `text` [N, L]."""
    return text[:, n - 1 :]


def ngram_numbers(*sources: Tensor, n: int) -> list[Tensor]:
    """A number for every n-gram of each source (LongTensor [N, L] -> [N, L + 1 - n]), the same for the same n-gram.

    Numbers start at 0 and have no gaps over all sources together. N-grams grow one token at a time and are numbered
    again each time. So nothing grows with the vocabulary to the power of n, and no two n-grams share a number.

    Raises:
        ValueError: n exceeds the length of a source.
    """
    if n > min(source.shape[1] for source in sources):
        raise ValueError(f"no {n}-grams in {min(source.shape[1] for source in sources)} tokens")
    numbers = list(sources)
    for length in range(2, n + 1):
        longer = [
            torch.stack((part[:, :-1].flatten(), source[:, length - 1 :].flatten()), 1)
            for part, source in zip(numbers, sources, strict=True)
        ]
        base = int(max(source.max() for source in sources)) + 1
        joined = torch.cat([pair[:, 0] * base + pair[:, 1] for pair in longer])
        _, index = torch.unique(joined, return_inverse=True)
        parts = index.split([len(pair) for pair in longer])
        numbers = [part.view(len(source), -1) for part, source in zip(parts, sources, strict=True)]
    return numbers
