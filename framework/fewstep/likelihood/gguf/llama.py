"""The network of a GGUF file: transformers' Llama with the file's weights, dequantized to single precision.

Shapes: V tokens, H numbers of a hidden state, A heads of D numbers for queries, K such heads for keys and values, F
numbers within a feed-forward layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fewstep.core.echo import shown
from fewstep.likelihood.gguf.header import BrokenGGUFError, GGUFHeader, TensorPlace

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_INSTEAD = "convert the model to a folder of safetensors, and name that as hf:FOLDER"
_PREFIX = "llama."
_READ = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.freq_base",
    "rope.dimension_count",
    "vocab_size",
)
_NEUTRAL = {"rope.scaling.type": "none", "expert_count": 0, "expert_used_count": 0}
"""Settings that change a network, with the value that does not."""
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class LlamaShape:
    """The sizes of a network, in the names of its settings."""

    layers: int
    context: int
    hidden: int
    inner: int
    heads: int
    key_heads: int
    head: int
    vocab: int
    epsilon: float
    base: float
    tied: bool

    def tensors(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """Name in the file, name in transformers, and shape of every weight."""
        hidden, queries, keys = self.hidden, self.heads * self.head, self.key_heads * self.head
        yield "token_embd.weight", "model.embed_tokens.weight", (self.vocab, hidden)
        yield "output_norm.weight", "model.norm.weight", (hidden,)
        if not self.tied:
            yield "output.weight", "lm_head.weight", (self.vocab, hidden)
        layer = (
            ("attn_norm", "input_layernorm", (hidden,)),
            ("attn_q", "self_attn.q_proj", (queries, hidden)),
            ("attn_k", "self_attn.k_proj", (keys, hidden)),
            ("attn_v", "self_attn.v_proj", (keys, hidden)),
            ("attn_output", "self_attn.o_proj", (hidden, queries)),
            ("ffn_norm", "post_attention_layernorm", (hidden,)),
            ("ffn_gate", "mlp.gate_proj", (self.inner, hidden)),
            ("ffn_up", "mlp.up_proj", (self.inner, hidden)),
            ("ffn_down", "mlp.down_proj", (hidden, self.inner)),
        )
        for index in range(self.layers):
            for ours, theirs, shape in layer:
                yield f"blk.{index}.{ours}.weight", f"model.layers.{index}.{theirs}.weight", shape


def build_llama(file: GGUFHeader) -> PreTrainedModel:
    """transformers' LlamaForCausalLM with the weights of a file, on the CPU.

    transformers' own `gguf_file=` is not used: it needs accelerate from version 5.24 on, and it chooses the class of
    the network by a name in the file.

    Raises:
        BrokenGGUFError: the file holds another kind of network, its settings and tensors contradict each other, or a
            weight is not finite.
    """
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    shape = read_shape(file)
    check_tensors(file, shape)
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        head_dim=shape.head,
        max_position_embeddings=shape.context,
        rms_norm_eps=shape.epsilon,
        rope_theta=shape.base,
        tie_word_embeddings=shape.tied,
        bos_token_id=None,
        eos_token_id=None,
    )
    # Without memory first, since all weights come from the file; their initialization would take random numbers.
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    weights = {theirs: weight(file, file.tensors[ours], shape) for ours, theirs, _ in shape.tensors()}
    model.load_state_dict(weights, strict=not shape.tied, assign=True)
    model.tie_weights()
    # Its frequencies are no weights, so they are still without memory.
    model.model.rotary_emb = LlamaRotaryEmbedding(config=config)
    return model


def read_shape(file: GGUFHeader) -> LlamaShape:
    """Sizes of the network, from the settings of the file.

    Raises:
        BrokenGGUFError: it is no Llama, or a setting is missing, is out of bounds or changes the network in a way that
            is not known.
    """
    kind = file.settings.get("general.architecture")
    if kind != "llama":
        raise BrokenGGUFError(
            f"'{file.path}' holds a network of the kind '{shown(kind)}', and only 'llama' can be read from GGUF files: "
            f"{_INSTEAD}"
        )
    for key, value in file.settings.items():
        name = key.removeprefix(_PREFIX)
        if key.startswith(_PREFIX) and name not in _READ and _NEUTRAL.get(name, "") != value:
            raise BrokenGGUFError(
                f"'{file.path}' has the setting '{shown(key)}: {shown(value)}', which is not known here and may change "
                f"the network: {_INSTEAD}"
            )
    hidden, heads = _whole(file, "embedding_length"), _whole(file, "attention.head_count")
    head = _whole(file, "attention.key_length", hidden // heads)
    same = {"attention.value_length": head, "rope.dimension_count": head}
    embedding = file.tensors.get("token_embd.weight")
    same["vocab_size"] = vocab = embedding.shape[0] if embedding else _whole(file, "vocab_size")
    for name, value in same.items():
        if _whole(file, name, value) != value:
            raise BrokenGGUFError(
                f"'{file.path}' has '{_PREFIX}{name}: {_whole(file, name)}' where its other sizes say {value}, which "
                f"cannot be read: {_INSTEAD}"
            )
    shape = LlamaShape(
        layers=_whole(file, "block_count"),
        context=_whole(file, "context_length"),
        hidden=hidden,
        inner=_whole(file, "feed_forward_length"),
        heads=heads,
        key_heads=_whole(file, "attention.head_count_kv", heads),
        head=head,
        vocab=vocab,
        epsilon=_fraction(file, "attention.layer_norm_rms_epsilon", None, 1.0),
        base=_fraction(file, "rope.freq_base", 10_000.0, 1e12),
        tied="output.weight" not in file.tensors,
    )
    if shape.heads % shape.key_heads or shape.head % 2:
        raise BrokenGGUFError(
            f"'{file.path}' is broken: {shape.heads} heads of {shape.head} numbers do not fit {shape.key_heads} heads "
            "of keys; download it again"
        )
    return shape


def check_tensors(file: GGUFHeader, shape: LlamaShape) -> None:
    """Compare the names and shapes of a file's tensors with those of the network, before any is built.

    Raises:
        BrokenGGUFError: one is missing, too many, or of another shape.
    """
    if shape.layers > len(file.tensors):
        raise BrokenGGUFError(
            f"'{file.path}' is broken: it says that it has {shape.layers:,} layers, and holds {len(file.tensors):,} "
            "tensors; download it again"
        )
    expected = {ours: size for ours, _, size in shape.tensors()}
    for name, size in expected.items():
        found = file.tensors.get(name)
        if found is None:
            raise BrokenGGUFError(f"'{file.path}' is broken: tensor '{name}' is missing; download it again")
        if found.shape != size:
            raise BrokenGGUFError(
                f"'{file.path}' is broken: tensor '{name}' has the shape {list(found.shape)} where its settings say "
                f"{list(size)}; download it again"
            )
    if other := next((name for name in file.tensors if name not in expected), None):
        raise BrokenGGUFError(
            f"'{file.path}' has the tensor '{shown(other)}', which no plain Llama has, so that it cannot be read: "
            f"{_INSTEAD}"
        )


def weight(file: GGUFHeader, place: TensorPlace, shape: LlamaShape) -> Tensor:
    """A weight in single precision, in the order of transformers.

    Raises:
        BrokenGGUFError: a number is not finite, or the type of the tensor cannot be dequantized.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType(place.kind)
    data = np.fromfile(file.path, dtype=np.uint8, count=place.size, offset=place.start)
    try:
        # A damaged scale may be infinite or no number; that is refused below.
        with np.errstate(all="ignore"):
            values = dequantize(data.reshape(*place.shape[:-1], -1), kind)
    except NotImplementedError:
        raise BrokenGGUFError(
            f"'{file.path}' has tensor '{shown(place.name)}' of the type {kind.name}, which the package gguf does not "
            "dequantize: take a file of another quantization, such as Q8_0"
        ) from None
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).reshape(place.shape)
    if not bool(torch.isfinite(tensor).all()):
        raise BrokenGGUFError(
            f"'{file.path}' is broken: tensor '{shown(place.name)}' has numbers that are not finite; download it again"
        )
    if ".attn_q." in place.name:
        return unpaired(tensor, shape.heads)
    return unpaired(tensor, shape.key_heads) if ".attn_k." in place.name else tensor


def unpaired(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys [heads D, H] in the order of transformers.

    llama.cpp turns neighbouring numbers of a head together, transformers a number of the first half with one of the
    second.
    """
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _whole(file: GGUFHeader, name: str, default: int | None = None) -> int:
    value = file.settings.get(_PREFIX + name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _LARGEST:
        raise BrokenGGUFError(
            f"'{file.path}' is broken: its setting '{_PREFIX}{name}' is {_said(value)} and must be a whole number, 1 "
            "or more; download it again"
        )
    return value


def _fraction(file: GGUFHeader, name: str, default: float | None, most: float) -> float:
    value = file.settings.get(_PREFIX + name, default)
    if not isinstance(value, float) or not math.isfinite(value) or not 0 < value <= most:
        raise BrokenGGUFError(
            f"'{file.path}' is broken: its setting '{_PREFIX}{name}' is {_said(value)} and must lie between 0 and "
            f"{most:g}; download it again"
        )
    return value


def _said(value: object) -> str:
    return "missing" if value is None else shown(value)
