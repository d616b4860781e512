"""Small GGUF files for tests, written by the package gguf from a Llama of random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

TEXT = "the cat sat on the mat. a dog ran after the cat in 1984, and the cat ran up a tree. " * 40
END = "<|end|>"


def small_llama(vocab: int, *, tied: bool = False) -> Any:
    """transformers' Llama of two layers, whose queries have twice as many heads as its keys."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=vocab,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            rms_norm_eps=1e-5,
            rope_theta=500.0,
            tie_word_embeddings=tied,
        )
        return LlamaForCausalLM(config).eval()


def trained_tokenizer(size: int = 320) -> Any:
    """Byte-level pairs with every digit on its own, as SmolLM has them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, special_tokens=[END], show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def write_gguf(path: Path, model: Any, tokenizer: Any, *, kind: str = "F32", **changes: Any) -> Path:
    """A file of the model and the tokenizer, as llama.cpp's converter writes it.

    Args:
        kind: type of the matrices; vectors are in single precision.
        changes: settings by key, in the place of those of the model; None leaves one out.
    """
    import json

    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    config, state = model.config, json.loads(tokenizer.to_str())["model"]
    names = sorted(state["vocab"], key=state["vocab"].get)
    settings: dict[str, Any] = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.freq_base": 500.0,
        "llama.vocab_size": config.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": [3 if name == END else 1 for name in names],
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in state["merges"]],
        "tokenizer.ggml.eos_token_id": names.index(END),
        **{key.replace("__", "."): value for key, value in changes.items() if key != "general__architecture"},
    }
    writer = GGUFWriter(path, changes.get("general__architecture", "llama"))
    for key, value in settings.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    for name, weight in _weights(model):
        if kind == "F32" or weight.ndim == 1:
            writer.add_tensor(name, weight)
        else:
            of = GGMLQuantizationType[kind]
            writer.add_tensor(name, quantize(weight, of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _weights(model: Any) -> list[tuple[str, np.ndarray]]:
    config = model.config
    names = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
    layer = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    out = []
    for name, weight in model.named_parameters():
        place = name.removeprefix("model.").removesuffix(".weight")
        values = weight.detach().numpy()
        if place.startswith("layers."):
            _, number, part = place.split(".", 2)
            if layer[part] in heads:
                # llama.cpp turns neighbours together: the two halves of a head become its even and odd rows.
                halves = values.reshape(heads[layer[part]], 2, -1, values.shape[1])
                values = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
            out.append((f"blk.{number}.{layer[part]}.weight", values))
        else:
            out.append((f"{names[place]}.weight", values))
    return out
