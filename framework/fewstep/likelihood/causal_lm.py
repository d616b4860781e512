"""Causal language models of Hugging Face as references of metrics (extra `hf`).

Shapes: B samples, T tokens of the model, D its width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from fewstep.core.errors import UserError
from fewstep.data.base import Dataset
from fewstep.data.text.text import TextDataset
from fewstep.likelihood.references import Encoded, Reference
from fewstep.runtime.hub import PREFIX

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PINNED = {
    "gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "gpt2-large": "32b71b12589c2f8d625668d2335a01cac3249519",
}
"""Default commits of models that papers compare by."""
GGUF_SUFFIX = ".gguf"


class CausalLM(Reference):
    """A causal language model that reads the text of samples by its own tokenizer, or their ids.

    As is usual for GPT-2, the first token of a sample is context and not scored, and tokens beyond the model's context
    length are cut off. Likelihoods are per token of the model, so they compare only with those of the same model.

    Texts are read up to their ends, and padding is not scored. Between the documents of a sample stands the model's own
    end-of-text token; special tokens that a text spells out are text.

    Args:
        model: from transformers' AutoModelForCausalLM.
        tokenizer: of the model; None if it reads ids.
        dataset: the samples' dataset, which decodes them to text.
        label: name of the reference in messages.

    Raises:
        UserError: the model reads ids and has fewer symbols than the data.
    """

    scores_first: ClassVar[bool] = False

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dataset: Dataset, label: str
    ) -> None:
        self.network = model.requires_grad_(False).eval().float()
        self.tokenizer = tokenizer
        self.dataset = dataset
        self.context = getattr(model.config, "max_position_embeddings", None)
        if tokenizer is None and model.config.vocab_size < dataset.spec.vocab_size:
            raise UserError(
                f"{label} knows {model.config.vocab_size} symbols and the data have {dataset.spec.vocab_size}; with "
                "`reads: ids` it must be a model of these data"
            )

    def encode(self, samples: Tensor) -> Encoded:
        if self.tokenizer is None:
            ids = samples[:, : self.context].cpu()
            counted = self.dataset.text_mask(ids)
        else:
            rows = [self._encode(documents)[: self.context] for documents in self._documents(samples)]
            width = max(1, *map(len, rows))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            counted = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
        counted[:, 0] = False
        return Encoded(ids, counted)

    def _documents(self, samples: Tensor) -> list[list[str]]:
        """Texts of each sample: its documents, or all of it as one."""
        if isinstance(self.dataset, TextDataset):
            return self.dataset.documents(samples)
        return [[text] for text in self.dataset.to_text(samples)]

    def _encode(self, documents: list[str]) -> list[int]:
        """Ids of documents with the model's end-of-text token between them."""
        ends = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        rows = [
            self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] for text in documents
        ]
        return [token for number, row in enumerate(rows) for token in (*(ends if number else ()), *row)]

    def nll(self, encoded: Encoded) -> Tensor:
        ids, counted = encoded.ids.to(self.device), encoded.counted.to(self.device)
        # Padding stands on the right, where a causal model does not see it.
        logits = self.network(input_ids=ids, use_cache=False).logits[:, :-1].float()
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        return torch.nn.functional.pad(nll, (1, 0)).masked_fill(~counted, 0.0)

    def features(self, encoded: Encoded) -> Tensor:
        ids, model = encoded.ids.to(self.device), cast(Any, self.network)
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        # All tokens but the first are counted, so their number is the index of the last one.
        return hidden[torch.arange(len(ids)), encoded.counted.sum(1)]


def load_causal_lm(name: str, dataset: Dataset, *, reads: Literal["text", "ids"], device: str = "auto") -> CausalLM:
    """The model that `hf:FOLDER`, `hf:FILE.gguf`, `hf:NAME` or `hf:NAME@COMMIT` names.

    Weights are read from safetensors or a GGUF file only.

    Raises:
        UserError: transformers is not installed, the model does not exist, the name has no commit, the file is broken
            or holds another kind of network, or the data have no text.
    """
    from fewstep.runtime.device import resolve_device

    try:
        import transformers
    except ImportError:
        raise UserError(f"reference '{name}' needs transformers: pip install 'fewstep[hf]'") from None
    if reads == "text" and dataset.kind != "text":
        raise UserError(
            f"reference '{name}' reads text, and these data are none; a model of their ids has `reads: ids`"
        )
    path = Path(name.removeprefix(PREFIX))
    if path.suffix == GGUF_SUFFIX:
        model, tokenizer = read_gguf(path, with_tokenizer=reads == "text")
    else:
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        model, tokenizer = _from_safetensors(name, with_tokenizer=reads == "text")
    return CausalLM(model.to(resolve_device(device)), tokenizer, dataset, f"reference '{name}'")


def read_gguf(path: Path, *, with_tokenizer: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Network and tokenizer of a GGUF file; None for a tokenizer that is not asked for.

    Raises:
        UserError: the package gguf is not installed, there is no such file, or `BrokenGGUFError`.
    """
    from fewstep.likelihood.gguf.header import read_header

    try:
        from gguf.constants import GGML_QUANT_SIZES
    except ImportError:
        raise UserError(f"GGUF file '{path}' needs the package gguf: pip install 'fewstep[hf]'") from None
    if not path.is_file():
        raise UserError(f"there is no GGUF file '{path}'; check how it is spelled")
    from fewstep.likelihood.gguf.llama import build_llama
    from fewstep.likelihood.gguf.tokenizer import build_tokenizer

    sizes: dict[int, tuple[int, int]] = {int(kind): block for kind, block in GGML_QUANT_SIZES.items()}
    file = read_header(path, sizes.get)
    tokenizer = build_tokenizer(file) if with_tokenizer else None
    return build_llama(file), tokenizer


def _from_safetensors(name: str, *, with_tokenizer: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Network and tokenizer of a folder, or of a commit on the Hub."""
    import transformers

    source, revision = _source(name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    if revision is None:
        options = {"local_files_only": True, "trust_remote_code": False}
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, **options)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options) if with_tokenizer else None
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"reference '{name}' cannot be loaded: {reason} (without a network, give the folder that holds the model, "
            "hf:FOLDER, or a GGUF file: hf:FILE.gguf)"
        ) from None
    return model, tokenizer


def _source(name: str) -> tuple[str, str | None]:
    """Folder or name of a model, and its commit; None for a folder."""
    path = name.removeprefix(PREFIX)
    if Path(path).is_dir():
        return path, None
    source, _, commit = path.partition("@")
    revision = commit or PINNED.get(source)
    if revision is None:
        known = ", ".join(PREFIX + pinned for pinned in PINNED)
        raise UserError(
            f"reference '{name}' is no folder, and a name needs its commit, so that figures stay comparable: "
            f"{PREFIX}NAME@COMMIT, or one whose commit is known: {known}"
        )
    return source, revision
