"""Conformance of tokenizers: lossless texts, and the same tokenizer from the same documents."""

from __future__ import annotations

from collections.abc import Sequence

from fewstep.core.registry import Raw
from fewstep.data.text.tokenizers.base import TOKENIZERS, Tokenizer

_TEXTS = [
    "To be, or not to be, that is the question:\n  Whether 'tis nobler in the mind to suffer\n\n",
    "The slings and arrows of outrageous fortune, \ttabs & Äpfel\n",
    "Or to take arms against a sea of troubles. ",
] * 20


def check_tokenizer(config: Raw, texts: Sequence[str] = _TEXTS) -> None:
    """Assert that a tokenizer keeps the contract of `Tokenizer`; it is fitted to `texts`.

    Raises:
        AssertionError: a check fails; the message names it.
    """
    first = _fitted(config, texts)
    batch = first.encode_batch(texts)
    for text, ids in zip(texts, batch, strict=True):
        assert ids.ndim == 1, "encode_batch must return one row of ids for each text"
        assert ids.dtype.name == "int64", "ids are int64"
        assert ids.tolist() == first.encode(text), "encode and encode_batch must agree"
        assert first.decode(ids.tolist()) == text, "decode must invert encode"
        assert 0 <= int(ids.min()) <= int(ids.max()) < first.vocab_size, "ids lie in [0, vocab_size)"
        assert first.end not in ids, "encode must not write `end`"
    if first.end is not None:
        assert 0 <= first.end < first.vocab_size, "`end` lies in [0, vocab_size)"
        assert first.decode([*batch[2].tolist(), first.end]) == texts[2], "`end` has no text"
    symbols = first.symbols()
    assert len(symbols) == first.vocab_size, "symbols must name each id"
    assert all(isinstance(symbol, str) for symbol in symbols), "symbols are text"

    assert _fitted(config, texts).files() == first.files(), "the same documents must give the same tokenizer"
    again = TOKENIZERS.build(config)
    again.load(first.files())
    assert (again.vocab_size, again.end) == (first.vocab_size, first.end), "load must restore what files returned"
    assert again.encode(texts[0]) == batch[0].tolist(), "load must restore what files returned"


def _fitted(config: Raw, texts: Sequence[str]) -> Tokenizer:
    tokenizer = TOKENIZERS.build(config)
    tokenizer.fit(iter(texts))
    return tokenizer
