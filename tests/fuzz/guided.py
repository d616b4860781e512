"""Fuzzing that is guided by coverage: atheris keeps inputs that reach new lines of fewstep, and changes them further.

    pip install -c constraints.txt atheris
    python tests/fuzz/guided.py recipe --seconds 600

Kinds: `recipe` (YAML), `results` (JSON of a suite), `config` (JSON of an exported folder), `weights` (an exported file,
whose header is JSON). An input may be refused in a sentence, or read. Anything else ends the fuzzing: another
exception, more than 10 s, or more than 2 GB. atheris then writes the input to a file and names it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import atheris

with atheris.instrument_imports(include=["fewstep", "yaml"]):
    from fewstep.bench.results.results import Results
    from fewstep.core.errors import FewstepError
    from fewstep.recipe import dump_recipe, load_recipe
    from fewstep.runs.checkpoint import import_weights
    from fewstep.runs.exported import Exported

ROOT = Path(__file__).resolve().parents[2]
BEFORE = ROOT / "tests/data/before"


def recipe(folder: Path) -> tuple[Path, Callable[[], object]]:
    file = folder / "recipe.yaml"
    file.write_text(dump_recipe(load_recipe("smoke-dmmd", teacher="t").recipe))
    return file, lambda: load_recipe(file)


def results(folder: Path) -> tuple[Path, Callable[[], object]]:
    file = folder / "results.json"
    shutil.copy(ROOT / "benchmarks/results/exact-quick/base.json", file)
    return file, lambda: Results.load(file)


def config(folder: Path) -> tuple[Path, Callable[[], object]]:
    shutil.copytree(BEFORE / "exported", folder / "exported")
    return folder / "exported/config.json", lambda: Exported(folder / "exported").recipe()


def weights(folder: Path) -> tuple[Path, Callable[[], object]]:
    file = folder / "single.safetensors"
    shutil.copy(BEFORE / "teacher/export/student_ema.safetensors", file)
    return file, lambda: import_weights(file)


KINDS = {make.__name__: make for make in (recipe, results, config, weights)}


def main() -> NoReturn:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="guided-") as name:
        folder = Path(name)
        corpus = folder / "corpus"
        corpus.mkdir()
        file, read = KINDS[options.kind](folder)
        shutil.copy(file, corpus / "whole")

        def attempt(content: bytes) -> None:
            file.write_bytes(content)
            quiet = io.StringIO()
            with (
                contextlib.redirect_stderr(quiet),
                contextlib.redirect_stdout(quiet),
                contextlib.suppress(FewstepError),
            ):
                read()

        limits = [f"-max_total_time={options.seconds}", f"-seed={options.seed}", "-timeout=10", "-rss_limit_mb=2048"]
        length = f"-max_len={4 * file.stat().st_size}"
        atheris.Setup([sys.argv[0], *limits, length, "-print_final_stats=1", str(corpus)], attempt)
        atheris.Fuzz()
        raise SystemExit  # libFuzzer ends the process itself


if __name__ == "__main__":
    main()
