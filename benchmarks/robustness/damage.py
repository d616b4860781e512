"""A campaign of damage: is anything read as something else than what was written?

    python benchmarks/robustness/damage.py --flips 400 --pages 50 --cuts 50 --swaps 20 --resumes 50 --out FILE

Flips: one bit of a file. Pages: 4,096 bytes become zeros. Cuts: the end of a file is missing. Swaps: a file of one
checkpoint, export, store, job or folder of shards lies in another one. A damaged input is *refused* in a sentence,
*harmless* if it is read as before, *silent* if it is read as something else, *crashed* for any other exception.

Resumes: the newest checkpoint of a run that was interrupted is damaged. The same line must go on from the checkpoint
before it and end with the weights of an undisturbed run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from small_runs import TRAININGS, ended, ends_like_straight, forked, make_straight, origin, train

from fewstep.core.errors import FewstepError, OperationError
from fewstep.data.base import DATASETS
from fewstep.data.sample_store import Rows, SampleStore
from fewstep.export.write import export_run
from fewstep.objectives.base import Phase
from fewstep.runs.checkpoint import list_checkpoints, load_checkpoint, read_mark
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.sampling.folder import Batch, JobFolder
from fewstep.sampling.request import Part
from fewstep.training.trainer import Trainer

PAGE = 4096
OUTCOMES = ("refused", "harmless", "silent", "crashed")
STEPS = 24
Table = dict[tuple[str, str], Counter[str]]
"""Outcomes by target and damage."""


@dataclass
class Target:
    """Files of one kind, twice, and how they are read: `read` returns plain data that can be compared."""

    files: list[tuple[Path, Path]]
    read: Callable[[], Any]


def plain(value: Any) -> Any:
    """A value that can be compared to the bit."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), list(value.shape), value.detach().contiguous().view(-1).view(torch.uint8).tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def files_below(one: Path, other: Path) -> list[tuple[Path, Path]]:
    """Files of the same name in two folders, but for the card, which people edit."""
    names = [path.relative_to(one) for path in sorted(one.rglob("*")) if path.is_file() and path.name != "README.md"]
    return [(one / name, other / name) for name in names if (other / name).is_file()]


def checkpoint(root: Path) -> Target:
    """A checkpoint, read as a resumed run reads it, and the one before it."""
    run = RunDir(root / "straight-dmmd")
    before, last = list_checkpoints(run.checkpoints)
    teacher = read_mark(last).teacher

    def read() -> object:
        state = plain(load_checkpoint(last, run=run.identity()))
        if read_mark(last).teacher != teacher:
            raise OperationError("the run began with another teacher")  # what `resume` says
        return state

    return Target(files_below(last, before), read)


def exported_folder(root: Path) -> Target:
    """An exported folder."""
    for name in ("dmmd", "sdtt"):
        export_run(str(root / f"straight-{name}"), str(root / f"exported-{name}"))
    return Target(files_below(root / "exported-dmmd", root / "exported-sdtt"), lambda: _model(root / "exported-dmmd"))


def exported_file(root: Path) -> Target:
    """The single file of weights that a run exports."""
    shutil.copy(RunDir(root / "straight-dmmd").export, root / "dmmd.safetensors")
    file = root / "dmmd.safetensors"
    return Target([(file, file)], lambda: _model(file))  # another whole file is another model


def _model(path: Path) -> object:
    model = open_model(path, device="cpu")
    recipe = model.recipe.model_dump(mode="json")
    return plain(dict(model.network.state_dict())), recipe, model.step, model.dataset.spec


def pairs(root: Path) -> Target:
    """A store of pairs, and that of another seed."""

    def store(seed: int) -> SampleStore:
        return SampleStore(root / f"pairs-{seed}", 64, {"teacher": "T", "seed": str(seed)}, seed, unit="pairs")

    def draw(count: int, seed: int) -> Rows:
        rows = torch.randint(9, (count, 8), generator=torch.Generator().manual_seed(seed))
        return Rows({"start": rows, "data": rows.flip(1)}, count)

    def read() -> object:
        opened = store(0)
        opened.fill(draw)
        return plain(opened.take(0, 64))

    read()
    store(1).fill(draw)
    return Target(files_below(root / "pairs-0", root / "pairs-1"), read)


def batches(root: Path) -> Target:
    """Batches of an unfinished sampling job, and those of another one."""
    jobs = {}
    for seed in (0, 1):
        job = jobs[seed] = JobFolder(root / f"job-{seed}", {"seed": seed}, 8)
        job.begin(Part(1, 1), resume=False, batch_size=lambda: 4)
        for first in (0, 4):
            tokens = torch.arange(16).view(4, 4) + first + 100 * seed
            lines = "".join(f'{{"number": {first + n}, "seed": {seed}}}\n' for n in range(4))
            job.store(Batch(range(first, first + 4), tokens, 4.0, 1.0), lines)

    def read() -> object:
        with tempfile.TemporaryDirectory(dir=root) as folder:
            joined = jobs[0]._joined(Path(folder))
            return plain(joined.tokens), (Path(folder) / "samples.jsonl").read_text()

    files = files_below(root / "job-0/unfinished", root / "job-1/unfinished")
    return Target([pair for pair in files if pair[0].suffix in (".safetensors", ".jsonl")], read)


def shards(root: Path) -> Target:
    """Prepared text: manifest, shards and tokenizer, and those of another text."""

    def build(number: int) -> list[list[int]]:
        text = root / f"text-{number}.txt"
        text.write_text("\n".join(f"Document {i} of the text" + " more" * number for i in range(60)))
        config = {"type": "corpus", "path": str(text), "prepared": str(root / f"shards-{number}"), "length": 16}
        rows: list[list[int]] = (
            DATASETS.build({**config, "tokenizer": {"type": "char", "end_symbol": True}}).train[:].tolist()
        )
        return rows

    build(0), build(1)
    return Target(files_below(root / "shards-0", root / "shards-1"), lambda: build(0))


