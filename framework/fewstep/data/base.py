"""Datasets: clean token sequences, and views of samples for people.

Shapes: N samples, L tokens.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from fewstep.core.component import Component, ComponentConfig
from fewstep.core.errors import UserError
from fewstep.core.registry import Registry
from fewstep.data.padding import text_mask
from fewstep.runtime.in_order import InOrder
from fewstep.runtime.streams import Randomness

_CHUNK = 4096
"""Samples per block whose tokens are widened to 64 bits."""


MAX_MADE = 1 << 26
"""Limit on the tokens of data that settings alone make, half a gigabyte: a stranger's recipe may say any number."""


@dataclass(frozen=True)
class DataSpec:
    """Shape of a dataset: `vocab_size` symbols, `length` tokens per sample, and for images the `grid`
    (height, width, channels) that the tokens fill row by row."""

    vocab_size: int
    length: int
    grid: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Codec:
    """Values (JSON types) and files that turn samples into text and images, besides settings and spec."""

    values: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


class Samples(Protocol):
    """Token ids [N, L], indexed by slice or by LongTensor: a tensor, or rows on disk.

    Ids may be stored in a smaller integer type, such as bytes; the caller converts rows with `long()`.
    """

    @property
    def shape(self) -> torch.Size: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """Integer rows [B, L]; `[:]` gives all rows, which may be too much for memory."""


def fingerprint_of(samples: Samples) -> str:
    """SHA-256 of tokens, as 64-bit numbers."""
    digest = hashlib.sha256()
    for first in range(0, len(samples), _CHUNK):
        digest.update(samples[first : first + _CHUNK].long().contiguous().numpy().tobytes())
    return digest.hexdigest()


@runtime_checkable
class Preparable(Protocol):
    """Settings of data that are prepared once before any training (`fewstep data prepare`)."""

    def prepare(
        self, processes: int = 1, verify: bool = False, in_order: InOrder | None = None
    ) -> list[dict[str, object]]:
        """Prepare the data, unless that is done; returns a row of facts for each part.

        Args:
            processes: number of processes that share the task.
            verify: compare every prepared byte with its hash.
            in_order: what runs the task elsewhere (`--cluster`); None takes `processes` of this machine.

        Raises:
            UserError: the preparation failed.
        """


@dataclass(frozen=True)
class Pictures:
    """A view of samples as pictures: `draw` turns LongTensor [N, L] into float [N, C, H, W] in [0, 1]."""

    draw: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Files:
    """A view of samples as files: `write` turns LongTensor [N, L] into the contents of N files, named with `suffix`."""

    suffix: str
    write: Callable[[Tensor], list[bytes]]


View = Pictures | Files

D = TypeVar("D", bound="Dataset")


class Dataset(Component, ABC):
    """Map-style data: `train` is a LongTensor [N, L], or other `Samples`; `labels` is LongTensor [N] or None.

    `held_out` ([M, L] of the same kind, or None) are samples that are never trained on. Metrics score them, which
    gives the score of a generator as good as the data.

    A class of labelled data sets `labelled`, since recipes are checked before data are read.

    An exported model shows samples without the training data. `codec` therefore returns all that `to_text`, `symbols`,
    and `views` use besides `config` and `spec`, and `restore` sets it again.
    """

    moved: ClassVar[Mapping[str, str]] = {
        **Component.moved,
        **dict.fromkeys(("to_drawings", "to_midi"), "name it in `views`"),
        "prepare": "move it into its Config, as `def prepare(self, processes, verify)`",
    }
    kind: ClassVar[Literal["tokens", "text", "image"]] = "tokens"
    labelled: ClassVar[bool] = False
    spec: DataSpec
    train: Samples
    labels: Tensor | None = None
    held_out: Samples | None = None
    augments: bool = False
    """Whether `augment` changes samples; its random stream is then part of checkpoints."""
    remark: str | None = None
    """A warning for readers of figures on these data; printed when a training begins."""
    end: int | None = None
    """Symbol that ends the text of a sample, and fills what is left of it; None for data whose samples are all text."""
    readers: int = 0
    """Threads that read `train` ahead of the training; 0 for data in memory."""

    def __len__(self) -> int:
        return self.train.shape[0]

    @cached_property
    def classes(self) -> int:
        """Number of classes of labelled data; labels are smaller."""
        assert self.labels is not None
        return int(self.labels.max()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the training tokens, as 64-bit numbers; stored with every run."""
        return fingerprint_of(self.train)

    def augment(self, tokens: Tensor, generator: Randomness) -> Tensor:
        """Training samples (LongTensor [B, L]) after random changes that preserve their probability."""
        return tokens

    def text_mask(self, samples: Tensor) -> Tensor:
        """Tokens that are no padding (BoolTensor [N, L]) of samples [N, L]: all, or those up to the first `end`."""
        if self.end is None:
            return torch.ones_like(samples, dtype=torch.bool)
        return text_mask(samples, self.end)

    def codec(self) -> Codec:
        """Values and files that showing samples needs besides settings and spec."""
        return Codec()

    def restore(self, codec: Codec) -> None:
        """Restore the state that `codec` returned; called instead of `__init__`, after `config` and `spec` are set."""

    @classmethod
    def outline(cls, config: ComponentConfig) -> DataSpec | None:
        """Sizes of data of these settings, by the settings alone, to plan a training without its data.

        None if the settings do not say them; the data are then read.
        """
        return None

    @classmethod
    def without_data(
        cls: type[D],
        config: ComponentConfig,
        spec: DataSpec,
        fingerprint: str,
        codec: Codec,
        labels: Tensor | None = None,
    ) -> D:
        """A dataset that shows samples and has no training data.

        Args:
            labels: labels of the training samples (LongTensor [N]), for the frequencies of classes.
        """
        dataset = cls.__new__(cls)
        Component.__init__(dataset, config)
        dataset.spec, dataset.labels = spec, labels
        dataset.__dict__.update(fingerprint=fingerprint, has_data=False)
        dataset.restore(codec)
        return dataset

    has_data: bool = True
    """Whether the training data are loaded; an exported model has only the codec."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> object:
            if name == "train" and not self.has_data:
                raise UserError(
                    f"data '{self.config.type}' came with an exported model, without the training data that this needs"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @abstractmethod
    def to_text(self, samples: Tensor) -> list[str]:
        """One readable line or block per sample (`samples` is LongTensor [N, L])."""

    def symbols(self) -> list[str]:
        """Readable names of the V tokens."""
        return [str(token) for token in range(self.spec.vocab_size)]

    def views(self) -> Mapping[str, View]:
        """Ways to show samples besides text, by name; pictures of a sheet are the first `Pictures` among them."""
        return {}

    def pictures(self, samples: Tensor) -> Tensor | None:
        """Samples (LongTensor [N, L]) as the first of their `Pictures`, or None for data without any."""
        drawn = [view for view in self.views().values() if isinstance(view, Pictures)]
        return drawn[0].draw(samples) if drawn else None


DATASETS: Registry[Dataset] = Registry("dataset", Dataset, "fewstep.data")
