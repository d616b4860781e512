"""Ranks: the processes of one training, which `torchrun` starts, and what they tell each other.

Texts are exchanged as bytes, so that nothing is pickled. Torch's `distributed` is imported when there are ranks.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from fewstep.core.errors import OperationError, UserError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of the environment by which torchrun, and others in its place, tell a process its rank."""
_PATIENCE = timedelta(days=7)
"""Limit on what one rank alone does before the training: preparing data, drawing a teacher's samples."""
_BUCKET = 25 * 2**20
"""Bytes that are summed over ranks at once, as in PyTorch's DDP."""
_IN_FLIGHT = 2
"""Buckets that are being summed while the next one is filled."""


class LostRankError(OperationError):
    """Another rank has ended, or does not answer."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a training, as one of them sees them; without a group this process is the only one.

    Args:
        rank: number of this process, from 0. The first one writes the run folder.
        size: number of processes.
        group: answers within the timeout; None for a process of its own.
        patient: group that waits for a week, for what one rank does while the others wait.
        together: whether networks are sharded, so that all ranks must evaluate them at the same time.
    """

    rank: int = 0
    size: int = 1
    group: ProcessGroup | None = None
    patient: ProcessGroup | None = None
    together: bool = False

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there is a group, which may have one rank."""
        return self.group is not None

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Within, an error of the connection becomes one sentence.

        Raises:
            LostRankError: another rank has ended, or does not answer within the timeout.
        """
        try:
            yield
        except RuntimeError as error:
            if not self.several or not _of_connection(error):
                raise
            raise LostRankError(f"{_reason(error)}; the lines of that rank say why") from None

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Whether a flag is true on any rank, for each of them."""
        if self.group is None:
            return list(flags)
        import torch.distributed as dist

        tensor = torch.tensor(flags, dtype=torch.uint8)
        with self.connected():
            dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return [bool(flag) for flag in tensor.tolist()]

    @torch.no_grad()
    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their sums over ranks, some megabytes at a time."""
        if self.group is None:
            return
        import torch.distributed as dist

        flying = deque[tuple[dist.Work, Tensor, list[Tensor]]]()

        def land() -> None:
            work, flat, bucket = flying.popleft()
            work.wait()
            parts = flat.split([tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [part.view_as(x) for part, x in zip(parts, bucket, strict=True)])

        with self.connected():
            for bucket in _buckets(tensors):
                if len(flying) == _IN_FLIGHT:
                    land()
                flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
                work = dist.all_reduce(flat, group=self.group, async_op=True)
                assert work is not None
                flying.append((work, flat, bucket))
            while flying:
                land()

    def mean(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Means over ranks of tensors of one type, by name."""
        if self.group is None:
            return dict(tensors)
        sums = {name: tensor.clone() for name, tensor in tensors.items()}
        self.sum_(list(sums.values()))
        return {name: total / self.size for name, total in sums.items()}

    def joined(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks, in their order; each rank has the same number of them."""
        if self.group is None:
            return tensor
        import torch.distributed as dist

        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with self.connected():
            dist.all_gather(parts, tensor.contiguous(), group=self.group)
        return torch.cat(parts)

    def texts(self, text: str, *, patient: bool = False) -> list[str]:
        """The text of each rank."""
        if self.group is None:
            return [text]
        import torch.distributed as dist

        group = self.patient if patient else self.group
        content = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        with self.connected():
            dist.all_gather(sizes, torch.tensor([len(content)]), group=group)
            widest = int(torch.cat(sizes).max())
            parts = [torch.zeros(widest, dtype=torch.uint8) for _ in range(self.size)]
            padded = torch.nn.functional.pad(content, (0, widest - len(content)))
            dist.all_gather(parts, padded, group=group)
        every = (part[: int(size)].numpy().tobytes().decode() for part, size in zip(parts, sizes, strict=True))
        return [one if one != " " else "" for one in every]

    def of_first(self, text: str) -> str:
        """The text of the first rank, however long it takes to find it."""
        return self.texts(text if self.first else "", patient=True)[0]

    def wait(self) -> None:
        """Wait for all ranks, however long it takes."""
        self.of_first("")

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first rank runs the block before all others do, so that they find the files that it writes."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ALONE = Ranks()
"""A process without others."""


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket, size = list[Tensor](), 0
    for tensor in tensors:
        if bucket and size + tensor.nbytes > _BUCKET:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


@contextmanager
def ranks_of_environment(backend: str, device: str, minutes: float) -> Iterator[Ranks]:
    """The ranks that torchrun has started, joined while the block runs; this process alone without torchrun.

    Args:
        backend: "auto" (nccl for GPUs, gloo for the CPU), "nccl" or "gloo".
        device: the recipe's: "auto", "cpu" or "cuda". Each rank of a machine takes a GPU of its own.
        minutes: after which a rank that does not answer counts as lost.

    Raises:
        UserError: the machine has too few GPUs, this torch lacks the backend, or the variables are no numbers.
        LostRankError: not all ranks came.
    """
    if not all(name in os.environ for name in _VARIABLES):
        yield ALONE
        return
    rank, size = (_number(name) for name in _VARIABLES[:2])
    import torch.distributed as dist

    cuda = device != "cpu" and torch.cuda.is_available()
    chosen = _backend(backend, cuda)
    if cuda:
        local, here = int(os.environ.get("LOCAL_RANK", rank)), torch.cuda.device_count()
        if local >= here:
            raise UserError(
                f"{socket.gethostname()} has {here} GPU{'s' * (here != 1)} and at least {local + 1} "
                f"ranks; start torchrun with --nproc_per_node={here}, or set train.device to cpu"
            )
        torch.cuda.set_device(local)
    limit = timedelta(minutes=minutes)
    try:
        dist.init_process_group(chosen, timeout=limit)
        group = dist.group.WORLD
        patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())[:200]
        raise LostRankError(f"the {size} ranks did not come together ({text})") from None
    try:
        yield Ranks(rank, size, group, cast("ProcessGroup", patient))  # every rank is a member of it
    finally:
        dist.destroy_process_group()


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdigit():
        raise UserError(f"the variable {name} is '{text[:40]}', not a number; start ranks with torchrun")
    return int(text)


def _backend(name: str, cuda: bool) -> str:
    """What `init_process_group` calls the backends; tensors of the CPU go by gloo in any case.

    Raises:
        UserError: this torch lacks one of them, or there is no GPU for it.
    """
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        raise UserError("parallel: this build of torch has no gloo, by which ranks talk; install torch from PyPI")
    if name == "nccl" and not cuda:
        raise UserError("parallel.backend: is nccl, which is for GPUs, and this training is on the CPU; set it to auto")
    if not cuda:
        return "gloo"
    if name != "gloo" and not dist.is_nccl_available():
        raise UserError("parallel.backend: this build of torch has no nccl; set it to gloo, which is slower")
    return "cpu:gloo,cuda:gloo" if name == "gloo" else "cpu:gloo,cuda:nccl"


_CONNECTION = ("gloo", "NCCL", "nccl", "Connection", "connection", "Timed out", "timed out", "Broken pipe", "TCPStore")


def _of_connection(error: RuntimeError) -> bool:
    from torch.distributed import DistError

    return isinstance(error, DistError) or any(sign in str(error) for sign in _CONNECTION)


def _reason(error: RuntimeError) -> str:
    text = str(error)
    if "imed out" in text or "timeout" in text.lower():
        return "another rank did not answer within parallel.timeout_minutes"
    return "another rank has ended"
