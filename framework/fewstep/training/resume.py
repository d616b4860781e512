"""How a training goes on: from its last checkpoint after an interruption, or back to it after a mishap."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from fewstep.core.errors import OperationError, UserError
from fewstep.denoisers.base import Network
from fewstep.objectives.base import StepContext
from fewstep.runs.checkpoint import (
    MARK,
    DamagedCheckpoint,
    list_checkpoints,
    load_checkpoint,
    read_mark,
    set_aside,
    sweep,
)
from fewstep.runs.folder import RunDir
from fewstep.runtime.hashing import sha256
from fewstep.runtime.ranks import Ranks
from fewstep.training.ema import Ema
from fewstep.training.loader import Loader
from fewstep.training.loggers import RunLogger
from fewstep.training.mishaps import Mishaps
from fewstep.training.updates import Updates


class Resumable(Protocol):
    """What a trainer has of interest here; see `Trainer`."""

    run: RunDir
    echo: Callable[[str], None]
    trained: list[str]
    roles: dict[str, Network]
    updates: Updates
    generators: dict[str, torch.Generator]
    ema: Ema
    loader: Loader
    logger: RunLogger
    mishaps: Mishaps
    ctx: StepContext
    teacher_digest: str | None
    ranks: Ranks

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...

    def last_checkpoint(self) -> Path | None: ...


def resume(trainer: Resumable) -> None:
    """Continue from the newest checkpoint that is whole; damaged ones are renamed, so that they no longer count.

    Raises:
        OperationError: a checkpoint is another run's, or none is whole.
        UserError: the teacher has other weights than the one that the run began with.
    """
    state = None
    if trainer.ranks.first:
        checkpoint, state = _newest(trainer)
        trainer.ranks.of_first("" if checkpoint is None else f"{checkpoint.name} {sha256(checkpoint / MARK)}")
    elif choice := trainer.ranks.of_first(""):
        checkpoint, state = _chosen(trainer, choice)
    if state is None:
        return
    trainer.load_state_dict(state)
    trainer.echo(f"resumed at step {trainer.ctx.step} from {checkpoint}")


def _chosen(trainer: Resumable, choice: str) -> tuple[Path, dict[str, object]]:
    """The checkpoint that the first rank has chosen (its name and the digest of its mark), and its state.

    Raises:
        UserError: this rank does not see it.
    """
    run, rank, (name, digest) = trainer.run, trainer.ranks.rank, choice.split()
    checkpoint = run.checkpoints / name
    if not (checkpoint / MARK).is_file() or sha256(checkpoint / MARK) != digest:
        raise UserError(
            f"rank {rank} on {socket.gethostname()} does not see checkpoint '{checkpoint}' as rank 0 does; all ranks "
            "need the same run folder, on a file system that their machines share"
        )
    return checkpoint, load_checkpoint(checkpoint, run=run.identity())


def _newest(trainer: Resumable) -> tuple[Path | None, dict[str, object] | None]:
    """The newest checkpoint that is whole, and its state; damaged ones are renamed."""
    run, damaged = trainer.run, list[Path]()
    if run.checkpoints.is_dir():
        sweep(run.checkpoints)
    for checkpoint in reversed(list_checkpoints(run.checkpoints)):
        try:
            _check_teacher(trainer, checkpoint)
            return checkpoint, load_checkpoint(checkpoint, run=run.identity())
        except DamagedCheckpoint as error:
            damaged.append(set_aside(checkpoint))
            trainer.echo(f"warning: {error}; it is now {damaged[-1].name}, and the one before it is used")
    if damaged:
        raise OperationError(
            f"run '{run.path}' has no whole checkpoint left (damaged: {', '.join(path.name for path in damaged)}); "
            "the same command again begins it anew"
        )
    return None, None


def go_back(trainer: Resumable, checkpoint: Path) -> None:
    """Restore a checkpoint, except for random numbers and the order of data: they go on.

    The same numbers would lead to the same mishap again. Those of samples follow from the position in the data.
    """
    streams = {name: generator.get_state() for name, generator in trainer.generators.items()}
    position, count = trainer.loader.position, trainer.mishaps.count
    trainer.load_state_dict(load_checkpoint(checkpoint, run=trainer.run.identity()))
    for name, state in streams.items():
        trainer.generators[name].set_state(state)
    trainer.loader.position, trainer.mishaps.count = position, count
    trainer.updates.forget(trainer.trained)
    trainer.logger.cut(trainer.ctx.step)


def _check_teacher(trainer: Resumable, checkpoint: Path) -> None:
    began_with = read_mark(checkpoint).teacher
    if began_with and trainer.teacher_digest and began_with != trainer.teacher_digest:
        raise UserError(
            f"teacher.run: run '{trainer.run.path}' began with another teacher (weights {began_with}, now "
            f"{trainer.teacher_digest}); name the teacher that it began with, or begin a new run"
        )
