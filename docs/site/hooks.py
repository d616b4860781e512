"""Hooks of mkdocs: pages stay where they lie in the repository, the reference is generated, tables link to it.

A page's path in the site is its path in the repository, so that relative links between pages, pictures, results and
recipes are the same in both.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "framework"), str(Path(__file__).parent)]

import offline  # noqa: E402  (found in the folders above, as is the next)
import reference  # noqa: E402

REFERENCE: dict[str, tuple[str, str]] = {}
"""Title and Markdown of each generated page by its path."""
WITHOUT_SIDEBAR = ("README.md", "docs/results.md")
FOLDERS = ("docs", "recipes", "plugins", "benchmarks")
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
_TABLE = re.compile(r"<!-- (\w+), written by tests/docs/component_tables\.py -->\n.*?<!-- end of \1 -->", re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Generate the reference, and give it a tab."""
    REFERENCE.update((path, (title, text)) for title, path, text in reference.pages())
    config.nav.append({"Reference": [{title: path} for path, (title, _) in REFERENCE.items()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every page of the repository, the files that pages link to, and the reference."""
    pages = [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
    paths = {*pages, *(linked for page in pages for linked in linked_files(page))}
    for path in sorted(paths):
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for name, (_, text) in REFERENCE.items():
        files.append(File.generated(config, name, content=text))
    return files


def linked_files(page: Path) -> set[Path]:
    """Files of the repository that a page links to or shows."""
    targets = {(page.parent / target).resolve() for target in _LINK.findall(page.read_text(encoding="utf-8"))}
    return {target for target in targets if target.is_file() and target.is_relative_to(ROOT)}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """In tables of components a name leads to the reference; pages with a tab of their own need no sidebar;
    a value stays on one line with its spread."""
    if page.file.src_uri in WITHOUT_SIDEBAR:
        page.meta["hide"] = ["navigation"]

    def linked(table: re.Match[str]) -> str:
        kind = table[1]
        return re.sub(r"(?m)^\| `(\w+)` \|", rf"| [`\1`](../reference/{kind}.md#\1) |", table[0])

    return _TABLE.sub(linked, markdown).replace(" ± ", "\u00a0±\u00a0")


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that fetches anything from a network when it is read."""
    found = offline.violations(Path(config.site_dir))
    if found:
        raise PluginError("the site must fetch nothing from a network:\n" + "\n".join(found))
