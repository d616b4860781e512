"""The demo page in gradio: one column for each model, with settings that all share."""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, cast

from torch import Tensor

from fewstep.core.errors import FewstepError, UserError
from fewstep.data.text.text import TextDataset
from fewstep.demo.drawing import (
    MAX_SAMPLES,
    Keep,
    Settings,
    answer,
    fitting_samplers,
    keepable_parts,
    own_steps,
    takes_blanks,
)
from fewstep.demo.views import animation_html, cost_html, samples_html
from fewstep.runs.models import TrainedModel
from fewstep.sampling.labels import ALL

if TYPE_CHECKING:
    from gradio import Blocks, Button
    from gradio.components import Component

Value = float | str | None
"""What a component of the page gives."""
MAX_MODELS = 4
"""Limit on the columns of a page."""
LIKE_DATA = "as in the data"
STYLE = """
.fewstep-picture { width: 100%; max-width: 26rem; image-rendering: pixelated; display: block; margin: 0 auto;
  border-radius: 6px }
.fewstep-text { white-space: pre-wrap; overflow-wrap: anywhere; font: 0.9rem/1.45 ui-monospace, monospace;
  padding: 0.5rem 0.7rem; margin: 0 0 0.4rem; border: 1px solid var(--border-color-primary); border-radius: 6px }
.fewstep-cost { margin: 0.3rem 0; min-height: 1.5rem; text-align: center }
.fewstep-steps { width: 100%; height: 30rem; border: 1px solid var(--border-color-primary); border-radius: 6px;
  background: #fff }
.fewstep-wait { color: var(--body-text-color-subdued); text-align: center; padding: 2rem 0 }
.gradio-container { max-width: 72rem !important; margin: 0 auto !important }
"""
_WAIT = '<p class="fewstep-wait">drawing ...</p>'


