"""The state of a training, as a checkpoint holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias

import torch

from fewstep.core.errors import OperationError
from fewstep.data.base import Dataset
from fewstep.denoisers.base import Network
from fewstep.objectives.base import Objective, StepContext
from fewstep.runs.folder import RunDir
from fewstep.runtime.ranks import Ranks
from fewstep.training.ema import Ema
from fewstep.training.loader import Loader
from fewstep.training.mishaps import Mishaps
from fewstep.training.oversight import Oversight
from fewstep.training.shards import Shards
from fewstep.training.sums import Sums
from fewstep.training.updates import Updates
from fewstep.training.watch import Best

State: TypeAlias = Mapping[str, Any]
"""What `state_of` returns, read back from a checkpoint."""


class Stateful(Protocol):
    """What a trainer has of interest here; see `Trainer`."""

    run: RunDir
    echo: Callable[[str], None]
    dataset: Dataset
    objective: Objective
    roles: dict[str, Network]
    shards: dict[str, Shards]
    ctx: StepContext
    ema: Ema
    updates: Updates
    oversight: Oversight
    generators: dict[str, torch.Generator]
    loader: Loader
    mishaps: Mishaps
    sums: Sums
    ranks: Ranks

    def evaluated(self) -> dict[str, int]: ...


def state_of(trainer: Stateful) -> dict[str, object]:
    """The complete state of a training; all ranks ask for it together.

    The part `ema` is what readers of a run take. Where that is the best look's, the average that goes on is another
    part.
    """
    oversight, best = trainer.oversight, trainer.oversight.best
    early = {}
    if best is not None:
        last = oversight.average(trainer.ema.weights)
        early = {"early_best": {"step": best.step, "score": best.score, "last": last}}
    return {
        "step": trainer.ctx.step,
        "updates": trainer.updates.counts,
        "roles": {name: shards.state_dict() for name, shards in trainer.shards.items()},
        "optimizers": trainer.updates.state_dict(),
        "ema": {"updates": trainer.ema.updates, "weights": oversight.average(oversight.exported)},
        "objective": trainer.objective.state_dict(),
        "generators": {name: generator.get_state() for name, generator in trainer.generators.items()},
        "order": {"position": trainer.loader.position},
        "evaluated": trainer.evaluated(),
        "mishaps": trainer.mishaps.state_dict(),
        "sums": trainer.sums.over(trainer.ranks).state_dict(),
        "data": trainer.dataset.fingerprint,
        "models": {key: model.digest for key, model in trainer.objective.opened.items()},
        **early,
    }


def restore(trainer: Stateful, state: State) -> None:
    """Restore what `state_of` returned. Checkpoints of earlier versions lack some of its parts.

    Raises:
        OperationError: the data, or models that the objective names, are not those that the run began with.
    """
    _check_origin(trainer, state)
    trainer.ctx.step = state["step"]
    for name, shards in trainer.shards.items():
        shards.load_state_dict(state["roles"][name])
    trainer.updates.load_state_dict(state["optimizers"], state["updates"])
    part = trainer.oversight.part
    early, exported = state.get("early_best"), part(state["ema"]["weights"])
    trainer.ema.load_state_dict({**state["ema"], "weights": part(early["last"]) if early else exported})
    trainer.oversight.best = Best(early["step"], early["score"], exported) if early else None
    trainer.objective.load_state_dict(state["objective"])
    _restore_generators(trainer, state["generators"])
    trainer.loader.position = state["order"]["position"]
    counts = state.get("evaluated", {}) if trainer.ranks.first else {}
    for name, role in trainer.roles.items():
        role.evaluated = counts.get(name, 0)
    if "mishaps" in state:
        trainer.mishaps.load_state_dict(state["mishaps"])
    trainer.sums.load_state_dict(state["sums"] if trainer.ranks.first else {})


def _check_origin(trainer: Stateful, state: State) -> None:
    if state["data"] != trainer.dataset.fingerprint:
        raise OperationError(f"run '{trainer.run.path}' was trained on other data than this recipe gives now")
    for key, digest in state.get("models", {}).items():
        if trainer.objective.open_model(key).digest != digest:
            raise OperationError(f"objective.{key}: run '{trainer.run.path}' began with other weights of this model")


def _restore_generators(trainer: Stateful, states: Mapping[str, torch.Tensor]) -> None:
    if "noise" in states:
        trainer.echo("note: the checkpoint is of an earlier version; the random numbers that follow are this version's")
    for name, generator in trainer.generators.items():
        generator.set_state(states[name])
