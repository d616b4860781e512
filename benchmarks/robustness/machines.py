"""A campaign of machines that fail: full and read-only disks, lost consoles, no HOME, two processes on one folder.

    python benchmarks/robustness/machines.py --out FILE        (as root, on Linux: it mounts small disks in memory)

Each line of the table is one input: the exit code, the last line that was printed, and whether the promise was kept.
It is kept if a failure ends with a sentence and exit code 1 (2 for a path that the user should not have named), if all
that was saved before is whole, and if the same line ends like an undisturbed run once there is room.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from small_runs import OFTEN, SMALL, ended, ends_like_straight, forked, make_straight, origin, train

from fewstep.cli.main import main as command_line
from fewstep.runs.checkpoint import list_checkpoints, load_checkpoint
from fewstep.runs.folder import RunDir

SIZES = 16
TINY = [word for change in (*SMALL, *OFTEN) for word in ("--set", change)]


@dataclass
class Row:
    """One input and what came of it."""

    name: str
    code: int
    said: str
    kept: bool


def said(log: Path) -> str:
    """The last line of a log, without the names of temporary folders."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return re.sub(r"/tmp/[\w-]+", "", lines[-1] if lines else "").replace("StorageError: ", "").replace("|", "/")


@contextmanager
def disk(root: Path, size: int) -> Iterator[Path]:
    """A disk of `size` bytes in memory."""
    folder = root / "disk"
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def bytes_below(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def full_disks(root: Path) -> Iterator[Row]:
    """D-MMD on disks of 16 sizes, the largest with room for more than one run."""
    whole = bytes_below(root / "straight-dmmd")
    for number in range(1, SIZES + 1):
        size = whole * 2 * number // SIZES
        with disk(root, size) as folder:
            run, log = RunDir(folder / "run"), root / f"disk-{number}.log"
            code = ended(forked(lambda f=folder / "run": train("dmmd", f, root), log))  # type: ignore[misc]
            text = said(log)
            left = [load_checkpoint(path)["step"] for path in list_checkpoints(run.checkpoints)]  # raises for damage
            partial = [path.name for path in folder.rglob("*partial*")]
            promised = code == 0 or (code == 1 and bool(re.search(r"disk|cannot write", text)))
            remount(folder, f"size={16 * whole}")
            again = ended(forked(lambda f=folder / "run": train("dmmd", f, root), log))  # type: ignore[misc]
            identical = again == 0 and ends_like_straight("dmmd", folder / "run", root)
        shown = f"train, {size / 1e3:,.0f} KB (checkpoints left: {', '.join(map(str, left)) or 'none'})"
        yield Row(shown, code, text if code else "finished", promised and not partial and identical)


def other_commands(root: Path) -> dict[str, tuple[list[str], int]]:
    """Commands that write into OUT, and the bytes of a disk that is too small for each."""
    run = str(root / "straight-dmmd")
    text = root / "text.txt"
    text.write_text("\n".join(f"Document {number} of many" for number in range(3000)))
    changes = ["data.type=corpus", f"data.path={text}", "data.length=16", "data.prepared=OUT"]
    sets = [word for change in changes for word in ("--set", change)]
    return {
        "sample": (["sample", run, "-n", "2000", "--steps", "2", "--resume", "--out", "OUT"], 1 << 16),
        "export": (["export", run, "--out", "OUT"], 1 << 14),
        "data prepare": (["data", "prepare", "shakespeare-teacher", *sets], 1 << 14),
    }


def full_disks_of_others(root: Path) -> Iterator[Row]:
    """The same line succeeds once there is room, and nothing half-written has the final name."""
    for name, (words, size) in other_commands(root).items():
        with disk(root, size) as folder:
            out, log = folder / "out", root / f"{name}.log"
            line = [word.replace("OUT", str(out)) for word in words]
            code, text = ended(forked(lambda w=line: fewstep(w), log)), said(log)  # type: ignore[misc]
            finished = (out.exists() and any(out.glob("sample.json"))) or (out / "manifest.json").exists()
            remount(folder, f"size={64 << 20}")
            again = ended(forked(lambda w=line: fewstep(w), log))  # type: ignore[misc]
        promised = code == 1 and bool(re.search(r"disk|No space", text))
        yield Row(f"{name}, {size // 1024} KB", code, text, promised and not finished and again == 0)


def read_only(root: Path) -> Iterator[Row]:
    """A read-only disk that holds a finished run."""
    with disk(root, 64 << 20) as folder:
        shutil.copytree(root / "straight-dmmd", folder / "run")
        before = bytes_below(folder)
        remount(folder, "ro")
        run = str(folder / "run")
        commands: dict[str, tuple[list[str], int]] = {
            "train into it": (["train", "markov-teacher", *TINY, "--run-dir", str(folder / "new")], 2),
            "sample into the run": (["sample", run, "-n", "4", "--steps", "2"], 2),
            "sample elsewhere": (["sample", run, "-n", "4", "--steps", "2", "--out", str(root / "out")], 0),
            "evaluate": (["evaluate", run, "--steps", "2", "--samples", "64"], 0),
            "export elsewhere": (["export", run, "--out", str(root / "exported")], 0),
        }
        for name, (words, expected) in commands.items():
            log = root / f"read-only {name}.log"
            code = ended(forked(lambda w=words: fewstep(w), log))  # type: ignore[misc]
            sentence = code == 0 or bool(re.search(r"Read-only file system|cannot write", said(log)))
            whole = bytes_below(folder) == before
            yield Row(f"read-only disk: {name}", code, said(log), code == expected and sentence and whole)


def fewstep(words: list[str]) -> None:
    """The command line, in this process."""
    command_line(words)


def consoles(root: Path) -> Iterator[Row]:
    """Consoles that nobody reads, and environments without a HOME, by the command line."""
    command, tiny = f"{sys.executable} -m fewstep", " ".join(TINY)
    lines = {
        "train > /dev/full": (f"{command} train markov-teacher {tiny} --run-dir full > /dev/full", 0, ""),
        "list > /dev/full": (f"{command} list > /dev/full", 1, "No space left|disk"),
        "train | head -1": (
            f"{command} train markov-teacher {tiny} --run-dir piped | head -1 > /dev/null; exit ${{PIPESTATUS[0]}}",
            0,
            "",
        ),
        "list | head -1": (f"{command} list | head -1 > /dev/null; exit ${{PIPESTATUS[0]}}", 1, ""),
        "train without stdout and stderr": (
            f"{command} train markov-teacher {tiny} --run-dir closed >&- 2>&-",
            0,
            "",
        ),
        "train without HOME": (f"env -u HOME {command} train markov-teacher {tiny} --run-dir homeless", 0, ""),
        "train with a HOME that is absent": (
            f"HOME=/absent XDG_CACHE_HOME=/absent {command} train markov-teacher {tiny} --run-dir absent",
            0,
            "",
        ),
    }
    for name, (line, expected, sentence) in lines.items():
        log = root / "console.log"
        with log.open("wb") as file:
            code = subprocess.run(["bash", "-c", line], cwd=root, stderr=file, stdout=file, check=False).returncode
        run = re.search(r"--run-dir (\w+)", line)
        finished = run is None or RunDir(root / run[1]).status["state"] == "finished"
        text = said(log)
        kept = code == expected and bool(re.search(sentence, log.read_text())) and "Traceback" not in log.read_text()
        yield Row(name, code, text, kept and finished)


def pairs_of_processes(root: Path) -> Iterator[Row]:
    """A second process on what the first one holds."""
    command, run = [sys.executable, "-m", "fewstep"], str(root / "straight-dmmd")
    long = [*TINY, "--set", "train.steps=100000", "--set", "watch.times=0"]
    commands = {
        "train": ["train", "markov-teacher", *long, "--run-dir", "twice"],
        "sample": ["sample", run, "-n", "200000", "--steps", "64", "--out", "drawn-twice"],
        "evaluate": ["evaluate", run, "--steps", "64", "--samples", "200000"],
        "benchmark": ["benchmark", "exact", "--out", "suite-twice", "--jobs", "1"],
    }
    for name, words in commands.items():
        first = subprocess.Popen([*command, *words], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            log = root / "second.log"
            code, text = 0, ""
            time.sleep(10)
            for _ in range(20):  # until the first one has begun
                again = [*words, "--resume", "auto"] if name == "train" else words
                with log.open("wb") as file:
                    process = subprocess.Popen([*command, *again], cwd=root, stdout=file, stderr=file)
                    try:
                        code = process.wait(timeout=90)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()
                        continue
                text = said(log)
                break
            told = code == 1 and f"in use by process {first.pid} on" in text
            yield Row(f"two processes: {name}", code, text, told and first.poll() is None)
        finally:
            first.kill()
            first.wait()


def export_beside_another(root: Path) -> Iterator[Row]:
    """A second export to the folder of the first, which is stopped while it writes and then ends as promised."""
    command = [sys.executable, "-m", "fewstep", "export", str(root / "straight-dmmd"), "--out", "exported-twice"]
    first = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lock = root / ".exported-twice.lock"
    while not lock.exists() and first.poll() is None:
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)
    log = root / "second.log"
    with log.open("wb") as file:
        code = subprocess.run(command, cwd=root, stdout=file, stderr=file, check=False).returncode
    first.send_signal(signal.SIGCONT)
    told = code == 1 and f"in use by process {first.pid} on" in said(log)
    yield Row("two processes: export", code, said(log), told and first.wait() == 0)


def report(rows: list[Row]) -> str:
    """The outcomes as a page."""
    lines = ["| input | exit code | last line | promise kept |", "| --- | ---: | --- | --- |"]
    lines += [f"| {row.name} | {row.code} | {row.said} | {'yes' if row.kept else '**no**'} |" for row in rows]
    return "\n".join([*lines, "", origin("machines.py", 0)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("error: small disks are mounted by root only")
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory(prefix="machines-", dir="/tmp") as name:
        root = Path(name)
        make_straight(root)
        for campaign in (
            full_disks,
            full_disks_of_others,
            read_only,
            consoles,
            pairs_of_processes,
            export_beside_another,
        ):
            for row in campaign(root):
                rows.append(row)
                print(f"{'kept  ' if row.kept else 'BROKEN'} {row.name}: {row.code}, {row.said}", flush=True)
    text = report(rows)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    sys.exit(any(not row.kept for row in rows))


if __name__ == "__main__":
    main()
