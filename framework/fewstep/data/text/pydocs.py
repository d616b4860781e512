"""The Python language reference that ships with Python."""

from __future__ import annotations

from typing import Literal

from fewstep.data.base import DATASETS
from fewstep.data.text.text import TextConfig, TextWindows


@DATASETS.register("pydocs")
class PyDocs(TextWindows):
    """Real English on every machine: the language reference in `pydoc_data.topics` of this Python.

    The text differs slightly between Python versions; the fingerprint of a run identifies its version.
    """

    class Config(TextConfig):
        type: Literal["pydocs"] = "pydocs"

    config: Config

    def read(self) -> str:
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics))
