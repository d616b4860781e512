"""Classifiers of noised tokens: trained, kept, named by samplers, refused where they do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import RecipeError, UserError
from fewstep.data.base import DATASETS, Dataset, DataSpec
from fewstep.denoisers.classifier import NetworkClassifier
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.recipe import dump_recipe, parse_recipe
from fewstep.runs.folder import RunDir
from fewstep.runs.models import build_component, open_model
from fewstep.samplers.base import SAMPLERS, Sampler
from fewstep.sampling.draw import draw
from fewstep.sampling.job import sample_run
from fewstep.sampling.labels import requested_labels
from fewstep.sampling.request import SampleRequest
from fewstep.training.trainer import Trainer

ODDS = torch.tensor([[4, 2, 1, 1], [1, 1, 2, 4]])
"""How often a symbol is the first token in each class; the second one is always the same symbol."""


@pytest.fixture(autouse=True, scope="module")
def _leaning() -> Iterator[None]:
    with DATASETS.snapshot():

        @DATASETS.register("leaning")
        class Leaning(Dataset):
            """Two classes that lean to different symbols."""

            labelled: ClassVar[bool] = True

            class Config(ComponentConfig):
                type: Literal["leaning"] = "leaning"
                turn: int = 0

            def __init__(self, config: ComponentConfig | None = None) -> None:
                super().__init__(config)
                pairs = [(label, v) for label in range(2) for v in range(4) for _ in range(int(ODDS[label, v]) * 8)]
                self.labels = (torch.tensor([label for label, _ in pairs]) + self.config.turn) % 2
                self.train = torch.tensor([v for _, v in pairs])[:, None].repeat(1, 2)
                self.spec = DataSpec(vocab_size=4, length=2)

            def to_text(self, samples: Tensor) -> list[str]:
                return ["".join(map(str, row)) for row in samples.tolist()]

        yield


BASE: dict[str, Any] = {
    "name": "r",
    "data": "leaning",
    "process": "masked",
    "backbone": {"type": "transformer", "width": 32, "depth": 1, "heads": 2},
    "objective": "denoising",
    "optim": {"lr": 1e-2, "decay": "cosine"},
    "ema": {"decay": 0.98},
    "train": {"steps": 150, "batch_size": 64, "device": "cpu"},
}


def trainer(folder: Path, **changes: Any) -> Trainer:
    recipe = parse_recipe({**BASE, **changes})
    run = RunDir.create(recipe.name, folder)
    run.resolved.write_text(dump_recipe(recipe))
    return Trainer.from_recipe(recipe, run, echo=lambda line: None)


def train(folder: Path, **changes: Any) -> Path:
    started = trainer(folder, **changes)
    started.fit()
    return started.run.path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    return {
        "classifier": train(folder / "classifier", objective="classifier"),
        "teacher": train(folder / "teacher"),
        "turned": train(folder / "turned", data={"type": "leaning", "turn": 1}, train={**BASE["train"], "steps": 1}),
    }


def test_it_learns_what_noised_tokens_say(runs: dict[str, Path]) -> None:
    classifier = open_model(runs["classifier"], device="cpu").network
    assert isinstance(classifier, NetworkClassifier)
    states = torch.tensor([[4, 4], [0, 4], [4, 3], [1, 1]])
    expected = torch.tensor([1 / 2, 4 / 5, 1 / 5, 2 / 3])
    found = classifier.log_probs(states, torch.full((4,), 0.5)).exp()
    torch.testing.assert_close(found[:, 0], expected, atol=0.06, rtol=0)
    dense = torch.nn.functional.one_hot(states, 5).float()
    torch.testing.assert_close(classifier.log_probs(dense, torch.full((4,), 0.5)).exp(), found)


def test_samples_are_of_the_class_asked_for(runs: dict[str, Path]) -> None:
    """Shares of pairs under exact guidance of weight 1 and 2 are those of the class, and of the class twice."""
    model, shares = open_model(runs["teacher"]), {}
    for weight in (0.0, 1.0, 2.0):
        classifier = {"run": str(runs["classifier"]), "weight": weight, "approximate": False}
        sampler = build_component(SAMPLERS, {"type": "first_hitting", "classifier": classifier})
        denoiser = sampler.guide(model.denoiser, model.dataset)
        labels = requested_labels("1", model.dataset, 2000)
        drawn = draw(sampler, denoiser, 2000, steps=2, seed=0, batch_size=1000, labels=labels)
        assert drawn.nfe == 2
        shares[weight] = torch.bincount(drawn.tokens[:, 0], minlength=4) / 2000
    plain = ODDS.sum(0) / ODDS.sum()
    chance = ODDS[1] / ODDS.sum(0)
    for weight, found in shares.items():
        expected = plain * chance**weight
        torch.testing.assert_close(found, expected / expected.sum(), atol=0.08, rtol=0)


def test_recipes_name_classifiers_and_commands_use_them(runs: dict[str, Path], tmp_path: Path) -> None:
    sampler = {"type": "ancestral", "classifier": {"run": str(runs["classifier"]), "weight": 3.0}}
    scored = {"steps": [2], "samples": 64, "metrics": ["sample_entropy"]}
    run = train(tmp_path / "run", sampler=sampler, evaluate=scored, train={**BASE["train"], "steps": 40})
    requests = [SampleRequest(count=200, steps=2, out=str(tmp_path / name), label=name) for name in ("0", "1")]
    texts = [sample_run(str(run), request).read_text() for request in requests]
    firsts = [sum(line[:1] in "01" for line in text.split()) for text in texts]
    assert firsts[0] > firsts[1] + 50
    assert evaluate_run(str(run))[0]["nfe"] == 2


@pytest.mark.parametrize("origin", ["teacher", "classifier"])
def test_it_starts_from_a_trained_trunk(origin: str, runs: dict[str, Path], tmp_path: Path) -> None:
    """With the head of another classifier, and one of its own where the other network predicts tokens."""
    begun = trainer(tmp_path / "run", objective="classifier", start_from={"student": str(runs[origin])})
    ours, theirs = begun.roles["student"].state_dict(), open_model(runs[origin], device="cpu").network.state_dict()
    same = {
        name for name in ours if ours[name].shape == theirs[name].shape and bool((ours[name] == theirs[name]).all())
    }
    heads = {"backbone.head.weight", "backbone.head.bias"}
    assert ours["backbone.head.weight"].shape == (2, 32)
    assert same == (set(ours) if origin == "classifier" else set(ours) - heads)


def test_what_does_not_fit_is_said(runs: dict[str, Path]) -> None:
    teacher, turned = open_model(runs["teacher"]), open_model(runs["turned"])

    def guided_by(run: str) -> Sampler:
        return build_component(SAMPLERS, {"type": "ancestral", "classifier": {"run": str(runs[run])}})

    with pytest.raises(UserError, match="is no classifier; train one with objective classifier"):
        guided_by("teacher").guide(teacher.denoiser, teacher.dataset)
    sampler = guided_by("classifier")
    with pytest.raises(ValueError, match="wrap the denoiser"):
        sampler.sample(teacher.denoiser, 1, steps=1, generator=None)
    with pytest.raises(UserError, match="was trained on other data"):
        sampler.guide(turned.denoiser, turned.dataset)
    with pytest.raises(UserError, match="a classifier of noised tokens draws no samples"):
        sample_run(str(runs["classifier"]), SampleRequest(count=4, steps=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "markov"}, "objective.type: data 'markov' have no labels to learn"),
        ({"label_input": {}}, "objective.type: a classifier must not be conditioned on the label that it predicts"),
        ({"evaluate": {"metrics": ["sample_entropy"]}}, r"objective.type: .* set evaluate.metrics to \[\]"),
    ],
)
def test_recipes_of_classifiers_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**BASE, "objective": "classifier", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process": "uniform"}, "sampler.classifier: classifiers guide processes with masks"),
        ({"data": "markov"}, "sampler.classifier: data 'markov' have no classes to guide to"),
    ],
)
def test_recipes_that_are_guided_are_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe({**BASE, "sampler": {"type": "ancestral", "classifier": {"run": "runs/c"}}, **changes})
