"""The Hugging Face Hub: downloads, and its errors in one sentence. Needs the package huggingface_hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from fewstep.core.errors import OperationError, UserError

PREFIX = "hf:"
"""Prefix of models of the Hub's format, a folder or NAME@COMMIT, where a setting may also name models of ours."""


def fetch(repo: str, revision: str | None = None, *, patterns: Sequence[str] | None = None) -> Path:
    """Folder of a repository, downloaded or from the cache.

    Args:
        repo: OWNER/NAME.
        revision: branch, tag or commit.
        patterns: name patterns of the files to download; None for all files.

    Raises:
        UserError: the repository does not exist, or the package is not installed.
        OperationError: the Hub cannot be reached.
    """
    hub = hub_package()
    with hub_errors(f"fetch '{repo}', which is no folder here"):
        return Path(hub.snapshot_download(repo_id=repo, revision=revision, allow_patterns=patterns))


def hub_package() -> ModuleType:
    """The optional package huggingface_hub.

    Raises:
        UserError: it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("the Hugging Face Hub needs the package huggingface_hub: pip install 'fewstep[hub]'") from None
    return huggingface_hub


@contextmanager
def hub_errors(action: str) -> Iterator[None]:
    """Turn errors of huggingface_hub into one sentence.

    Errors are recognized by the name of their class, since the library moves its exceptions between versions.
    """
    try:
        yield
    except Exception as error:
        names = {kind.__name__ for kind in type(error).__mro__}
        status = getattr(getattr(error, "response", None), "status_code", None)
        if "LocalTokenNotFoundError" in names or status == 401:
            raise UserError(f"cannot {action}: not logged in, or not allowed to; run `hf auth login` first") from None
        if "RepositoryNotFoundError" in names or "RevisionNotFoundError" in names or status == 404:
            raise UserError(f"cannot {action}: the Hub has no such model, revision, or access to it") from None
        if status == 403:
            raise UserError(
                f"cannot {action}: this account may not; name a repository of your own with --repo"
            ) from None
        if "HFValidationError" in names:
            raise UserError(f"cannot {action}: expected OWNER/NAME ({_first_line(error)})") from None
        offline = {"OfflineModeIsEnabled", "ConnectionError", "ConnectError", "LocalEntryNotFoundError", "TimeoutError"}
        if names & (offline | {"TransportError", "TimeoutException"}):
            raise OperationError(f"cannot {action}: the Hugging Face Hub cannot be reached") from None
        if isinstance(error, OSError) or names & {"HfHubHTTPError", "HTTPError", "RequestException"}:
            raise OperationError(f"cannot {action}: {_first_line(error)}") from None
        raise


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).strip().rstrip(".")
