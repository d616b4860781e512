"""Layout and reader of the folder of an exported model.

    model.safetensors   weights, with the recipe in the file's metadata
    config.json         everything else that `ExportConfig` lists, with a SHA-256 of every other file and of itself
    README.md           the model card; it has no SHA-256, since people edit it
    data/               files that decode samples: a tokenizer's file, labels
    classifier/ reward/ networks that the sampler uses, each a folder like this one
    grid.json           and other files that the sampler or the process reads

Nothing is pickled and nothing in it is code.
"""

from __future__ import annotations

import math
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fewstep.core.component import Strict
from fewstep.core.errors import FewstepError, OperationError, UserError
from fewstep.core.places import inside
from fewstep.core.plugins import PluginError, load_distributions
from fewstep.core.references import references
from fewstep.data.base import DATASETS, Codec, Dataset, DataSpec
from fewstep.recipe import parse_recipe
from fewstep.recipe.models import Recipe
from fewstep.recipe.yaml_loader import load_mapping
from fewstep.runs.checkpoint import import_weights
from fewstep.runs.environment import plugin_versions
from fewstep.runtime.files import read_json
from fewstep.runtime.hashing import sha256
from fewstep.runtime.sealed_json import SEAL, unsealed_json

FORMAT = "fewstep-folder/1"
BESIDE = ("sampler.", "process.")
"""Sections of a recipe whose files are exported with the weights: without them no samples are drawn."""
CONFIG, WEIGHTS, CARD, DATA = "config.json", "model.safetensors", "README.md", "data"
LABELS = "labels.safetensors"
MAX_NUMBER, MAX_LENGTH = 1 << 40, 1 << 20
"""Limits on numbers of an export, before anything is allocated by them; weights bound what a network has of each."""
Side = Annotated[int, Field(ge=1, le=MAX_LENGTH)]
DistributionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?$")]
VersionText = Annotated[str, Field(pattern=r"^[A-Za-z0-9.+!_-]{0,60}$")]
MAX_CONFIG = 1 << 24
"""Limit on the bytes of `config.json`: 16 MB."""
HUB_PATTERNS = ("*.safetensors", "*.json", "*.model", "*.txt", "*.md")
"""Files of exports, the only ones that are taken from the Hub: weights, settings, tokenizers and cards."""


class ExportedData(Strict):
    """Description of the data, sufficient to decode and show samples."""

    type: str = Field(description="dataset")
    vocab_size: int = Field(ge=1, le=MAX_NUMBER)
    length: int = Field(ge=1, le=MAX_LENGTH)
    grid: tuple[Side, Side, Side] | None = None
    classes: int | None = Field(None, ge=0, le=MAX_NUMBER)
    fingerprint: str = Field(description="SHA-256 of the training tokens")
    values: dict[str, Any] = Field({}, description="the dataset's own, see `Dataset.codec`")
    files: tuple[str, ...] = Field((), description="the dataset's own, below data/")


class Ancestor(Strict):
    """A teacher, or a teacher's teacher."""

    name: str = Field(description="of its recipe")
    objective: str = ""
    step: int | None = None
    weights: Literal["ema", "raw"] = "ema"
    weights_digest: str | None = Field(None, description="null if its run no longer existed at the export")


class ExportConfig(Strict):
    """`config.json`."""

    format: Literal["fewstep-folder/1"] = "fewstep-folder/1"
    model_type: Literal["fewstep"] = "fewstep"
    name: str = Field(description="of the recipe")
    role: str = Field("student", description="which network of its objective")
    weights: Literal["ema", "raw"]
    dtype: str
    step: int = Field(ge=0, le=MAX_NUMBER)
    parameters: int = Field(ge=0)
    weights_digest: str = Field(description="first 16 digits of the SHA-256 of the weights before any rounding")
    data: ExportedData
    steps: int = Field(ge=1, le=MAX_NUMBER, description="sampling steps that it was trained for")
    sampler: dict[str, Any] = Field(description="settings of the sampler that it was trained for")
    teachers: tuple[Ancestor, ...] = Field((), description="its teacher, the teacher's teacher, ...")
    evaluations: tuple[dict[str, Any], ...] = Field((), description="measurements of `fewstep evaluate`")
    environment: dict[str, Any] = Field({}, description="hardware, commit and versions of the training")
    beside: dict[str, str] = Field({}, description="keys of the recipe whose files lie in this folder")
    needs: tuple[str, ...] = Field((), description="files of plugins, which are not exported")
    distributions: dict[DistributionName, VersionText] = Field(
        {}, description="versions of the plugins that it needs, which must be installed"
    )
    files: dict[str, str] = Field({}, description="SHA-256 of every other file except the card")


def is_exported(path: str | Path) -> bool:
    """Whether this folder is an exported model and no run, perhaps a damaged one; `Exported` raises the error then."""
    path = Path(path)
    return not (path / "recipe.resolved.yaml").exists() and any((path / name).is_file() for name in (CONFIG, WEIGHTS))


