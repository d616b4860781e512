"""Tokenizers for text: characters, or sentencepiece pieces trained on the text itself."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod

from fewstep.data.base import Codec
from fewstep.errors import UserError


class Tokenizer(ABC):
    """Text to ids and back."""

    vocab_size: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of the whole text."""

    @abstractmethod
    def decode(self, ids: list[int]) -> str:
        """Text of ids."""

    @abstractmethod
    def symbols(self) -> list[str]:
        """The text that each id stands for within a longer one."""

    @abstractmethod
    def codec(self) -> Codec:
        """What `restored` makes the same tokenizer of."""

    @classmethod
    @abstractmethod
    def restored(cls, codec: Codec) -> Tokenizer:
        """A tokenizer without the text that it was made from."""


class CharTokenizer(Tokenizer):
    """One symbol for each distinct character of the training text, in code-point order."""

    def __init__(self, text: str) -> None:
        self.alphabet = sorted(set(text))
        self.vocab_size = len(self.alphabet)
        self._ids = {character: i for i, character in enumerate(self.alphabet)}

    def encode(self, text: str) -> list[int]:
        unknown = sorted(set(text) - self._ids.keys())
        if unknown:
            raise UserError(f"character {unknown[0]!r} does not occur in the training text")
        return [self._ids[character] for character in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.alphabet[i] for i in ids)

    def symbols(self) -> list[str]:
        return list(self.alphabet)

    def codec(self) -> Codec:
        return Codec({"alphabet": "".join(self.alphabet)})

    @classmethod
    def restored(cls, codec: Codec) -> CharTokenizer:
        return cls(codec.values["alphabet"])


class SentencePieceTokenizer(Tokenizer):
    """Byte-pair pieces trained on the training text, in memory and deterministic."""

    model_file = "tokenizer.model"

    def __init__(self, text: str, vocab_size: int) -> None:
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(text.splitlines()),
                model_writer=model,
                vocab_size=vocab_size,
                model_type="bpe",
                character_coverage=1.0,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                user_defined_symbols=["\n"],
                num_threads=1,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[0].rsplit("] ", 1)[-1]
            raise UserError(
                f"data.pieces: sentencepiece cannot make {vocab_size} pieces of this text: {reason}"
            ) from None
        self._load(model.getvalue())

    def _load(self, model: bytes) -> None:
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._processor.get_piece_size()

    def codec(self) -> Codec:
        return Codec(files={self.model_file: self._processor.serialized_model_proto()})

    @classmethod
    def restored(cls, codec: Codec) -> SentencePieceTokenizer:
        tokenizer = cls.__new__(cls)
        tokenizer._load(codec.files[cls.model_file])
        return tokenizer

    def encode(self, text: str) -> list[int]:
        return list(self._processor.encode(text))

    def decode(self, ids: list[int]) -> str:
        return str(self._processor.decode(ids))

    def symbols(self) -> list[str]:
        # A piece marks spaces with U+2581, which the decoder of a whole text turns back.
        return [str(self._processor.id_to_piece(i)).replace("\u2581", " ") for i in range(self.vocab_size)]
