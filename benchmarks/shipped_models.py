"""Copy the models of a finished suite into the package, with cards and digests.

    python benchmarks/shipped_models.py results/shipped-digits

exports each teacher and student to `framework/fewstep/shipped/models/NAME`, where NAME is its recipe's, and renews
`manifest.json` there. Cases that only serve metrics stay out, and models that the suite made before and makes no more
are removed. `--dtype float16` halves the files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from fewstep.bench.results.results import CaseResult, Results, results_file
from fewstep.core.errors import FewstepError, UserError
from fewstep.evaluation.rows import EvaluatedRow, store_rows
from fewstep.export.write import Dtype, export_run
from fewstep.recipe.shipped import find_shipped, is_path, summary
from fewstep.runs.exported import CARD, Exported
from fewstep.runs.folder import RunDir
from fewstep.runs.shipped import FOLDER, MANIFEST, OWNER, Manifest, ShippedModel, read_manifest
from fewstep.runtime.files import rewrite
from fewstep.runtime.hashing import sha256

LIMIT = 6_000_000
"""Bytes of all shipped weights together."""
DATA = {
    "digits": "scikit-learn's `load_digits`, part of *Optical Recognition of Handwritten Digits* (UCI, CC BY 4.0)",
    "glyphs": "digits drawn with the fonts that matplotlib ships (DejaVu, STIX, Computer Modern; free to use)",
    "pydocs": "the language reference of Python, in `pydoc_data.topics` (PSF licence)",
    "chorales": "Bach's chorales, which are in the public domain, as JSB-Chorales-dataset encodes them",
}
"""Origin of the training data, for the cards."""
_LICENCE_NOTE = "# license: yours to choose, for the weights and for what the data allow\n"
_PLACE = "PATH OR HUB ID OF THIS FOLDER"


def ship(results_folder: Path, dtype: Dtype = "float32", folder: Path = FOLDER) -> list[str]:
    """Copy the models of a suite's results into a folder of shipped models; returns their names.

    Raises:
        UserError: the results are of a quick run or lack a model, or the weights are more than 6 MB.
    """
    results = Results.load(results_file(results_folder))
    teachers = {case.teacher for case in results.cases if case.teacher}
    cases = [case for case in results.cases if case.teacher or case.name in teachers]
    if results.suite.quick or not cases:
        raise UserError(f"'{results_folder}' holds no models of a full run; run the suite without --quick")
    others = {name: model for name, model in read_manifest(folder).models.items() if model.suite != results.suite.name}
    for name in read_manifest(folder).models.keys() - others.keys():
        shutil.rmtree(folder / name, ignore_errors=True)
    models = {}
    for case in cases:
        name = str(case.resolved["name"])
        models[name] = _ship_case(results, case, results_folder, folder / name, dtype)
    text = Manifest(models=dict(sorted({**others, **models}.items()))).model_dump(mode="json")
    rewrite(folder / MANIFEST, json.dumps(text, indent=2) + "\n")
    read_manifest.cache_clear()
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    if size > LIMIT:
        raise UserError(f"the shipped weights take {size:,} bytes together, more than {LIMIT:,}; pass --dtype float16")
    return list(models)


def _ship_case(results: Results, case: CaseResult, results_folder: Path, target: Path, dtype: Dtype) -> ShippedModel:
    """Export the model of one case to `target`; returns its entry of the manifest."""
    if case.run is None:
        raise UserError(f"case '{case.name}' of suite '{results.suite.name}' trained no model; ship only recipes")
    run = RunDir(results_folder / case.run)
    _store_rows(results, case, run)
    with tempfile.TemporaryDirectory() as scratch:
        exported = export_run(str(run.path), str(Path(scratch) / target.name), dtype=dtype)
        _complete_card(exported / CARD, results.suite.name, case, Exported(exported).config.data.type)
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(exported, target)
    config = Exported(target).config
    files = {str(file.relative_to(target)): file for file in sorted(target.rglob("*")) if file.is_file()}
    return ShippedModel(
        summary=(case.label if is_path(case.recipe) else summary(find_shipped("recipe", case.recipe))).rstrip("."),
        suite=results.suite.name,
        case=case.name,
        data=config.data.type,
        steps=config.steps,
        parameters=config.parameters,
        weights_digest=config.weights_digest,
        files={name: sha256(file) for name, file in files.items()},
        bytes=sum(file.stat().st_size for file in files.values()),
    )


def _store_rows(results: Results, case: CaseResult, run: RunDir) -> None:
    """Put the suite's values of a case where `fewstep export` reads those of its card."""
    rows = [
        EvaluatedRow(
            steps=row.steps,
            nfe=row.nfe,
            passes=row.passes,
            seed=row.seed,
            samples=row.samples,
            sampler=row.sampler,
            metrics=row.values,
        )
        for row in results.rows
        if row.case == case.name and row.steps is not None and row.nfe is not None
    ]
    checkpoint = run.last_checkpoint()
    assert checkpoint is not None
    store_rows(run.evaluate / f"{checkpoint.name}.json", rows)


def _complete_card(card: Path, suite: str, case: CaseResult, data: str) -> None:
    """Add to a card the licence, how the model is named, and where suite and data come from."""
    name, text = str(case.resolved["name"]), card.read_text(encoding="utf-8")
    note = (
        f"It comes with fewstep, so that `fewstep sample {name}` needs no training and no network. It is small and was "
        f"trained for {case.train_steps:,} steps: it shows the method, not its limits.\n\nTo train it again: "
        f"`fewstep benchmark {suite}` (case `{case.name}`). "
        f"Training data: {DATA[data]}. Licence of the weights: Apache-2.0."
    )
    text = text.replace(_LICENCE_NOTE, "license: apache-2.0\n").replace(_PLACE, f"{OWNER}/{name}")
    text = text.replace("\n\n## Use\n", f"\n\n{note}\n\n## Use\n", 1)
    card.write_text(text, encoding="utf-8")


def main() -> int:
    """Run the command line. Returns the exit code, 2 without results to ship."""
    parser = argparse.ArgumentParser(description="Copy the models of a finished suite into the package.")
    parser.add_argument("results", type=Path, help="folder of a suite's results")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the weights")
    options = parser.parse_args()
    try:
        for name in ship(options.results, options.dtype):
            print(f"{FOLDER / name}")
    except FewstepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
