"""Compiled trunks: one graph, the same numbers, a way back, and no compiler for who asks for none."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from short_runs import Train
from torch import Tensor

from fewstep.backbones.base import BACKBONES, Backbone, TokenSpace
from fewstep.core.errors import OperationError, UserError
from fewstep.denoisers.compiled import compile_trunks
from fewstep.predictions.condition import Prefix
from fewstep.predictions.evaluation import with_gradient
from fewstep.predictions.row_losses import CrossEntropy, Mean, RowLoss
from fewstep.recipe import load_recipe
from fewstep.runs.folder import RunDir
from fewstep.runtime.compiling import LIMIT, Compiled, compile_calls, compiles, one_step
from fewstep.training.trainer import Trainer

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="inductor needs a C++ compiler"
)
CPU = torch.device("cpu")
GRID = (4, 4, 1)
IMAGES = {"image_transformer", "image_dit", "unet", "uvit"}
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"width": 32, "blocks": 1, "multipliers": [1, 2], "heads": 2, "token_width": 8},
    "uvit": {"width": 16, "depth": 3, "heads": 2, "token_width": 8},
    "image_dit": {"width": 16, "depth": 2, "heads": 2, "token_width": 8},
}


def build(name: str, **options: Any) -> Backbone:
    torch.manual_seed(0)
    usual = {"width": 16, "depth": 2, "heads": 2}
    tokens = TokenSpace(num_states=6, vocab_size=5, length=16, grid=GRID)
    return BACKBONES.build({"type": name, **SMALL.get(name, usual), **options}, tokens=tokens)


def gradients(backbone: Backbone, x: Tensor, t: Tensor, **given: Any) -> list[Tensor]:
    """Hidden states, and the gradients of a loss that weighs them differently."""
    out = backbone(x, t, **given)
    loss = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
    return [out, *torch.autograd.grad(loss, [p for n, p in backbone.named_parameters() if "head" not in n])]


@pytest.mark.medium
@pytest.mark.parametrize("name", [name for name in BACKBONES.names() if name != "vq_autoencoder"])
def test_dynamo_finds_one_graph(name: str) -> None:
    """Without inductor, which takes tens of seconds."""
    backbone, x, t = build(name), torch.randint(6, (2, 16)), torch.rand(2)
    backbone.settled("cpu")
    given = {"context": torch.randint(5, (2, 16))} if backbone.uses_context else {}
    traced = torch.compile(backbone._call_impl, backend="eager", fullgraph=True, isolate_recompiles=True)
    torch.testing.assert_close(traced(x, t, **given), backbone(x, t, **given), rtol=1e-4, atol=1e-5)


ROW_LOSSES = {"hard": CrossEntropy(hard=1.0), "mixed": CrossEntropy((1.0, 0.5), hard=1.0), "mean": Mean(torch.neg)}


@pytest.mark.parametrize("loss", ROW_LOSSES.values(), ids=ROW_LOSSES)
@pytest.mark.medium
def test_row_losses_are_one_graph_for_any_number_of_rows(loss: RowLoss) -> None:
    """Numbers of masks differ from step to step, and nothing is compiled again."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    step = torch.compile(with_gradient, backend=counter, fullgraph=True, dynamic=True, isolate_recompiles=True)
    for count in (7, 2, 30, 31, 8):
        torch.manual_seed(count)
        rows = [torch.randn(count, 9).log_softmax(-1) for _ in range(3)]
        others = [
            *rows[1 : 1 + len(getattr(loss, "soft", ()))],
            *([torch.randint(9, (count,))] if hasattr(loss, "soft") else []),
        ]
        expected = with_gradient(loss, rows[0].clone(), *others)
        for one, other in zip(step(loss, rows[0].clone(), *others), expected, strict=True):
            torch.testing.assert_close(one, other)
    assert counter.frame_count == 1


