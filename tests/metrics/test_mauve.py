"""MAUVE: the features that mauve-text is given, its value in a known case, and what is told where it is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.backbones.base import BACKBONES, TokenSpace
from fewstep.core.errors import UserError
from fewstep.data.synthetic.markov import Markov
from fewstep.data.text.text import Text
from fewstep.denoisers.network import NetworkDenoiser
from fewstep.likelihood.autoregressive import last_hidden, token_nll
from fewstep.likelihood.causal_lm import load_causal_lm
from fewstep.likelihood.references import Encoded, Reference
from fewstep.metrics.base import METRICS
from fewstep.predictions.condition import Condition
from fewstep.processes.base import PROCESSES

V, L = 5, 8
SOURCE = Markov(Markov.Config(vocab_size=V, length=L, size=512))
EXTRA = "pip install 'fewstep[mauve]'"


class Clusters(Reference):
    """Hidden states in corners of a cube far from each other, chosen by a sample's first token."""

    def __init__(self) -> None:
        self.network = torch.nn.Linear(1, 1)

    def encode(self, samples: Tensor) -> Encoded:
        return Encoded(samples, torch.ones_like(samples, dtype=torch.bool))

    def nll(self, encoded: Encoded) -> Tensor:
        raise NotImplementedError

    def features(self, encoded: Encoded) -> Tensor:
        jitter = torch.linspace(0, 1e-3, encoded.ids.shape[1] - 1) * encoded.ids[:, 1:]
        return torch.cat((torch.eye(V)[encoded.ids[:, 0]], jitter), 1)


def network() -> NetworkDenoiser:
    config = {"type": "block_transformer", "width": 16, "depth": 1, "heads": 2, "block_size": 1}
    backbone = BACKBONES.build(config, tokens=TokenSpace(V + 1, V, L))
    for weight in backbone.parameters():  # some start at zero
        weight.data.add_(0.3 * torch.randn_like(weight))
    return NetworkDenoiser(backbone, PROCESSES.build("masked", vocab_size=V))


def mauve(samples: Tensor, reference: Any, **settings: object) -> dict[str, float]:
    metric = METRICS.build({"type": "mauve", "reference": "x", **settings}, dataset=SOURCE, reference=reference)
    for part in samples.split(31):
        metric.update(part)
    return metric.compute()


def starting_with(counts: list[int]) -> Tensor:
    """Samples [sum of counts, L], so many with each first token."""
    tokens = torch.randint(V, (sum(counts), L))
    tokens[:, 0] = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return tokens


def area(p: np.ndarray, q: np.ndarray, c: float, points: int = 25) -> float:
    """Equation 3 of the paper for shares p and q that are above 0, by trapezia over both axes."""
    curve = [(0.0, 1.0)]
    for weight in np.linspace(1 - 1e-6, 1e-6, points):
        r = weight * p + (1 - weight) * q
        curve.append((np.exp(-c * (q * np.log(q / r)).sum()), np.exp(-c * (p * np.log(p / r)).sum())))
    curve.append((1.0, 0.0))
    x, y = np.array(curve).T
    x[0], y[0], x[-1], y[-1] = 0.0, 1.0, 1.0, 0.0
    one = np.trapezoid(y[np.argsort(x, kind="stable")], np.sort(x))
    two = np.trapezoid(x[np.argsort(y, kind="stable")], np.sort(y))
    return float(abs(one) + abs(two)) / 2


def test_a_known_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clusters that k-means finds for certain: the shares are those of the first tokens."""
    pytest.importorskip("mauve", reason=EXTRA)
    torch.manual_seed(0)
    real, samples = starting_with([150, 50]), starting_with([60, 140])
    monkeypatch.setattr("fewstep.metrics.reference.real_samples", lambda dataset, count: real)
    p, q = np.array([0.75, 0.25]), np.array([0.3, 0.7])
    for scaling in (1.0, 5.0):
        found = mauve(samples, Clusters(), buckets=2, scaling=scaling)
        assert found["mauve"] == pytest.approx(area(p, q, scaling), abs=1e-3)
        smoothed = [(200 * shares + 0.5) / 201 for shares in (p, q)]
        assert found["mauve_star"] == pytest.approx(area(*smoothed, scaling), abs=1e-3)
    assert mauve(real, Clusters(), buckets=2) == {"mauve": 1, "mauve_star": 1}, "the package alone says 0.75"


def test_it_falls_as_samples_leave_the_data() -> None:
    pytest.importorskip("mauve", reason=EXTRA)
    torch.manual_seed(0)
    reference, real = network(), SOURCE.train[:400]
    where = torch.rand(real.shape)
    noise = torch.randint(V, real.shape)
    near, far = (mauve(torch.where(where < share, noise, real), reference)["mauve"] for share in (0.2, 1.0))
    same = mauve(real, reference)["mauve"]
    assert same > near > far > 0
    assert mauve(real, reference)["mauve"] == same, "its clusters do not depend on chance"
    assert mauve(real, reference, batch_size=7)["mauve"] == pytest.approx(same, abs=0.05)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a package in the place of mauve-text is asked."""
    calls: list[dict[str, Any]] = []

    def compute_mauve(**settings: Any) -> SimpleNamespace:
        calls.append(settings)
        p, q = np.array([0.75, 0.25]), np.array([0.25, 0.75])
        return SimpleNamespace(mauve=np.float64(0.25), mauve_star=np.float64(0.5), p_hist=p, q_hist=q)

    monkeypatch.setitem(sys.modules, "mauve", SimpleNamespace(compute_mauve=compute_mauve))
    return calls


