"""What a GPU shows: correctness, speed, memory, and few-step models of real data, in under nine minutes.

`make gpu` runs it; benchmarks/results/gpu/README.md says what it measures. Each part is a process of its own, so that
a GPU error or a compiler that hangs ends one part only. Results are written case by case; the same command goes on
where an earlier one was cut off.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from cases import Case, Setting, run_cases
from records import FILE, Records, environment
from table import failures, markdown

from fewstep.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results/gpu"
PARTS = {
    "correctness": ("correctness", 0.13),
    "training": ("training_speed", 0.50),
    "sampling": ("sampling_speed", 0.65),
    "attention": ("attention_speed", 0.72),
    "evidence": ("evidence", 1.0),
}
"""Module of each part, and the share of the time by which it ends. What a part does not need goes to the next."""
GRACE = 10.0
"""Seconds after its end at which a part that still runs is ended, in the middle of a case."""


def say(line: str, end: float) -> None:
    """Print a line with the time that is left."""
    print(f"[{max(0.0, end - time.time()):4.0f} s left] {line}", flush=True)


def find_data(named: Path | None) -> Path | None:
    """The folder of data: the one that is named, or one in or beside the checkout."""
    places = [named] if named else [ROOT / "shared/data", ROOT.parent / "shared/data", ROOT / "data"]
    return next((place.resolve() for place in places if (place / "mnist").is_dir() or (place / "kjv").is_dir()), None)


def default_folder(measured: dict[str, object]) -> Path:
    """A folder by hardware, date and commit; the newest one of this hardware and commit, if there is one."""
    hardware = re.sub(r"[^a-z0-9]+", "-", str(measured["hardware"]).split(",")[0].lower()).strip("-")
    commit = str(measured["commit"] or "unknown")[:7]
    if measured["short"]:
        return ROOT / "build/gpu-short"
    earlier = sorted(RESULTS.glob(f"{hardware}_*_{commit}/{FILE}"))
    return earlier[-1].parent if earlier else RESULTS / f"{hardware}_{measured['date']}_{commit}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder of the results; by default one of hardware, date and commit")
    parser.add_argument("--minutes", type=float, default=8.5, help="time for all parts together (default: 8.5)")
    parser.add_argument("--data", type=Path, help="folder that holds mnist and kjv; by default shared/data or data")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="only these parts")
    parser.add_argument("--short", action="store_true", help="tiny sizes on the CPU: does everything run?")
    parser.add_argument("--work", type=Path, default=ROOT / "build/gpu", help="folder of what can be thrown away")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # end of the one part of this process
    return parser.parse_args()


def run_part(part: str, options: argparse.Namespace, records: Records) -> None:
    """The cases of a part, in this process."""
    end: float = options.until
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("fewstep").setLevel(logging.INFO)  # says which attention is taken
    _drop_unknown_options_of_compile(partial(say, end=end))
    setting = Setting(
        short=options.short,
        device=torch.device("cpu" if options.short else "cuda"),
        left=lambda: end - time.time(),
        data=find_data(options.data),
        out=options.out,
        work=options.work.resolve(),
        say=partial(say, end=end),
    )
    make: Callable[[Setting], Iterable[Case]] = import_module(PARTS[part][0]).cases
    run_cases(part, make(setting), records, setting)


def _drop_unknown_options_of_compile(tell: Callable[[str], None]) -> None:
    """Let a torch that is older than the product's compile nevertheless, and say so."""
    import inspect

    known, plain = inspect.signature(torch.compile).parameters, torch.compile
    if "isolate_recompiles" in known:
        return
    tell(f"torch {torch.__version__} is older than fewstep needs; options of torch.compile that it lacks are left out")

    def compile(*args: object, **options: object) -> object:
        return plain(*args, **{name: value for name, value in options.items() if name in known})  # type: ignore[call-overload]

    torch.compile = compile  # type: ignore[assignment]


def start_part(part: str, options: argparse.Namespace, begin: float) -> bool:
    """A process for a part, which is ended soon after its time; returns whether it came to its own end."""
    end = begin + 60 * options.minutes * PARTS[part][1]
    say(f"{part}: until {max(0.0, end - time.time()):.0f} s from now", begin + 60 * options.minutes)
    command = [sys.executable, str(Path(__file__)), "--parts", part, "--until", str(end)]
    command += ["--out", str(options.out), "--work", str(options.work)]
    command += ["--data", str(options.data)] if options.data else []
    command += ["--short"] if options.short else []
    # A process that is ended may leave half a file in the compiler's cache, which no other should read.
    cache, complete = options.work.resolve() / "compiled" / part, False
    process = subprocess.Popen(
        command, start_new_session=True, env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)}
    )
    try:
        code = process.wait(max(GRACE, end + GRACE - time.time()))
        complete = code == 0
        if code:
            print(f"{part}: the process ended with exit code {code}; the next part goes on", flush=True)
    except subprocess.TimeoutExpired:
        print(f"{part}: its last case did not end in time; the next part goes on", flush=True)
    finally:
        _end(process)
        if not complete:
            shutil.rmtree(cache, ignore_errors=True)
    return complete


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with those that it started (compilers)."""
    try:
        os.killpg(process.pid, 9)
    except (ProcessLookupError, PermissionError):
        return
    finally:
        process.wait()


def main() -> int:
    """Run all parts, print the table; 1 if something failed or does not hold."""
    options, begin = arguments(), time.time()
    if not options.short and not torch.cuda.is_available():
        print("torch finds no GPU here; --short runs a tiny form of all parts on the CPU", file=sys.stderr)
        return 1
    if options.until is not None:
        run_part(options.parts[0], options, Records(options.out))
        return 0
    measured = environment(options.short)
    options.out = (options.out or default_folder(measured)).resolve()
    try:
        Records(options.out, measured)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{measured['hardware']}, torch {torch.__version__}; results go to {options.out}", flush=True)
    if find_data(options.data) is None:
        print("no folder with mnist and kjv here, so there will be no evidence; name it by --data", flush=True)
    ends = [start_part(part, options, begin) for part in PARTS if part in options.parts]
    records = Records(options.out)
    text = markdown(records, list(PARTS))
    (options.out / "results.md").write_text(text, encoding="utf-8")
    print(f"\n{time.time() - begin:.0f} s in all\n")
    broken = failures(records)
    if broken:
        print(f"failed, or does not hold: {'; '.join(broken)}\n")
    print(text, end="", flush=True)
    return 1 if broken or not all(ends) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part's process is ended too
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
