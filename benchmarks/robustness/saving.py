"""What a safe checkpoint costs: digests, the check for finite weights and flushes, beside training and copying.

    python benchmarks/robustness/saving.py --out FILE

Two trainings: `digits-teacher`, and a network with 100 MB of weights on the Markov source. The share is the time of
check, digests and flushes of one checkpoint over the time of the steps between two checkpoints (`checkpoint_every` of
the recipe). Blocked is the time for which a save holds up the training: that of the copy of the state.
Medians; one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from small_runs import origin

from fewstep.recipe import load_recipe
from fewstep.runs.checkpoint import Snapshot
from fewstep.runs.folder import RunDir
from fewstep.runtime.files import flush
from fewstep.runtime.hashing import sha256
from fewstep.runtime.tensors import save_tensors
from fewstep.training.launch import prepare
from fewstep.training.saver import non_finite_weight
from fewstep.training.trainer import Trainer

LARGE = ("backbone.width=512", "backbone.depth=8", "backbone.heads=8", "data.length=64", "train.batch_size=8")
TRAININGS = {"digits-teacher": ("digits-teacher", ()), "100 MB of weights": ("markov-teacher", LARGE)}
REPEATS = 7


def seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def measure(recipe: str, changes: tuple[str, ...], folder: Path) -> dict[str, float]:
    """Median times of the parts of a checkpoint and of a step, in seconds; sizes in MB."""
    loaded = load_recipe(recipe, ["train.steps=12", "train.log_every=1000000", *changes])
    every = load_recipe(recipe).recipe.train.checkpoint_every
    run = RunDir.create("run", folder / "run")
    prepare(loaded, run)
    trainer = Trainer.from_recipe(loaded.recipe, run, echo=lambda line: None)
    steps: list[float] = []
    step = trainer._step

    def timed() -> bool:
        begun = time.perf_counter()
        result = step()
        steps.append(time.perf_counter() - begun)
        return result

    trainer._step = timed  # type: ignore[method-assign]
    trainer.fit()
    times: dict[str, list[float]] = {name: [] for name in ("copy", "check", "write", "digests", "flushes", "blocked")}
    saver = type(trainer.saver)(run.checkpoints, keep_last=1, keep_every=None, run="r", teacher=None)
    tensors, tree = folder / "state.safetensors", folder / "state.json"
    for _ in range(REPEATS):
        state = trainer.state_dict()
        snapshot = Snapshot.of(state)
        times["copy"].append(seconds(lambda s=state: Snapshot.of(s)))  # type: ignore[misc]
        times["check"].append(seconds(lambda s=snapshot: non_finite_weight(s)))  # type: ignore[misc]
        times["write"].append(seconds(lambda s=snapshot: save_tensors(s.tensors, tensors)))  # type: ignore[misc]
        tree.write_text(json.dumps(snapshot.tree))
        times["digests"].append(seconds(lambda: (sha256(tensors), sha256(tree))))
        times["flushes"].append(seconds(lambda: (flush(tensors), flush(tree), flush(folder))))
        times["blocked"].append(seconds(lambda: saver.save(12, trainer.state_dict())))
        saver.wait()
    saver.close()
    medians = {name: statistics.median(values) for name, values in times.items()}
    weights = sum(p.numel() * p.element_size() for p in trainer.roles["student"].parameters())
    size = sum(t.numel() * t.element_size() for t in snapshot.tensors.values())
    step_time = statistics.median(steps[2:])
    extra = medians["check"] + medians["digests"] + medians["flushes"]
    share = extra / (every * step_time)
    return {**medians, "step": step_time, "share": share, "weights": weights / 1e6, "state": size / 1e6, "every": every}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = ["training", "weights MB", "state MB", "step ms", "copy ms", "check ms", "write ms", "digests ms"]
    heads += ["flushes ms", "blocked ms", "steps between", "check + digests + flushes over training"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for name, (recipe, changes) in TRAININGS.items():
        with tempfile.TemporaryDirectory() as folder:
            values = measure(recipe, changes, Path(folder))
        milliseconds = [f"{1e3 * values[key]:,.1f}" for key in ("step", "copy", "check", "write", "digests", "flushes")]
        cells = [f"{values['weights']:.1f}", f"{values['state']:.1f}", *milliseconds, f"{1e3 * values['blocked']:,.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {values['every']:,.0f} | {values['share']:.2%} |")
    text = "\n".join([*lines, "", origin("saving.py", 0)])
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