def gradio_package() -> ModuleType:
    """The optional package gradio, which sends no telemetry, and reaches this machine without a proxy.

    Raises:
        UserError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for name in ("NO_PROXY", "no_proxy"):
        if "127.0.0.1" not in (others := os.environ.get(name, "")):
            os.environ[name] = ",".join(filter(None, (others, "127.0.0.1,localhost")))
    try:
        import gradio
    except ImportError:
        raise UserError("the demo needs the package gradio: pip install 'fewstep[demo]'") from None
    return gradio


@dataclass(frozen=True)
class Column:
    """A model of the page, and the name that the person gave it."""

    name: str
    model: TrainedModel


def check_columns(columns: Sequence[Column]) -> None:
    """Refuse models that cannot stand beside each other.

    Raises:
        UserError: too many models, or models of different data.
    """
    if len(columns) > MAX_MODELS:
        raise UserError(f"a demo has at most {MAX_MODELS} models beside each other, not {len(columns)}")
    first = columns[0]
    for other in columns[1:]:
        ours, theirs = first.model.dataset, other.model.dataset
        if (ours.config.type, ours.spec) != (theirs.config.type, theirs.spec):
            raise UserError(
                f"'{other.name}' draws {theirs.config.type}, and '{first.name}' {ours.config.type} of another size; "
                "name models of the same data"
            )


def build_page(columns: Sequence[Column], *, trust_plugins: bool = False) -> Blocks:
    """The page as `gradio.Blocks`.

    Raises:
        UserError: gradio is not installed, or the models do not fit each other.
    """
    gr = gradio_package()
    check_columns(columns)
    with gr.Blocks(title="fewstep: " + ", ".join(column.name for column in columns), analytics_enabled=False) as page:
        gr.Markdown(_introduction(columns))
        shared, button = _shared_settings(gr, columns)
        with gr.Row():
            parts = [_column(gr, column) for column in columns]
        for column, (own, outputs) in zip(columns, parts, strict=True):
            draw = _drawing(gr, column, columns[0].model, list(shared), trust_plugins)
            options: dict[str, object] = {
                "inputs": [*own, *shared.values()],
                "outputs": outputs,
                "concurrency_limit": 1,  # so that the seconds are those of one model alone
                "concurrency_id": "draw",
                "show_progress": "hidden",
                "api_visibility": "private",
            }
            button.click(draw, **options)
            page.load(draw, **options)
    return page


def _introduction(columns: Sequence[Column]) -> str:
    names = " beside ".join(f"`{column.name}`" for column in columns)
    return (
        f"# {names}\n\nEach column draws with its own number of steps. "
        "A step is an evaluation of the network, which is what time goes into. The same seed draws the same samples."
    )


def _shared_settings(gr: ModuleType, columns: Sequence[Column]) -> tuple[dict[str, Component], Button]:
    """Components of the settings that all models share, by name of the setting, and the button."""
    models = [column.model for column in columns]
    dataset, text = models[0].dataset, isinstance(models[0].dataset, TextDataset)
    labelled = any(model.denoiser.conditioned_on_labels for model in models)
    shared: dict[str, Component] = {}
    with gr.Row(equal_height=True):
        shared["count"] = gr.Slider(1, MAX_SAMPLES, 4 if text else 16, step=1, label="samples", min_width=180)
        shared["seed"] = gr.Number(0, label="seed", precision=0, minimum=0, maximum=2**31 - 1, min_width=100)
        if labelled:
            choices = [LIKE_DATA, ALL, *map(str, range(dataset.classes))]
            shared["label"] = gr.Dropdown(choices, value=LIKE_DATA, label="label", min_width=140)
        button = gr.Button("Draw", variant="primary", min_width=140, elem_id="draw")
    with gr.Accordion("temperature, top-p, known parts", open=False), gr.Row():
        shared["temperature"] = gr.Slider(0.1, 2, 1, step=0.05, label="temperature", min_width=180)
        shared["top_p"] = gr.Slider(0.1, 1, 1, step=0.01, label="top-p", min_width=180)
        if parts := keepable_parts(models[0]):
            info = f"keep this part of the samples of {columns[0].name}, and draw the remainder anew"
            shared["keep"] = gr.Radio(parts, value="nothing", label="known", info=info, min_width=280)
        if text:
            shared["prompt"] = gr.Textbox("", label="prompt", info="every text begins with it", min_width=280)
        if takes_blanks(models[0]):
            info = "a text with _ for each character to draw"
            shared["infill"] = gr.Textbox("", label="infilling", info=info, min_width=280)
    return shared, button


def _column(gr: ModuleType, column: Column) -> tuple[list[Component], list[Component]]:
    """The components of one model: its own settings, and its outputs."""
    model = column.model
    kind = "student" if model.recipe.teacher else "teacher"
    weights = sum(parameter.numel() for parameter in model.network.parameters())
    steps, samplers = own_steps(model), fitting_samplers(model)
    with gr.Column(min_width=300):
        gr.Markdown(
            f"### {html.escape(column.name)}\n{kind}, {model.recipe.objective.type}, {weights / 1e6:.2f} M weights"
        )
        own = [gr.Slider(1, max(64, 2 * steps), steps, step=1, label="steps", elem_classes="fewstep-own-steps")]
        samples, cost = gr.HTML(_WAIT), gr.HTML('<p class="fewstep-cost"></p>')
        with gr.Accordion("how they came about", open=True):
            animation = gr.HTML("")
        with gr.Accordion("sampler", open=False):
            own.append(gr.Dropdown(samplers, value=samplers[0], label="sampler"))
    return own, [samples, cost, animation]


def _drawing(
    gr: ModuleType, column: Column, first: TrainedModel, names: Sequence[str], trust_plugins: bool
) -> Callable[..., Iterator[tuple[str, str, str]]]:
    """What the button does for one model: yields samples and cost, then the animation too."""

    def draw(steps: float, sampler: str, *values: Value) -> Iterator[tuple[str, str, str]]:
        try:
            settings = _settings(column.model, int(steps), sampler, dict(zip(names, values, strict=True)))
            if settings.keep != "nothing":
                plain = replace(settings, steps=None, sampler=None, keep="nothing")
                kept: Tensor = answer(first, plain, trust_plugins=trust_plugins).tokens
                settings = replace(settings, kept=kept, seed=settings.seed + 1)
            drawn = answer(column.model, settings, trust_plugins=trust_plugins)
        except FewstepError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from None
        samples, cost = samples_html(drawn), cost_html(drawn)
        yield samples, cost, ""
        yield samples, cost, animation_html(drawn)

    return draw


def _settings(model: TrainedModel, steps: int, sampler: str, shared: Mapping[str, Value]) -> Settings:
    """Settings from the values of the components; what stands at its default is left to the model."""
    label, temperature, top_p = shared.get("label", LIKE_DATA), shared["temperature"], shared["top_p"]
    return Settings(
        count=int(shared["count"] or 1),
        steps=steps,
        seed=max(0, int(shared["seed"] or 0)),
        sampler=None if sampler == model.recipe.sampler.type else sampler,
        temperature=None if temperature in (1, None) else float(temperature or 1),
        top_p=None if top_p in (1, None) else float(top_p or 1),
        label=None if label == LIKE_DATA else str(label),
        prompt=str(shared.get("prompt") or ""),
        infill=str(shared.get("infill") or ""),
        keep=cast(Keep, shared.get("keep", "nothing")),
    )
