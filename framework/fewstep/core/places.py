"""Files that a manifest, an export or results name: they lie below the folder that names them."""

from __future__ import annotations

from pathlib import Path

from fewstep.core.errors import UserError


def inside(folder: Path, name: str, owner: str) -> Path:
    """`folder / name`, which need not exist.

    Symbolic links are followed. Those of the Hugging Face Hub's cache lead to the blobs of the same repository, and are
    accepted.

    Args:
        folder: folder that the name is relative to.
        name: path as the file of a stranger may give it.
        owner: the file, or what it belongs to, for the message.

    Raises:
        UserError: the name is empty or absolute, or leads out of the folder.
    """
    path, root = folder / name, folder.resolve()
    parts = Path(name).parts
    if parts and not Path(name).is_absolute() and ".." not in parts:
        place = path.resolve()
        if any(place != top and place.is_relative_to(top) for top in (root, *_blobs(root))):
            return path
    shown = name or "without a name"
    raise UserError(f"{owner} names a file outside of its folder ({shown}); fewstep did not write it")


def unlinked(folder: Path) -> Path:
    """`folder`, which results are written to and which need not exist, unless it is a link to a place elsewhere.

    Raises:
        UserError: it is a link out of the folder that it lies in; results would go where a stranger's run points to.
    """
    if folder.is_symlink() and not folder.resolve().is_relative_to(folder.parent.resolve()):
        raise UserError(f"'{folder}' is a link to '{folder.resolve()}', outside its folder; put a folder there")
    return folder


def _blobs(folder: Path) -> list[Path]:
    """Where the Hub's cache keeps the files of a snapshot: `models--OWNER--NAME/snapshots/COMMIT` and `.../blobs`."""
    return [path.parents[1] / "blobs" for path in (folder, *folder.parents) if path.parent.name == "snapshots"]
