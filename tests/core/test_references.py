"""Settings that name a model or a file are found by their type, wherever they stand and however they are spelled."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from fewstep.core.component import Strict
from fewstep.core.references import Ref, references, replace_references
from fewstep.recipe import parse_recipe
from fewstep.runtime.hashing import LocalPath


class Judge(Strict):
    oracle: Annotated[str, Ref("run", role="critic", weights_key="which")] = "runs/judge"
    which: Literal["ema", "raw"] = "raw"
    run: str = "not marked"


class Settings(Strict):
    judges: tuple[Judge, ...] = (Judge(), Judge(oracle="runs/other", which="ema"))
    starts: dict[str, Annotated[str, Ref("run")]] = Field({})
    table: LocalPath | None = None
    lm: Annotated[str | None, Ref("model")] = None


def test_the_walk() -> None:
    settings = Settings(starts={"student": "runs/s"}, table="/t.json", lm="hf:gpt2")
    assert [(r.key, r.value, r.kind, r.role, r.weights) for r in references(settings)] == [
        ("judges.0.oracle", "runs/judge", "run", "critic", "raw"),
        ("judges.1.oracle", "runs/other", "run", "critic", "ema"),
        ("starts.student", "runs/s", "run", "student", "ema"),
        ("table", "/t.json", "file", "student", "ema"),
        ("lm", "hf:gpt2", "model", "student", "ema"),
    ]
    assert [r.key for r in references(Settings(judges=()))] == [], "what is not set names nothing"


def test_replacing() -> None:
    settings = Settings(starts={"student": "runs/s"})
    moved = replace_references(settings, lambda named: f"/there/{named.value}")
    assert [r.value for r in references(moved)] == ["/there/runs/judge", "/there/runs/other", "/there/runs/s"]
    assert moved.judges[0].run == "not marked"
    assert replace_references(settings, lambda named: named.value) is settings


def test_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/data")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert Settings(table="${env:PLACE}/t").table == "/data/t"
    assert Judge(run="${env:PLACE}").run == "${env:PLACE}", "only what names something"
    with pytest.raises(ValidationError, match="environment variable 'NOWHERE' is not set"):
        Settings(lm="${env:NOWHERE}")


def test_references_of_a_recipe() -> None:
    recipe = parse_recipe(
        {
            "name": "x",
            "data": {"type": "vq_tokens", "images": "digits", "tokenizer": {"run": "runs/vq", "weights": "raw"}},
            "process": "masked",
            "backbone": "image_transformer",
            "objective": "sdtt",
            "teacher": {"run": "runs/t"},
            "start_from": {"student": "runs/s"},
            "sampler": {"type": "reward_guided", "reward": {"run": "runs/d"}},
            "train": {"steps": 1},
            "evaluate": {"metrics": [{"type": "generative_perplexity", "reference": "hf:gpt2-large"}]},
        }
    )
    assert [(r.key, r.kind, r.role, r.weights) for r in references(recipe)] == [
        ("data.tokenizer.run", "run", "student", "raw"),
        ("teacher.run", "run", "student", "ema"),
        ("start_from.student", "run", "student", "ema"),
        ("sampler.reward.run", "run", "discriminator", "ema"),
        ("evaluate.metrics.0.reference", "model", "student", "ema"),
    ]
