"""Faults of the user or of the machine are one sentence with the right exit code, never a bug of fewstep."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.cli.main import main
from fewstep.core import plugins
from fewstep.core.errors import exit_code
from fewstep.core.kinds import registry
from fewstep.runs.folder import RunDir

BYTES = b"caf\xe9".decode(errors="surrogateescape")
HUGE = "99999999999999999999"
RECIPE = "name: x\ndata: coins\nprocess: masked\nbackbone: transformer\nobjective: denoising\ntrain: {steps: 1}\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEWSTEP_DEBUG", raising=False)


def fault(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[Any, str]:
    """Exit code and message of a command that fails without a traceback."""
    with pytest.raises(SystemExit) as caught:
        main(args)
    err = capsys.readouterr().err
    assert "internal error" not in err
    assert "Traceback" not in err
    return caught.value.code, err


@pytest.mark.parametrize(
    "args",
    [
        ["sample", "run", "--prompt", BYTES],
        ["sample", f"runs/{BYTES}"],
        ["validate", "coins-teacher", "--set", f"name={BYTES}"],
        ["sample", "run", "--sampler", BYTES],
        ["sample", "run", "--infill", BYTES],
        ["sample", "run", "--blank", "\udce9"],
        ["train", BYTES],
        ["list", BYTES],
        ["show", "recipe", BYTES],
        ["benchmark", "quickstart", "--out", BYTES],
    ],
    ids=lambda args: " ".join(args[:3]).encode("ascii", "replace").decode(),
)
def test_bytes_that_are_no_text(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    code, err = fault(capsys, *args)
    assert code == 2
    assert "is not UTF-8 text; write it as UTF-8" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "args",
    [
        ["sample", "run", "--seed", HUGE],
        ["sample", "run", "-n", HUGE],
        ["sample", "run", "--steps", HUGE],
        ["sample", "run", "--batch-size", HUGE],
        ["sample", "run", "--part", f"1/{HUGE}"],
        ["evaluate", "run", "--steps", f"4,{HUGE}"],
        ["evaluate", "run", "--samples", HUGE],
        ["grid", "run", "--steps", "9" * 5000],
        ["benchmark", "quickstart", "--jobs", HUGE],
        ["validate", "coins-teacher", "--set", f"seed={HUGE}"],
        ["validate", "coins-teacher", "--set", f"train.steps={HUGE}"],
        ["validate", "coins-teacher", "--set", f"backbone.width={HUGE}"],
        ["validate", "coins-teacher", "--set", f"evaluate.steps=[1, {HUGE}]"],
        ["validate", "coins-teacher", "--set", "train.steps=" + "9" * 5000],
        ["validate", "coins-teacher", "--set", "optim.lr=1e999"],
    ],
    ids=lambda args: " ".join(args)[:50],
)
def test_numbers_that_are_too_large(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    code, err = fault(capsys, *args)
    assert code == 2
    assert len(err) < 600


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (OverflowError("Python int too large to convert to C long"), 2, "error: a number is too large"),
        (RuntimeError("Overflow when unpacking long long"), 2, "error: a number is too large"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, "error: out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, "error: out of memory"),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            1,
            "error: the disk is full; free some space on the disk",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "error: No space left on device; free",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "error: Disk quota exceeded; free"),
        (IsADirectoryError(21, "Is a directory", "x"), 2, "error: Is a directory: 'x'; it is a folder: name a file"),
        (
            NotADirectoryError(20, "Not a directory", "x/y"),
            2,
            "error: Not a directory: 'x/y'; a part of the path is a file: name a folder",
        ),
        (
            FileExistsError(17, "File exists", "x"),
            2,
            "error: File exists: 'x'; name another path, or move what is there",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "x"),
            2,
            "error: Read-only file system: 'x'; name a path on a disk that can be written",
        ),
        (
            FileNotFoundError(2, "No such file or directory", "x"),
            2,
            "error: No such file or directory: 'x'; check how the path is spelled",
        ),
        (OSError(errno.EIO, "Input/output error", "x"), 1, "error: Input/output error: 'x'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_faults_have_their_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, text: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("fewstep.recipe.load_recipe", fail)
    given, err = fault(capsys, "validate", "x")
    assert (given, exit_code(error)) == (code, code)
    assert err.startswith(text)
    assert len(err.splitlines()) == 1


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may be larger than 20,000 bytes, as on a disk that runs full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    code, err = fault(capsys, "train", "smoke-teacher", "--set", "train.steps=2", "--run-dir", "run")
    assert code == 1
    assert "free some space on the disk" in err


def test_memory_of_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["--set", "backbone.width=8388608", "--set", "backbone.heads=2"]  # 281 TB a matrix
    code, err = fault(capsys, "train", "smoke-teacher", *sets, "--run-dir", "run")
    assert code == 1
    assert err.startswith("error: out of memory")
    assert not Path("run").exists()


def test_paths_that_are_no_place(capsys: pytest.CaptureFixture[str], train: Callable[..., RunDir]) -> None:
    run = str(train("smoke-teacher", "run").path)
    Path("file").write_text("x")
    Path("folder").mkdir()
    cases = [
        ["sample", run, "-n", "1", "--steps", "1", "--out", "file"],
        ["sample", run, "-n", "1", "--steps", "1", "--out", "file/below"],
        ["sample", run, "-n", "1", "--steps", "1", "--out", "/proc/nothing"],
        ["train", "smoke-teacher", "--run-dir", "file/below"],
        ["train", "folder"],
        ["export", run, "--out", "file"],
        ["export", run, "--out", "file/below"],
        ["schema", "--out", "folder"],
        ["cp", "smoke-teacher", "file/below.yaml"],
        ["sample", run, "--infill", "folder"],
        ["sample", run, "--out", "x" * 300],
    ]
    for args in cases:
        code, err = fault(capsys, *args)
        assert code == 2, (args, err)
        assert len(err.splitlines()) <= 2, (args, err)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registrations and plugins of this test are forgotten after it."""
    monkeypatch.setattr(plugins, "_loader", plugins._Loader())
    with registry("objectives").snapshot():
        yield


