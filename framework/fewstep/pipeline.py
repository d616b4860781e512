"""`Pipeline`: a trained model in three lines of Python.

Shapes: N samples, M templates, L tokens, C, H, W channels, height and width of an image.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.core.plugins import trusting_plugins
from fewstep.data.base import Dataset
from fewstep.denoisers.compiled import compile_trunks
from fewstep.likelihood.bounds import Scores, score_model
from fewstep.runs.local import local_model
from fewstep.runs.models import TrainedModel, Weights, open_model
from fewstep.runtime.compiling import CompileMode
from fewstep.sampling.draw import average
from fewstep.sampling.job import Job, batch_size_of, job_of
from fewstep.sampling.labels import requested_labels
from fewstep.sampling.request import MAX_COUNT, SampleRequest
from fewstep.sampling.sheets import save_sheet
from fewstep.sampling.templates import BLANK, FREE, checked_tokens, lines_as_templates, text_as_tokens

Dtype = Literal["float32", "bfloat16", "float16"]
_LOG = logging.getLogger("fewstep")


@dataclass(frozen=True)
class Generated:
    """Samples: `tokens` (LongTensor [N, L], on the CPU), the classes that were asked for (`labels`, LongTensor [N]) if
    any were, and `nfe`, the network evaluations that each took on average."""

    tokens: Tensor
    labels: Tensor | None
    nfe: float
    dataset: Dataset

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def texts(self) -> list[str]:
        """A readable line or block for each sample."""
        return self.dataset.to_text(self.tokens)

    @property
    def images(self) -> Tensor | None:
        """Images in [0, 1], float [N, C, H, W], or drawings of what can be drawn (music); None for all else."""
        return self.dataset.pictures(self.tokens)

    def save(self, path: str | Path) -> Path:
        """Write a sheet of all samples: `path`.png for images, `path`.txt for all else; returns what was written."""
        return save_sheet(Path(path).with_suffix(""), self.dataset, self.tokens)


class Pipeline:
    """A trained model that samples, fills in and scores; make one with `Pipeline.from_pretrained`.

    The same seed draws the same samples as `fewstep sample` does with the run that the model was exported from.
    """

    def __init__(self, model: TrainedModel, dtype: Dtype = "float32", *, trust_plugins: bool = False) -> None:
        self.model, self.dtype, self.trust_plugins = model, dtype, trust_plugins

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: Dtype = "float32",
        weights: Weights = "ema",
        compile: CompileMode = "off",
        revision: str | None = None,
        trust_plugins: bool = False,
    ) -> Pipeline:
        """Load a model.

        Args:
            path_or_hub_id: a folder that `fewstep export` wrote, a run folder, a run's exported `.safetensors` file, or
                OWNER/NAME of such a folder on the Hugging Face Hub.
            device: "auto" is a GPU where there is one; or what torch calls a device.
            dtype: that networks compute in; below float32 they run under autocast.
            weights: of a run folder, its average or its last step.
            compile: "trunk" compiles the network's trunk when it is first called, "auto" only where there is a GPU.
            revision: branch, tag or commit on the Hub.
            trust_plugins: run the plugin files and modules that the model lists, and those of models that its sampler
                names. Their code can do whatever you can. Without it a model of anybody may be opened.

        Raises:
            UserError: there is no such model, it is damaged, it lists code that is not trusted, or there is no such
                device.
        """
        if dtype not in ("float32", "bfloat16", "float16"):
            raise UserError(f"no dtype '{dtype}'; take float32, bfloat16 or float16")
        if compile not in get_args(CompileMode):
            raise UserError(f"no compile mode '{compile}'; take {', '.join(get_args(CompileMode))}")
        path = local_model(path_or_hub_id, revision)
        auto = str(device) == "auto"
        model = open_model(path, weights=weights, device="auto" if auto else "cpu", trust_plugins=trust_plugins)
        if not auto:
            _placed(model, device)
        compile_trunks(model.denoiser, compile, model.denoiser.device, "the network", _LOG.info, graphs=True)
        return cls(model, dtype, trust_plugins=trust_plugins)

    @property
    def dataset(self) -> Dataset:
        """What tokens mean; without training data in an exported model."""
        return self.model.dataset

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.model.denoiser.device

    def sample(
        self,
        n: int = 1,
        *,
        steps: int | None = None,
        seed: int = 0,
        label: int | Literal["all"] | None = None,
        prompt: str | None = None,
        sampler: str | Mapping[str, object] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        guidance: float | None = None,
        batch_size: int | None = None,
    ) -> Generated:
        """Draw n samples. What is None is as the model was made for, or as its recipe says.

        Args:
            label: a class, or "all" for each in turn; None draws classes as often as the data have them.
            prompt: text that every sample starts with.
            sampler: another sampler, such as "first_hitting" or {"type": "ancestral", "greedy_tail": 1}.

        Raises:
            UserError: what is asked for does not fit the model.
        """
        request = SampleRequest(
            count=n,
            steps=steps,
            seed=seed,
            label=None if label is None else str(label),
            sampler=sampler,
            temperature=temperature,
            top_p=top_p,
            guidance=guidance,
            batch_size=batch_size,
            by="python",
        )
        rows = None if prompt is None else text_as_tokens(prompt, "prompt", self.dataset)[None]
        return self._draw(request, rows)

    def infill(
        self,
        templates: str | Sequence[str] | Tensor,
        n: int | None = None,
        *,
        steps: int | None = None,
        seed: int = 0,
        blank: str = BLANK,
        label: int | Literal["all"] | None = None,
        sampler: str | Mapping[str, object] | None = None,
        batch_size: int | None = None,
    ) -> Generated:
        """Draw what templates leave open; what they give stays.

        Args:
            templates: texts in which each `blank` is a character to draw, as is what they leave at the end; or tokens
                (LongTensor [M, L], or [L] for one) with -1 for each that is drawn.
            n: samples, which take templates in turn; one for each if None.

        Raises:
            UserError: templates do not fit the model.
        """
        if isinstance(templates, Tensor):
            rows = checked_tokens(templates[None] if templates.ndim == 1 else templates, "infill", self.dataset)
        else:
            lines = [templates] if isinstance(templates, str) else list(templates)
            rows = lines_as_templates(lines, blank, "infill", self.dataset)
        request = SampleRequest(
            count=len(rows) if n is None else n,
            steps=steps,
            seed=seed,
            label=None if label is None else str(label),
            sampler=sampler,
            batch_size=batch_size,
            by="python",
        )
        return self._draw(request, rows)

    def score(
        self,
        samples: Sequence[str] | Tensor,
        *,
        steps: int = 64,
        evaluations: int | None = None,
        seed: int = 0,
        label: int | None = None,
        batch_size: int = 64,
    ) -> Scores:
        """An upper bound on -log p(x) in nats a token, for each of some samples.

        The bound is that of plain ancestral sampling in `steps` equal steps, estimated with one noising a step; exact
        for autoregressive models. More steps make it tighter.

        Args:
            samples: texts of exactly L tokens each, or of up to L where the data are padded; or tokens (LongTensor
                [N, L]). Padding is no token of a text.
            evaluations: steps looked at for each sample, one at random in each of so many stretches of the walk, which
                leaves the bound unbiased; all if None.
            label: class of all samples, for models with a label input.

        Raises:
            UserError: the model has no such bound, or the samples do not fit it.
        """
        if isinstance(samples, Tensor):
            tokens = checked_tokens(samples, "score", self.dataset, complete=True)
        else:
            texts = [samples] if isinstance(samples, str) else list(samples)
            rows = [text_as_tokens(text, f"score: text {i + 1}", self.dataset) for i, text in enumerate(texts)]
            for number, row in enumerate(rows, start=1):
                if self.dataset.end is None and bool((row == FREE).any()):
                    given, length = int((row != FREE).sum()), len(row)
                    raise UserError(f"score: text {number} has {given} tokens; texts of this model have {length}")
            tokens = torch.stack(rows)
            if self.dataset.end is not None:
                tokens = tokens.where(tokens != FREE, self.dataset.end)
            tokens = checked_tokens(tokens, "score", self.dataset, complete=True)
        labels = None if label is None else requested_labels(str(label), self.dataset, len(tokens))
        with self._computing(), trusting_plugins(self.trust_plugins):
            return score_model(
                self.model,
                tokens,
                labels=labels,
                steps=steps,
                evaluations=evaluations,
                seed=seed,
                batch_size=batch_size,
                text=self.dataset.text_mask(tokens),
            )

    def _draw(self, request: SampleRequest, rows: Tensor | None) -> Generated:
        for name, value in (("n", request.count), ("steps", request.steps), ("batch_size", request.batch_size)):
            if value is not None and not 1 <= value <= MAX_COUNT:
                raise UserError(f"{name}: expected a number from 1 to {MAX_COUNT:,}, not {value}")
        if rows is not None and len(rows) > request.count:
            raise UserError(f"n: {len(rows)} templates need as many samples or more, not {request.count}")
        with self._computing(), trusting_plugins(self.trust_plugins):
            job = job_of(self.model, request, rows)
            return self._collected(job)

    def _collected(self, job: Job) -> Generated:
        count, parts, evaluations = job.request.count, [], 0.0
        for numbers, drawn in job.draw_all(range(count), batch_size_of(job), "pass a smaller batch_size"):
            parts.append(drawn.x.cpu())
            evaluations += drawn.nfe * len(numbers)
        return Generated(torch.cat(parts), job.labels, average(evaluations, count), self.dataset)

    def _computing(self) -> AbstractContextManager[object]:
        """Within it, networks compute in `dtype`."""
        if self.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.dtype))


def _placed(model: TrainedModel, device: str | torch.device) -> None:
    """Move a model.

    Raises:
        UserError: torch knows or has no such device.
    """
    try:
        model.denoiser.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"no device '{device}' here ({str(error).splitlines()[0]})") from None
