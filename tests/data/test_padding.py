"""Padding is no text: not in losses, references and metrics, not on sheets; and models of padded texts draw texts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from enumerable_denoisers import JointOracle
from torch import Tensor

from fewstep.core.errors import RecipeError
from fewstep.data.base import DATASETS
from fewstep.data.padding import implied_padding, text_mask
from fewstep.data.text.corpus import Corpus
from fewstep.denoisers.base import Denoiser
from fewstep.evaluation.score import score
from fewstep.grids.base import GRIDS
from fewstep.likelihood.bounds import bound
from fewstep.likelihood.references import DenoiserReference
from fewstep.metrics.base import METRICS
from fewstep.metrics.text.gradient_moment import batch_gradient
from fewstep.objectives.base import Batch, StepContext
from fewstep.pipeline import Pipeline
from fewstep.processes.base import PROCESSES
from fewstep.recipe import parse_recipe
from fewstep.recipe.loading import LoadedRecipe
from fewstep.recipe.yaml_loader import dump_yaml
from fewstep.runs.folder import RunDir
from fewstep.runtime.streams import SampleStreams
from fewstep.sampling.output import jsonl
from fewstep.sampling.sheets import save_sheet
from fewstep.training.launch import fit

NAMES = ["emma", "ada", "noah", "li", "mia", "otto", "ida", "leo", "eva", "max", "zoe", "tim"]
LENGTH = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("names")
    (folder / "names.txt").write_text("\n".join(NAMES * 4) + "\n")
    dataset = DATASETS.build(settings(folder))
    assert isinstance(dataset, Corpus)
    assert dataset.end is not None
    return dataset


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    usual = {
        "type": "corpus",
        "path": str(folder / "names.txt"),
        "prepared": str(folder / "shards"),
        "documents": "line",
        "held_out": 0,
        "tokenizer": {"type": "char", "end_symbol": True},
        "packing": "pad",
        "length": LENGTH,
    }
    return {**usual, **changes}


def with_tail(data: Corpus, rows: Tensor) -> Tensor:
    """Samples with other symbols behind their ends, as a generator may draw them."""
    other = torch.randint(data.spec.vocab_size, rows.shape, generator=torch.Generator().manual_seed(1))
    return rows.where(data.text_mask(rows), other)


def test_a_text_ends_with_its_first_end() -> None:
    rows = torch.tensor([[1, 2, 0, 0, 0, 0], [1, 2, 1, 2, 1, 2], [0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 0]])
    mask = text_mask(rows, 0)
    assert mask.sum(1).tolist() == [3, 6, 1, 6]
    assert torch.equal(implied_padding(mask, 1), ~mask), "a network that sees all tokens before sees the end"
    assert implied_padding(mask, 2).tolist()[0] == [False] * 4 + [True] * 2
    assert not implied_padding(mask, 6).any(), "the end is predicted beside its padding"


def context(block_size: int | None, end: int | None = 0) -> StepContext:
    roles: Any = {"student": SimpleNamespace(block_size=block_size, length=4)}
    return StepContext(roles, PROCESSES.build("masked", vocab_size=3), {}, torch.device("cpu"), end=end)


def test_losses_are_per_token_of_text() -> None:
    x, values = torch.tensor([[1, 0, 0, 0], [2, 1, 2, 1]]), torch.arange(8.0).view(2, 4)
    where = torch.tensor([[True, False, True, False], [False, False, True, True]])
    for block_size, total, part in (
        (None, 28.0, 0 + 2 + 6 + 7),
        (1, 0 + 1 + 4 + 5 + 6 + 7, 0 + 6 + 7),
        (2, 23.0, 13.0),
    ):
        ctx = context(block_size)
        ctx.batch = ctx.as_batch(x)
        assert float(ctx.mean(values)) == pytest.approx(total / 6), "six tokens of text, an end among them"
        assert float(ctx.mean(values, where)) == pytest.approx(part / 3), "three of the positions are text"
        assert float(ctx.sum(values)) == pytest.approx(total)
        second = ctx.batch.halves()[1]
        assert float(ctx.mean(values[1:], batch=second)) == pytest.approx(22 / 4)
    plain = context(1, end=None)
    plain.batch = plain.as_batch(x)
    assert torch.equal(plain.mean(values), values.mean())
    assert plain.batch == Batch(x, plain.batch.cond)


def test_what_is_left_out_of_a_parallel_loss_is_no_bound() -> None:
    """The texts "" and "aa", with exact predictions. A code needs log 2. That is what the bound comes to with the cost
    of the padding. Text tokens alone cost three quarters of it: where the padding of "" is shown before its end, the
    end costs nothing any more.
    """
    end = 1
    texts = torch.tensor([[1, 1, 1], [0, 0, 1]])
    law = torch.zeros(8, dtype=torch.float64)
    law[texts @ torch.tensor([4, 2, 1])] = 0.5
    denoiser = JointOracle(PROCESSES.build("masked", vocab_size=2), 3, law)
    x = texts.repeat(500, 1)
    times = GRIDS.build("linear").times(32)

    def nats(scored: Tensor | None) -> float:
        return float(bound(denoiser, x, times, SampleStreams(0, range(len(x))), scored=scored).mean())

    entropy = math.log(2)
    # 1,000 samples have a standard error of at most 0.7 / 1000 ** 0.5 = 0.02; 32 steps cost a little more than endless.
    assert nats(None) == pytest.approx(entropy, abs=0.07)
    assert nats(text_mask(x, end)) == pytest.approx(0.75 * entropy, abs=0.07)


class Chain(Denoiser):
    """An autoregressive denoiser: each token given the one before it, by a table of logits."""

    def __init__(self, vocab: int, length: int) -> None:
        super().__init__(PROCESSES.build("masked", vocab_size=vocab), length)
        self.block_size = 1
        generator = torch.Generator().manual_seed(0)
        table = torch.randn(vocab + 1, vocab, generator=generator, dtype=torch.float64)
        self.table = torch.nn.Parameter(table)

    @property
    def device(self) -> torch.device:
        return self.table.device

    def predict(self, x_t: Tensor, t: Tensor, s: Any, cond: Any, generator: Any) -> Any:
        from fewstep.predictions.network import TablePrediction

        assert cond.context is not None
        before = torch.cat((torch.full_like(x_t[:, :1], len(self.table) - 1), cond.context[:, :-1]), 1)
        return TablePrediction(self.table[before].log_softmax(-1), x_t, self.process.to_predict(x_t))


def test_references_score_texts_up_to_their_ends(data: Corpus) -> None:
    chain = Chain(data.spec.vocab_size, LENGTH)
    reference = DenoiserReference(chain, "this", data)
    rows = data.train[:12].long()
    drawn = with_tail(data, rows)
    assert not torch.equal(rows, drawn)
    encoded = reference.encode(drawn)
    assert encoded.tokens == sum(len(name) + 1 for name in NAMES)
    expected = 0.0
    for row in rows.tolist():
        before = data.spec.vocab_size
        for token in row[: row.index(data.end) + 1]:
            expected -= float(chain.table[before].log_softmax(-1)[token])
            before = token
    assert float(reference.nll(encoded).sum()) == pytest.approx(expected)
    for one, other in zip(batch_gradient(reference, rows), batch_gradient(reference, drawn), strict=True):
        assert torch.allclose(one, other)
    for name in ("generative_perplexity",):
        values = []
        for samples in (rows, drawn):
            metric = METRICS.build({"type": name, "reference": "given"}, dataset=data, reference=chain)
            metric.update(samples)
            values.append(metric.compute())
        assert values[0] == pytest.approx(values[1])
        assert values[0]["gen_ppl"] == pytest.approx(math.exp(expected / encoded.tokens))


@pytest.mark.parametrize(
    "metric",
    ["sample_entropy", "distinct_ngrams", "self_bleu", "ngram_novelty", "longest_copy", "nearest_neighbour"],
)
def test_metrics_of_text_read_it_up_to_its_end(metric: str, data: Corpus) -> None:
    rows = data.train[:12].long().flip(0)
    assert score(with_tail(data, rows), data, [metric]) == pytest.approx(score(rows, data, [metric]))


def test_padding_is_no_text_of_metrics(data: Corpus) -> None:
    rows = data.train[:12].long()
    assert score(rows, data, ["longest_copy"])["longest_copy_max"] == 5, "emma and its end"
    tokens = [[*name, "end"] for name in NAMES]
    entropies = []
    for text in tokens:
        shares = [text.count(symbol) / len(text) for symbol in set(text)]
        entropies.append(-sum(share * math.log(share) for share in shares))
    assert score(rows, data, ["sample_entropy"])["sample_entropy"] == pytest.approx(sum(entropies) / len(NAMES))
    flat = [symbol for text in tokens for symbol in text]
    assert score(rows, data, ["distinct_ngrams"])["distinct_1"] == pytest.approx(len(set(flat)) / len(flat))


def test_texts_are_shown_up_to_their_end(data: Corpus, tmp_path: Path) -> None:
    rows = with_tail(data, data.train[:3].long())
    assert data.to_text(rows) == NAMES[:3]
    assert data.documents(rows) == [[name] for name in NAMES[:3]]
    assert save_sheet(tmp_path / "sheet", data, rows).read_text() == "emma\n\nada\n\nnoah\n"
    lines = jsonl(range(3), rows, None, data).splitlines()
    assert [json.loads(line)["text"] for line in lines] == NAMES[:3]
    wrapped = DATASETS.build({**data.config.model_dump(mode="json"), "packing": "wrap"})
    assert wrapped.to_text(wrapped.train[:1]) == ["emma<end>ada"], "ends between documents stay"
    assert wrapped.end is None
    assert wrapped.text_mask(wrapped.train[:1]).all()


def trained(folder: Path, steps: int, **changes: Any) -> RunDir:
    """A model of the names, trained for a second or two."""
    raw = {
        "name": "names",
        "data": settings(folder),
        "process": "masked",
        "backbone": {"type": "transformer", "width": 32, "depth": 2, "heads": 2},
        "objective": "denoising",
        "optim": {"lr": 5e-3},
        "ema": {"decay": 0.9},
        "train": {"steps": steps, "batch_size": 24, "log_every": steps, "device": "cpu"},
        "evaluate": {"metrics": ["sample_entropy"]},
        **changes,
    }
    (folder / "names.txt").write_text("\n".join(NAMES[:3] * 8) + "\n")
    recipe = parse_recipe(raw)
    run = RunDir(folder / "run")
    fit(LoadedRecipe(recipe, folder / "names.yaml", dump_yaml(raw)), run, echo=lambda line: None)
    return run


@pytest.mark.parametrize("blocks", [None, 1, 4])
def test_models_of_padded_texts_draw_texts_that_end(blocks: int | None, tmp_path: Path) -> None:
    changes: dict[str, Any] = {}
    if blocks is not None:
        changes["backbone"] = {"type": "block_transformer", "width": 32, "depth": 2, "heads": 2, "block_size": blocks}
        changes["sampler"] = "block_ancestral"
    run = trained(tmp_path, 150, **changes)
    pipeline = Pipeline.from_pretrained(run.path)
    texts = pipeline.sample(100, steps=4 * LENGTH, seed=0).texts
    counts = [texts.count(name) for name in NAMES[:3]]
    assert sum(counts) > 30, texts
    assert min(counts) > 5, "short and long names alike"

    scores = pipeline.score(["emma", "ada", "hhhhhhh"], steps=16)
    assert scores.tokens.tolist() == [5, 4, 8]
    assert scores.exact == (blocks == 1)
    assert float(scores.nats[:2].max()) < float(scores.nats[2]) / 2, "names are likelier than other texts"
    if blocks == 1:
        row = [*pipeline.dataset.tokenizer.encode("ada"), pipeline.dataset.end, 0, 1, 2, 3]  # type: ignore[attr-defined]
        tokens = torch.tensor([row])
        assert float(pipeline.score(tokens).nats) == pytest.approx(float(scores.nats[1]), rel=1e-5)


def test_a_text_that_must_fill_its_sample_says_so(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(NAMES * 4) + "\n")
    run = trained(tmp_path, 1, data=settings(tmp_path, packing="wrap"))
    from fewstep.core.errors import UserError

    with pytest.raises(UserError, match=r"score: text 1 has 4 tokens; texts of this model have 8$"):
        Pipeline.from_pretrained(run.path).score(["emma"])


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        (
            {"tokenizer": "char"},
            "packing",
            r"no symbol that ends a document; set .* to {type: char, end_symbol: true}$",
        ),
        ({"tokenizer": {"type": "huggingface", "name": "a", "end_token": None}}, "packing", "set .*end_token$"),
        ({"tokenizer": "char", "packing": "wrap"}, "separator", r"end_symbol: true}; or set separator to a text"),
        ({"tokenizer": "huggingface"}, "tokenizer", "set path to a tokenizer.json"),
        (
            {"tokenizer": {"type": "char", "alphabet": "abc"}, "separator": "\n", "packing": "wrap"},
            "separator",
            r"character '\\n' is not in data.tokenizer.alphabet",
        ),
    ],
)
def test_what_a_training_would_refuse_is_refused_by_validate(
    changes: dict[str, Any], key: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=rf"data.{key}: .*{message}") as caught:
        trained(tmp_path, 1, data=settings(tmp_path, **changes))
    assert len(caught.value.problems) == 1, "one problem, not two that contradict each other"


def test_blocks_that_do_not_divide_a_sample_are_refused_by_validate(tmp_path: Path) -> None:
    backbone = {"type": "block_transformer", "width": 32, "depth": 1, "heads": 2, "block_size": 3}
    with pytest.raises(
        RecipeError, match=r"backbone.block_size: samples of 8 tokens are no whole number of blocks of 3"
    ):
        trained(tmp_path, 1, backbone=backbone, sampler="block_ancestral")
