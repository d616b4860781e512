"""A script: trains recipes one after the other, as one of the ranks that its environment names.

Its argument is a JSON list of `[recipe, run folder]`. The recipes use at most one plugin each, which they list.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.runtime.ranks import ranks_of_environment
from fewstep.training.launch import fit


def main(jobs: Path) -> None:
    with ranks_of_environment("auto", "cpu", minutes=5) as ranks:
        for number, (recipe, folder) in enumerate(json.loads(jobs.read_text())):
            file = jobs.with_name(f"{jobs.stem}-{number}-{ranks.rank}.yaml")
            file.write_text(yaml.safe_dump(recipe))
            loaded = load_recipe(str(file), [], trust_plugins=True)
            fit(loaded, RunDir(Path(folder)), echo=lambda line: None, ranks=ranks)
            ranks.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
