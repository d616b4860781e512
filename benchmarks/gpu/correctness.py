"""Part 1: a GPU computes what it should.

Attention and trunks against float64; random numbers, losses and gradients against the CPU; compiled code against plain
code. A distance is the norm of the difference of two tensors over that of the exact one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import torch
from cases import Case, Outcome, Setting
from flops import Shape
from kernels import KERNELS, exact, inputs, kernel
from measuring import distance
from networks import WORK, check_mode, network, process_of, trainer
from torch import Tensor

from fewstep.denoisers.network import NetworkDenoiser
from fewstep.objectives.base import Phase
from fewstep.runtime.precision import tf32
from fewstep.runtime.streams import SampleStreams, normal, spread, uniform
from fewstep.training.trainer import Trainer

SHAPE, VOCAB, LENGTH, BATCH = Shape(128, 2, 2), 257, 64, 4
TINY = Shape(32, 1, 2)
DTYPES = ("fp32", "fp32 tf32", "bf16")
ATTENTION_LIMITS = {"fp32": 2e-5, "fp32 tf32": 5e-3, "bf16": 3e-2}
"""Largest distances that rounding explains: 24, 11 and 8 bits of factors, some ten of them one after the other."""
TRUNK_LIMITS = {"fp32": 2e-4, "fp32 tf32": 3e-2, "bf16": 2e-1}
"""The same through two blocks and back, for the worst parameter: sums over tokens that nearly cancel lose most."""
OBJECTIVE_LIMIT = 1e-3
"""Of losses and gradients in float32 with sums in another order, which a difference of two softmaxes enlarges."""


def cases(setting: Setting) -> Iterator[Case]:
    """All checks, the most fundamental first."""
    yield Case("random numbers", 3, partial(random_numbers, setting))
    # SDPA's kernels for GPUs have no float32, and FlexAttention is compiled first.
    kernels = [(name, dtype) for name in KERNELS for dtype in DTYPES if dtype == "bf16" or not name.startswith("sdpa ")]
    for name, dtype in kernels:
        if name != "flex":
            yield Case(f"{name}, {dtype}", 2, partial(attention, setting, name, dtype))
    for dtype in DTYPES:
        yield Case(f"trunk, {dtype}", 3, partial(trunk, setting, dtype))
    for work in WORK:
        yield Case(f"{work}, GPU and CPU", 5, partial(objective, setting, work))
    yield from _compiled_cases(setting, "trunk")
    for name, dtype in kernels:
        if name == "flex":
            yield Case(f"{name}, {dtype}", 10, partial(attention, setting, name, dtype))
    if not setting.short:
        yield from _compiled_cases(setting, "step")


def _compiled_cases(setting: Setting, mode: str) -> Iterator[Case]:
    for work in ("denoising",) if setting.short else ("denoising", "dmmd"):
        yield Case(f"{work}, compile {mode}", 20, partial(compiled, setting, work, mode))


def random_numbers(setting: Setting) -> Outcome:
    """Uniform numbers are the same bits; normal ones may differ in the last bit of a logarithm or cosine."""
    device, cpu, count, chosen = setting.device, torch.device("cpu"), 65, torch.tensor([3, 1, 60])
    ours, theirs = (SampleStreams(1, range(5, 5 + count), device=place) for place in (device, cpu))
    pairs = []
    for dtype in (torch.float64, torch.float32):
        pairs += [_drawn(uniform, ours, theirs, (count, 1001), device, dtype) for _ in range(3)]
        pairs.append(
            [spread(count, x, device=x_device, per=3, dtype=dtype) for x, x_device in ((ours, device), (theirs, cpu))]
        )
    selected = ours.select(chosen.to(device)).repeat(2), theirs.select(chosen).repeat(2)
    pairs.append(_drawn(uniform, *selected, (6, 17), device, torch.float64))
    same = all(torch.equal(a.cpu(), b) for a, b in pairs)
    gap = distance(*([x] for x in _drawn(normal, ours, theirs, (count, 1001), device, torch.float32)))
    holds = same and gap < 1e-6
    text = f"uniform numbers {'have the same bits' if same else 'DIFFER'} on GPU and CPU, normal ones within {gap:.0e}"
    return Outcome(text, {"same_bits": same, "normal": gap, "holds": holds})


def _drawn(
    draw: Callable[..., Tensor],
    ours: SampleStreams,
    theirs: SampleStreams,
    shape: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> list[Tensor]:
    """The same draw of streams on a device and on the CPU."""
    return [draw(shape, ours, device=device, dtype=dtype), draw(shape, theirs, device="cpu", dtype=dtype)]


def attention(setting: Setting, name: str, dtype: str) -> Outcome:
    """An implementation of attention, forward and backward, against plain operations in float64."""
    call, device = kernel(name, setting.device), setting.device
    heads, channels = SHAPE.heads, SHAPE.width // SHAPE.heads
    ours = inputs(BATCH, 256, heads, channels, device, torch.bfloat16 if dtype == "bf16" else torch.float32)
    cotangent = torch.linspace(-1, 1, ours[0].numel(), device=device).view_as(ours[0]).to(ours[0].dtype)
    with tf32(device) if dtype == "fp32 tf32" else nullcontext():
        out = call(*ours)
        gradients = torch.autograd.grad(out, ours, cotangent)
    right = exact(*ours)
    right_gradients = torch.autograd.grad(right, ours, cotangent.double())
    return _judge(distance([out], [right]), distance(gradients, right_gradients), ATTENTION_LIMITS[dtype])


def trunk(setting: Setting, dtype: str) -> Outcome:
    """Hidden states of the text backbone with the attention that it chooses, and their gradients."""
    device = setting.device
    model = network(SHAPE, process_of("masked", VOCAB), LENGTH, device).backbone
    double = copy.deepcopy(model).double()
    double.config = double.config.model_copy(update={"attention": "sdpa"})
    double.sigma_map.mlp.register_forward_pre_hook(lambda module, inputs: (inputs[0].double(),))  # made in float32
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(VOCAB, (BATCH, LENGTH), generator=generator).to(device)
    t = torch.rand(BATCH, generator=generator).to(device)
    products = tf32(device) if dtype == "fp32 tf32" else nullcontext()
    with products, torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bf16"):
        ours = _hidden_and_gradients(model, x, t)
    right = _hidden_and_gradients(double, x, t.double())
    return _judge(distance(ours[:1], right[:1]), distance(ours[1:], right[1:]), TRUNK_LIMITS[dtype])


def _hidden_and_gradients(model: torch.nn.Module, x: Tensor, t: Tensor) -> list[Tensor]:
    hidden = model(x, t)
    weights = torch.linspace(-1, 1, hidden.numel(), device=x.device, dtype=torch.float64).view_as(hidden)
    trained = [p for name, p in model.named_parameters() if not name.startswith("head")]
    return [hidden, *torch.autograd.grad((hidden * weights.to(hidden.dtype)).sum(), trained)]


def objective(setting: Setting, work: str) -> Outcome:
    """Losses and gradients of each phase of a training on this device and on the CPU, from the same random numbers."""
    process = process_of(WORK[work][0], VOCAB)
    student = network(SHAPE, process, LENGTH, torch.device("cpu"))
    there = _losses_and_gradients(_trainer(setting, work, copy.deepcopy(student), setting.device))
    here = _losses_and_gradients(_trainer(setting, work, student, torch.device("cpu")))
    return _judge(distance(there[0], here[0]), distance(there[1], here[1]), OBJECTIVE_LIMIT)


def compiled(setting: Setting, work: str, mode: str) -> Outcome:
    """The same of compiled code and of plain code, on this device."""
    check_mode(mode)
    shape = TINY if setting.short else SHAPE
    student = network(shape, process_of(WORK[work][0], VOCAB), LENGTH, setting.device, attention="sdpa")
    plain = _losses_and_gradients(_trainer(setting, work, copy.deepcopy(student), setting.device))
    ours = _losses_and_gradients(_trainer(setting, work, student, setting.device, mode))
    return _judge(distance(ours[0], plain[0]), distance(ours[1], plain[1]), OBJECTIVE_LIMIT)


def _trainer(
    setting: Setting, work: str, student: NetworkDenoiser, device: torch.device, compile: str = "off"
) -> Trainer:
    return trainer(
        work,
        student,
        batch=BATCH,
        folder=setting.work,
        device=device,
        precision="fp32",
        compile=compile,
        rows=16,
    )


def _losses_and_gradients(training: Trainer) -> tuple[list[Tensor], list[Tensor]]:
    losses, gradients = [], []
    for phase in training.objective.phases():
        losses.append(_loss(training, phase))
        for name in phase.train:
            trained = [p.grad for p in training.roles[name].parameters() if p.grad is not None]
            gradients += [gradient.clone() for gradient in trained]
        training.updates.forget(phase.train)
    training.loader.close()
    return losses, gradients


def _loss(training: Trainer, phase: Phase) -> Tensor:
    training._take_turns(phase)
    return training._loss(phase)


def _judge(forward: float, backward: float, limit: float) -> Outcome:
    holds = max(forward, backward) <= limit
    text = f"forward within {forward:.0e}, gradients within {backward:.0e} (limit {limit:.0e})"
    return Outcome(text, {"forward": forward, "backward": backward, "limit": limit, "holds": holds})
