"""Networks compiled by `torch.compile`, with a way back; without a request nothing here imports a compiler (seconds).

One thing is compiled: the forward and backward pass of a module, as a single graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from fewstep.core.errors import OperationError

CompileMode = Literal["off", "auto", "trunk"]
"""Nothing; the trunks of networks where there is a GPU and a compiler for it; the trunks of networks."""

Forward: TypeAlias = Callable[..., Tensor]
"""Forward pass of a module."""

LIMIT = 8
"""Graphs of one module: one for each shape of its inputs, with and without gradients. Beyond it, calls are plain."""


def compiles(mode: CompileMode, device: torch.device) -> bool:
    """Whether a mode compiles on a device.

    `auto` does so on a GPU with Triton. On a CPU compiling takes tens of seconds a network, which short trainings do
    not earn back.
    """
    if mode != "auto":
        return mode != "off"
    return device.type == "cuda" and find_spec("triton") is not None


class CompiledCall:
    """The call of a module in compiled form; it takes the place of the module's own (`nn.Module.compile` does so too).

    Copies of the module are not compiled. Calls within a transform of `torch.func` or in forward mode are plain, since
    compiled code has no forward derivative.

    Args:
        module: any module whose forward pass is one graph.
        label: name of the module in messages.
        by_name: whether the user asked for compiled code; a failure is then an error, and else a warning.
        graphs: record CUDA graphs, for calls without gradients. Their output is copied, as the next call overwrites it.
        say: where messages go.
    """

    def __init__(
        self, module: nn.Module, label: str, *, by_name: bool, say: Callable[[str], None], graphs: bool = False
    ) -> None:
        self._plain: Forward = module._call_impl
        self._label, self._by_name, self._say, self._graphs = label, by_name, say, graphs
        self._compiled: Forward | None = None
        self._full = self._given_up = False
        self.count = 0
        """Graphs so far."""
        module._compiled_call_impl = self

    def __call__(self, *args: object, **kwargs: object) -> Tensor:
        if self._given_up or _transformed():
            return self._plain(*args, **kwargs)
        import torch._dynamo
        from torch._dynamo.utils import counters

        compiled = self._compiled = self._compiled or self._compile()
        before, start = counters["stats"]["unique_graphs"], time.monotonic()
        try:
            if self._graphs:
                torch.compiler.cudagraph_mark_step_begin()
            out = compiled(*args, **kwargs)
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            if not self._full:
                self._say(f"{self._label} was compiled for {LIMIT} kinds of inputs; other kinds run uncompiled")
            self._full = True
            return self._plain(*args, **kwargs)
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
            if not _from_compiler(error):
                raise
            return self._failed(error, args, kwargs)
        graphs = counters["stats"]["unique_graphs"] - before
        if graphs:
            self.count += graphs
            again = "" if self.count == graphs else f" again, for other inputs (graph {self.count} of at most {LIMIT}),"
            self._say(f"compiled {self._label}{again} in {time.monotonic() - start:.0f} s")
        return out.clone() if self._graphs else out

    def _compile(self) -> Forward:
        import torch._functorch.config
        import torch._inductor.config

        # Else a backward pass is compiled when it first runs, where no failure could be caught.
        torch._functorch.config.force_non_lazy_backward_lowering = True
        # A graph is recorded for each size; sizes that change from call to call would be recorded again and again.
        torch._inductor.config.triton.cudagraph_skip_dynamic_graphs = True
        mode = "reduce-overhead" if self._graphs else None
        compiled: Forward = torch.compile(  # type: ignore[call-overload]  # its overloads lack two arguments
            self._plain, fullgraph=True, mode=mode, recompile_limit=LIMIT, isolate_recompiles=True
        )
        return compiled

    def _failed(self, error: Exception, args: tuple[object, ...], kwargs: dict[str, object]) -> Tensor:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if self._by_name:
            raise OperationError(
                f"{self._label} cannot be compiled here ({type(error).__name__}: {reason}); set compile to off, or to "
                "auto, which goes on without it"
            ) from error
        self._given_up = True
        self._say(f"warning: {self._label} cannot be compiled here ({reason}); it runs uncompiled")
        return self._plain(*args, **kwargs)


def _from_compiler(error: Exception) -> bool:
    """Whether an error comes from compiling and not from the computation."""
    modules = {kind.__module__ for kind in type(error).__mro__}
    return any(name.startswith(("torch._dynamo", "torch._inductor", "torch._functorch")) for name in modules)


def _transformed() -> bool:
    """Whether a transform of `torch.func` or forward mode is active."""
    from torch.autograd import forward_ad

    return forward_ad._current_level >= 0 or torch._C._functorch.maybe_current_level() is not None
