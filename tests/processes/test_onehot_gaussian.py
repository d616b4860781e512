"""A process of vectors, brought by a plugin file, trains and samples with what is there for ids."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from fewstep.core.errors import RecipeError
from fewstep.core.kinds import KINDS, registry
from fewstep.core.plugins import load_required
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.exact import exact_denoiser
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES, Process
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.runtime.streams import SampleStreams
from fewstep.samplers.base import SAMPLERS
from fewstep.testing import check_objective, check_process, check_sampler
from fewstep.training.launch import fit

FILE = Path(__file__).parents[2] / "plugins/fewstep-flm/src/fewstep_flm/onehot_gaussian.py"
V, L = 8, 16


@pytest.fixture(scope="module", autouse=True)
def _plugin() -> Iterator[None]:
    with ExitStack() as stack:
        for kind in KINDS:
            stack.enter_context(registry(kind).snapshot())
        plugin = load_required(str(FILE), trusted=True)
        yield
        del sys.modules[plugin.module]


def build(vocab_size: int = V, eps: float = 0.0) -> Process:
    config = {"type": "onehot_gaussian", "schedule": {"type": "linear", "eps": eps}}
    return PROCESSES.build(config, vocab_size=vocab_size)


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=V, length=L))


def test_samplers_conform_with_vectors_too() -> None:
    check_sampler("ancestral")


def test_denoising_conforms_with_vectors() -> None:
    check_objective("denoising", processes=("onehot_gaussian",))


def test_given_tokens_are_held_and_shown(source: Markov) -> None:
    """They stand in every state that is shown, and the tokens beside them are drawn with an eye on them."""
    oracle, given, states = exact_denoiser(source, build()), torch.full((2000, L), -1), list[Tensor]()
    given[:, 5] = 3
    gaps = []
    for cond in (Condition(prompt=given), Condition()):
        samples = SAMPLERS.build("ancestral").sample(
            oracle,
            len(given),
            steps=16,
            generator=SampleStreams(0, range(len(given))),
            cond=cond,
            on_step=lambda state: states.append(state.x),
        )
        share = torch.bincount(samples.x[:, 6], minlength=V).double() / len(given)
        gaps.append(float((share - source.chain.transition[3]).abs().sum() / 2))
    assert all(bool((x[:, 5] == 3).all()) for x in states[:16])
    assert gaps[0] < 0.05 < gaps[1]  # three standard errors of 2,000 samples


def test_it_trains_and_samples(tmp_path: Path) -> None:
    """A recipe that names the file learns the source's pairs; its run opens again without a word about the plugin."""
    sets = [
        f"plugins=[{FILE}]",
        "process=onehot_gaussian",
        "train.steps=300",
        "train.batch_size=64",
        "train.log_every=100",
        "optim.lr=3e-3",
        "backbone.width=32",
        "backbone.time_conditioned=true",
        "backbone.depth=2",
        "ema.decay=0.95",
    ]
    run = RunDir(tmp_path / "run")
    fit(load_recipe("smoke-teacher", sets, trust_plugins=True), run, echo=lambda line: None)
    assert "greedy_tail: 1" in run.resolved.read_text()
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert rows[-1]["train/loss"] < 0.75 * rows[0]["train/loss"]
    model = open_model(run.path)
    out = SAMPLERS.build(model.recipe.sampler).sample(
        model.denoiser, 1000, steps=8, generator=Generator().manual_seed(0)
    )
    pairs = torch.bincount((out.x[:, :-1] * 4 + out.x[:, 1:]).flatten(), minlength=16).double()
    truth = model.dataset.ngram_probs(2).flatten()  # type: ignore[attr-defined]
    assert (pairs / pairs.sum() - truth).abs().sum() / 2 < 0.12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["objective.loss=posterior"], "objective.loss: posteriors are of processes of ids"),
        (["objective.weighting=elbo"], "objective.weighting: no likelihood bound is known"),
        (["sampler={type: ancestral, posterior: plugged}"], "sampler.posterior: the onehot_gaussian process has no"),
        (
            ["sampler={type: ancestral, precision: joint_fp32}"],
            "sampler.precision: the onehot_gaussian process has no",
        ),
        (["sampler=flow"], "sampler 'flow' works on discrete data, but process 'onehot_gaussian' is continuous"),
        (["objective=rectified"], "objective 'rectified' works on discrete data"),
    ],
)
def test_what_only_ids_have_is_refused(changes: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("smoke-teacher", [f"plugins=[{FILE}]", "process=onehot_gaussian", *changes], trust_plugins=True)


BREAKS = {
    "evidence at t=": ("evidence", lambda self, x_t, t: torch.ones(*x_t.shape[:2], self.vocab_size).double()),
    "a step back from": ("step_back", lambda self, x_t, prediction, t, s, *, generator: x_t),
    "hold at t=0.4": (
        "hold",
        lambda self, x_t, given, t, *, generator: torch.where((given >= 0)[..., None], torch.zeros_like(x_t), x_t),
    ),
    "corrupt at t=1": ("prior", lambda self, shape, *, device, generator: torch.rand(*shape, self.vocab_size)),
}


@pytest.mark.parametrize("message", BREAKS)
def test_the_check_finds_what_is_broken(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = PROCESSES.get("onehot_gaussian").cls
    name, broken = BREAKS[message]
    if name == "prior":
        honest, corrupt = cls.prior, cls.corrupt

        def with_honest_noise(self: Process, x0: Tensor, t: Tensor, *, generator: Generator | None) -> object:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cls, "prior", honest)
                return corrupt(self, x0, t, generator=generator)

        monkeypatch.setattr(cls, "corrupt", with_honest_noise)
    monkeypatch.setattr(cls, name, broken)
    with pytest.raises(AssertionError, match=message):
        check_process("onehot_gaussian")
