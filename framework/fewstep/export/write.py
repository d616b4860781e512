"""`fewstep export`: write a run as a folder that samples without the run and its data."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.core.places import inside
from fewstep.core.version import __version__
from fewstep.data.base import Dataset
from fewstep.data.codec import codec_problem
from fewstep.evaluation.rows import load_rows
from fewstep.export.ancestry import ancestors, state_digest
from fewstep.export.card import model_card
from fewstep.export.portable import Portable, distributions, portable, strip_absolute_paths
from fewstep.recipe.yaml_loader import dump_yaml
from fewstep.runs.build import usual_steps
from fewstep.runs.checkpoint import EXPORT_FORMAT, export_weights
from fewstep.runs.environment import describe_environment, installed_plugins
from fewstep.runs.exported import (
    CARD,
    CONFIG,
    DATA,
    LABELS,
    WEIGHTS,
    ExportConfig,
    Exported,
    ExportedData,
    is_exported,
    put,
)
from fewstep.runs.models import TrainedModel, Weights, build_component, open_model
from fewstep.runs.shipped import model_path
from fewstep.runtime.files import publish_folder
from fewstep.runtime.hashing import sha256
from fewstep.runtime.lock import held
from fewstep.runtime.sealed_json import sealed_json
from fewstep.runtime.tensors import save_tensors
from fewstep.samplers.base import SAMPLERS

Dtype = Literal["float32", "bfloat16", "float16"]


def export_run(run: str, out: str | None = None, *, weights: Weights = "ema", dtype: Dtype = "float32") -> Path:
    """Write a run's student as a folder that suffices to sample.

    Args:
        run: run folder, or an exported `.safetensors` file whose data are available.
        out: new folder; None for `export/NAME` in the run's folder.
        weights: averaged weights, or the weights of the last step.
        dtype: type of the stored weights; networks compute in float32 unless `Pipeline` sets another type.

    Raises:
        UserError: the run does not exist, the folder is not empty, the model is exported already, or its dataset cannot
            show samples without its training data.
        OperationError: another process writes to the same folder.
    """
    if is_exported(model_path(run)):
        raise UserError(f"'{run}' is an exported model already; name the run of its training")
    model = open_model(run, weights=weights, device="cpu")
    return export_model(model, Path(out) if out else model.run.export.parent / model.recipe.name, dtype)


def export_model(model: TrainedModel, path: Path, dtype: Dtype | None = None) -> Path:
    """Write a model as a folder that suffices to sample; one that is exported already is copied.

    Args:
        path: new folder.
        dtype: type of the stored weights; None for float32, or that of the exported model.

    Raises:
        UserError: the folder is not empty, an exported model has another type, or the dataset cannot show samples
            without its training data.
        OperationError: another process writes to the same folder.
    """
    exported = Exported(model.path) if is_exported(model.path) else None
    if exported and dtype not in (None, exported.config.dtype):
        raise UserError(
            f"'{model.path}' holds weights in {exported.config.dtype}; export the run of its training in {dtype}"
        )
    if model.network.draws:  # fails early if a model that the sampler asks is missing
        build_component(SAMPLERS, model.recipe.sampler).guide(model.denoiser, model.dataset)
    lock = path.with_name(f".{path.absolute().name}.lock")
    with held(path, "export", file=lock):
        try:
            with _staging_folder(path) as folder:
                if exported:
                    _copy(exported, folder)
                else:
                    _write(folder, model, dtype or "float32")
                Exported(folder).recipe()
        finally:
            lock.unlink(missing_ok=True)
    return path


def _copy(exported: Exported, folder: Path) -> None:
    """Copy what an exported folder lists, and its card if there is one."""
    card = [CARD] if (exported.path / CARD).is_file() else []
    for name in [CONFIG, *card, *exported.config.files]:
        source = inside(exported.path, name, f"'{exported.path}'")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)


@contextmanager
def _staging_folder(path: Path) -> Iterator[Path]:
    """A new folder that is moved to `path` once it is complete.

    Raises:
        UserError: `path` exists and is not an empty folder.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"'{path}' exists already; name another folder with --out, or delete it")
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.with_name(f".{path.absolute().name}-{secrets.token_hex(4)}")
    folder.mkdir()
    try:
        yield folder
        publish_folder(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, model: TrainedModel, dtype: Dtype) -> None:
    """Fill an empty folder with one network and everything that it needs."""
    content = portable(model.recipe, model.role)
    dependencies = _write_dependencies(folder, content, dtype)
    state = {name: tensor.detach().cpu() for name, tensor in model.network.state_dict().items()}
    if model.weights == "ema":  # an average has parameters only, no buffers
        state = {name: state[name] for name, _ in model.network.named_parameters()}
    metadata = {"recipe": dump_yaml(content.recipe), "step": str(model.step), "format": EXPORT_FORMAT}
    export_weights(folder / WEIGHTS, _rounded(state, getattr(torch, dtype)), metadata)
    data = _write_data(folder, model.dataset)
    files = {str(f.relative_to(folder)): sha256(f) for f in sorted(folder.rglob("*")) if f.is_file()}
    config = ExportConfig(
        name=model.recipe.name,
        role=model.role,
        weights=model.weights,
        dtype=dtype,
        step=model.step,
        parameters=sum(p.numel() for p in model.network.parameters()),
        weights_digest=state_digest(state),
        data=data,
        steps=usual_steps(model.recipe),
        sampler=content.recipe["sampler"],
        teachers=ancestors(model.recipe),
        evaluations=_evaluations(model),
        environment=_environment(model),
        beside=dependencies,
        needs=content.needs,
        distributions=distributions(model.recipe.model_copy(update={"trackers": ()})),
        files={name: value for name, value in files.items() if Path(name).name != CARD},
    )
    # Older versions of fewstep refuse the key, and open what needs no plugin.
    plain = config.model_dump(mode="json", exclude=set() if config.distributions else {"distributions"})
    text = json.dumps(sealed_json(plain), indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    (folder / CARD).write_text(model_card(config, model.recipe), encoding="utf-8")


def _write_dependencies(folder: Path, content: Portable, dtype: Dtype) -> dict[str, str]:
    """Write what sampler and process name: networks and files; returns names in the folder by key of the recipe."""
    names: dict[str, str] = {}
    for reference in content.networks:
        names[reference.key] = name = _dependency_name(reference.key, names)
        (folder / name).mkdir()
        _write(folder / name, open_model(reference.value, reference.role, reference.weights, device="cpu"), dtype)
    for reference in content.files:
        names[reference.key] = name = _dependency_name(reference.key, names, Path(reference.value).suffix)
        shutil.copy(reference.value, folder / name)
    for key, name in names.items():
        put(content.recipe, key, name)
    return names


def _dependency_name(key: str, names: dict[str, str], suffix: str = "") -> str:
    """Name of a dependency: that of its section, such as classifier for sampler.classifier.run."""
    steps = key.split(".")[1:]
    name = (steps[-2] if len(steps) > 1 else steps[0]) + suffix
    return name if name not in names.values() else "-".join(steps) + suffix


def _write_data(folder: Path, dataset: Dataset) -> ExportedData:
    """Write the codec and the labels of a dataset; returns their section of `config.json`.

    Raises:
        UserError: the codec does not suffice to show samples.
    """
    if dataset.has_data and (problem := codec_problem(dataset)):
        raise UserError(f"data '{dataset.config.type}' cannot be exported: {problem}")
    codec, labels = dataset.codec(), dataset.labels
    (folder / DATA).mkdir()
    for name, content in codec.files.items():
        (folder / DATA / name).write_bytes(content)
    if labels is not None:
        compact = labels.to(torch.uint8 if dataset.classes <= 256 else torch.int32)
        save_tensors({"labels": compact.contiguous()}, folder / DATA / LABELS)
    if not any((folder / DATA).iterdir()):
        (folder / DATA).rmdir()
    spec = dataset.spec
    return ExportedData(
        type=dataset.config.type,
        vocab_size=spec.vocab_size,
        length=spec.length,
        grid=spec.grid,
        classes=None if labels is None else dataset.classes,
        fingerprint=dataset.fingerprint,
        values=dict(codec.values),
        files=tuple(codec.files),
    )


def _rounded(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {n: w.to(dtype, copy=True) if w.is_floating_point() else w.clone() for n, w in state.items()}


def _evaluations(model: TrainedModel) -> tuple[dict[str, object], ...]:
    """Values of `fewstep evaluate` for these weights and this step."""
    rows = load_rows(model.run.evaluate / f"step-{model.step:08d}.json")
    usual = model.recipe.evaluate.weights  # of rows of earlier versions, which do not say
    mine = [row for row in rows if (row.weights if row.key else usual) == model.weights]
    return tuple(strip_absolute_paths(row.public()) for row in mine)


def _environment(model: TrainedModel) -> dict[str, object]:
    """Environment of the training, without the command, which contains paths."""
    file = model.run.environment
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    training = {key: record[key] for key in ("hardware", "commit", "device", "versions", "seed") if key in record}
    if plugins := installed_plugins(model.recipe.plugins):
        training["plugins"] = plugins
    return {**training, "exported": {"fewstep": __version__, "commit": describe_environment()["commit"]}}
