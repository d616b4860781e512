"""`Pipeline`: a trained model in three lines of Python.

Shapes: N samples, M templates, L tokens, C, H, W channels, height and width of an image.
"""

from __future__ import annotations

import html
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.core.plugins import trusting_plugins
from fewstep.core.python_words import python_words
from fewstep.data.base import Dataset
from fewstep.denoisers.compiled import compile_trunks
from fewstep.export.hub import push
from fewstep.export.write import export_model
from fewstep.likelihood.bounds import Scores, score_model
from fewstep.runs.build import usual_steps
from fewstep.runs.exported import is_exported
from fewstep.runs.local import local_model
from fewstep.runs.models import TrainedModel, Weights, open_model
from fewstep.runtime.compiling import CompileMode
from fewstep.runtime.progress import Narrator, Progress
from fewstep.sampling.draw import average
from fewstep.sampling.generated import Generated
from fewstep.sampling.job import Job, batch_size_of, job_of
from fewstep.sampling.labels import requested_labels
from fewstep.sampling.request import MAX_COUNT, SampleRequest
from fewstep.sampling.templates import BLANK, FREE, checked_tokens, lines_as_templates, text_as_tokens

Dtype = Literal["float32", "bfloat16", "float16"]
_LOG = logging.getLogger("fewstep")


