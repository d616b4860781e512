"""The command starts fast, says what it can do, and turns every failure into one sentence and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from fewstep import __version__
from fewstep.cli import main as cli
from fewstep.core.errors import FewstepError, OperationError, Problem, RecipeError, UserError

VERBS = [
    "train",
    "distill",
    "plan",
    "models",
    "sample",
    "evaluate",
    "compare",
    "demo",
    "benchmark",
    "runs",
    "leaderboard",
    "grid",
    "import",
    "export",
    "push",
    "list",
    "show",
    "validate",
    "schema",
    "cp",
    "new-plugin",
    "new-study",
    "doctor",
    "data",
]


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as caught:
        cli.main(args)
    return caught.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    "args", [["--help"], ["list", "recipes"], ["list", "suites", "--json"], ["models"], ["--version"]]
)
def test_no_torch(args: list[str]) -> None:
    code = (
        "import sys\nfrom fewstep.cli.main import main\n"
        f"try: main({args})\nexcept SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'torchvision', 'xformers', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_is_fast() -> None:
    """By processor time, which other work on the machine does not lengthen much."""
    seconds = []
    for _ in range(3):
        begun = os.times()
        subprocess.run([sys.executable, "-m", "fewstep", "--help"], capture_output=True, check=True)
        ended = os.times()
        spent = (ended.children_user, ended.children_system), (begun.children_user, begun.children_system)
        seconds.append(sum(spent[0]) - sum(spent[1]))
    assert min(seconds) < 0.5


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    summaries = out.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in summaries] == VERBS
    assert not [line for line in summaries if line.endswith("...")], "a summary is too long for one line"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _ = run(capsys, verb, "--help")
    assert code == 0
    assert out.startswith(f"Usage: fewstep {verb}")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"fewstep {__version__}\n", "")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UserError("no such thing"), 2, "error: no such thing\n"),
        (OperationError("the loss is nan"), 1, "error: the loss is nan\n"),
        (FewstepError("hm"), 1, "error: hm\n"),
        (RecipeError([Problem("a.yaml", 3, "k", "wrong")]), 2, "a.yaml:3: k: wrong\n1 problem\n"),
        (OSError(28, "No space left on device", "x.pt"), 1, "error: No space left on device: 'x.pt'; free some space "
                                                            "on the disk, and continue with --resume where the command "
                                                            "has it\n"),
        (PermissionError(13, "Permission denied", "x"), 2, "error: Permission denied: 'x'; change its permissions, or "
                                                           "name another path\n"),
        (MemoryError("2 GiB"), 1, "error: out of memory (MemoryError: 2 GiB); lower train.batch_size, or split it "
                                  "with train.accumulate\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ValueError("a\nb"), 1, "internal error: ValueError: a b; this is a bug, please report it "
                                "(FEWSTEP_DEBUG=1 shows the traceback)\n"),
    ],
)  # fmt: skip
def test_failures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, text: str
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.delenv("FEWSTEP_DEBUG", raising=False)
    monkeypatch.setattr("fewstep.core.plugins.loaded", list)  # plugins of other tests
    monkeypatch.setattr("fewstep.recipe.load_recipe", fail)
    monkeypatch.setattr("fewstep.training.launch.load_recipe", fail)
    if isinstance(error, RecipeError):  # validate gathers these itself; distill lets them pass
        assert run(capsys, "distill", "x") == (code, "", text)
    assert run(capsys, "validate", "x") == (code, "", text)


def test_a_traceback_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSTEP_DEBUG", "1")
    monkeypatch.setattr("fewstep.recipe.load_recipe", lambda *args: 1 / 0)
    code, _, err = run(capsys, "validate", "x")
    assert code == 1
    assert "Traceback (most recent call last)" in err


@pytest.mark.parametrize(
    "args", [["validate"], ["list", "--jsonn"], ["sample", "x", "-n", "0"], ["sample", "x", "--weights", "emma"]]
)
def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert "Error: " in err


@pytest.mark.parametrize(
    ("words", "expected"), [("train coins-te", "coins-teacher"), ("benchmark throughput-", "throughput-gpu")]
)
def test_a_shell_completes_names(words: str, expected: str) -> None:
    variables = {"_FEWSTEP_COMPLETE": "complete_bash", "COMP_WORDS": f"fewstep {words}", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", "from fewstep.cli.main import app; app(prog_name='fewstep')"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [expected], done.stderr