class Exported:
    """A complete folder: every file is present and has the digest of the export.

    Raises:
        UserError: the folder is damaged, or `fewstep export` did not write it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = _read_config(self.path)
        for name, digest in self.config.files.items():
            file = self._file(name)
            if not file.is_file():
                raise UserError(f"'{self.path}' is incomplete: {name} is missing; export it again")
            if sha256(file) != digest:
                raise UserError(f"'{file}' is damaged or was changed (its SHA-256 is another); export it again")

    def _file(self, name: str) -> Path:
        """A file of the folder; see `inside`."""
        return inside(self.path, name, f"'{self.path}'")

    def recipe(self) -> Recipe:
        """The recipe, with the paths of the files that lie in this folder.

        Raises:
            UserError: it needs a plugin that is not installed, names a component that is not registered, or its
                sampler names a file elsewhere.
        """
        text = self.contents[1].get("recipe", "")
        content = load_mapping(text, str(self.path / WEIGHTS)).plain()
        listed = content.get("plugins")
        if any(str(name).endswith(".py") for name in (listed if isinstance(listed, list) else ())):
            raise UserError(f"'{self.path}' names a Python file as a plugin; exported models carry no code")
        self._put_files(content)
        versions = {**plugin_versions(self.config.environment.get("plugins")), **self.config.distributions}
        try:
            load_distributions(self.config.distributions)
        except PluginError as error:
            raise UserError(f"'{self.path}' needs {error}") from None
        try:
            recipe = parse_recipe(content, source=str(self.path), versions=versions)
        except FewstepError as error:
            if other := self._other_versions():
                raise UserError(f"'{self.path}' was made with {other} ({error})") from None
            if not self.config.needs:
                raise
            needs = ", ".join(self.config.needs)
            raise UserError(
                f"'{self.path}' needs the plugin {needs}, which is code and was not exported; import it first ({error})"
            ) from None
        self._check_references(recipe)
        return recipe

    def _other_versions(self) -> str:
        """Plugins that are installed in other versions than those of the export, as a clause; "" if none are."""
        installed = {name: version(name) for name in self.config.distributions}
        made = [(name, old) for name, old in self.config.distributions.items() if installed[name] != old]
        return "; ".join(f"{name} {old}, and {installed[name]} is installed" for name, old in made)

    def _put_files(self, content: dict[str, Any]) -> None:
        """Set the keys of the recipe whose files lie in this folder."""
        for key, name in self.config.beside.items():
            try:
                if not key.startswith(BESIDE):
                    raise KeyError(key)
                put(content, key, str(self._file(name).absolute()))
            except (KeyError, IndexError, TypeError, ValueError):
                raise UserError(
                    f"'{self.path}' is damaged: its recipe has no setting '{key}'; export it again"
                ) from None

    def _check_references(self, recipe: Recipe) -> None:
        """Sampler and process name nothing but what lies in this folder; of the sampler only a student's must."""
        named = {r.key: r.value for r in references(recipe) if r.key.startswith(BESIDE) and r.kind != "model"}
        if foreign := self.config.beside.keys() - named.keys():
            raise UserError(f"'{self.path}' is damaged: '{min(foreign)}' names no file; export it again")
        absent = named.keys() - self.config.beside.keys()
        if self.config.role != "student":  # it draws no samples
            absent = {key for key in absent if not key.startswith("sampler.")}
        if absent:
            key = min(absent)
            raise UserError(f"'{self.path}' lacks what its {key} names ('{named[key]}'); export it again")

    @cached_property
    def contents(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Weights, and the metadata of their file."""
        return import_weights(self._file(WEIGHTS))

    def dataset(self, recipe: Recipe) -> Dataset:
        """The dataset without training data, which decodes and shows samples."""
        data, listed = self.config.data, self.config.files
        if data.type != recipe.data.type:
            raise UserError(f"'{self.path}' is damaged: its data are '{data.type}' and '{recipe.data.type}'")
        if unlisted := [name for name in data.files if f"{DATA}/{name}" not in listed]:
            raise UserError(
                f"'{self.path}' is damaged: {CONFIG} lists no digest of {DATA}/{unlisted[0]}; export it again"
            )
        codec = Codec(data.values, {name: self._file(f"{DATA}/{name}").read_bytes() for name in data.files})
        labels = self._labels() if f"{DATA}/{LABELS}" in listed else None
        if data.grid is not None and math.prod(data.grid) != data.length:
            raise UserError(f"'{self.path}' is damaged: a grid of {data.grid} has not {data.length} tokens")
        spec = DataSpec(data.vocab_size, data.length, data.grid)
        return DATASETS.get(data.type).cls.without_data(recipe.data, spec, data.fingerprint, codec, labels)

    def _labels(self) -> Tensor:
        """Labels of the training samples, LongTensor [N].

        Raises:
            UserError: the file is damaged, or holds other classes than the data have.
        """
        file = self._file(f"{DATA}/{LABELS}")
        try:
            labels = load_file(file)["labels"].long()
        except (SafetensorError, KeyError) as error:
            raise UserError(f"'{file}' is damaged ({error}); export it again") from None
        if (
            labels.ndim != 1
            or not len(labels)
            or labels.min() < 0
            or int(labels.max()) >= (self.config.data.classes or 0)
        ):
            raise UserError(f"'{file}' does not hold labels of {self.config.data.classes} classes; export it again")
        return labels


def _read_config(path: Path) -> ExportConfig:
    file = inside(path, CONFIG, f"'{path}'")
    if not file.is_file():
        raise UserError(f"'{path}' holds no exported model (no {CONFIG}); make one with `fewstep export RUN`")
    try:
        content = read_json(file, "export it again", limit=MAX_CONFIG)
    except OperationError as error:
        raise UserError(str(error)) from None
    file_format = content.get("format") if isinstance(content, dict) else None
    if file_format != FORMAT:
        later = str(file_format or "").startswith("fewstep-folder/")
        reason = f"is of a later version of fewstep ({file_format}); update" if later else "was not written by fewstep"
        raise UserError(f"'{file}' {reason}")
    content = unsealed_json(content, file, f"export it again, or remove its entry '{SEAL}' if the change is yours")
    try:
        return ExportConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise UserError(f"'{file}' is damaged: {where}: {first['msg']}") from None


def put(content: Any, key: str, value: str) -> None:
    """Set a dotted key of plain data."""
    *above, last = (int(step) if step.isdigit() else step for step in key.split("."))
    for step in above:
        content = content[step]
    content[last] = value
