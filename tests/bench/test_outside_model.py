"""benchmarks/outside_model.py: its cases, its memory of rows, and its sentences."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tests.likelihood.gguf_files import TEXT, small_llama, trained_tokenizer, write_gguf

from fewstep.data.text.text import Text
from fewstep.likelihood.causal_lm import load_causal_lm

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/outside_model.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("outside_model", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_a_model_of_characters_writes_only_what_it_has_read(script: ModuleType) -> None:
    text = script.of_characters(TEXT, 5, 400, seed=0)
    assert len(text) == 400
    assert text not in TEXT, "it joins parts of the text anew"
    assert all(text[i : i + 6] in TEXT for i in range(395))
    assert text == script.of_characters(TEXT, 5, 400, seed=0) != script.of_characters(TEXT, 5, 400, seed=1)


def test_cases_share_no_row_with_the_real_rows(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    words = torch.randint(10_000, (6000,), generator=torch.Generator().manual_seed(0))
    path.write_text(" ".join(map(str, words.tolist())), encoding="utf-8")
    data = Text(Text.Config(path=str(path), length=script.LENGTH))
    found = dict(script.cases(data, path.read_text("utf-8"), 20, seed=0))
    real = data.train[script.real_rows(data, 20)]
    assert [rows.shape for rows in found.values()] == [(20, script.LENGTH)] * 5
    assert not (found["real"][:, None] == real[None]).all(-1).any()
    shuffled = found["words of each row shuffled"]
    assert torch.equal(shuffled.sort(1).values, found["real"].sort(1).values)
    assert not (shuffled == found["real"]).all(1).any()
    assert (found["one real row, repeated"] == found["real"][0]).all()


def test_remembered_values_are_those_of_the_model(script: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="extra hf is not installed")
    pytest.importorskip("gguf", reason="extra hf is not installed")
    tokenizer = trained_tokenizer()
    file = write_gguf(tmp_path / "a.gguf", small_llama(tokenizer.get_vocab_size()), tokenizer)
    (tmp_path / "cat.txt").write_text(TEXT, encoding="utf-8")
    data = Text(Text.Config(path=str(tmp_path / "cat.txt"), length=48))
    model: Any = load_causal_lm(f"hf:{file}", data, reads="text", device="cpu")
    remembering = script.Remembering(model)
    with torch.no_grad():
        remembering.nll(model.encode(data.train[:3]))
        for rows in (data.train[1:7], data.train[2:4]):
            encoded = model.encode(rows)
            assert torch.allclose(remembering.nll(encoded), model.nll(encoded), atol=1e-5)
            assert torch.allclose(remembering.features(encoded), model.features(encoded), atol=1e-5)
    assert remembering.known.keys() >= {row.numpy().tobytes() for row in model.encode(data.train[:1]).ids}
    encoded = model.encode(data.train[:2])
    model.network.requires_grad_(True)
    assert remembering.nll(encoded).requires_grad, "gradients are those of the model"


def test_a_sentence_says_what_came_out(script: ModuleType) -> None:
    names = ["real", "model of 6 characters", "model of 3 characters", *(pair[1] for pair in script.EXPECTED[2:])]
    values = {"gen_ppl": [10, 30, 90, 80, 8], "gradient_moment": [0, 5, 9, 0.5, 50], "mauve": [0.9, 0.5, 0.1, 0.2, 0.0]}
    rows = [
        script.Row(
            name,
            {**{key: list_[i] for key, list_ in values.items()}, "gradient_moment_stderr": 1.0},
            {key: [values[key][i] * scale for scale in (0.99, 1, 1.01)] for key in ("gen_ppl", "mauve")},
        )
        for i, name in enumerate(names)
    ]
    lines = list(script.verdicts(rows))
    assert lines[0] == "* perplexity: real (10) is better than model of 6 characters (30)."
    assert lines[3] == "* perplexity: real (10) is **worse** than one real row, repeated (8)."
    assert "real (0) is **level** with words of each row shuffled (0.5)" in lines[6]
    assert all("MAUVE" in line and "is better than" in line for line in lines[8:])
