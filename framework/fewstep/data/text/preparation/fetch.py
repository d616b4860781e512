"""Downloads; a file appears under its name only once it is complete."""

from __future__ import annotations

import shutil
import urllib.request
from pathlib import Path

from fewstep.core.errors import UserError
from fewstep.runtime.files import publish


def fetch(url: str, folder: Path) -> Path:
    """Path of the file at `url`, downloaded into `folder` unless it is already there.

    Raises:
        UserError: the network cannot be reached, or the folder cannot be written.
    """
    file = folder / url.rsplit("/", 1)[-1]
    if file.exists():
        return file
    partial = file.with_name(f"{file.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as response, partial.open("wb") as out:
            shutil.copyfileobj(response, out, 1 << 20)
        publish(partial, file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        reason = getattr(error, "reason", None) or error.strerror or error
        raise UserError(f"data.url: could not fetch {url} ({reason}); set data.path to a local copy") from None
    return file
