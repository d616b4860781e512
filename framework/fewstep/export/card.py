"""The model card of an exported folder: description, measurements, origin and limits of the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fewstep.data.base import DATASETS
from fewstep.denoisers.autoencoder import NetworkAutoencoder
from fewstep.metrics.base import METRICS
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe.models import Recipe
from fewstep.recipe.yaml_loader import dump_yaml
from fewstep.runs.exported import ExportConfig

_ARROWS = {"lower": " ↓", "higher": " ↑", "info": ""}


def model_card(config: ExportConfig, recipe: Recipe) -> str:
    """Markdown with the metadata that Hugging Face reads."""
    is_generator = config.role == "student" and OBJECTIVES.get(recipe.objective.type).cls.roles["student"].network.draws
    parts = [_header(config, recipe), f"# {config.name}", _introduction(config, recipe)]
    if is_generator:
        parts += ["## Use", _use(config), "## Measured", _measured(config, recipe)]
    parts += ["## Where it comes from", _origin(config), "## Limits", _limits(config, recipe)]
    parts += ["## Recipe", _recipe(config, recipe)]
    return "\n\n".join(parts) + "\n"


def _header(config: ExportConfig, recipe: Recipe) -> str:
    kind = DATASETS.get(config.data.type).cls.kind
    pipeline = {"text": "text-generation", "image": "unconditional-image-generation"}.get(kind)
    tags = ["discrete-diffusion", f"{recipe.process.type}-diffusion", recipe.objective.type]
    tags += ["distillation", "few-step"] if config.teachers else []
    metadata: dict[str, Any] = {"library_name": "fewstep", "tags": tags}
    if pipeline and OBJECTIVES.get(recipe.objective.type).cls.roles["student"].network.draws:
        metadata["pipeline_tag"] = pipeline
    note = "# license: yours to choose, for the weights and for what the data allow"
    return f"---\n{note}\n{dump_yaml(metadata)}---"


def _introduction(config: ExportConfig, recipe: Recipe) -> str:
    data, network = config.data, OBJECTIVES.get(recipe.objective.type).cls.roles["student"].network
    if issubclass(network, NetworkAutoencoder):
        return _introduction_of_tokenizer(config, recipe)
    subject = "A few-step generator" if config.teachers else "A model"
    if config.role != "student" or not network.draws:
        subject = f"The {config.role}" if config.role != "student" else network.description
    classes = f", {data.classes} classes" if data.classes and recipe.label_input else ""
    teacher = f", distilled from `{config.teachers[0].name}`" if config.teachers else ""
    return (
        f"{subject} of {recipe.process.type} discrete diffusion on the dataset `{data.type}`: samples of {data.length} "
        f"tokens from a vocabulary of {data.vocab_size:,}{classes}. Objective `{recipe.objective.type}`{teacher}; "
        f"backbone `{recipe.backbone.type}`, {config.parameters:,} parameters, "
        f"{'averaged' if config.weights == 'ema' else 'last'} weights of step {config.step:,} in {config.dtype}. "
        f"It is made for {config.steps} sampling steps of the sampler `{config.sampler['type']}`."
    )


def _introduction_of_tokenizer(config: ExportConfig, recipe: Recipe) -> str:
    data = config.data
    assert data.grid is not None
    size = f"{data.grid[0]} x {data.grid[1]} pixels"
    return (
        f"An image tokenizer, trained on the dataset `{data.type}` ({size}) by objective `{recipe.objective.type}`: it "
        f"turns images into grids of codes and back. Backbone `{recipe.backbone.type}`, {config.parameters:,} "
        f"parameters, {'averaged' if config.weights == 'ema' else 'last'} weights of step {config.step:,} in "
        f"{config.dtype}. Data `vq_tokens` use it (`tokenizer.run`: this folder)."
    )


def _use(config: ExportConfig) -> str:
    view = "images" if config.data.grid else "texts"
    return (
        "```python\nfrom fewstep import Pipeline\n\n"
        'pipe = Pipeline.from_pretrained("PATH OR HUB ID OF THIS FOLDER")\n'
        f"print(pipe.sample(4, steps={config.steps}, seed=0).{view})\n```\n\n"
        "Nothing in this folder is code or pickled, and the training data are not needed."
    )


def _measured(config: ExportConfig, recipe: Recipe) -> str:
    """A table of the values of `fewstep evaluate`, one row per sampler, number of steps and seed."""
    rows = config.evaluations
    if not rows:
        return (
            "Nothing was measured with these weights; `fewstep evaluate RUN` before `fewstep export RUN` fills this in."
        )
    arrows = {
        name: _ARROWS[direction]
        for metric in recipe.evaluate.metrics
        for name, direction in METRICS.get(metric.type).cls.directions.items()
    }
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    heads = ["sampler", "steps", "NFE", "samples", "seed", *(f"{name}{arrows.get(name, '')}" for name in names)]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        sampler = (row.get("sampler") or config.sampler)["type"]
        values = [_number(row["metrics"].get(name)) for name in names]
        lines.append([sampler, *(str(row[key]) for key in ("steps", "nfe", "samples", "seed")), *values])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    weights = f"the {config.weights} weights of step {config.step:,}" + (
        "" if config.dtype == "float32" else f" in float32, before they were rounded to {config.dtype}"
    )
    return (
        f"{table}\n\nMeasured by `fewstep evaluate` with {weights}; one row per seed. "
        "`config.json` has each sampler's settings."
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _origin(config: ExportConfig) -> str:
    environment = config.environment
    lines = [f"* Data: `{config.data.type}`, SHA-256 of the training tokens `{config.data.fingerprint}`."]
    lines.append(f"* Weights: digest `{config.weights_digest}`.")
    for teacher in config.teachers:
        if teacher.weights_digest is None:
            lines.append(f"* Teacher: `{teacher.name}`; its run was gone at the time of the export.")
            continue
        state = f"step {teacher.step:,}, {teacher.weights} weights, digest `{teacher.weights_digest}`"
        lines.append(f"* Teacher: `{teacher.name}` (`{teacher.objective}`), {state}.")
    if environment.get("hardware"):
        lines.append(f"* Trained on: {environment['hardware']}.")
    versions = environment.get("versions", {})
    if versions:
        lines.append(f"* With: fewstep {versions.get('fewstep')}, torch {versions.get('torch')}.")
    lines.append(f"* Commit of fewstep: {environment.get('commit') or 'not recorded'}.")
    return "\n".join(lines)


def _limits(config: ExportConfig, recipe: Recipe) -> str:
    return "\n".join(f"* {line}" for line in _limit_lines(config, recipe))


def _limit_lines(config: ExportConfig, recipe: Recipe) -> Iterator[str]:
    if issubclass(OBJECTIVES.get(recipe.objective.type).cls.roles["student"].network, NetworkAutoencoder):
        yield "Codes lose detail, and more of it for images unlike the training data. The model draws no samples."
        return
    if "tokenizer_digest" in config.data.values:
        yield (
            "Samples are codes of an image tokenizer, which this folder holds; their pictures have the faults of its "
            f"decoder (digest of its weights: `{config.data.values['tokenizer_digest']}`)."
        )
    yield f"Samples have exactly {config.data.length} tokens, and resemble the training data at best."
    yield "Samples were not checked for copies of training data or for harmful content."
    if config.teachers:
        yield f"The student is trained for {config.steps} steps; other numbers, also larger ones, may be worse."
    if not OBJECTIVES.get(recipe.objective.type).cls.likelihood:
        yield f"`Pipeline.score` refuses: objective `{recipe.objective.type}` gives no bound on the likelihood."
    if recipe.evaluate.metrics:
        yield "Metrics need the training data, which this folder does not hold; evaluate where the data are."
    if config.distributions:
        pins = " ".join(f"{name}=={version}" for name, version in config.distributions.items())
        yield f"The model needs code that is not in this folder: `pip install {pins}`, if you trust its authors."
    if config.needs:
        yield f"The model needs the plugin {', '.join(config.needs)}, which is code and is not in this folder."


def _recipe(config: ExportConfig, recipe: Recipe) -> str:
    """The sections of the recipe that define the model."""
    sections = ("process", "backbone", "noise_input", "step_input", "label_input", "objective", "sampler")
    content = {key: value for key, value in recipe.model_dump(mode="json").items() if key in sections and value}
    if config.sampler:
        content["sampler"] = config.sampler
    return f"The metadata of `model.safetensors` hold the full recipe; in short:\n\n```yaml\n{dump_yaml(content)}```"
