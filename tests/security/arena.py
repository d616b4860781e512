"""A stranger's models and files, each with code that would write a canary, and the commands that open them.

`tests/data/before` has the models: a teacher, a student, and the student's exported folder and file. A way changes a
copy of one and opens it. `CODE` are the ways by which code got in, `HARMLESS` opens the same models unchanged.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fewstep.cli.main import main
from fewstep.core.errors import FewstepError
from fewstep.runtime.hashing import sha256
from fewstep.runtime.sealed_json import sealed_json

BEFORE = Path(__file__).resolve().parents[1] / "data" / "before"


class Arena:
    """A current folder with the models of `tests/data/before`, and the canary that a stranger's code writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary = folder / "canary"
        for name in ("teacher", "student", "exported"):
            shutil.copytree(BEFORE / name, folder / name)

    # ------------------------------------------------------------ hostile files

    def code(self, path: str) -> Path:
        """A Python file that writes the canary."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"open({str(self.canary)!r}, 'w').write('ran')\n")
        return file

    def module(self) -> str:
        """The name of a module of the current folder, on Python's path, that writes the canary."""
        name = f"module_of_{self.folder.name}".replace("-", "_")
        self.code(f"{name}.py")
        return name

    def run(self, changes: dict[str, object], source: str = "teacher", name: str = "stranger") -> str:
        """A copy of a run with changes to top-level keys of its resolved recipe."""
        shutil.copytree(self.folder / source, self.folder / name)
        for file in ("recipe.resolved.yaml", "recipe.yaml"):
            path = self.folder / name / file
            path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}, sort_keys=False))
        return name

    def run_with_code(self, **changes: object) -> str:
        """A run that lists the plugin file in its own folder."""
        return self.run({"plugins": [str(self.code("stranger_plugins/mine.py"))], **changes})

    def run_with_module(self) -> str:
        """A run that lists a module of the current folder."""
        return self.run({"plugins": [self.module()]})

    def exported_file(self, changes: dict[str, object], source: str = "teacher") -> str:
        """A copy of an exported file with changes to its recipe."""
        return str(
            self._weights(self.folder / source / "export/student_ema.safetensors", "stranger.safetensors", changes)
        )

    def exported(
        self, changes: dict[str, object], config: dict[str, object] | None = None, name: str = "strangers"
    ) -> str:
        """A copy of an exported folder with changes to its recipe and its config.json, all digests right."""
        folder = self.folder / name
        shutil.copytree(self.folder / "exported", folder)
        self._weights(folder / "model.safetensors", f"{name}/model.safetensors", changes)
        self.configure(name, config or {})
        return name

    def configure(self, name: str, changes: dict[str, object]) -> None:
        """Change config.json; its digest and those of the files that it lists are renewed."""
        folder = self.folder / name
        content = {**json.loads((folder / "config.json").read_text()), **changes}
        content["files"] = {
            file: sha256(folder / file) if (folder / file).is_file() else digest
            for file, digest in content["files"].items()
        }
        content.pop("seal", None)
        (folder / "config.json").write_text(json.dumps(sealed_json(content)))

    def _weights(self, source: Path, name: str, changes: dict[str, object]) -> Path:
        """A safetensors file with another recipe."""
        with safe_open(source, framework="pt") as opened:
            metadata = dict(opened.metadata())
        metadata["recipe"] = yaml.safe_dump({**yaml.safe_load(metadata["recipe"]), **changes}, sort_keys=False)
        tensors = load_file(source)
        save_file(tensors, self.folder / name, metadata=metadata)
        return self.folder / name

    def recipe(self, text: str, name: str = "own.yaml") -> str:
        """A recipe of one's own, over `smoke-teacher`, with few steps."""
        path = self.folder / name
        path.write_text(f"extends: smoke-teacher\nname: own\ntrain: {{steps: 2}}\n{text}")
        return str(path)

    # ------------------------------------------------------------ actions

    def fewstep(self, *args: str) -> Outcome:
        """A command, in this process."""
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            try:
                main(args)
            except SystemExit as stop:
                return Outcome(int(stop.code or 0), text.getvalue())
        raise AssertionError("main always exits")

    def python(self, action: Callable[[], object]) -> Outcome:
        """A call of Python, whose errors have the exit code that the command line gives them."""
        try:
            action()
        except FewstepError as error:
            return Outcome(error.exit_code, str(error))
        return Outcome(0, "")

    @contextlib.contextmanager
    def hub(self, **repositories: str):  # type: ignore[no-untyped-def]
        """A Hugging Face Hub that holds folders of the arena, by name of repository with `__` for `/`."""

        def snapshot_download(*, repo_id: str, revision: str | None, allow_patterns: Sequence[str] | None) -> str:
            source = self.folder / repositories[repo_id.replace("/", "__")]
            target = self.folder / "cache" / "snapshots" / source.name
            for file in sorted(source.rglob("*")):
                name = file.relative_to(source).as_posix()
                if file.is_file() and (allow_patterns is None or _matches(name, allow_patterns)):
                    (target / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, target / name)
            return str(target)

        stand_in = types.ModuleType("huggingface_hub")
        stand_in.snapshot_download = snapshot_download  # type: ignore[attr-defined]
        before = sys.modules.get("huggingface_hub")
        sys.modules["huggingface_hub"] = stand_in
        try:
            yield
        finally:
            if before is None:
                del sys.modules["huggingface_hub"]
            else:
                sys.modules["huggingface_hub"] = before


class Outcome:
    """Exit code and text of an action."""

    def __init__(self, code: int, text: str) -> None:
        self.code, self.text = code, text

    def __repr__(self) -> str:
        return f"exit {self.code}: {self.text.strip()}"


def _matches(name: str, patterns: Sequence[str]) -> bool:
    from fnmatch import fnmatch

    return any(fnmatch(name, pattern) for pattern in patterns)


class Pickled:
    """Pickles to a call that writes the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.system, (f"touch '{self.canary}'",)


def pickle(arena: Arena, name: str) -> str:
    """A torch file whose unpickling writes the canary."""
    torch.save({"state_dict": {"w": torch.zeros(1)}, "more": Pickled(arena.canary)}, arena.folder / name)
    return str(arena.folder / name)