@pytest.mark.slow
@needs_compiler
def test_a_compiled_trunk_is_one_graph_with_the_same_numbers() -> None:
    """It is compiled once for a shape, and its copies are plain."""
    lines: list[str] = []
    plain, x, t = build("transformer", time_conditioned=True), torch.randint(6, (3, 16)), torch.rand(3)
    compiled = copy.deepcopy(plain)
    compile_trunks(compiled, "trunk", CPU, "'student'", lines.append)
    for _ in range(3):
        for one, other in zip(gradients(plain, x, t), gradients(compiled, x, t), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert len(lines) == 1
    assert lines[0].startswith("compiled the trunk of 'student' in ")
    assert copy.deepcopy(compiled)._compiled_call_impl is None
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("name", [name for name in BACKBONES.names() if name != "vq_autoencoder"])
def test_every_backbone_is_one_graph(name: str) -> None:
    plain, x, t = build(name), torch.randint(6, (3, 16)), torch.rand(3)
    compiled, lines = copy.deepcopy(plain), list[str]()
    compile_trunks(compiled, "trunk", CPU, name, lines.append)
    given = {"context": torch.randint(5, (3, 16))} if plain.uses_context else {}
    for one, other in zip(gradients(plain, x, t, **given), gradients(compiled, x, t, **given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert len(lines) == 1, lines


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number for each step of recorded graphs that begins."""
    steps: list[int] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: steps.append(len(steps)))
    return steps


def test_recorded_graphs_of_a_step_keep_their_results_and_others_are_copied(
    begun: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU a result lies in memory of the graph, which its next step overwrites."""
    place = torch.zeros(2)
    options: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda fn, **given: options.append(given) or fn)
    call = Compiled(lambda x: place.copy_(x), "a function", by_name=True, say=list[str]().append, graphs=True)
    assert call(torch.ones(2)) is not place
    assert begun == [0]
    with one_step():
        assert call(torch.ones(2)) is place
        assert call(torch.ones(2)) is place
    assert begun == [0, 1]
    assert call(torch.ones(2)) is not place
    assert begun == [0, 1, 2]
    assert options[0]["mode"] == "reduce-overhead"


@pytest.mark.slow
@needs_compiler
def test_a_trunk_that_is_recorded_has_the_same_gradients() -> None:
    """On a CPU the compiler records nothing; a step evaluates several networks, and then goes back through one."""
    x, t = torch.randint(6, (3, 16), generator=torch.Generator().manual_seed(1)), torch.tensor([0.2, 0.5, 0.9])
    plain, student, teacher = (build("transformer", time_conditioned=True) for _ in range(3))
    for name, network in (("student", student), ("teacher", teacher)):
        compile_calls(network, name, by_name=True, say=list[str]().append, graphs=True)
    expected = gradients(plain, x, t)
    for _ in range(3):
        with one_step():
            with torch.no_grad():
                first = teacher(x, t)
            results = gradients(student, x, t)
            with torch.no_grad():
                assert torch.equal(teacher(x, t), first)
        for one, other in zip(expected, results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)  # sums over all tokens, up to 43


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.slow
def test_recorded_steps_on_a_gpu_have_the_same_losses(train: Train, tmp_path: Path) -> None:
    teacher = train("smoke-teacher", "teacher", "train.steps=3")
    losses = []
    for graphs in ("false", "true"):
        changes = ("train.steps=20", "train.log_every=1", "train.compile=trunk", "train.device=cuda")
        more = (f"train.cuda_graphs={graphs}", "train.precision=fp32", "train.accumulate=2")
        trainer, _ = trained("smoke-dmmd", tmp_path / graphs, *changes, *more, teacher=str(teacher.path))
        losses.append([[v for k, v in row.items() if k.endswith("loss")] for row in trainer.run.log_lines()])
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=2e-3, atol=2e-4)


def test_steps_of_a_training_are_steps_of_its_graphs(
    begun: list[int], train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU says that it records none; looks at samples are outside of steps."""
    changes = ("train.steps=4", "train.compile=auto", "train.cuda_graphs=true", "train.device=cpu")
    _, lines = trained("smoke-teacher", tmp_path / "cpu", *changes)
    assert "train.cuda_graphs: there is no GPU, so no graphs are recorded" in lines
    assert begun == []
    monkeypatch.setattr(Trainer, "_records_graphs", lambda self: True)
    trained("smoke-teacher", tmp_path / "recorded", *changes)
    assert begun == [0, 1, 2, 3]


def test_graphs_of_uncompiled_trunks_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"train.cuda_graphs: graphs are recorded of compiled trunks; set train.compile"
    ):
        load_recipe("smoke-teacher", ["train.cuda_graphs=true"])


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("objective", ["denoising", "dmmd"])
def test_twenty_compiled_steps_have_the_same_losses(objective: str, train: Train, tmp_path: Path) -> None:
    """No step after the first cycle compiles anything."""
    teacher = train("smoke-teacher", "teacher", "train.steps=3")
    source, given = ("smoke-teacher", None) if objective == "denoising" else ("smoke-dmmd", str(teacher.path))
    losses = []
    for mode in ("off", "step"):
        changes = ("train.steps=20", "train.log_every=1", "watch.times=0", f"train.compile={mode}")
        trainer, lines = trained(source, tmp_path / mode, *changes, teacher=given)
        losses.append([[v for k, v in row.items() if k.endswith("loss")] for row in trainer.run.log_lines()])
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=2e-3, atol=2e-4)
    said = [number for number, line in enumerate(lines) if line.startswith("compiled ")]
    assert said
    steps = [number for number, line in enumerate(lines) if line.startswith("step ")]
    assert max(said) < steps[2], "the third step and all later ones find everything compiled"


def trained(source: str, folder: Path, *changes: str, teacher: str | None = None) -> tuple[Trainer, list[str]]:
    lines: list[str] = []
    recipe = load_recipe(source, changes, teacher=teacher).recipe
    trainer = Trainer.from_recipe(recipe, RunDir.create("run", folder), echo=lines.append)
    trainer.fit()
    return trainer, lines


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that fails when the compiled module is first called."""
    from torch._dynamo.exc import TorchDynamoException

    def fail(*args: object, **kwargs: object) -> None:
        raise TorchDynamoException("no compiler here\nand more about it")

    monkeypatch.setattr(torch, "compile", lambda fn, **options: fail)


@pytest.mark.usefixtures("broken")
def test_a_failure_is_a_warning_unless_it_was_asked_for_by_name() -> None:
    plain, x, t = build("transformer"), torch.randint(6, (3, 16)), torch.rand(3)
    lines: list[str] = []
    fallen, strict = copy.deepcopy(plain), copy.deepcopy(plain)
    compile_calls(fallen, "the trunk of 'student'", by_name=False, say=lines.append)
    for _ in range(2):
        assert torch.equal(fallen(x, t), plain(x, t))
    assert lines == [
        "warning: the trunk of 'student' cannot be compiled here (no compiler here); uncompiled code takes its place"
    ]
    compile_trunks(strict, "trunk", CPU, "'student'", lines.append)
    with pytest.raises(OperationError, match=r"trunk of 'student' cannot be compiled here .*; set compile to off, or"):
        strict(x, t)


@pytest.mark.usefixtures("broken")
def test_errors_of_the_computation_are_not_the_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch, "compile", lambda fn, **options: fail)
    module = build("transformer")
    compile_calls(module, "it", by_name=False, say=print)
    with pytest.raises(RuntimeError, match="out of memory"):
        module(torch.randint(6, (3, 16)), torch.rand(3))


def test_too_many_shapes_end_in_plain_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import FailOnRecompileLimitHit

    def fail(*args: object, **kwargs: object) -> None:
        raise FailOnRecompileLimitHit("too many")

    monkeypatch.setattr(torch, "compile", lambda fn, **options: fail)
    module, lines = build("transformer"), list[str]()
    compile_calls(module, "it", by_name=True, say=lines.append)
    for _ in range(2):
        module(torch.randint(6, (3, 16)), torch.rand(3))
    assert lines == [f"it was compiled for {LIMIT} kinds of inputs; other kinds run uncompiled"]


@pytest.mark.parametrize(
    ("mode", "device", "expected"),
    [("off", "cuda", False), ("trunk", "cpu", True), ("auto", "cpu", False), ("auto", "cuda", True)],
)
def test_where_a_mode_compiles(mode: Any, device: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.runtime.compiling.find_spec", lambda name: object())
    assert compiles(mode, torch.device(device)) == expected


def test_transforms_run_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward mode has no compiled form; `dmmd_instant` differentiates its teacher so."""
    refuse: Callable[..., Any] = lambda *args, **kwargs: pytest.fail("compiled code was called")  # noqa: E731
    monkeypatch.setattr(torch, "compile", lambda fn, **options: refuse)
    module, t = build("transformer", attention="math").eval(), torch.rand(2)
    compile_calls(module, "it", by_name=True, say=print)
    x = torch.softmax(torch.randn(2, 16, 6), -1)
    torch.func.jvp(lambda x: module(x, t), (x,), (torch.ones_like(x),))


def test_blocks_after_a_prefix_run_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each prefix has another length, and would be compiled anew."""
    monkeypatch.setattr(torch, "compile", lambda fn, **options: pytest.fail("compiled code was asked for"))
    backbone, tokens, t = build("block_transformer").eval(), torch.randint(5, (2, 16)), torch.rand(2)
    compile_trunks(backbone, "trunk", CPU, "'student'", print)
    with torch.no_grad():
        prefix = backbone.read(Prefix(tokens[:, :0]), tokens[:, :4])
        assert backbone(tokens[:, 4:8], t, prefix=prefix).shape == (2, 4, 16)


@pytest.mark.medium
def test_training_imports_no_compiler(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from fewstep.training.launch import launch\n"
        f"launch('smoke-teacher', run_dir={str(tmp_path / 'run')!r}, sets=['train.steps=4'])\n"
        "assert not {'torch._dynamo', 'torch._inductor'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