class Pipeline:
    """A trained model that samples, fills in and scores; make one with `Pipeline.from_pretrained`.

    `pipe(4)` is `pipe.sample(4)`. Long draws show their progress on a terminal and in a notebook. The same seed draws
    the same samples as `fewstep sample` does with the run that the model was exported from. All methods raise
    `UserError` for a request that does not fit the model, in the words of their arguments.
    """

    def __init__(self, model: TrainedModel, dtype: Dtype = "float32", *, trust_plugins: bool = False) -> None:
        self.model, self.dtype, self.trust_plugins = model, dtype, trust_plugins

    @classmethod
    @python_words()
    def from_pretrained(
        cls,
        path_or_hub_id: str | PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: Dtype | torch.dtype = "float32",
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
        computed_in = _dtype(dtype)
        if compile not in get_args(CompileMode):
            raise UserError(f"no compile mode '{compile}'; take {', '.join(get_args(CompileMode))}")
        name = path_or_hub_id if isinstance(path_or_hub_id, str) else Path(path_or_hub_id)
        path = local_model(name, revision)
        auto = str(device) == "auto"
        model = open_model(path, weights=weights, device="auto" if auto else "cpu", trust_plugins=trust_plugins)
        if not auto:
            _placed(model, device)
        compile_trunks(model.denoiser, compile, model.denoiser.device, "the network", _LOG.info, graphs=True)
        return cls(model, computed_in, trust_plugins=trust_plugins)

    @property
    def dataset(self) -> Dataset:
        """What tokens mean; without training data in an exported model."""
        return self.model.dataset

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.model.denoiser.device

    @python_words()
    def to(self, device: str | torch.device | None = None, dtype: Dtype | torch.dtype | None = None) -> Pipeline:
        """Move the network to a device, let it compute in another type, or both; returns this pipeline.

        Raises:
            UserError: torch knows or has no such device, or networks do not compute in that type.
        """
        computed_in = self.dtype if dtype is None else _dtype(dtype)
        if device is not None:
            _placed(self.model, device)
        self.dtype = computed_in
        return self

    @python_words()
    def save_pretrained(self, folder: str | PathLike[str], *, dtype: Dtype | None = None) -> Path:
        """Write the model as a folder that suffices to sample, as `fewstep export` does; returns the folder.

        Args:
            folder: a new or an empty one.
            dtype: type of the stored weights; None: float32, or as they are in a model that is exported already.

        Raises:
            UserError: the folder is not empty, or data or type do not allow it.
        """
        with trusting_plugins(self.trust_plugins):
            return export_model(self.model, Path(folder), dtype)

    @python_words()
    def push_to_hub(self, repo_id: str, *, private: bool = False, dtype: Dtype | None = None) -> str:
        """Upload the model with its card to the Hugging Face Hub; returns the address. Needs the extra `hub`.

        Args:
            repo_id: OWNER/NAME, created if it does not exist.
            private: visibility of a new repository.
            dtype: as in `save_pretrained`.

        Raises:
            UserError: nobody is logged in, or the package is not installed.
            OperationError: the Hub cannot be reached or refuses.
        """
        if is_exported(self.model.path) and dtype is None:
            return push(self.model.path, repo_id, private=private)
        with tempfile.TemporaryDirectory() as folder:
            return push(self.save_pretrained(Path(folder) / "model", dtype=dtype), repo_id, private=private)

    @python_words()
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
        progress: bool | Progress = True,
    ) -> Generated:
        """Draw n samples. What is None is as the model was made for, or as its recipe says.

        Args:
            label: a class, or "all" for each in turn; None draws classes as often as the data have them.
            prompt: text that every sample starts with.
            sampler: another sampler, such as "first_hitting" or {"type": "ancestral", "greedy_tail": 1}.
            progress: whether a draw of more than a second shows how far it is; or a function, which is called with
                the steps of samples that are done and their number.

        Raises:
            UserError: what is asked for does not fit the model.
        """
        job = self._sampling(n, steps, seed, label, prompt, sampler, temperature, top_p, guidance, batch_size)
        return self._joined(job, progress)

    __call__ = sample

    @python_words()
    def batches(
        self,
        n: int,
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
        progress: bool | Progress = True,
    ) -> Iterator[Generated]:
        """The samples of `sample` with these arguments, one batch after the other: no more than one is in memory.

        `batch_size` is their size; without it they are as large as memory allows, up to 64 on a CPU.

        Raises:
            UserError: what is asked for does not fit the model; nothing is drawn then.
        """
        job = self._sampling(n, steps, seed, label, prompt, sampler, temperature, top_p, guidance, batch_size)
        return self._batches(job, progress)

    @python_words()
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
        progress: bool | Progress = True,
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
        )
        return self._joined(self._job(request, rows), progress)

    @python_words()
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

    def _sampling(
        self,
        n: int,
        steps: int | None,
        seed: int,
        label: int | Literal["all"] | None,
        prompt: str | None,
        sampler: str | Mapping[str, object] | None,
        temperature: float | None,
        top_p: float | None,
        guidance: float | None,
        batch_size: int | None,
    ) -> Job:
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
        )
        return self._job(request, None if prompt is None else text_as_tokens(prompt, "prompt", self.dataset)[None])

    def _job(self, request: SampleRequest, rows: Tensor | None) -> Job:
        """The job of a request, after a check."""
        for name, value in (("n", request.count), ("steps", request.steps), ("batch_size", request.batch_size)):
            if value is not None and (not isinstance(value, int) or not 1 <= value <= MAX_COUNT):
                raise UserError(f"{name}: expected a number from 1 to {MAX_COUNT:,}, not {value}")
        if rows is not None and len(rows) > request.count:
            raise UserError(f"n: {len(rows)} templates need as many samples or more, not {request.count}")
        with trusting_plugins(self.trust_plugins):
            return job_of(self.model, request, rows)

    def _batches(self, job: Job, progress: bool | Progress) -> Iterator[Generated]:
        count, advice = job.request.count, "pass a smaller batch_size"
        report: Progress | None = None
        if progress is True:
            report = Narrator("sampling", every=float("inf"), unit="steps of samples")
        elif progress is not False:
            report = progress
        drawn = job.draw_all(range(count), batch_size_of(job), advice, report)
        while True:
            with self._computing(), trusting_plugins(self.trust_plugins), python_words():
                batch = next(drawn, None)
            if batch is None:
                return
            numbers, samples = batch
            labels = None if job.labels is None else job.labels[numbers.start : numbers.stop]
            yield Generated(samples.x.cpu(), labels, samples.nfe, self.dataset)

    def _joined(self, job: Job, progress: bool | Progress) -> Generated:
        parts = list(self._batches(job, progress))
        nfe = average(sum(part.nfe * len(part) for part in parts), job.request.count)
        return Generated(torch.cat([part.tokens for part in parts]), job.labels, nfe, self.dataset)

    @property
    def _facts(self) -> dict[str, str]:
        recipe, spec = self.model.recipe, self.dataset.spec
        size = sum(p.numel() for p in self.model.network.parameters())
        return {
            "model": recipe.name,
            "objective": f"{recipe.objective.type}, {recipe.process.type} process",
            "network": f"{recipe.backbone.type}, {size:,} parameters on {self.device}, computing in {self.dtype}",
            "data": f"{recipe.data.type}: {spec.length:,} tokens of {spec.vocab_size:,} symbols",
            "made for": f"{usual_steps(recipe)} steps of sampler {recipe.sampler.type}",
            "from": str(self.model.path),
        }

    def __repr__(self) -> str:
        return f"<Pipeline: {'; '.join(f'{key}: {value}' for key, value in self._facts.items())}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: a table of the facts."""
        rows = "".join(f"<tr><th>{key}</th><td>{html.escape(value)}</td></tr>" for key, value in self._facts.items())
        return f'<table style="text-align:left">{rows}</table>'

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


def _dtype(name: str | torch.dtype) -> Dtype:
    """A type that networks compute in, by its name.

    Raises:
        UserError: they do not compute in it.
    """
    for dtype in get_args(Dtype):
        if str(name).removeprefix("torch.") == dtype:
            return dtype
    raise UserError(f"no dtype '{name}'; take float32, bfloat16 or float16")
