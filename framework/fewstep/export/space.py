"""The demo page as a Space of the Hugging Face Hub: an app file, its requirements, a header, and the models."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.core.errors import UserError
from fewstep.core.version import __version__
from fewstep.export.hub import uploads
from fewstep.recipe.yaml_loader import dump_yaml
from fewstep.runs.exported import Exported
from fewstep.runs.shipped import model_path
from fewstep.runtime.hub import hub_errors, hub_package

if TYPE_CHECKING:
    from huggingface_hub import HfApi

APP, REQUIREMENTS, README = "app.py", "requirements.txt", "README.md"
GRADIO = "6.31.0"
"""Version of gradio for a Space that is written where gradio is not installed."""
_APP = '''"""{title}: the page of `fewstep demo`. Written by `fewstep push --space`."""

from fewstep.demo.page import build_page
from fewstep.demo.serve import launch, open_columns

if __name__ == "__main__":
    launch(build_page(open_columns({names!r}, "cpu")), "0.0.0.0")
'''


def write_space(models: Sequence[str], folder: Path) -> list[str]:
    """Write a Space into an empty folder; returns the names of its files, sorted.

    Args:
        models: exported folders, or names of shipped models.

    Raises:
        UserError: a model is no complete export, two have the same name, or one needs code of a plugin.
    """
    exports = [Exported(model_path(name)) for name in models]
    names = [export.config.name for export in exports]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two of the models are called '{twice}'; a Space names each once")
    for name, export in zip(names, exports, strict=True):
        if export.config.needs or export.config.distributions:
            needs = ", ".join((*export.config.needs, *export.config.distributions))
            raise UserError(f"'{export.path}' needs the plugin {needs}; a Space runs no code but fewstep's")
        for file in uploads(export):
            place = folder / "models" / name / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(export.path / file, place)
    title = " beside ".join(names)
    (folder / APP).write_text(_APP.format(title=title, names=[f"models/{name}" for name in names]), encoding="utf-8")
    (folder / REQUIREMENTS).write_text(f"fewstep[demo]=={__version__}\n", encoding="utf-8")
    (folder / README).write_text(_readme(title, names), encoding="utf-8")
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def push_space(models: Sequence[str], repo: str, *, private: bool = False, api: HfApi | None = None) -> str:
    """Upload a Space of these models; returns its address.

    Args:
        repo: OWNER/NAME; created if it does not exist.
        private: visibility of a new Space.
        api: replacement of `huggingface_hub.HfApi()`.

    Raises:
        UserError: see `write_space`; the package is not installed, or nobody is logged in.
        OperationError: the Hub cannot be reached or refuses.
    """
    with tempfile.TemporaryDirectory() as scratch:
        write_space(models, Path(scratch))
        api = api or hub_package().HfApi()
        with hub_errors(f"push to '{repo}'"):
            api.create_repo(repo_id=repo, private=private, exist_ok=True, repo_type="space", space_sdk="gradio")
            message = f"{', '.join(models)} (fewstep push --space)"
            api.upload_folder(repo_id=repo, folder_path=scratch, repo_type="space", commit_message=message)
    return f"https://huggingface.co/spaces/{repo}"


def _readme(title: str, names: Sequence[str]) -> str:
    """The README of a Space, with the header that the Hub reads."""
    header = {
        "title": title,
        "sdk": "gradio",
        "sdk_version": _gradio_version(),
        "app_file": APP,
        "pinned": False,
        "license": "apache-2.0",
    }
    lines = [f"* `{name}`: [its card](models/{name}/README.md)" for name in names]
    text = "Few-step generators of discrete diffusion beside their teachers, drawn by fewstep. Models:"
    return f"---\n{dump_yaml(header)}---\n\n# {title}\n\n{text}\n\n" + "\n".join(lines) + "\n"


def _gradio_version() -> str:
    try:
        return version("gradio")
    except PackageNotFoundError:
        return GRADIO
