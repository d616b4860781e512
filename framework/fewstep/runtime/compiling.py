"""Networks compiled by `torch.compile`, with a way back; without a request nothing here imports a compiler (seconds).

What is compiled is a function as a single graph, such as the forward and backward pass of a module.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Generic, Literal, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

from fewstep.core.errors import OperationError

P = ParamSpec("P")
R = TypeVar("R")

CompileMode = Literal["off", "auto", "trunk"]
"""Nothing; the trunks of networks where there is a GPU and a compiler for it; the trunks of networks."""

TrainCompileMode = Literal["off", "auto", "trunk", "step"]
"""The same for a training; `step` also compiles its losses over rows of the vocabulary."""

LIMIT = 8
"""Graphs of one function: one for each shape of its inputs, with and without gradients. Beyond it, calls are plain."""


_IN_STEP: ContextVar[bool] = ContextVar("within a step of recorded graphs", default=False)


@contextmanager
def one_step() -> Iterator[None]:
    """Within, recorded graphs run as parts of one step, such as one of a training: what each returns stands until the
    next step begins, and gradients can go back through it."""
    torch.compiler.cudagraph_mark_step_begin()
    token = _IN_STEP.set(True)
    try:
        yield
    finally:
        _IN_STEP.reset(token)


def compiles(mode: TrainCompileMode, device: torch.device) -> bool:
    """Whether a mode compiles on a device.

    `auto` does so on a GPU with Triton. On a CPU compiling takes tens of seconds a network, which short trainings do
    not earn back.
    """
    if mode != "auto":
        return mode != "off"
    return device.type == "cuda" and find_spec("triton") is not None


def compile_calls(
    module: nn.Module,
    label: str,
    *,
    by_name: bool,
    say: Callable[[str], None],
    graphs: bool = False,
    unless: Callable[..., bool] | None = None,
) -> None:
    """Let compiled code take the place of a module's calls, as `nn.Module.compile` does; copies are not compiled.

    The arguments are those of `Compiled`.
    """
    module._compiled_call_impl = Compiled(
        module._call_impl, label, by_name=by_name, say=say, graphs=graphs, unless=unless
    )


class Compiled(Generic[P, R]):
    """A function in compiled form, from its first call on.

    Calls within a transform of `torch.func` or in forward mode are plain, since compiled code has no forward
    derivative.

    Args:
        fn: any function of tensors that is one graph.
        label: name of the function in messages.
        by_name: whether the user asked for compiled code; a failure is then an error, and else a warning.
        say: where messages go.
        graphs: record CUDA graphs. What they return is overwritten by the next `one_step`. Outside of one each call is
            a step: of a function that returns one tensor without gradients, which is copied.
        dynamic: compile for any size at once; None does so when a second size comes.
        unless: called with the arguments; true for calls that are plain.
    """

    def __init__(
        self,
        fn: Callable[P, R],
        label: str,
        *,
        by_name: bool,
        say: Callable[[str], None],
        graphs: bool = False,
        dynamic: bool | None = None,
        unless: Callable[..., bool] | None = None,
    ) -> None:
        self._plain = fn
        self._label, self._by_name, self._say = label, by_name, say
        self._graphs, self._dynamic, self._unless = graphs, dynamic, unless
        self._compiled: Callable[P, R] | None = None
        self._full = self._given_up = False
        self.count = 0
        """Graphs so far."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        excepted = self._unless is not None and self._unless(*args, **kwargs)
        if self._given_up or excepted or _transformed():
            return self._plain(*args, **kwargs)
        import torch._dynamo
        from torch._dynamo.utils import counters

        compiled = self._compiled = self._compiled or self._compile()
        before, start = counters["stats"]["unique_graphs"], time.monotonic()
        try:
            if self._graphs and not _IN_STEP.get():
                torch.compiler.cudagraph_mark_step_begin()
            out = compiled(*args, **kwargs)
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            if not self._full:
                self._say(f"{self._label} was compiled for {LIMIT} kinds of inputs; other kinds run uncompiled")
            self._full = True
            return self._plain(*args, **kwargs)
        except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
            if not from_compiler(error):
                raise
            self._failed(error)
            return self._plain(*args, **kwargs)
        graphs = counters["stats"]["unique_graphs"] - before
        if graphs:
            self.count += graphs
            again = "" if self.count == graphs else f" again, for other inputs (graph {self.count} of at most {LIMIT}),"
            self._say(f"compiled {self._label}{again} in {time.monotonic() - start:.0f} s")
        copied = self._graphs and not _IN_STEP.get() and isinstance(out, Tensor)
        return cast(R, cast(Tensor, out).clone()) if copied else out

    def _compile(self) -> Callable[P, R]:
        import torch._functorch.config
        import torch._inductor.config

        # Else a backward pass is compiled when it first runs, where no failure could be caught.
        torch._functorch.config.force_non_lazy_backward_lowering = True
        # A graph is recorded for each size; sizes that change from call to call would be recorded again and again.
        torch._inductor.config.triton.cudagraph_skip_dynamic_graphs = True
        mode = "reduce-overhead" if self._graphs else None
        compiled: Callable[P, R] = torch.compile(  # type: ignore[call-overload]  # its overloads lack two arguments
            self._plain,
            fullgraph=True,
            mode=mode,
            dynamic=self._dynamic,
            recompile_limit=LIMIT,
            isolate_recompiles=True,
        )
        return compiled

    def _failed(self, error: Exception) -> None:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if self._by_name:
            raise OperationError(
                f"{self._label} cannot be compiled here ({type(error).__name__}: {reason}); set compile to off, or to "
                "auto, which goes on without it"
            ) from error
        self._given_up = True
        self._say(f"warning: {self._label} cannot be compiled here ({reason}); uncompiled code takes its place")


def from_compiler(error: Exception) -> bool:
    """Whether an error comes from compiling and not from the computation."""
    modules = {kind.__module__ for kind in type(error).__mro__}
    return any(name.startswith(("torch._dynamo", "torch._inductor", "torch._functorch")) for name in modules)


def _transformed() -> bool:
    """Whether a transform of `torch.func` or forward mode is active."""
    from torch.autograd import forward_ad

    return forward_ad._current_level >= 0 or torch._C._functorch.maybe_current_level() is not None
