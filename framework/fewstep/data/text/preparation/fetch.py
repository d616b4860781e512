"""Files from the network, whole or not there."""

from __future__ import annotations

import shutil
import urllib.request
from pathlib import Path

from fewstep.core.errors import UserError
from fewstep.runtime.files import publish


def fetch(url: str, folder: Path) -> Path:
    """The file at `url`, downloaded into `folder` unless it is there.

    Raises:
        UserError: there is no network, or nowhere to write.
    """
    file = folder / url.rsplit("/", 1)[-1]
    if file.exists():
        return file
    beside = file.with_name(f"{file.name}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as answer, beside.open("wb") as out:
            shutil.copyfileobj(answer, out, 1 << 20)
        publish(beside, file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        reason = getattr(error, "reason", None) or error.strerror or error
        raise UserError(f"data.url: could not fetch {url} ({reason}); set data.path to a local copy") from None
    return file