PLUGIN = """
from typing import Literal
from fewstep.core.component import ComponentConfig
from fewstep.objectives.base import OBJECTIVES
from fewstep.objectives.denoising import Denoising

@OBJECTIVES.register("mine")
class Mine(Denoising):
    class Config(Denoising.Config):
        type: Literal["mine"] = "mine"
    {body}
"""


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("def loss(self, batch):\n        return None", "Mine.loss() takes 2 positional arguments but 4 were given"),
        ("def __init__(self):\n        pass", "Mine.__init__() takes 1 positional argument but 2 were given"),
        (
            "def loss(self, phase, batch, ctx, more):\n        pass",
            "Mine.loss() missing 1 required positional argument",
        ),
        ("def loss(self, phase, batch, ctx):\n        return None", "'NoneType' object has no attribute 'loss'"),
        ("def loss(self, phase, batch, ctx):\n        return 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_breaks_its_contract(capsys: pytest.CaptureFixture[str], body: str, text: str) -> None:
    Path("mine.py").write_text(PLUGIN.format(body=body))
    Path("r.yaml").write_text(RECIPE.replace("denoising", "mine") + "plugins: [./mine.py]\n")
    code, err = fault(capsys, "train", "r.yaml", "--set", "train.device=cpu", "--run-dir", "run")
    assert code == 1
    assert text in err
    assert "mine.py" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["1 / 0", "import nothing_of_this_name", "def :", "raise SystemExit", "import sys; sys.exit(3)"]
)
def test_a_broken_plugin_is_one_problem(capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("mine.py").write_text(text)
    Path("r.yaml").write_text(
        "name: x\ndata: mine_data\nprocess: mine_process\nbackbone: mine_net\nobjective: mine\nsampler: mine_sampler\n"
        "train: {steps: 1}\nplugins: [./mine.py]\n"
    )
    code, err = fault(capsys, "train", "r.yaml")
    assert code == 2
    assert err.endswith("1 problem\n"), err
    assert "mine.py" in err


def test_other_problems_stay_beside_a_broken_plugin(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.py").write_text("1 / 0")
    Path("r.yaml").write_text(RECIPE.replace("denoising", "denoisin").replace("1}", "0}") + "plugins: [./mine.py]\n")
    _, err = fault(capsys, "train", "r.yaml")
    assert "did you mean 'denoising'?" in err
    assert err.endswith("3 problems\n"), err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.jsonl", "fewstep train text-teacher --set data.type=text --set data.path=x.jsonl"),
        ("x.txt", "fewstep train text-teacher --set data.type=text --set data.path=x.txt"),
        ("x.zip", "fewstep train images-teacher --set data.path=x.zip"),
        ("x.safetensors", "`fewstep sample` draws from a run"),
    ],
)
@pytest.mark.parametrize("command", ["train", "distill", "validate"])
def test_data_in_place_of_a_recipe(capsys: pytest.CaptureFixture[str], command: str, name: str, text: str) -> None:
    Path(name).write_text('{"text": "a"}\n')
    code, err = fault(capsys, command, name)
    assert code == 2
    assert text in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permission_denied(capsys: pytest.CaptureFixture[str]) -> None:
    Path("closed").mkdir(mode=0o500)
    assert fault(capsys, "train", "smoke-teacher", "--run-dir", "closed/run")[0] == 2


@pytest.mark.parametrize("command", ["train", "distill"])
def test_a_start_that_fails_leaves_no_folder(capsys: pytest.CaptureFixture[str], command: str) -> None:
    Path("text.txt").write_text("a")
    sets = ["--set", "data.type=text", "--set", "data.path=text.txt", "--set", "train.steps=2"]
    teacher = ["--teacher", "runs/x"] if command == "distill" else []
    recipe = "text-dmmd" if command == "distill" else "text-teacher"
    assert fault(capsys, command, recipe, *teacher, *sets)[0] == 2
    assert fault(capsys, command, recipe, *teacher, *sets, "--run-dir", "run")[0] == 2
    assert [path.name for path in Path().iterdir()] == ["text.txt"]


def test_a_folder_that_was_there_stays(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/mnist-teacher/earlier").mkdir(parents=True)
    Path("empty").mkdir()
    sets = ["--set", "data.path=nothing"]
    assert fault(capsys, "train", "mnist-teacher", *sets)[0] == 2
    assert fault(capsys, "train", "mnist-teacher", *sets, "--run-dir", "empty")[0] == 2
    assert Path("runs/mnist-teacher/earlier").is_dir()
    assert [path.name for path in Path("empty").iterdir()] == []
    assert len(list(Path("runs/mnist-teacher").iterdir())) == 1
