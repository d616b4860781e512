"""Public checkpoints made up at small width: exact names and shapes, and their forward pass in plain torch.

Written from the layout alone (models/dit.py of MDLM and Duo), and shares nothing with `fewstep.backbones`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH, DEPTH, HEADS, TOLD = 16, 2, 2, 6


def public_state(rows: int, *, prefix: str = "backbone.", frequencies: bool = True) -> dict[str, Tensor]:
    """A state dict as `kuleshov-group/mdlm-owt` has it, with `rows` symbols ([MASK] included)."""
    shapes = {
        "vocab_embed.embedding": (rows, WIDTH),
        "sigma_map.mlp.0.weight": (TOLD, 256),
        "sigma_map.mlp.0.bias": (TOLD,),
        "sigma_map.mlp.2.weight": (TOLD, TOLD),
        "sigma_map.mlp.2.bias": (TOLD,),
    }
    for i in range(DEPTH):
        shapes |= {
            f"blocks.{i}.norm1.weight": (WIDTH,),
            f"blocks.{i}.attn_qkv.weight": (3 * WIDTH, WIDTH),
            f"blocks.{i}.attn_out.weight": (WIDTH, WIDTH),
            f"blocks.{i}.norm2.weight": (WIDTH,),
            f"blocks.{i}.mlp.0.weight": (4 * WIDTH, WIDTH),
            f"blocks.{i}.mlp.0.bias": (4 * WIDTH,),
            f"blocks.{i}.mlp.2.weight": (WIDTH, 4 * WIDTH),
            f"blocks.{i}.mlp.2.bias": (WIDTH,),
            f"blocks.{i}.adaLN_modulation.weight": (6 * WIDTH, TOLD),
            f"blocks.{i}.adaLN_modulation.bias": (6 * WIDTH,),
        }
    shapes |= {
        "output_layer.norm_final.weight": (WIDTH,),
        "output_layer.linear.weight": (rows, WIDTH),
        "output_layer.linear.bias": (rows,),
        "output_layer.adaLN_modulation.weight": (2 * WIDTH, TOLD),
        "output_layer.adaLN_modulation.bias": (2 * WIDTH,),
    }
    generator = torch.Generator().manual_seed(0)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if frequencies:
        state["rotary_emb.inv_freq"] = inverse_frequencies()
    return {prefix + name: tensor for name, tensor in state.items()}


def inverse_frequencies(base: float = 10_000.0) -> Tensor:
    dim = WIDTH // HEADS
    return 1.0 / (base ** (torch.arange(0, dim, 2).float() / dim))


def public_logits(state: dict[str, Tensor], x: Tensor, sigma: Tensor, base: float = 10_000.0) -> Tensor:
    """Ids [B, L] and sigma [B] -> logits [B, L, rows], from bare names."""
    w = state
    half = torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    angles = sigma[:, None] * half
    c = torch.cat((angles.cos(), angles.sin()), -1) @ w["sigma_map.mlp.0.weight"].T + w["sigma_map.mlp.0.bias"]
    c = F.silu(F.silu(c) @ w["sigma_map.mlp.2.weight"].T + w["sigma_map.mlp.2.bias"])
    turns = torch.outer(torch.arange(x.shape[1]).float(), inverse_frequencies(base))
    cos, sin = (torch.cat((f(turns), f(turns)), -1) for f in (torch.cos, torch.sin))

    def turned(y: Tensor) -> Tensor:
        a, b = y.chunk(2, -1)
        return y * cos + torch.cat((-b, a), -1) * sin

    h = w["vocab_embed.embedding"][x]
    for i in range(DEPTH):
        p = f"blocks.{i}."
        mods = (c @ w[p + "adaLN_modulation.weight"].T + w[p + "adaLN_modulation.bias"])[:, None].chunk(6, 2)
        y = F.layer_norm(h, [WIDTH]) * w[p + "norm1.weight"] * (1 + mods[1]) + mods[0]
        q, k, v = (
            part.view(*x.shape, HEADS, -1).transpose(1, 2) for part in (y @ w[p + "attn_qkv.weight"].T).chunk(3, -1)
        )
        scores = turned(q) @ turned(k).transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ w[p + "attn_out.weight"].T
        h = h + mods[2] * y
        y = F.layer_norm(h, [WIDTH]) * w[p + "norm2.weight"] * (1 + mods[4]) + mods[3]
        y = F.gelu(y @ w[p + "mlp.0.weight"].T + w[p + "mlp.0.bias"], approximate="tanh")
        h = h + mods[5] * (y @ w[p + "mlp.2.weight"].T + w[p + "mlp.2.bias"])
    p = "output_layer."
    shift, scale = (c @ w[p + "adaLN_modulation.weight"].T + w[p + "adaLN_modulation.bias"])[:, None].chunk(2, 2)
    h = F.layer_norm(h, [WIDTH]) * w[p + "norm_final.weight"] * (1 + scale) + shift
    return h @ w[p + "linear.weight"].T + w[p + "linear.bias"]


def exact_state(agree: float) -> dict[str, Tensor]:
    """Weights of Duo's layout, set by hand, with the exact leave-one-out rows of two tokens of three symbols each.

    The first token is uniform; the second equals it with probability `agree` and is uniform otherwise. The exact row of
    a token is uniform but for z of the other token, whose logit is higher by g = log(1 + 3 r / (1 - r)), with
    r = agree x alpha_t. Channels 0 to 2 hold the token, 3 a constant. Attention of the first block, by rotary angles,
    sees only the other token and writes it to channels 4 to 6; the head reads those, scaled by g. The embedding of the
    time is random, and g is fitted on it by least squares.
    """
    told, generator = 64, torch.Generator().manual_seed(0)
    bare = {key: torch.zeros_like(value) for key, value in public_state(3, prefix="", frequencies=False).items()}
    for i in range(DEPTH):
        bare[f"blocks.{i}.adaLN_modulation.weight"] = torch.zeros(6 * WIDTH, told)
        for name in ("norm1", "norm2"):
            bare[f"blocks.{i}.{name}.weight"] += 1
    sizes = {"0.weight": (told, 256), "0.bias": (told,), "2.weight": (told, told), "2.bias": (told,)}
    for name, size in sizes.items():
        bare[f"sigma_map.mlp.{name}"] = torch.randn(size, generator=generator) * (1 if len(size) == 1 else 0.2)
    bare["output_layer.norm_final.weight"] += 1
    bare["vocab_embed.embedding"][:, :3] = torch.eye(3)
    bare["vocab_embed.embedding"][:, 3] = 1.0
    normed = F.layer_norm(bare["vocab_embed.embedding"], [WIDTH])
    dim, qkv = WIDTH // HEADS, bare["blocks.0.attn_qkv.weight"]
    for head in range(HEADS):
        qkv[head * dim, 3], qkv[WIDTH + head * dim, 3] = 20.0, -20.0  # scores fall with the cosine of the distance
    qkv[2 * WIDTH : 2 * WIDTH + 3, :3] = torch.eye(3)
    bare["blocks.0.attn_out.weight"][4:7, :3] = torch.eye(3)
    bare["blocks.0.adaLN_modulation.bias"][2 * WIDTH : 3 * WIDTH] = 1.0  # the gate of attention
    final = bare["vocab_embed.embedding"][0].clone()
    final[4:7] += normed[1, :3]  # states (0, 1); any other gives the same but for the order of channels
    read = F.layer_norm(final, [WIDTH])
    bare["output_layer.linear.weight"][:, 4:7] = torch.eye(3) / (read[5] - read[4])
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)
    alpha = 1 - (1 - 1e-3) * t
    ratio = agree * alpha
    gain = (1 + 3 * ratio / (1 - ratio)).log()
    half = torch.exp(-math.log(10_000) * torch.arange(128, dtype=torch.float64) / 128)
    angles = -alpha.log()[:, None] * half
    c = torch.cat((angles.cos(), angles.sin()), -1) @ bare["sigma_map.mlp.0.weight"].T.double()
    c = F.silu(c + bare["sigma_map.mlp.0.bias"])
    c = F.silu(c @ bare["sigma_map.mlp.2.weight"].T.double() + bare["sigma_map.mlp.2.bias"])
    design = torch.cat((c, torch.ones(len(c), 1, dtype=torch.float64)), 1)
    ridge = 1e-7 * torch.eye(told + 1, dtype=torch.float64)
    fit = torch.linalg.solve(design.T @ design / len(c) + ridge, design.T @ (gain - 1) / len(c)).float()
    bare["output_layer.adaLN_modulation.weight"] = torch.zeros(2 * WIDTH, told)
    bare["output_layer.adaLN_modulation.weight"][WIDTH:] = fit[:-1]
    bare["output_layer.adaLN_modulation.bias"][WIDTH:] = fit[-1]
    return {f"backbone.{key}": value for key, value in {**bare, "rotary_emb.inv_freq": inverse_frequencies()}.items()}
