"""What the pages say is so: blocks run, links lead somewhere, and what is named exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from runpy import run_path
from typing import Any

import component_tables
import pytest
import typer.main
from key_table import PAGE, rewritten, section
from pages import (
    LANGUAGES,
    ROOT,
    Block,
    Reader,
    all_pages,
    anchors,
    blocks,
    inline_code,
    links,
    prose,
    reader_environment,
)
from preloaded import Preloaded
from scale_table import PAGE as PLANS
from scale_table import RECIPES as SCALE
from scale_table import row as plan_of
from size_table import LARGE, SMALL, Size, row
from size_table import PAGE as SIZES

import fewstep.testing
from fewstep.cli.main import app
from fewstep.core.kinds import KINDS, registry
from fewstep.recipe.models import Recipe
from fewstep.recipe.shipped import shipped_recipes

PAGES = all_pages()
MOST_UNRUN = 8
RUN_ELSEWHERE = {"benchmarks/README.md"}
"""Its commands run whole suites, for minutes; tests/bench runs them shortened. All else is checked here."""
SECTIONS = {name: found[0] for name, field in Recipe.model_fields.items() if (found := section(field.annotation))}
"""Sections of a recipe whose keys are always the same (train, optim, ...)."""
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def has_runnable(page: Path) -> bool:
    runnable = [block for block in blocks(page) if block.language in ("bash", "python", "yaml") and not block.unrun]
    return bool(runnable) and named(page) not in RUN_ELSEWHERE


def code_of(page: Path) -> list[tuple[int, str]]:
    """Inline code, and the lines of bash blocks."""
    lines = [(b.line, line) for b in blocks(page) if b.language == "bash" for line in b.text.splitlines()]
    return inline_code(page) + lines


def test_there_are_pages() -> None:
    names = {named(page) for page in PAGES}
    assert {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/dmmd.md", "plugins/README.md"} <= names
    assert len(names) >= 12
    assert sum(block.unrun is None for page in PAGES for block in blocks(page)) >= 40


LIES = {
    "```bash\nfewstep validate no-such-recipe\n```": "exit code 2, expected 0",
    "<!-- exits 2 -->\n```bash\ntrue\n```": "exit code 0, expected 2",
    "```bash\nfalse | true\n```": "exit code 1, expected 0",
    "```bash\necho one\n```\n<!-- prints -->\n```text\ntwo\n```": "this was not printed: two",
    "```bash\nprintf 'b\\na\\n'\n```\n<!-- prints -->\n```text\na\nb\n```": "this was not printed: b",
    "```python\nassert 1 == 2\n```": "exit code 1",
    "```yaml\noptim: {rate: 1}\n```": "unknown key 'rate'",
}


@pytest.mark.medium
@pytest.mark.parametrize(("text", "complaint"), LIES.items(), ids=list(LIES.values()))
def test_a_page_that_is_wrong_is_caught(text: str, complaint: str, tmp_path: Path, preloaded: Preloaded) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n{text}\n")
    with pytest.raises(AssertionError, match=complaint):
        Reader(tmp_path, preloaded).read(page)


@pytest.fixture(scope="module")
def preloaded() -> Iterator[Preloaded]:
    with Preloaded(reader_environment()) as server:
        yield server


@pytest.mark.medium
@pytest.mark.parametrize("page", [page for page in PAGES if has_runnable(page)], ids=named)
def test_blocks_run(page: Path, tmp_path: Path, preloaded: Preloaded) -> None:
    Reader(tmp_path, preloaded).read(page)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_blocks_say_what_they_are(page: Path) -> None:
    unknown = [f"{b}: {b.language or 'no language'}" for b in blocks(page) if b.language not in LANGUAGES]
    assert not unknown


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    unrun = [block for page in PAGES for block in blocks(page) if block.unrun is not None]
    assert len(unrun) <= MOST_UNRUN, [str(block) for block in unrun]
    assert all(len(block.unrun or "") > 8 for block in unrun)


@pytest.mark.parametrize("block", [b for page in PAGES for b in blocks(page) if b.language == "toml"], ids=str)
def test_toml_is_valid(block: Block) -> None:
    pytest.importorskip("tomllib", reason="came with Python 3.11").loads(block.text)


def test_the_key_table_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == rewritten(text), "run python tests/docs/key_table.py"


def test_the_page_of_results_is_up_to_date() -> None:
    program = ROOT / "benchmarks/results_page.py"
    written = run_path(str(program))["page"]()
    assert written == (ROOT / "docs/results.md").read_text(encoding="utf-8"), f"run python {named(program)}"
    assert len(written.splitlines()) <= 120


@pytest.mark.parametrize("kind", KINDS)
def test_every_component_is_in_its_table_once(kind: str) -> None:
    """Read from the page, whatever wrote it."""
    names = first_cells(component_tables.sections(component_tables.PAGES[kind].read_text(encoding="utf-8"))[kind])
    assert sorted(names) == registry(kind).names()


@pytest.mark.parametrize("page", sorted(set(component_tables.PAGES.values())), ids=named)
def test_tables_of_components_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == component_tables.rewritten(text), "run python tests/docs/component_tables.py"


def test_every_metric_has_what_fools_it_once() -> None:
    page = component_tables.PAGES["metrics"].read_text(encoding="utf-8")
    judged = first_cells(page.partition("## What fools a metric")[2].partition("\n\nFor images")[0])
    assert sorted(judged) == registry("metrics").names()


def test_the_table_of_recipes_has_every_recipe() -> None:
    rows = [line for line in (ROOT / "recipes/README.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    assert set(re.findall(r"`([\w-]+)`", "\n".join(rows))) == set(shipped_recipes())


def first_cells(table: str) -> list[str]:
    """The names in the first column of a table."""
    cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


@pytest.mark.parametrize(
    "size", [*SMALL, *(pytest.param(size, marks=pytest.mark.slow) for size in LARGE)], ids=lambda size: size.recipe
)
def test_the_table_of_sizes_is_up_to_date(size: Size) -> None:
    assert row(size) in SIZES.read_text(encoding="utf-8"), "run python tests/docs/size_table.py"


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALE)
def test_the_plans_of_recipes_at_scale_are_up_to_date(name: str) -> None:
    """To 5 %: a change of a loss or a network may move memory a little."""
    lines = PLANS.read_text(encoding="utf-8").splitlines()
    shown = next(line for line in lines if line.startswith(f"| `{name}` |")).split(" | ")
    for ours, theirs in zip(plan_of(name).split(" | "), shown, strict=True):
        numbers = [cell.strip("| ").replace(",", "") for cell in (ours, theirs)]
        if numbers[0].replace(".", "", 1).isdigit():
            assert float(numbers[0]) == pytest.approx(float(numbers[1]), rel=0.05, abs=1), "run scale_table.py"
        else:
            assert numbers[0] == numbers[1]


def test_every_recipe_at_scale_has_its_plan_and_its_source() -> None:
    text = PLANS.read_text(encoding="utf-8")
    for name in SCALE:
        assert len(re.findall(rf"^\| `{name}` \|", text, re.MULTILINE)) >= 2, name


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for line, target in links(page):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{named(page)}:{line}: no such file: {target}"
        assert other.is_relative_to(ROOT), f"{named(page)}:{line}: leaves the repository: {target}"
        assert not anchor or anchor in anchors(other), f"{named(page)}:{line}: no such heading: {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        targets = [(page.parent / target.partition("#")[0]).resolve() for _, target in links(page)]
        waiting += [target for target in targets if target.suffix == ".md" and target.exists()]
    assert {named(page) for page in PAGES} - {named(page) for page in seen} == set()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_mentioned_files_exist(page: Path) -> None:
    tops = {entry.name for entry in ROOT.iterdir()} - {"runs", "results"}
    written = {block.file_name for block in blocks(page)} | {"results.md", "comparison.md"}
    places = (ROOT, ROOT / "framework/fewstep", page.parent)
    for line, code in [(number, word) for number, text in inline_code(page) for word in text.split()]:
        name = code.rstrip("/")
        of_the_tree = "/" in code and code.split("/")[0] in tops
        a_file = re.search(r"\.(py|md|toml)$", name)
        if not re.fullmatch(r"[\w./-]+", code) or not (of_the_tree or a_file) or name.removeprefix("./") in written:
            continue
        assert any((place / name).exists() for place in places), f"{named(page)}:{line}: no such file: {code}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_mentioned_commands_exist(page: Path) -> None:
    for line, code in code_of(page):
        found = re.match(r"fewstep ([a-z-]+)(.*)", code.split("#")[0])
        if not found:
            continue
        assert found[1] in COMMANDS, f"{named(page)}:{line}: no such command: {code}"
        command, rest = COMMANDS[found[1]], found[2]
        below = re.match(r" ([a-z-]+)(.*)", rest)
        if below and hasattr(command, "commands"):
            assert below[1] in command.commands, f"{named(page)}:{line}: no such command: {code}"
            command, rest = command.commands[below[1]], below[2]
        known = {option for parameter in command.params for option in parameter.opts}
        for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest):
            assert option in known, f"{named(page)}:{line}: {found[1]} has no option {option}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_mentioned_make_targets_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for line, code in code_of(page):
        found = re.match(r"make ([a-z-]+)", code)
        assert not found or found[1] in targets, f"{named(page)}:{line}: no such target: {code}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_mentioned_keys_exist(page: Path) -> None:
    pattern = re.compile(rf"({'|'.join(SECTIONS)})\.(\w+)(=.*)?")
    for line, code in inline_code(page):
        found = pattern.fullmatch(code)
        if found and found[2] not in ("py", "md", "yaml"):
            fields = SECTIONS[found[1]].model_fields
            assert found[2] in fields, f"{named(page)}:{line}: no such key: {code}"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_mentioned_names_can_be_imported(page: Path) -> None:
    for line, code in inline_code(page):
        if re.fullmatch(r"fewstep(\.\w+)+", code):
            assert resolves(code), f"{named(page)}:{line}: no such module or name: {code}"


def resolves(dotted: str) -> bool:
    """Whether a module, or something in a module, has this name."""
    try:
        import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        return hasattr(import_module(module), name)
    return True


def test_the_readme_shows_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [verb for verb in COMMANDS if f"fewstep {verb}" not in readme]


def test_the_page_of_plugins_has_the_whole_kit() -> None:
    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    kit = text.partition("## The kit")[2].partition("## ")[0]
    names = re.findall(r"`(\w+)`", "".join(line.split(" | ")[0] for line in kit.splitlines() if line.startswith("|")))
    assert sorted(names) == sorted(fewstep.testing.__all__)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_no_page_knows_a_machine(page: Path) -> None:
    assert not re.search(r"/(home|root|work|tmp|Users)/", page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_are_short(page: Path) -> None:
    long = [number for number, line in prose(page) if len(line) > 120 and not line.startswith("|")]
    assert not long, f"{named(page)}: wrap lines {long} at 120 characters"
