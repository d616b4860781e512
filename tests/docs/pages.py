"""Reads the project's Markdown pages: fenced blocks, links and inline code; and runs what can be run.

Conventions, for those who write pages (CONTRIBUTING.md lists them too). A block that starts with `# name.py` or
`# name.yaml` is that file. A comment just before a block may say more:

    <!-- not run: REASON -->    the block is left out
    <!-- exits 2 -->            the commands of the block end with this code
    <!-- prints -->             this `text` block is what the block before printed; `...` stands for anything
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from preloaded import Preloaded

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = {"bash", "python", "yaml", "text", "toml", "bibtex"}
_FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>\w*)\s*$")
_NOTE = re.compile(r"^<!-- (?P<note>not run: .+|exits \d+|prints) -->$")
_NAMED = re.compile(r"^# (?P<name>[\w./-]+\.(?:py|ya?ml))$")
_SECONDS = 240
_PIP = """\
#!/bin/sh
shift
[ "$1" = -e ] && shift
exec {python} -m pip --disable-pip-version-check install --quiet --no-deps --no-index --no-build-isolation --upgrade \
    --target {site} "$@"
"""
"""`pip install [-e] FOLDER`, offline, into a folder of the reader's: a copy, also where it should be editable."""


@dataclass(frozen=True)
class Block:
    """A fenced block: where it starts, what is in it, and what the comment before it says."""

    page: Path
    line: int
    language: str
    text: str
    note: str

    def __str__(self) -> str:
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page}:{self.line}"

    @property
    def unrun(self) -> str | None:
        """Why it is not run, or None if it is."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else None

    @property
    def exit_code(self) -> int:
        return int(self.note.removeprefix("exits ")) if self.note.startswith("exits ") else 0

    @property
    def file_name(self) -> str | None:
        """The file that this block is, if its first line says so."""
        found = _NAMED.match(self.text.split("\n", 1)[0])
        return found["name"] if found and self.language in ("python", "yaml") else None


def all_pages() -> list[Path]:
    """Every page that people write and read; reports of suites and of `make gpu` are written by programs."""
    folders = ("docs", "recipes", "plugins", "benchmarks")
    below = [path for folder in folders for path in (ROOT / folder).rglob("*.md")]
    kinds = ("benchmarks/results/*/*.md", "benchmarks/results/gpu/*/*.md")
    reports = [path for path in below if any(map(path.match, kinds)) and path.name != "README.md"]
    return sorted({*ROOT.glob("*.md"), *below} - set(reports))


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    index = 0
    while index < len(lines):
        opening = _FENCE.match(lines[index])
        if opening:
            closing = lines.index(opening["fence"], index + 1)
            note = _NOTE.match(lines[index - 1]) if index else None
            text = "\n".join(lines[index + 1 : closing]) + "\n"
            found.append(Block(page, index + 1, opening["language"], text, note["note"] if note else ""))
            index = closing
        index += 1
    return found


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """(line number, line) of everything outside of blocks and comments."""
    inside = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = re.match(r"`{3,}", line)
        if fence:
            inside = "" if inside == fence[0] else inside or fence[0]
        elif not inside:
            yield number, re.sub(r"<!--.*?-->", "", line)


def inline_code(page: Path) -> list[tuple[int, str]]:
    """(line number, code) of every `code` in the prose."""
    return [(number, code) for number, line in prose(page) for code in re.findall(r"`([^`]+)`", line)]


def links(page: Path) -> list[tuple[int, str]]:
    """(line number, target) of every link."""
    return [(number, target) for number, line in prose(page) for target in re.findall(r"\]\(([^)\s]+)\)", line)]


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = [line.lstrip("#").strip() for _, line in prose(page) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def reader_environment() -> dict[str, str]:
    """Where a reader's commands find fewstep: in this checkout, and the example plugin too."""
    sources = [ROOT / "framework", *(ROOT / "plugins").glob("*/src")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources)), "OMP_NUM_THREADS": "1"}


class Reader:
    """Does what a page says, in a folder that looks like the root of the checkout, with `fewstep` on the PATH."""

    def __init__(self, folder: Path, preloaded: Preloaded) -> None:
        self.folder = folder
        self.printed = ""
        self.commands = folder / ".bin"
        self.commands.mkdir()
        preloaded.command(self.commands / "fewstep", "fewstep")
        preloaded.command(self.commands / "block", "block")
        (self.commands / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (self.commands / "python").chmod(0o755)
        self.site = folder / ".site"
        (self.commands / "pip").write_text(_PIP.format(python=sys.executable, site=self.site))
        (self.commands / "pip").chmod(0o755)
        (self.commands / "torchrun").write_text(f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n')
        (self.commands / "torchrun").chmod(0o755)
        for entry in ("benchmarks", "constraints.txt", "docs", "framework", "plugins", "recipes"):
            (folder / entry).symlink_to(ROOT / entry)
        path = f"{self.commands}{os.pathsep}{os.environ['PATH']}"
        environment = reader_environment()
        places = f"{self.site}{os.pathsep}{environment['PYTHONPATH']}"
        self.environment = {**environment, "PATH": path, "PYTHONPATH": places}

    def read(self, page: Path) -> None:
        """Do what the blocks of a page say, from top to bottom."""
        for block in blocks(page):
            self.do(block)

    def do(self, block: Block) -> None:
        """Run, write or check one block.

        Raises:
            AssertionError: it does not do what the page says.
        """
        if block.note == "prints":
            self._compare(block)
        elif block.unrun is None and block.language in ("bash", "python", "yaml"):
            if block.file_name:
                (self.folder / block.file_name).write_text(block.text, encoding="utf-8")
            {"bash": self._bash, "python": self._python, "yaml": self._yaml}[block.language](block)

    def _bash(self, block: Block) -> None:
        self._run(block, [shutil.which("bash") or "bash", "-euo", "pipefail", "-c", block.text])

    def _python(self, block: Block) -> None:
        if not block.file_name:  # a file is run by what the page says next
            self._run(block, [str(self.commands / "block"), block.text])

    def _yaml(self, block: Block) -> None:
        """A file is checked as it is, a fragment as a change to smoke-dmmd."""
        name = block.file_name
        if not name:
            name = "fragment.yaml"
            (self.folder / name).write_text("extends: smoke-dmmd\n" + block.text, encoding="utf-8")
        self._run(block, [str(self.commands / "fewstep"), "validate", "--plugins", name])

    def _run(self, block: Block, command: list[str]) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        self.printed = done.stdout
        assert done.returncode == block.exit_code, (
            f"{block}: exit code {done.returncode}, expected {block.exit_code}\n{block.text}\n{done.stdout}"
        )

    def _compare(self, block: Block) -> None:
        """Every line of the block stands in what was printed, in this order."""
        rest = [" ".join(line.split()) for line in self.printed.splitlines()]
        for line in filter(None, (" ".join(line.split()) for line in block.text.splitlines())):
            pattern = re.compile(re.escape(line).replace(re.escape("..."), ".*"))
            position = next((i for i, printed in enumerate(rest) if pattern.fullmatch(printed)), None)
            assert position is not None, f"{block}: this was not printed: {line}\n{self.printed}"
            rest = rest[position + 1 :]
