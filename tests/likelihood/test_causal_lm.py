"""Hugging Face causal language models as references: a tiny GPT-2 of random weights, saved as safetensors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from fewstep.core.errors import UserError
from fewstep.data.base import DATASETS
from fewstep.data.synthetic.markov import Markov
from fewstep.data.text.corpus import Corpus
from fewstep.data.text.text import Text
from fewstep.likelihood.causal_lm import load_causal_lm
from fewstep.metrics.base import METRICS

transformers = pytest.importorskip("transformers", reason="extra hf is not installed")

TEXT = "the cat sat on the mat. a dog ran after the cat, and the cat ran up a tree. " * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a byte-pair tokenizer of its own, another one than the data's characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    path = tmp_path_factory.mktemp("gpt2")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=None)
    fast.save_pretrained(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=len(fast), n_positions=24, n_embd=16, n_layer=2, n_head=2)
        transformers.GPT2LMHeadModel(config).save_pretrained(path, safe_serialization=True)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Text:
    file = tmp_path_factory.mktemp("text") / "cat.txt"
    file.write_text(TEXT, encoding="utf-8")
    return Text(Text.Config(path=str(file), length=32))


def test_text_is_retokenised_and_scored_as_transformers_does(folder: Path, data: Text) -> None:
    lm = load_causal_lm(f"hf:{folder}", data, reads="text", device="cpu")
    samples = data.train[:5]
    encoded = lm.encode(samples)
    assert encoded.ids.shape[1] < samples.shape[1], "pieces are longer than characters"
    nll = lm.nll(encoded)
    for text, row, counted in zip(data.to_text(samples), nll, encoded.counted, strict=True):
        ids = torch.tensor([lm.tokenizer.encode(text)[:24]])
        theirs = float(lm.network(input_ids=ids, labels=ids).loss)
        assert float(row.sum() / counted.sum()) == pytest.approx(theirs, rel=1e-4)
        assert lm.tokenizer.decode(ids[0]) == text or len(ids[0]) == 24


def test_metrics_take_it_by_its_folder(folder: Path, data: Text) -> None:
    config = {"reference": f"hf:{folder}", "batch_size": 7}
    values = {}
    for kind, more in (("generative_perplexity", {}), ("gradient_moment", {"batches": 4})):
        metric = METRICS.build({"type": kind, **config, **more}, dataset=data)
        metric.update(data.train[:40])
        values.update(metric.compute())
    assert 100 < values["gen_ppl"] < 1000, "near uniform over 300 pieces, untrained"
    assert "gen_entropy" in values
    assert math.isfinite(values["gradient_moment"])
    shuffled = data.train[:40].gather(1, torch.rand(40, 32, generator=torch.Generator().manual_seed(0)).argsort(1))
    metric = METRICS.build({"type": "gradient_moment", "batches": 4, **config}, dataset=data)
    metric.update(shuffled)
    found = metric.compute()
    assert found["gradient_moment"] > values["gradient_moment"] + 5 * found["gradient_moment_stderr"]


def test_ids_are_read_as_they_are(folder: Path) -> None:
    source = Markov(Markov.Config(vocab_size=5, length=8, size=64))
    with pytest.raises(UserError, match=r"reads text, and these data are none; .*`reads: ids`"):
        load_causal_lm(f"hf:{folder}", source, reads="text")
    lm = load_causal_lm(f"hf:{folder}", source, reads="ids", device="cpu")
    encoded = lm.encode(source.train[:3])
    assert torch.equal(encoded.ids, source.train[:3])
    assert encoded.counted.sum(1).tolist() == [7, 7, 7], "the first token is given"
    assert METRICS.build({"type": "gradient_moment", "reference": "x"}, dataset=source, reference=lm)
    large = Markov(Markov.Config(vocab_size=400, length=8, size=64))
    with pytest.raises(UserError, match=r"knows 2\d\d symbols and the data have 400"):
        load_causal_lm(f"hf:{folder}", large, reads="ids")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:my-model", r"'hf:my-model' is no folder, and a name needs its commit.*hf:NAME@COMMIT.*hf:gpt2-large"),
        ("hf:{empty}", r"cannot be loaded: .*\(without a network, give the folder .*hf:FILE.gguf\)"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_a_sentence(name: str, message: str, data: Text, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_causal_lm(name.format(empty=tmp_path), data, reads="text")


@pytest.mark.parametrize("packing", ["pad", "wrap"])
def test_documents_are_scored_up_to_their_ends(packing: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("the cat\nran up\na tree and a dog ran after it\n" * 4, encoding="utf-8")
    data = DATASETS.build(
        {
            "type": "corpus",
            "path": str(tmp_path / "names.txt"),
            "prepared": str(tmp_path / "shards"),
            "documents": "line",
            "held_out": 0,
            "tokenizer": {"type": "char", "end_symbol": True},
            "packing": packing,
            "length": 16,
        }
    )
    assert isinstance(data, Corpus)
    lm = load_causal_lm(f"hf:{folder}", data, reads="text", device="cpu")
    samples = data.train[:3].long()
    if packing == "pad":
        # What a generator draws behind an end is no text, whatever it is.
        other = torch.randint(data.spec.vocab_size, samples.shape, generator=torch.Generator().manual_seed(0))
        samples = samples.where(data.text_mask(samples), other)
    encoded = lm.encode(samples)
    for documents, row, counted in zip(data.documents(samples), lm.nll(encoded), encoded.counted, strict=True):
        assert (len(documents) > 1) <= (packing == "wrap")
        ids = torch.tensor([[token for text in documents for token in lm.tokenizer.encode(text)]])
        assert int(counted.sum()) == ids.shape[1] - 1, "ends and padding are no words"
        theirs = float(lm.network(input_ids=ids, labels=ids).loss)
        assert float(row.sum() / counted.sum()) == pytest.approx(theirs, rel=1e-4)


def test_a_text_of_one_token_has_nothing_to_score(folder: Path, data: Text) -> None:
    metric = METRICS.build({"type": "generative_perplexity", "reference": f"hf:{folder}", "reads": "ids"}, dataset=data)
    metric.update(data.train[:4, :1])
    with pytest.raises(UserError, match="no token to score"):
        metric.compute()


def test_an_extra_that_is_missing_is_named(data: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'fewstep\[hf\]'"):
        load_causal_lm("hf:gpt2-large", data, reads="text")
