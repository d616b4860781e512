"""Losses over a vocabulary, from hidden states and heads to the gradients of both: time and peak memory.

`ours` is the objective's line (`ctx.mean(weight * ...)`), `plain` is the same loss of dense log-probabilities by
autograd, and `floor` is written out by hand: chunks of 512 rows, and the gradient of the logits in place of them. Peaks
are of a process each, above its memory before and without the gradients themselves.

Shapes: B batch, L tokens, V vocabulary, D width, N = B L rows.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rows import Row, interleaved, paired
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.objectives.base import Batch
from fewstep.objectives.matching.losses import CrossEntropyLoss
from fewstep.objectives.parts.divergence import divergence
from fewstep.predictions.network import HeadPrediction
from fewstep.predictions.positions import everywhere
from fewstep.runtime.memory import peak_megabytes, reset_peak

CASES = {
    "denoising": "cross entropy",
    "student": "D-MMD, student",
    "auxiliary": "D-MMD, auxiliary",
    "reverse_kl": "reverse KL (sdtt, consistency)",
}
WAYS = ("ours", "plain", "floor")
SIZE, QUICK = (50_257, 1024, 4, 256), (8192, 64, 2, 64)
"""V, L, B and D."""
PLAIN_GOAL, FLOOR_GOAL, PEAK_GOAL = 0.95, 1.1, 0.1
_ROWS = 512
"""Rows of a chunk of the floor."""


@dataclass(frozen=True)
class Inputs:
    """Hidden states [B, L, D] and heads of three networks, drawn ids, and weights of tokens [B, L].

    The first network is trained.
    """

    hidden: list[Tensor]
    heads: list[nn.Linear]
    ids: Tensor
    weights: Tensor

    @staticmethod
    def make(vocab: int, length: int, batch: int, width: int) -> Inputs:
        torch.manual_seed(0)
        hidden = [torch.randn(batch, length, width) for _ in range(3)]
        heads = [nn.Linear(width, vocab) for _ in range(3)]
        for head in heads[1:]:
            head.requires_grad_(False)
        hidden[0].requires_grad_()
        return Inputs(hidden, heads, torch.randint(vocab, (batch, length)), torch.rand(batch, length))

    @property
    def trained(self) -> list[Tensor]:
        return [self.hidden[0], self.heads[0].weight, *([] if self.heads[0].bias is None else [self.heads[0].bias])]


def ours(case: str, x: Inputs) -> Tensor:
    """The loss as objectives write it."""
    where = everywhere(x.ids)
    first, second, third = (
        HeadPrediction(hidden, head, head.out_features, x.ids, where)
        for hidden, head in zip(x.hidden, x.heads, strict=True)
    )
    values = {
        "denoising": lambda: first.nll(x.ids),
        "student": lambda: CrossEntropyLoss().student(first, second, third),
        "auxiliary": lambda: CrossEntropyLoss().fit(x.ids, first, second, 1.0),
        "reverse_kl": lambda: divergence("reverse_kl", first, second, where),
    }[case]()
    return Batch(x.ids).mean(x.weights * values)


def plain(case: str, x: Inputs) -> Tensor:
    """The loss of dense log-probabilities."""
    p = F.linear(x.hidden[0].flatten(0, 1), x.heads[0].weight, x.heads[0].bias).log_softmax(-1)
    ids, weights = x.ids.flatten(), x.weights.flatten()
    with torch.no_grad():
        q = _dense(x, 1) if case != "denoising" else p
        gap = q - _dense(x, 2) if case == "student" else q
    if case == "denoising":
        values = -p.gather(1, ids[:, None])[:, 0]
    elif case == "student":
        values = (p.exp() * gap).sum(1)
    elif case == "auxiliary":
        values = -p.gather(1, ids[:, None])[:, 0] - (q.exp() * p).sum(1)
    else:
        values = (p.exp() * (p - q)).sum(1)
    return (weights * values).mean()


def _dense(x: Inputs, which: int) -> Tensor:
    return x.heads[which](x.hidden[which].flatten(0, 1)).log_softmax(-1)


class Floor(torch.autograd.Function):
    """The same by hand."""

    @staticmethod
    def forward(ctx, case: str, x: Inputs, *trained: Tensor) -> Tensor:  # type: ignore[no-untyped-def,override]
        rows = [hidden.detach().flatten(0, 1) for hidden in x.hidden]
        weight, bias = x.heads[0].weight, x.heads[0].bias
        scale = x.weights.flatten() / x.ids.numel()
        total = torch.zeros(())
        of_rows, of_weight, of_bias = torch.empty_like(rows[0]), torch.zeros_like(weight), torch.zeros_like(bias)
        for begin in range(0, len(scale), _ROWS):
            part = slice(begin, begin + _ROWS)
            values, gradient = _by_hand(case, [h[part] for h in rows], x.heads, x.ids.flatten()[part])
            total += (values * scale[part]).sum()
            gradient.mul_(scale[part, None])
            torch.mm(gradient, weight, out=of_rows[part])
            of_weight.addmm_(gradient.T, rows[0][part])
            of_bias.add_(gradient.sum(0))
        ctx.gradients = of_rows.view_as(x.hidden[0]), of_weight, of_bias
        return total

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def,override]
        return None, None, *(gradient.mul_(cotangent) for gradient in ctx.gradients)


def _by_hand(case: str, rows: list[Tensor], heads: list[nn.Linear], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Values [n] of a chunk, and their gradient [n, V] by the logits of the first network."""
    p, places = heads[0](rows[0]), ids[:, None]
    p.sub_(p.logsumexp(1, keepdim=True))
    if case == "denoising":
        values = -p.gather(1, places)[:, 0]
        return values, p.exp_().scatter_add_(1, places, torch.full_like(values, -1.0)[:, None])
    q = heads[1](rows[1])
    if case == "auxiliary":
        q.sub_(q.logsumexp(1, keepdim=True)).exp_()
        values = -p.gather(1, places)[:, 0] - torch.linalg.vecdot(q, p)
        gradient = p.exp_().mul_(2.0).sub_(q)
        return values, gradient.scatter_add_(1, places, torch.full_like(values, -1.0)[:, None])
    if case == "student":
        r = heads[2](rows[2])
        shift = r.logsumexp(1, keepdim=True) - q.logsumexp(1, keepdim=True)
        reward = q.sub_(r).add_(shift)
    else:
        reward = torch.sub(p, q.sub_(q.logsumexp(1, keepdim=True)), out=q)
    p.exp_()
    values = torch.linalg.vecdot(p, reward)
    return values, reward.sub_(values[:, None]).mul_(p)


