"""Time and cost of a training's steps on a number of GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from fewstep.planning.hardware import NODE_LINK, Gpu
from fewstep.planning.memory import Parallel, Sharing, bytes_of, trained_bytes
from fewstep.planning.outline import Shapes
from fewstep.planning.rehearsal import SetUp
from fewstep.recipe.models import Recipe
from fewstep.runtime.precision import Precision

MFU = {False: 0.35, True: 0.45}
"""Share of the GPU's peak that a step reaches, without and with `train.compile`."""
LAUNCH = {False: 6e-6, True: 3e-6}
"""Seconds in which the host launches an operator, on average; compiled code has fewer of them."""


@dataclass(frozen=True)
class Request:
    """Machine of a plan; None takes the value of the GPU.

    Args:
        gpus: number of ranks.
        memory: GiB of a GPU.
        price: dollars an hour and GPU.
        mfu: share of the GPU's peak that a step reaches.
        launch: seconds in which the host launches an operator.
        peak: FLOP/s of a GPU.
        bandwidth: bytes a second of a GPU to the others.
        node: GPUs of a node.
        reserve: GiB of a GPU that tensors do not get: the context, workspaces, holes.
        vocab: symbols of the data, and `length` tokens a sample, if the data's settings do not say them.
    """

    gpu: Gpu
    gpus: int = 1
    memory: float | None = None
    price: float | None = None
    mfu: float | None = None
    launch: float | None = None
    peak: float | None = None
    bandwidth: float | None = None
    node: int = 8
    reserve: float = 2.0
    vocab: int | None = None
    length: int | None = None


class Machine:
    """GPUs on which a recipe trains.

    A step takes as long as its products at a share of the GPU's peak, or as the host launches its operators. `ddp` sums
    gradients after that; the messages of `fsdp` and `hybrid` are sent while the step computes, so that the longer of
    the two counts.
    """

    def __init__(self, recipe: Recipe, request: Request) -> None:
        gpu = request.gpu
        self.precision: Precision = "fp32" if recipe.train.precision == "fp32" else "bf16"
        self.gpus, self.shards = request.gpus, recipe.parallel.shards or request.node
        width = 0.5 if recipe.parallel.parameters == "bf16" else 1.0
        self.parallel = Parallel(recipe.train.accumulate, width)
        self.mfu = request.mfu or MFU[recipe.train.compile != "off"]
        self.launch = request.launch or LAUNCH[recipe.train.compile != "off"]
        self.peak = request.peak or (gpu.bf16 if self.precision == "bf16" else gpu.tf32)
        self.peak_before = request.peak or gpu.tf32
        self.bandwidth = request.bandwidth or (gpu.link if request.gpus <= request.node else NODE_LINK)
        self.memory = request.memory or gpu.memory
        self.price = gpu.price if request.price is None else request.price
        self.node, self.reserve = request.node, request.reserve

    @property
    def assumed(self) -> dict[str, str]:
        """All numbers that were assumed, by the option that changes each."""
        products = "bf16" if self.precision == "bf16" else "float32 as TF32"
        return {
            "--memory": f"{self.memory:g} GiB a GPU, of which --reserve {self.reserve:g} GiB are no tensors",
            "--peak": f"{self.peak / 1e12:g} TFLOP/s, dense products in {products} (data sheet)",
            "--mfu": f"{self.mfu:g} of that peak is reached",
            "--launch": f"{1e6 * self.launch:g} microseconds an operator, below which no step gets",
            "--bandwidth": f"{self.bandwidth / 1e9:g} GB/s from a GPU to the others, in nodes of --node {self.node}",
            "--price": f"{self.price:g} dollars a GPU and hour (our assumption, no offer)",
        }

    def seconds(self, shapes: Shapes, phase: str, flops: float, operators: int, sharing: Sharing) -> float:
        """Time of a step of a phase.

        Args:
            flops: of a rank, recomputed products included.
            operators: of a micro-batch, or of two if there are more.
        """
        trained = next(p.train for p in shapes.objective.phases() if p.name == phase)
        gradients = sum(trained_bytes(shapes.roles[name]) for name in trained)
        weights = sum(bytes_of(network) for network in shapes.roles.values())
        launching = self.launch * operators * max(1.0, self.parallel.accumulate / 2)
        computing = max(flops / (self.peak * self.mfu), launching)
        sending = self._sent(weights, gradients, sharing) / self.bandwidth
        return computing + sending if sharing.strategy == "ddp" else max(computing, sending)

    def seconds_before(self, setup: SetUp, divided: bool) -> float:
        """Time of the objective's set-up, which computes in float32.

        Args:
            divided: whether each rank has its share.
        """
        seconds = max(setup.flops / (self.peak_before * self.mfu), self.launch * setup.operators)
        return seconds / self.gpus if divided else seconds

    def _sent(self, weights: int, gradients: int, sharing: Sharing) -> float:
        """Bytes that a rank sends in a step."""
        if sharing.ranks == 1:
            return 0.0
        if sharing.shards == 1:
            return 2 * gradients * (sharing.ranks - 1) / sharing.ranks
        part = (sharing.shards - 1) / sharing.shards
        # Parameters are gathered in each forward pass, and again in a backward pass; gradients are scattered once.
        sent = part * (self.parallel.accumulate * self.parallel.width * (weights + gradients) + gradients)
        nodes = sharing.ranks // sharing.shards
        return sent + 2 * gradients / sharing.shards * (nodes - 1) / nodes
