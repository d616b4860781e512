"""Bits of held-out data as a metric: exact for known distributions, once a model, and refused for all others."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from fewstep.adapters.label import LabelInput, LabelInputConfig
from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.core.errors import UserError
from fewstep.data.synthetic.markov import Markov
from fewstep.denoisers.base import Denoiser
from fewstep.denoisers.exact import exact_denoiser
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.evaluation.evaluate import evaluate_run, judge
from fewstep.evaluation.score import score
from fewstep.likelihood.autoregressive import token_nll
from fewstep.metrics.base import METRICS, DrawnFrom, ModelMetric
from fewstep.metrics.laws import likelihood_bound
from fewstep.metrics.laws.likelihood_bound import ratio
from fewstep.processes.base import PROCESSES
from fewstep.recipe.models import Recipe
from fewstep.training.launch import launch

V, L = 4, 6


@pytest.fixture(scope="module")
def source() -> Markov:
    return Markov(Markov.Config(vocab_size=V, length=L, successors=2, smoothing=0.1, size=64))


def recipe(objective: str = "denoising", process: str = "masked") -> Recipe:
    raw: dict[str, Any] = {"name": "x", "data": "markov", "process": process, "backbone": "transformer"}
    more = {"teacher": {"run": "r"}} if objective == "dmmd" else {}
    return Recipe.model_validate({**raw, "objective": objective, "train": {"steps": 1}, **more})


def network(backbone: str, process: str = "masked", labels: LabelInput | None = None, **more: Any) -> NetworkDenoiser:
    config = {"type": backbone, "width": 16, "depth": 1, "heads": 2, **more}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = BACKBONES.build(config, tokens=TokenSpace(V + (process == "masked"), V, L))
        for weight in built.parameters():  # some start at zero
            weight.data.add_(0.3 * torch.randn_like(weight))
    made = NetworkDenoiser(built, PROCESSES.build(process, vocab_size=V), label_input=labels)
    return made.requires_grad_(False).eval()


def measured(denoiser: Denoiser, data: Any, process: str = "masked", **changes: Any) -> dict[str, float]:
    metric = METRICS.build({"type": "likelihood_bound", **changes}, dataset=data)
    assert isinstance(metric, ModelMetric)
    metric.look_at(DrawnFrom(denoiser, recipe(process=process)))
    return metric.compute()


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_an_exact_denoiser_has_the_entropy_of_its_source(process: str, source: Markov) -> None:
    """Within three standard errors on fine walks, from above; one step is a model of independent tokens."""
    oracle = exact_denoiser(source, PROCESSES.build(process, vocab_size=V))
    fine = measured(oracle, source, process, samples=2000)
    rows = source.draw(20000, Generator().manual_seed(0))
    entropy = -float(source.log_likelihood(rows).mean()) / L / math.log(2)
    assert fine["bound_bits"] == pytest.approx(entropy, abs=3 * fine["bound_bits_stderr"] + 0.01)
    assert fine["bound_bits_stderr"] < 0.05
    assert fine["bound_exact"] == 0
    assert measured(oracle, source, process, steps=1)["bound_bits"] > entropy + 0.2


def test_an_autoregressive_model_has_its_exact_likelihood(source: Markov) -> None:
    model = network("block_transformer", block_size=1)
    found = measured(model, source, samples=100)
    metric = METRICS.build({"type": "likelihood_bound", "samples": 100}, dataset=source)
    nll = token_nll(model, metric._rows()).double().mean(1) / math.log(2)  # type: ignore[attr-defined]
    assert found["bound_exact"] == 1
    assert found["bound_bits"] == pytest.approx(float(nll.mean()), rel=1e-6)
    assert found["bound_bits_stderr"] == pytest.approx(float(nll.std()) / 10, rel=1e-4)


def test_it_looks_at_held_out_samples_and_says_so_where_there_are_none() -> None:
    data = Markov(Markov.Config(vocab_size=V, length=L, successors=2, smoothing=0.1, size=64))
    zeros = torch.zeros(8, L, dtype=torch.long)
    data.held_out = zeros
    metric = METRICS.build("likelihood_bound", dataset=data)
    assert torch.equal(metric._rows(), zeros)  # type: ignore[attr-defined]
    trained = METRICS.build({"type": "likelihood_bound", "of": "train"}, dataset=data)._rows()  # type: ignore[attr-defined]
    assert sorted(trained.tolist()) == sorted(data.train.tolist())
    data.held_out = None
    fresh = metric._rows()  # type: ignore[attr-defined]
    assert len(fresh) == 512, "draws of the known law, more than there are training samples"
    file_less = METRICS.build("likelihood_bound", dataset=_Known(data))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"data 'markov' hold no samples out; .*`of: train`$"):
        file_less._rows()  # type: ignore[attr-defined]


class _Known:
    """Data without held-out samples or a law."""

    def __init__(self, data: Markov) -> None:
        self.config, self.held_out, self.train, self.kind = data.config, None, data.train, data.kind


class Words(Markov):
    """Token k is a word of k + 1 letters."""

    kind = "text"

    def to_text(self, samples: Tensor) -> list[str]:
        return ["".join("abcd"[: token + 1] for token in row) for row in samples.tolist()]


def test_bits_may_be_counted_by_character() -> None:
    """A model that knows nothing takes log2 4 = 2 bits a token; by letter that is fewer, as words have letters."""
    data = Words(Markov.Config(vocab_size=V, length=L, successors=2, size=64))
    model = network("block_transformer", block_size=1)
    for weight in model.backbone.parameters():
        weight.zero_()
    by_token, by_letter = (measured(model, data, per=per) for per in ("token", "character"))
    rows = METRICS.build("likelihood_bound", dataset=data)._rows()  # type: ignore[attr-defined]
    letters = float((rows + 1).sum())
    assert by_token["bound_bits"] == pytest.approx(2, rel=1e-6)
    assert by_token["bound_bits_stderr"] == pytest.approx(0, abs=1e-6)
    assert by_letter["bound_bits"] == pytest.approx(2 * rows.numel() / letters, rel=1e-6)
    assert by_letter["bound_bits_stderr"] > 0
    with pytest.raises(UserError, match="have no characters; set per to token"):
        measured(model, Markov(Markov.Config(size=8)), per="character")


def test_the_error_of_a_ratio_is_the_spread_of_repeats() -> None:
    """2,000 repeats of 200 samples whose units vary along with their bits."""
    rng = Generator().manual_seed(0)
    units = torch.randint(3, 20, (2000, 200), generator=rng).double()
    bits = 2 * units + 3 * torch.randn(2000, 200, generator=rng, dtype=torch.float64)
    found = torch.tensor([ratio(b, u) for b, u in zip(bits, units, strict=True)], dtype=torch.float64)
    assert float(found[:, 1].mean()) == pytest.approx(float(found[:, 0].std()), rel=0.05)
    assert float(found[:, 0].mean()) == pytest.approx(2, rel=0.01)


def test_what_has_no_likelihood_is_left_out_with_a_word(source: Markov, capsys: pytest.CaptureFixture[str]) -> None:
    student = DrawnFrom(network("transformer"), recipe("dmmd"))
    assert judge(student, source, ["likelihood_bound", "sample_entropy"]) == {}
    said = capsys.readouterr().err
    assert said.startswith("note: likelihood_bound is left out: 'x' has no likelihood to bound: objective 'dmmd'")
    oracle = DrawnFrom(exact_denoiser(source, PROCESSES.build("masked", vocab_size=V)), recipe("dmmd"))
    assert judge(oracle, source, ["likelihood_bound"]).keys() == {"bound_bits", "bound_bits_stderr", "bound_exact"}
    told = network("transformer", labels=LabelInput(LabelInputConfig(), 3, 16))
    assert judge(DrawnFrom(told, recipe()), source, ["likelihood_bound"]) == {}
    assert "is conditioned on a class, which held-out samples do not carry" in capsys.readouterr().err
    assert score(source.train[:5], source, ["likelihood_bound"]) == {}, "samples have no such value"


def test_a_run_is_judged_once_whatever_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []
    real = likelihood_bound.score_model

    def counted(model: Any, x: Tensor, **options: Any) -> Any:
        calls.append(x)
        return real(model, x, **options)

    monkeypatch.setattr(likelihood_bound, "score_model", counted)
    run = tmp_path / "run"
    launch(
        "smoke-teacher",
        run_dir=str(run),
        resume=None,
        teacher=None,
        sets=["evaluate.metrics=[exact_nll, {type: likelihood_bound, samples: 20, steps: 8, evaluations: 4}]"],
    )
    one, two = evaluate_run(str(run), samples=10)
    assert len(calls) == 1
    assert one["metrics"]["bound_bits"] == two["metrics"]["bound_bits"] > 0
    assert one["metrics"]["exact_nll"] != two["metrics"]["exact_nll"]