def loss(way: str, case: str, x: Inputs) -> Tensor:
    if way == "floor":
        total: Tensor = Floor.apply(case, x, *x.trained)  # type: ignore[no-untyped-call]
        return total
    return ours(case, x) if way == "ours" else plain(case, x)


def step(way: str, case: str, x: Inputs) -> float:
    """Seconds of processor time from inputs to gradients."""
    for tensor in x.trained:
        tensor.grad = None
    begin = time.process_time()
    loss(way, case, x).backward()
    return time.process_time() - begin


def check(case: str) -> None:
    """All ways have one loss and one gradient."""
    x = Inputs.make(1000, 300, 2, 16)
    results = []
    for way in WAYS:
        total = loss(way, case, x)
        results.append([total.detach(), *torch.autograd.grad(total, x.trained)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=float(1e-5 * b.abs().max()))


def peak(way: str, case: str, x: Inputs) -> float:
    """Megabytes above those before, without the gradients."""
    cpu = torch.device("cpu")
    reset_peak(cpu)
    before = peak_megabytes(cpu)
    step(way, case, x)
    gradients = sum(tensor.numel() * tensor.element_size() for tensor in x.trained) / 2**20
    return peak_megabytes(cpu) - before - gradients


def measure(quick: bool) -> Iterator[Row]:
    """Ratios of time, and of peak memory in the full form."""
    size = QUICK if quick else SIZE
    what = f"V {size[0]:,}, L {size[1]:,}, B {size[2]}, D {size[3]}, all rows"
    x = Inputs.make(*size)
    for case, title in CASES.items():
        check(case)
        calls = {way: lambda way=way, case=case: step(way, case, x) for way in WAYS}
        seconds = interleaved(calls, 5 if quick else 7)
        for way, goal in (("plain", PLAIN_GOAL), ("floor", FLOOR_GOAL)):
            ratios = paired(seconds["ours"], seconds[way])
            yield Row.of("losses", f"time / {way}, {title}, {what}", ratios, goal=None if quick else goal)
        if not quick:
            peaks = {way: _peak_of(way, case) for way in ("ours", "plain")}
            ratio = [peaks["ours"] / peaks["plain"]]
            yield Row.of("losses", f"peak / plain, {title}, {what}", ratio, goal=PEAK_GOAL)


def _peak_of(way: str, case: str) -> float:
    """Peak of a process of its own."""
    command = [sys.executable, __file__, way, case]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(peak(sys.argv[1], sys.argv[2], Inputs.make(*SIZE)))
