"""Documents from Hugging Face's `datasets` library: from the Hub, or from files that it wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field

from fewstep.core.component import Strict
from fewstep.core.errors import UserError
from fewstep.data.text.preparation.documents import BEGIN, Document, Position
from fewstep.runtime.plain_text import plain_text


class HubConfig(Strict):
    """A dataset on the Hugging Face Hub."""

    name: str = Field(description="name of the dataset, such as roneneldan/TinyStories")
    config: str | None = Field(None, description="configuration of the dataset")
    revision: str | None = Field(None, description="commit, tag or branch, such as refs/convert/parquet")
    split: str = Field("train", description="split to read")
    held_out_split: str | None = Field(None, description="held-out split, instead of a share of the documents")
    stream: bool = Field(False, description="read over the network each time, instead of one download")


class Rows:
    """A text column, row by row, from any position; a row is a document.

    Args:
        table: dataset of the library.
        field: column.
        name: label of the dataset in messages.
        number: index of this source among those of a corpus.
    """

    def __init__(self, table: Any, field: str, name: str, number: int = 0) -> None:
        self.table, self.field, self.name, self.number = table, field, name, number
        columns = table.column_names
        if columns is not None and field not in columns:
            raise UserError(f"data.field: {name} has no column '{field}'; it has {', '.join(columns)}")
        self.size: int | None = len(table) if hasattr(table, "__len__") else None

    def documents(self, start: Position = BEGIN) -> Iterator[Document]:
        table = self.table
        if start.offset:
            table = table.skip(start.offset)
        with _one_sentence_errors(self.name):
            for row, values in enumerate(table, start=start.offset):
                text = values[self.field]
                if not isinstance(text, str):
                    raise UserError(f"data.field: row {row} of {self.name} has no text under '{self.field}'")
                if text.strip():
                    yield Document(plain_text(text), Position(self.number, row + 1, 0), row + 1)

    def origins(self, on_read: Callable[[int], None]) -> list[dict[str, object]]:
        """The manifest's entry for this source."""
        fingerprint = None if self.size is None else getattr(self.table, "_fingerprint", None)
        return [{"name": self.name, "rows": self.size, "fingerprint": fingerprint}]


def from_hub(config: HubConfig, split: str, field: str, number: int) -> Rows:
    """A split of a dataset on the Hub.

    Raises:
        UserError: the library, the network, the dataset or the split is missing.
    """
    name = f"'{config.name}' ({split})"
    with _one_sentence_errors(name):
        table = library(f"data.hub: {name}").load_dataset(
            config.name, config.config, split=split, revision=config.revision, streaming=config.stream
        )
    return Rows(table, field, name, number)


def is_saved(path: Path) -> bool:
    """Whether a path holds a dataset saved by the library, or Parquet files."""
    if path.is_dir():
        return (path / "dataset_info.json").exists() or any(path.rglob("*.parquet"))
    return path.suffix == ".parquet"


def from_disk(path: Path, field: str, number: int) -> Rows:
    """A dataset that `save_to_disk` wrote, or the Parquet files at or below a path.

    Raises:
        UserError: the library is missing, it cannot read the files, or there is no such column.
    """
    return Rows(saved_table(path), field, f"'{path}'", number)


def saved_table(path: Path) -> Any:
    """The library's table of what `from_disk` reads.

    Raises:
        UserError: the library is missing, or it cannot read the files.
    """
    with _one_sentence_errors(f"'{path}'"):
        package = library(f"data.path: '{path.name}'")
        if (path / "dataset_info.json").exists():
            return package.load_from_disk(str(path))
        files = sorted(str(file) for file in path.rglob("*.parquet")) if path.is_dir() else [str(path)]
        return package.load_dataset("parquet", data_files=files, split="train")


def library(needed_by: str) -> ModuleType:
    """The `datasets` library.

    Args:
        needed_by: what it reads, for the message.

    Raises:
        UserError: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"{needed_by} is read by Hugging Face's datasets: pip install datasets") from None
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False  # versions before 4 would run a script of a repository
    return datasets


@contextmanager
def _one_sentence_errors(name: str) -> Iterator[None]:
    """Turn any error of the library into a UserError of one sentence."""
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"data: could not read {name} ({reason}); set data.path to a local copy, or try again with a network"
        ) from None