def test_what_the_package_is_asked(asked: list[dict[str, Any]]) -> None:
    """Features of samples, of as many real ones, and the settings."""
    torch.manual_seed(0)
    reference, samples = network(), torch.randint(V, (100, L))
    assert mauve(samples, reference) == {"mauve": 0.25, "mauve_star": 0.5}
    call = asked[0]
    shapes = {name: (call[name].shape, call[name].dtype) for name in ("p_features", "q_features")}
    assert shapes == dict.fromkeys(("p_features", "q_features"), ((100, 16), np.float32))
    assert (call["num_buckets"], call["mauve_scaling_factor"]) == (10, 5.0)
    rows = SOURCE.train.tolist()
    real = METRICS.build({"type": "mauve", "reference": "x"}, dataset=SOURCE, reference=reference).real(100)
    assert all(row in rows for row in real.tolist())
    with torch.no_grad():
        for name, tokens in (("p_features", real), ("q_features", samples)):
            masks, times = torch.full_like(tokens, V), torch.ones(len(tokens))
            hidden = reference(masks, times, cond=Condition(context=tokens)).hidden[:, -1]
            assert torch.allclose(torch.from_numpy(call[name]), hidden, atol=1e-5)
    mauve(samples, reference, buckets=3, scaling=2)
    assert (asked[1]["num_buckets"], asked[1]["mauve_scaling_factor"]) == (3, 2.0)


def test_the_hidden_state_has_read_all_but_the_last_token() -> None:
    torch.manual_seed(0)
    reference, x = network(), torch.zeros(1, L, dtype=torch.long)
    with torch.no_grad():
        at_zero = last_hidden(reference, x)
        for place in range(L):
            changed = x.clone()
            changed[0, place] = 1
            assert bool((last_hidden(reference, changed) == at_zero).all()) == (place == L - 1)
        predicted = reference.backbone.head(at_zero).log_softmax(-1)
        assert float(-predicted[0, 0]) == pytest.approx(float(token_nll(reference, x)[0, -1]), rel=1e-5)


def test_too_few_samples(asked: list[dict[str, Any]]) -> None:
    message = "^mauve: 3 samples and 3 real ones are too few for 5 clusters; draw more, or lower `buckets`$"
    with pytest.raises(UserError, match=message):
        mauve(SOURCE.train[:3], network(), buckets=5)
    assert not asked


def test_a_law_without_hidden_states(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Clusters, "features")
    with pytest.raises(UserError, match=r"^a reference of type Clusters has no hidden states to compare samples by$"):
        mauve(SOURCE.train[:30], Clusters())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mauve", None)
    message = r"it needs mauve-text \(.*mauve.*\): pip install 'fewstep\[mauve\]'$"
    with pytest.raises(UserError, match=f"^mauve: {message}"):
        mauve(SOURCE.train[:30], network())


def test_features_of_a_hugging_face_model_are_those_of_the_authors(tmp_path: Path) -> None:
    """Texts of different lengths: the last token's hidden state, as mauve-text takes it from transformers."""
    utils = pytest.importorskip("mauve.utils", reason=EXTRA)
    transformers = pytest.importorskip("transformers", reason="pip install 'fewstep[hf]'")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    file = tmp_path / "cat.txt"
    file.write_text("the cat sat on the mat. a dog ran after the cat, and the cat ran up a tree. " * 40)
    data = Text(Text.Config(path=str(file), length=32))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([file.read_text()], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=None)
    fast.save_pretrained(tmp_path / "gpt2")
    config = transformers.GPT2Config(vocab_size=len(fast), n_positions=40, n_embd=16, n_layer=2, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2", safe_serialization=True)
    lm = load_causal_lm(f"hf:{tmp_path / 'gpt2'}", data, reads="text", device="cpu")
    samples = data.train[:9]
    encoded = lm.encode(samples)
    lengths = encoded.counted.sum(1) + 1
    assert len(set(lengths.tolist())) > 1, "worth the test"
    tokens = [fast.encode(text, return_tensors="pt") for text in data.to_text(samples)]
    theirs = utils.featurize_tokens_from_model(lm.network.base_model, tokens, 4)
    with torch.no_grad():
        found = torch.cat([lm.features(part) for part in encoded.split(4)])
    assert torch.allclose(found, theirs, atol=1e-5)
