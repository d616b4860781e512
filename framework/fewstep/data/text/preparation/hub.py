"""Documents from Hugging Face's `datasets` library: of the Hub, or of files that it wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from fewstep.core.component import Strict
from fewstep.core.errors import UserError
from fewstep.data.text.preparation.documents import BEGIN, Document, Position


class HubConfig(Strict):
    """A dataset on the Hugging Face Hub."""

    name: str = Field(description="its name, such as roneneldan/TinyStories")
    config: str | None = Field(None, description="which of its configurations")
    revision: str | None = Field(None, description="commit, tag or branch, such as refs/convert/parquet")
    split: str = Field("train", description="split to read")
    held_out_split: str | None = Field(None, description="split that is held out, in the place of a share")
    stream: bool = Field(False, description="read over the network each time, in the place of one download")


class Rows:
    """A text column, row by row, from where one wants; a row is a document.

    Args:
        table: dataset of the library.
        field: column.
        number: of this source among those of a corpus.
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
        with _told(self.name):
            for row, values in enumerate(table, start=start.offset):
                text = values[self.field]
                if not isinstance(text, str):
                    raise UserError(f"data.field: row {row} of {self.name} has no text under '{self.field}'")
                if text.strip():
                    yield Document(text, Position(self.number, row + 1, 0), row + 1)

    def about(self, seen: Callable[[int], None]) -> list[dict[str, Any]]:
        """What the manifest says of it."""
        fingerprint = None if self.size is None else getattr(self.table, "_fingerprint", None)
        return [{"name": self.name, "rows": self.size, "fingerprint": fingerprint}]


def from_hub(config: HubConfig, split: str, field: str, number: int) -> Rows:
    """A split of a dataset on the Hub.

    Raises:
        UserError: the library is missing, or there is no network, dataset or split.
    """
    name = f"'{config.name}' ({split})"
    with _told(name):
        table = library().load_dataset(
            config.name, config.config, split=split, revision=config.revision, streaming=config.stream
        )
    return Rows(table, field, name, number)


def is_saved(path: Path) -> bool:
    """Whether a path holds what the library or Arrow wrote: a saved dataset, or files of Parquet."""
    if path.is_dir():
        return (path / "dataset_info.json").exists() or any(path.rglob("*.parquet"))
    return path.suffix == ".parquet"


def from_disk(path: Path, field: str, number: int) -> Rows:
    """A dataset that `save_to_disk` wrote, or the files of Parquet at or below a path.

    Raises:
        UserError: the library is missing, or it cannot read what is there.
    """
    with _told(f"'{path}'"):
        if (path / "dataset_info.json").exists():
            return Rows(library().load_from_disk(str(path)), field, f"'{path}'", number)
        files = sorted(str(file) for file in path.rglob("*.parquet")) if path.is_dir() else [str(path)]
        return Rows(library().load_dataset("parquet", data_files=files, split="train"), field, f"'{path}'", number)


def library() -> Any:
    """The `datasets` library.

    Raises:
        UserError: it is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise UserError("data: this needs Hugging Face's datasets: pip install datasets") from None
    datasets.disable_progress_bars()
    return datasets


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Whatever the library raises, as one sentence."""
    try:
        yield
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"data: could not read {name} ({reason}); set data.path to a local copy, or try again with a network"
        ) from None
