"""Recipes with labels, from training to samples: what is learned, kept, refused and written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fewstep.core.component import ComponentConfig
from fewstep.core.errors import RecipeError, UserError
from fewstep.data.base import DATASETS, Dataset, DataSpec
from fewstep.evaluation.evaluate import evaluate_run
from fewstep.objectives.base import Batch, Phase, StepContext
from fewstep.objectives.denoising import Denoising
from fewstep.recipe import dump_recipe, load_recipe, parse_recipe
from fewstep.runs.folder import RunDir
from fewstep.runs.models import open_model
from fewstep.sampling.job import sample_run
from fewstep.sampling.request import SampleRequest
from fewstep.testing.objectives import _check_gradients, _check_resume
from fewstep.training.trainer import Trainer

ODDS = (0.5, 0.3, 0.2)


@pytest.fixture(autouse=True, scope="module")
def _pairs() -> Iterator[None]:
    """A source whose labels say what its tokens are: class c is the pair (c, c), with shares ODDS."""
    with DATASETS.snapshot():

        @DATASETS.register("pairs")
        class Pairs(Dataset):
            """Pairs of a symbol, which is the label."""

            labelled: ClassVar[bool] = True

            class Config(ComponentConfig):
                type: Literal["pairs"] = "pairs"
                shift: int = 0

            def __init__(self, config: ComponentConfig | None = None) -> None:
                super().__init__(config)
                counts = torch.tensor([int(share * 100) for share in ODDS])
                symbols = torch.repeat_interleave(torch.arange(3), counts)
                self.train = symbols[:, None].repeat(1, 2)
                self.labels = (symbols + self.config.shift) % 3
                self.spec = DataSpec(vocab_size=3, length=2)

            def to_text(self, samples: Tensor) -> list[str]:
                return ["".join(map(str, row)) for row in samples.tolist()]

        yield


BASE: dict[str, Any] = {
    "data": "pairs",
    "process": "masked",
    "backbone": {"type": "transformer", "width": 16, "depth": 1, "heads": 2},
    "label_input": {},
    "optim": {"lr": 1e-2},
    "ema": {"decay": 0.9},
    "train": {"steps": 120, "batch_size": 32, "device": "cpu"},
    "watch": {"times": 1, "samples": 32},
}


def train(path: Path, **changes: Any) -> Trainer:
    recipe = parse_recipe({"name": path.name, **BASE, **changes})
    run = RunDir.create(recipe.name, path)
    run.resolved.write_text(dump_recipe(recipe))
    trainer = Trainer.from_recipe(recipe, run, echo=lambda line: None)
    trainer.fit()
    return trainer


@pytest.fixture(scope="module")
def teacher(_pairs: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "teacher"
    # Long enough, and with a rate that falls, for what it says of no label, which it sees in three samples of ten.
    section = {"steps": 300, "batch_size": 32, "device": "cpu"}
    train(
        path, objective={"type": "denoising", "label_drop": 0.3}, optim={"lr": 1e-2, "decay": "cosine"}, train=section
    )
    return path


def student_recipe(teacher: Path, **changes: Any) -> dict[str, Any]:
    return {
        "objective": {"type": "dmmd", "k": 2, "teacher_guidance": 2.0},
        "noise_input": {"type": "gaussian", "channels": 4},
        "teacher": {"run": str(teacher)},
        **changes,
    }


def drawn(run: Path, out: Path, count: int, **settings: Any) -> tuple[Tensor, Tensor]:
    sample_run(str(run), SampleRequest(count, steps=2, out=str(out), **settings))
    about = json.loads((out / "sample.json").read_text())
    return load_file(out / "samples.safetensors")["tokens"], torch.tensor(about["labels"])


def test_the_label_decides_the_value_and_none_leaves_it_open(teacher: Path, tmp_path: Path) -> None:
    for label in (0, 1, 2):
        tokens, labels = drawn(teacher, tmp_path / f"{label}", 50, label=str(label))
        assert (labels == label).all()
        assert float((tokens == label).double().mean()) > 0.9
    tokens, labels = drawn(teacher, tmp_path / "all", 7, label="all")
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    tokens, _ = drawn(teacher, tmp_path / "none", 600, label="2", guidance=0.0)
    share = torch.bincount(tokens[:, 0], minlength=3) / 600
    assert float((share - torch.tensor(ODDS)).abs().max()) < 0.15


@pytest.mark.medium
def test_without_wishes_classes_come_as_in_the_data(teacher: Path, tmp_path: Path) -> None:
    tokens, labels = drawn(teacher, tmp_path / "a", 2000)
    share = torch.bincount(labels, minlength=3) / 2000
    assert float((share - torch.tensor(ODDS)).abs().max()) < 0.06  # five standard deviations
    assert float((tokens[:, 0] == labels).double().mean()) > 0.9
    again = drawn(teacher, tmp_path / "b", 2000)
    assert torch.equal(tokens, again[0])
    assert torch.equal(labels, again[1])


def test_guidance_exaggerates_and_its_evaluations_are_counted(teacher: Path, tmp_path: Path) -> None:
    drawn(teacher, tmp_path / "plain", 8, label="1")
    drawn(teacher, tmp_path / "guided", 8, label="1", guidance=3.0)
    counts = [json.loads((tmp_path / name / "sample.json").read_text())["nfe"] for name in ("plain", "guided")]
    assert counts == [2, 4]
    model = open_model(teacher, device="cpu")
    prior = torch.full((1, 2), 3)
    rows = []
    for label in (-1, 2):
        cond = Batch(prior, _labelled(label)).cond
        rows.append(model.denoiser(prior, torch.ones(1), cond=cond).log_probs().exp()[0, 2])
    assert rows[1] > rows[0] + 0.3


def _labelled(label: int) -> Any:
    from fewstep.predictions.condition import Condition

    return Condition(torch.tensor([label]))


@pytest.mark.medium
def test_a_student_of_a_guided_teacher_starts_from_its_labels_and_learns(teacher: Path, tmp_path: Path) -> None:
    recipe = student_recipe(teacher)
    parsed = parse_recipe({"name": "s", **BASE, **recipe})
    fresh = Trainer.from_recipe(parsed, RunDir(tmp_path / "unused"), echo=lambda line: None)
    vectors = {name: role.label_input.vectors.weight for name, role in fresh.roles.items()}  # type: ignore[union-attr]
    assert vectors["teacher"].any()
    assert torch.equal(vectors["teacher"], vectors["student"])
    assert torch.equal(vectors["teacher"], vectors["auxiliary"])
    trainer = train(tmp_path / "student", **recipe)
    assert (trainer.run.samples / "watch-00000120.txt").is_file()
    assert not torch.equal(trainer.roles["student"].label_input.vectors.weight, vectors["teacher"])  # type: ignore
    tokens, labels = drawn(tmp_path / "student", tmp_path / "out", 200)
    assert float((tokens == labels[:, None]).double().mean()) > 0.9


@pytest.mark.medium
@pytest.mark.parametrize("kind", ["denoising", "dmmd", "dmmd_instant"])
def test_objectives_with_labels_resume_exactly(teacher: Path, tmp_path: Path, kind: str) -> None:
    raw = {"name": "r", **BASE, "objective": kind}
    if kind != "denoising":
        raw |= student_recipe(teacher, **({} if kind == "dmmd" else {"objective": kind}))
    raw["train"] = {**BASE["train"], "steps": 6, "batch_size": 8, "checkpoint_every": 3, "log_every": 2}
    raw["train"]["accumulate"] = 2
    recipe = parse_recipe(raw)
    _check_resume(recipe, tmp_path)
    _check_gradients(Trainer.from_recipe(recipe, RunDir(tmp_path / "gradients"), echo=lambda line: None))


def test_the_drop_reaches_the_network_and_the_labels_are_those_of_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[Batch] = []
    real = Denoising.loss

    def spy(self: Denoising, phase: Phase, batch: Batch, ctx: StepContext) -> Any:
        batches.append(batch)
        return real(self, phase, batch, ctx)

    monkeypatch.setattr(Denoising, "loss", spy)
    short = {**BASE["train"], "steps": 3, "accumulate": 2}
    trainer = train(tmp_path / "r", objective={"type": "denoising", "label_drop": 1.0}, train=short)
    assert len(batches) == 6
    assert all(torch.equal(batch.x0[:, 0], batch.cond.labels) for batch in batches)  # type: ignore[arg-type]
    vectors = trainer.roles["student"].label_input.vectors.weight  # type: ignore[union-attr]
    assert not vectors[:3].any()
    assert vectors[3].any()


@pytest.mark.medium
def test_labels_go_with_blocks(tmp_path: Path) -> None:
    """A block is guided given what comes before it; reading a finished one is the same with and without a label."""
    blocks = {"type": "block_transformer", "width": 16, "depth": 1, "heads": 2, "block_size": 1}
    train(tmp_path / "r", objective="denoising", backbone=blocks, sampler="block_ancestral")
    tokens, labels = drawn(tmp_path / "r", tmp_path / "plain", 200)
    assert float((tokens == labels[:, None]).double().mean()) > 0.9
    drawn(tmp_path / "r", tmp_path / "guided", 8, guidance=2.0)
    counts = [json.loads((tmp_path / name / "sample.json").read_text())["nfe"] for name in ("plain", "guided")]
    assert counts == [2 * 2 + 1, 2 * 2 * 2 + 1]


# ------------------------------------------------------------------- refusals


def refusal(path: Path, **changes: Any) -> str:
    recipe = parse_recipe({"name": "x", **BASE, **changes})
    with pytest.raises(UserError) as caught:
        Trainer.from_recipe(recipe, RunDir(path), echo=lambda line: None)
    return str(caught.value)


def test_teachers_and_students_agree_on_labels(teacher: Path, tmp_path: Path) -> None:
    plain = student_recipe(teacher, objective="dmmd", label_input=None)
    said = refusal(tmp_path / "x", **plain)
    assert said.startswith(f"label_input: teacher '{teacher}': it is conditioned on labels, this recipe is not; they")
    train(tmp_path / "plain", objective="denoising", label_input=None, train={**BASE["train"], "steps": 2})
    said = refusal(tmp_path / "x", **student_recipe(tmp_path / "plain"))
    assert "this recipe is conditioned on labels, it is not" in said
    said = refusal(tmp_path / "x", **student_recipe(teacher, data={"type": "pairs", "shift": 1}))
    assert said == f"data: teacher '{teacher}' was trained with other labels; use its data section"


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["label_input={}"], "label_input: data 'markov' have no labels; remove this section, or use data that have: "),
        (["sampler={type: ancestral, guidance: 2}"], "sampler.guidance: guidance is by labels; add `label_input: {}`"),
        (
            ["evaluate.metrics=[class_accuracy]", "data=digits", "backbone.type=image_transformer"],
            "evaluate.metrics[0]: class_accuracy compares with the classes asked for; add `label_input: {}`",
        ),
    ],
)
def test_recipes_in_which_labels_are_missing(sets: list[str], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("smoke-teacher", sets)
    assert said in str(caught.value)


def test_guided_teachers_need_labels() -> None:
    with pytest.raises(RecipeError, match=r"objective\.teacher_guidance: a teacher is guided by labels; add `label_in"):
        load_recipe("smoke-dmmd", ["objective.teacher_guidance=2"])


def test_classes_that_do_not_exist_and_models_that_know_none(teacher: Path, tmp_path: Path) -> None:
    for wrong in ("3", "-1", "two"):
        with pytest.raises(UserError, match=f"no class '{wrong}'; the data have classes 0 to 2, or say 'all'"):
            sample_run(str(teacher), SampleRequest(4, label=wrong))
    path = tmp_path / "plain"
    train(path, objective="denoising", label_input=None, train={**BASE["train"], "steps": 2})
    with pytest.raises(UserError, match=r"was trained without labels \(label_input\); leave --label out"):
        sample_run(str(path), SampleRequest(4, label="1"))
    with pytest.raises(UserError, match=r"was trained without labels \(label_input\), by which guidance goes"):
        sample_run(str(path), SampleRequest(4, guidance=2.0))
    sheet = sample_run(str(path), SampleRequest(4, steps=2))
    assert "labels" not in json.loads((sheet.parent / "sample.json").read_text())


# --------------------------------------------------------------------- digits


@pytest.mark.medium
def test_digits_are_scored_by_the_class_asked_for(tmp_path: Path) -> None:
    sets = ["train.steps=2", "train.batch_size=8", "train.device=cpu", "evaluate.metrics=[class_accuracy]"]
    loaded = load_recipe("digits-labelled-teacher", sets)
    run = RunDir.create("d", tmp_path / "d")
    run.resolved.write_text(dump_recipe(loaded.recipe))
    Trainer.from_recipe(loaded.recipe, run, echo=lambda line: None).fit()
    (row,) = evaluate_run(str(run.path), steps=[2], samples=40)
    assert 0 <= row["metrics"]["class_accuracy"] < 0.5
