"""The model card of an exported folder: what the model is, what was measured, and what it cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fewstep.data.base import DATASETS
from fewstep.metrics.base import METRICS
from fewstep.objectives.base import OBJECTIVES
from fewstep.recipe.models import Recipe
from fewstep.recipe.yaml_loader import dump_yaml
from fewstep.runs.exported import ExportConfig

_ARROWS = {"lower": " ↓", "higher": " ↑", "info": ""}


def model_card(config: ExportConfig, recipe: Recipe) -> str:
    """Markdown with the metadata that Hugging Face reads."""
    student = config.role == "student" and OBJECTIVES.get(recipe.objective.type).cls.roles["student"].draws
    parts = [_header(config, recipe), f"# {config.name}", _introduction(config, recipe)]
    if student:
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
    if pipeline and OBJECTIVES.get(recipe.objective.type).cls.roles["student"].draws:
        metadata["pipeline_tag"] = pipeline
    note = "# license: yours to choose, for the weights and for what the data allow"
    return f"---\n{note}\n{dump_yaml(metadata)}---"


def _introduction(config: ExportConfig, recipe: Recipe) -> str:
    data, role = config.data, OBJECTIVES.get(recipe.objective.type).cls.roles["student"]
    if role.reconstructs:
        return _introduction_of_tokenizer(config, recipe)
    what = "A few-step generator" if config.teachers else "A model"
    if config.role != "student" or not role.draws:
        what = f"The {config.role}" if config.role != "student" else "A classifier of noised samples"
    classes = f", {data.classes} classes" if data.classes and recipe.label_input else ""
    taught = f", distilled from `{config.teachers[0].name}`" if config.teachers else ""
    return (
        f"{what} of {recipe.process.type} discrete diffusion on the dataset `{data.type}`: samples of {data.length} "
        f"tokens from a vocabulary of {data.vocab_size:,}{classes}. Objective `{recipe.objective.type}`{taught}; "
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
    show = "images" if config.data.grid else "texts"
    return (
        "```python\nfrom fewstep import Pipeline\n\n"
        'pipe = Pipeline.from_pretrained("PATH OR HUB ID OF THIS FOLDER")\n'
        f"print(pipe.sample(4, steps={config.steps}, seed=0).{show})\n```\n\n"
        "Nothing in this folder is code or pickled, and the training data are not needed."
    )


def _measured(config: ExportConfig, recipe: Recipe) -> str:
    """A table of what `fewstep evaluate` measured, a row for each way of sampling."""
    rows = config.evaluations
    if not rows:
        return (
            "Nothing was measured of these weights; `fewstep evaluate RUN` before `fewstep export RUN` fills this in."
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
    which = f"the {config.weights} weights of step {config.step:,}" + (
        "" if config.dtype == "float32" else f" in float32, before they were rounded to {config.dtype}"
    )
    return f"{table}\n\nBy `fewstep evaluate`, of {which}; one row a seed. `config.json` has each sampler's settings."


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _origin(config: ExportConfig) -> str:
    told = config.environment
    lines = [f"* Data: `{config.data.type}`, SHA-256 of the training tokens `{config.data.fingerprint}`."]
    lines.append(f"* Weights: digest `{config.weights_digest}`.")
    for teacher in config.teachers:
        if teacher.weights_digest is None:
            lines.append(f"* Teacher: `{teacher.name}`; its run was gone when this was exported.")
            continue
        at = f"step {teacher.step:,}, {teacher.weights} weights, digest `{teacher.weights_digest}`"
        lines.append(f"* Teacher: `{teacher.name}` (`{teacher.objective}`), {at}.")
    if told.get("hardware"):
        lines.append(f"* Trained on: {told['hardware']}.")
    versions = told.get("versions", {})
    if versions:
        lines.append(f"* With: fewstep {versions.get('fewstep')}, torch {versions.get('torch')}.")
    lines.append(f"* Commit of fewstep: {told.get('commit') or 'not recorded'}.")
    return "\n".join(lines)


def _limits(config: ExportConfig, recipe: Recipe) -> str:
    return "\n".join(f"* {line}" for line in _limit_lines(config, recipe))


def _limit_lines(config: ExportConfig, recipe: Recipe) -> Iterator[str]:
    if OBJECTIVES.get(recipe.objective.type).cls.roles["student"].reconstructs:
        yield "What its codes cannot say is lost, and images unlike its training data lose more; it draws no samples."
        return
    if "tokenizer_digest" in config.data.values:
        yield (
            "Samples are codes of an image tokenizer, which this folder holds, and their pictures have the faults of "
            f"what that makes of codes (digest of its weights: `{config.data.values['tokenizer_digest']}`)."
        )
    yield f"Samples have {config.data.length} tokens, no more and no less, and are like the training data at best."
    yield "Whether samples repeat training data or hold what should not be shown was not checked."
    if config.teachers:
        yield f"A student in few steps: other numbers of steps than {config.steps} may be worse, also larger ones."
    if not OBJECTIVES.get(recipe.objective.type).cls.likelihood:
        yield f"`Pipeline.score` refuses: objective `{recipe.objective.type}` leaves no bound on the likelihood."
    if recipe.evaluate.metrics:
        yield "Metrics compare with the training data, which this folder does not hold; evaluate where those are."
    if config.needs:
        yield f"It needs the plugin {', '.join(config.needs)}, which is code and does not come with it."


def _recipe(config: ExportConfig, recipe: Recipe) -> str:
    """What stands in the file's metadata in full, as far as it decides what the model is."""
    kept = ("process", "backbone", "noise_input", "step_input", "label_input", "objective", "sampler")
    content = {key: value for key, value in recipe.model_dump(mode="json").items() if key in kept and value}
    if config.sampler:
        content["sampler"] = config.sampler
    return f"All of it stands in the metadata of `model.safetensors`; in short:\n\n```yaml\n{dump_yaml(content)}```"
