"""What a column of the demo page draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from short_runs import Train

from fewstep import Pipeline
from fewstep.core.errors import FewstepError, UserError
from fewstep.demo.drawing import MAX_SAMPLES, MAX_STEPS, Settings, answer, fitting_samplers, keepable_parts, own_steps
from fewstep.demo.views import animation_html, columns_of, cost_html, samples_html
from fewstep.runs.models import TrainedModel, open_model


@pytest.fixture
def digits() -> TrainedModel:
    return open_model("digits-teacher", device="cpu")


@pytest.fixture
def text(train: Train, tmp_path: Path) -> TrainedModel:
    (tmp_path / "text.txt").write_text("a line of <b>text</b>\n" * 40)
    sets = ["data.type=text", f"data.path={tmp_path / 'text.txt'}", "data.length=16", "backbone.width=16"]
    run = train("text-teacher", "run", *sets, "backbone.depth=1", "train.steps=1", "train.batch_size=2")
    return open_model(run.path, device="cpu")


def test_the_page_draws_what_the_command_draws(digits: TrainedModel) -> None:
    drawn = answer(digits, Settings(count=3, steps=4, seed=5))
    assert drawn.tokens.equal(Pipeline(digits).sample(3, steps=4, seed=5).tokens)
    assert drawn.nfe == 4
    assert len(drawn.frames) == 5  # the noise, and four steps
    assert (drawn.frames[0].x == digits.dataset.spec.vocab_size).all()
    assert drawn.frames[-1].x.equal(drawn.tokens)
    other = answer(digits, Settings(count=3, steps=4, seed=5, temperature=0.5, top_p=0.9, sampler="confidence"))
    assert other.job.sampler.config.type == "confidence"
    assert not other.tokens.equal(drawn.tokens)


def test_a_part_stays(digits: TrainedModel) -> None:
    assert keepable_parts(digits) == ["nothing", "upper half", "left half"]
    kept = torch.arange(128).view(2, 64) % 16
    upper = answer(digits, Settings(count=2, steps=2, keep="upper half", kept=kept)).tokens
    left = answer(digits, Settings(count=2, steps=2, keep="left half", kept=kept)).tokens
    same, beside = (upper == kept).view(2, 8, 8), (left == kept).view(2, 8, 8)
    assert same[:, :4].all()
    assert beside[:, :, :4].all()
    assert not same.all()
    assert not beside.all()


def test_an_answer_is_bounded(digits: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def stop(model: object, request: object, rows: object) -> None:
        asked.append((request.count, request.steps))  # type: ignore[attr-defined]
        raise UserError("enough")

    monkeypatch.setattr("fewstep.demo.drawing.job_of", stop)
    with pytest.raises(UserError, match="enough"):
        answer(digits, Settings(count=10**6, steps=10**6))
    assert asked == [(MAX_SAMPLES, MAX_STEPS)]


def test_samplers_that_fit(digits: TrainedModel) -> None:
    names = fitting_samplers(digits)
    assert names[0] == digits.recipe.sampler.type
    assert "confidence" in names
    assert "classifier_guided" not in names  # it needs a classifier
    for name in names:
        if name != "autoregressive":
            assert answer(digits, Settings(count=1, steps=2, sampler=name)).tokens.shape == (1, 64)
    assert own_steps(digits) >= 8


def test_pictures_and_their_animation(digits: TrainedModel) -> None:
    drawn = answer(digits, Settings(count=5, steps=2))
    assert columns_of(5) == 3
    assert samples_html(drawn).startswith('<img class="fewstep-picture" alt="samples" src="data:image/png;base64,')
    assert 'src="data:image/gif;base64,' in animation_html(drawn)
    assert "<b>2 evaluations a sample</b>" in cost_html(drawn)
    assert " s for 5 (2 steps, ancestral)" in cost_html(drawn)
    assert "<b>1 evaluation a sample</b>" in cost_html(answer(digits, Settings(count=1, steps=1)))


def test_texts_are_shown_as_text(text: TrainedModel) -> None:
    assert keepable_parts(text) == []
    drawn = answer(text, Settings(count=2, steps=2, prompt="of <b>"))
    assert all(line.startswith("of <b>") for line in text.dataset.to_text(drawn.tokens))
    shown = samples_html(drawn)
    assert shown.count("<pre") == 2
    assert "of &lt;b&gt;" in shown
    assert "<b>" not in shown
    assert animation_html(drawn).startswith('<iframe class="fewstep-steps" title="animation" sandbox="allow-scripts"')
    filled = text.dataset.to_text(answer(text, Settings(count=2, steps=2, infill="a ____ of")).tokens)
    assert all(line.startswith("a ") and line[6:9] == " of" for line in filled)
    with pytest.raises(FewstepError, match="prompt: "):
        answer(text, Settings(prompt="é"))
