"""Checkpoints written in the background, one after the other."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fewstep.core.errors import OperationError, is_disk_full
from fewstep.runs.checkpoint import Snapshot, checkpoint_name, list_checkpoints, save_checkpoint
from fewstep.runtime.finite import non_finite


class StorageError(OperationError):
    """Files cannot be written: the disk is full, or the folder is not writable."""


class Saver:
    """Checks and writes checkpoints in a thread of its own, in the order of `save`.

    `save` returns once the state is copied; training goes on while the copy is checked and written. One checkpoint is
    written at a time: a second `save` waits for the first. A failure is raised by the next call of `save`, `check` or
    `wait`. Nothing is written of a state with a weight that is not finite.

    Args:
        folder: folder of the checkpoints.
        keep_last: number of newest checkpoints that stay.
        keep_every: checkpoints of multiples of this number of steps stay too.
        run: id of the run.
        teacher: digest of the weights of the teacher that the run began with.
    """

    def __init__(self, folder: Path, *, keep_last: int, keep_every: int | None, run: str, teacher: str | None) -> None:
        self.folder = folder
        self._facts = {"keep_last": keep_last, "keep_every": keep_every, "run": run, "teacher": teacher}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[Path] | None = None

    def save(self, step: int, state: dict[str, object]) -> Path:
        """Begin to write the checkpoint of a step; returns the folder that it will have.

        Raises:
            StorageError: the disk has too little room, or the checkpoint before it could not be written.
        """
        self.wait()
        snapshot = Snapshot.of(state)
        self._ask_for_room(step, snapshot)
        self._pending = self._pool.submit(self._write, step, snapshot)
        return self.folder / checkpoint_name(step)

    def check(self) -> None:
        """Raise the failure of a checkpoint that was being written, if it has failed by now."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            StorageError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the thread; a failure that nobody has asked for is dropped."""
        self._pool.shutdown(wait=True)

    def _write(self, step: int, snapshot: Snapshot) -> Path:
        self._check_weights(step, snapshot)
        try:
            return save_checkpoint(self.folder, step, snapshot, **self._facts)  # type: ignore[arg-type]
        except Exception as error:
            full = is_disk_full(error)
            if not full and not isinstance(error, OSError):
                raise
            reason = "the disk is full" if full else error.strerror  # type: ignore[attr-defined]
            raise StorageError(
                f"cannot write the checkpoint of step {step} to '{self.folder}': {reason}; {self._last()}"
            ) from None

    def _check_weights(self, step: int, snapshot: Snapshot) -> None:
        if (name := non_finite_weight(snapshot)) is None:
            return
        kind, owner, weight = name.split("/", 2)
        owner = owner if kind == "roles" else "the student's average"
        checkpoints = list_checkpoints(self.folder)
        last = checkpoints[-1] if checkpoints else None
        raise OperationError(
            f"weight '{weight}' of '{owner}' is not finite at step {step}; nothing was saved; {advice(last)}"
        )

    def _ask_for_room(self, step: int, snapshot: Snapshot) -> None:
        """Compare the free space with twice the size of the checkpoint, as its files appear before old ones go."""
        size = sum(tensor.numel() * tensor.element_size() for tensor in snapshot.tensors.values())
        place = self.folder if self.folder.exists() else self.folder.parent
        free = shutil.disk_usage(place).free
        if free < 2 * size:
            raise StorageError(
                f"the disk of '{place}' is nearly full: the checkpoint of step {step} was not begun, since it asks for "
                f"{2 * size / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free; {self._last()}"
            )

    def _last(self) -> str:
        checkpoints = list_checkpoints(self.folder)
        last = f"the last one is {checkpoints[-1]}" if checkpoints else "there is none before it"
        return f"{last}; free some space on the disk, and continue with --resume {self.folder.parent}"


def non_finite_weight(snapshot: Snapshot) -> str | None:
    """Name of the first weight of a network, or of its average, that is not finite."""
    averaged = ("ema/", "early_best/")
    return non_finite({name: x for name, x in snapshot.tensors.items() if name.startswith(("roles/", *averaged))})


def advice(last: Path | None) -> str:
    """The end of a message about values that are not finite.

    Args:
        last: the newest checkpoint.
    """
    where = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    return f"{where}; a lower optim.lr or a smaller optim.clip may help"
