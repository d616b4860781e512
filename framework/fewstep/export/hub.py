"""Exported models on the Hugging Face Hub; needs the optional package huggingface_hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewstep.errors import OperationError, UserError
from fewstep.export.layout import CARD, Exported


def push(folder: str | Path, repo: str, *, private: bool = False, api: Any = None) -> str:
    """Upload an exported folder, card and all, as a repository of models; returns its address.

    Args:
        repo: OWNER/NAME; made if it is not there.
        api: in the place of `huggingface_hub.HfApi()`.

    Raises:
        UserError: the folder is not whole, the package is not installed, or nobody is logged in.
        OperationError: the Hub cannot be reached or refuses.
    """
    told = Exported(folder).config
    if not (Path(folder) / CARD).is_file():
        raise UserError(f"'{folder}' has no card ({CARD}); export it again, or write one")
    api = api or _package().HfApi()
    with _told(f"push to '{repo}'"):
        api.create_repo(repo_id=repo, private=private, exist_ok=True, repo_type="model")
        message = f"{told.name}, step {told.step} (fewstep export)"
        api.upload_folder(repo_id=repo, folder_path=str(folder), repo_type="model", commit_message=message)
    return f"https://huggingface.co/{repo}"


def fetch(repo: str, revision: str | None = None) -> Path:
    """A repository's folder, downloaded or from the cache.

    Raises:
        UserError: there is no such repository, or the package is not installed.
        OperationError: the Hub cannot be reached.
    """
    hub = _package()
    with _told(f"fetch '{repo}', which is no folder here"):
        return Path(hub.snapshot_download(repo_id=repo, revision=revision))


def _package() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("the Hugging Face Hub needs the package huggingface_hub: pip install 'fewstep[hub]'") from None
    return huggingface_hub


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one sentence; by name, for its exceptions move between versions."""
    try:
        yield
    except Exception as error:
        names = {kind.__name__ for kind in type(error).__mro__}
        status = getattr(getattr(error, "response", None), "status_code", None)
        if "LocalTokenNotFoundError" in names or status == 401:
            raise UserError(f"cannot {what}: not logged in, or not allowed to; run `hf auth login` first") from None
        if "RepositoryNotFoundError" in names or "RevisionNotFoundError" in names or status == 404:
            raise UserError(f"cannot {what}: the Hub has no such model, revision, or access to it") from None
        if status == 403:
            raise UserError(f"cannot {what}: this account may not; name a repository of your own with --repo") from None
        if "HFValidationError" in names:
            raise UserError(f"cannot {what}: expected OWNER/NAME ({_first_line(error)})") from None
        offline = {"OfflineModeIsEnabled", "ConnectionError", "ConnectError", "LocalEntryNotFoundError", "TimeoutError"}
        if names & (offline | {"TransportError", "TimeoutException"}):
            raise OperationError(f"cannot {what}: the Hugging Face Hub cannot be reached") from None
        if isinstance(error, OSError) or names & {"HfHubHTTPError", "HTTPError", "RequestException"}:
            raise OperationError(f"cannot {what}: {_first_line(error)}") from None
        raise


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip().rstrip(".")