TARGETS = {
    "checkpoint": checkpoint,
    "exported folder": exported_folder,
    "exported file": exported_file,
    "store of pairs": pairs,
    "batches of samples": batches,
    "shards of text": shards,
}


def flipped(content: bytes, draw: random.Random) -> bytes:
    """One bit is another."""
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


def zeroed(content: bytes, draw: random.Random) -> bytes:
    """A page of a disk reads as zeros."""
    begin = PAGE * draw.randrange(-(-len(content) // PAGE))
    page = content[begin : begin + PAGE]
    return content[:begin] + bytes(len(page)) + content[begin + PAGE :]


def cut(content: bytes, draw: random.Random) -> bytes:
    """The end is missing."""
    return content[: draw.randrange(len(content))]


def outcome(target: Target, file: Path, content: bytes, whole: Any) -> str:
    """How the target is read with another content of one file, which is put back."""
    original = file.read_bytes()
    file.write_bytes(content)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return "harmless" if target.read() == whole else "silent"
    except FewstepError as error:
        return "refused" if str(error).strip() else "silent"
    except Exception as error:
        print(f"{file.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return "crashed"
    finally:
        file.write_bytes(original)


def damages(targets: dict[str, Target], counts: dict[str, int], draw: random.Random) -> Table:
    """Outcomes by target and damage; damages go round the targets, and within one to a random file."""
    changes = {"flips": flipped, "pages": zeroed, "cuts": cut}
    wholes = {name: target.read() for name, target in targets.items()}
    table: Table = {}
    for damage, count in counts.items():
        tried = 0
        for number in range(3 * count):
            name = list(targets)[number % len(targets)]
            file, other = draw.choice(targets[name].files)
            original = file.read_bytes()
            content = other.read_bytes() if damage == "swaps" else changes[damage](original, draw)
            if content == original:  # zeros that were zeros, or a file that both have alike
                continue
            result = outcome(targets[name], file, content, wholes[name])
            if result == "silent":
                print(f"{name}, {damage} {number}, {file.name}: silent", file=sys.stderr)
            table.setdefault((name, damage), Counter())[result] += 1
            tried += 1
            if tried == count:
                break
    return table


def interrupted(step: int, action: Callable[[], None]) -> None:
    """Run a training that is asked to end at a step; for a fork, since the change of the trainer stays."""
    end_step = Trainer._end_step

    def ending(trainer: Trainer, phase: Phase) -> None:
        end_step(trainer, phase)
        if trainer.ctx.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    Trainer._end_step = ending  # type: ignore[method-assign]
    action()


def resumes(count: int, root: Path, draw: random.Random) -> Counter[str]:
    """Runs whose newest checkpoint is damaged after an interruption; outcomes of the same line."""
    outcomes: Counter[str] = Counter()
    for number in range(count):
        name = list(TRAININGS)[number % len(TRAININGS)]
        folder, log = root / f"resumed-{number}", root / f"resumed-{number}.log"
        stop = draw.randrange(5, STEPS)
        ended(forked(lambda n=name, f=folder, s=stop: interrupted(s, lambda: train(n, f, root)), log))  # type: ignore[misc]
        last = list_checkpoints(RunDir(folder).checkpoints)[-1]
        file = draw.choice([last / name for name in ("state.safetensors", "state.json", "DONE")])
        file.write_bytes(draw.choice([flipped, zeroed, cut])(file.read_bytes(), draw))
        code = ended(forked(lambda n=name, f=folder: train(n, f, root), log))  # type: ignore[misc]
        aside = (last.parent / f"damaged-{last.name}").exists()
        text = log.read_text(errors="replace")
        if code:
            outcomes["does not go on"] += 1
            print(f"{folder.name}: {text.splitlines()[-1]}", file=sys.stderr)
        elif not ends_like_straight(name, folder, root):
            outcomes["differs"] += 1
        elif not aside or "damaged" not in text:
            outcomes["not told"] += 1
        else:
            outcomes["identical"] += 1
        shutil.rmtree(folder)
    return outcomes


def report(table: Table, resumed: Counter[str], seed: int) -> str:
    """The outcomes as a page."""
    lines = [f"| files | damage | tried | {' | '.join(OUTCOMES)} |", f"| --- | --- |{' ---: |' * 5}"]
    total: Counter[str] = Counter()
    for (name, damage), counts in sorted(table.items()):
        total += counts
        shown = " | ".join(str(counts[key]) for key in OUTCOMES)
        lines.append(f"| {name} | {damage} | {counts.total()} | {shown} |")
    lines.append(f"| all | all | {total.total()} | {' | '.join(str(total[key]) for key in OUTCOMES)} |")
    lines += ["", "| resumes | identical | differ | do not go on | without a word |", f"|{' ---: |' * 5}"]
    keys = ("identical", "differs", "does not go on", "not told")
    lines += [f"| {resumed.total()} | {' | '.join(str(resumed[key]) for key in keys)} |", "", origin("damage.py", seed)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in {"flips": 400, "pages": 50, "cuts": 50, "swaps": 20, "resumes": 50}.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="file for the tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="damage-") as folder:
        root = Path(folder)
        make_straight(root)
        targets = {name: build(root) for name, build in TARGETS.items()}
        counts = {name: getattr(options, name) for name in ("flips", "pages", "cuts", "swaps")}
        text = report(damages(targets, counts, draw), resumes(options.resumes, root, draw), options.seed)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
