"""`fewstep doctor`: checks of the installation and the machine."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from fewstep.cli.catalogue import timed_plugins
from fewstep.cli.output import echo_json
from fewstep.core.version import __version__


@dataclass(frozen=True)
class Finding:
    """Result of one check: the state that it found, and advice if that is not `ok`."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    needed: bool = True


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    report: Annotated[bool, typer.Option("--report", help="print Markdown to put into a bug report")] = False,
) -> None:
    """Check this installation and machine. Exit code 1 if a need of every run is missing."""
    findings = [finding for check in _CHECKS for finding in check()]
    if report:
        typer.echo(_report(findings))
    elif as_json:
        echo_json([asdict(finding) for finding in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        for f in findings:
            state = "ok     " if f.ok else "missing"
            typer.echo(f"{state}  {f.name:<{width}}  {f.found}{f'; {f.advice}' if f.advice and not f.ok else ''}")
    raise typer.Exit(int(any(finding.needed and not finding.ok for finding in findings)))


def _report(findings: list[Finding]) -> str:
    """The findings as a table with nobody's home folder in it, and room for what a bug report needs."""
    rows = [
        ("system", platform.platform()),
        *((f.name, f"{f.found}{'' if f.ok else f'; {f.advice}'}") for f in findings),
    ]
    home = os.path.expanduser("~")
    lines = ["| | |", "|---|---|", *(f"| {name} | {text.replace('|', '/')} |" for name, text in rows)]
    text = "\n".join(lines)
    text = text.replace(home, "~") if len(home) > 1 else text
    questions = ("Command, and recipe if it has one", "What you saw, with FEWSTEP_DEBUG=1", "What you expected")
    return "\n\n".join([text, *(f"**{question}:**" for question in questions)])


def _python() -> list[Finding]:
    from fewstep.recipe.shipped import PACKAGE

    interpreter = f"{platform.python_version()} at {sys.executable}"
    return [
        Finding("python", sys.version_info >= (3, 10), interpreter, "fewstep needs Python 3.10 or newer"),
        Finding("fewstep", True, f"{__version__} at {PACKAGE}"),
        Finding("cores", True, str(os.cpu_count())),
    ]


def _torch() -> list[Finding]:
    reinstall = "install the tested set: pip install -c constraints.txt torch torchvision xformers"
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding("torch", False, f"cannot be imported ({error})", reinstall)]
    findings = [Finding("torch", True, f"{torch.__version__}, {torch.get_num_threads()} threads")]
    try:
        import torchvision

        findings.append(Finding("torchvision", True, str(torchvision.__version__)))
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: built for another torch
        findings.append(Finding("torchvision", False, f"cannot be imported ({error})", reinstall, needed=False))
    cuda = torch.cuda.is_available()
    gpu = torch.cuda.get_device_name() if cuda else "no GPU that torch can use"
    findings.append(Finding("cuda", cuda, gpu, "everything runs on the CPU, slowly", needed=False))
    return findings + _attention("cuda" if cuda else "cpu")


def _attention(device: str) -> list[Finding]:
    from fewstep.backbones.attention import resolve_backend
    from fewstep.backbones.flex import has_flex
    from fewstep.core.errors import UserError

    installed = True
    try:
        state = f"{version('xformers')} installed" + ("; GPUs only" if device == "cpu" else "")
    except PackageNotFoundError:
        state, installed = "not installed", False
    flex = [] if not has_flex(device) else ["flex"] if device == "cuda" else ["flex (no gradients)"]
    usable, advice = [*flex, "sdpa", "math"], ""
    try:
        usable.insert(0, resolve_backend("xformers", device))
    except UserError as error:
        advice = str(error).removeprefix("attention: ")
    return [
        # xformers needs a GPU; on a CPU an installed one is not an error.
        Finding("xformers", "xformers" in usable or (installed and device == "cpu"), state, advice, needed=False),
        Finding("attention", True, f"{', '.join(usable)} on {device}; auto takes {resolve_backend('auto', device)}"),
    ]


def _plugins() -> list[Finding]:
    return [
        Finding(
            f"plugin {plugin.name}",
            plugin.error is None,
            f"{plugin.origin or 'no distribution'}{f' at {plugin.file}' if plugin.file else ''}, "
            + (plugin.error or f"loaded in {plugin.seconds * 1000:.0f} ms"),
            "repair or uninstall it, or leave it out with FEWSTEP_PLUGINS",
            needed=False,
        )
        for plugin in timed_plugins()
    ] or [Finding("plugins", True, "none installed")]


def _files() -> list[Finding]:
    from fewstep.recipe.shipped import shipped_recipes, shipped_suites

    count = len(shipped_recipes())
    try:
        with tempfile.TemporaryFile(dir="."):
            writable, reason = True, "writable"
    except OSError as error:
        writable, reason = False, f"not writable ({error.strerror})"
    return [
        Finding(
            "recipes", count > 0, f"{count} shipped, {len(shipped_suites())} suites", "reinstall fewstep", needed=False
        ),
        Finding("current folder", writable, reason, "runs are written below it; use another folder, or --run-dir"),
    ]


_CHECKS: tuple[Callable[[], list[Finding]], ...] = (_python, _torch, _plugins, _files)
