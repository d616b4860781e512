"""Upload of exported models to the Hugging Face Hub; needs the optional package huggingface_hub."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from fewstep.core.errors import UserError
from fewstep.core.places import inside
from fewstep.runs.exported import CARD, CONFIG, Exported
from fewstep.runtime.hub import hub_errors, hub_package


def push(folder: str | Path, repo: str, *, private: bool = False, api: Any = None) -> str:
    """Upload the files that an exported folder lists, and its card, as a model repository; returns the address.

    Args:
        folder: exported folder.
        repo: OWNER/NAME; created if it does not exist.
        private: visibility of a new repository.
        api: replacement of `huggingface_hub.HfApi()`.

    Raises:
        UserError: the folder is incomplete, the package is not installed, or nobody is logged in.
        OperationError: the Hub cannot be reached or refuses.
    """
    exported = Exported(folder)
    names, model = uploads(exported), exported.config
    api = api or hub_package().HfApi()
    with hub_errors(f"push to '{repo}'"):
        api.create_repo(repo_id=repo, private=private, exist_ok=True, repo_type="model")
        message = f"{model.name}, step {model.step} (fewstep export)"
        api.upload_folder(
            repo_id=repo,
            folder_path=str(folder),
            repo_type="model",
            commit_message=message,
            allow_patterns=[glob.escape(name) for name in names],
        )
    return f"https://huggingface.co/{repo}"


def uploads(exported: Exported) -> list[str]:
    """The files of an exported folder that `push` uploads: its settings, its card, and what the settings list.

    Raises:
        UserError: it has no card, or names a file outside of it.
    """
    folder = exported.path
    if not (folder / CARD).is_file():
        raise UserError(f"'{folder}' has no card ({CARD}); export it again, or write one")
    names = [CONFIG, CARD, *exported.config.files]
    for name in names:
        inside(folder, name, f"'{folder}'")
    return names
