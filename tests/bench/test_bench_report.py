"""The report as a browser reads it: well-formed, whole without a network, fit for a narrow screen."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fewstep.bench.report.outputs import write_outputs
from fewstep.bench.report.tables import budgets
from fewstep.bench.results.results import Results

ROOT = Path(__file__).parents[2]
VOID = {"meta", "img", "br", "hr", "link", "input"}
BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
HOSTILE = """<script>alert("1")</script> & 'x' </title></style> onerror="f()" http://elsewhere/"""


class Page(HTMLParser):
    """Elements of a page with their attributes and ancestors; notes tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None], tuple[tuple[str, str], ...]]] = []
        self.errors: list[str] = []
        self.text: list[tuple[str, str]] = []
        self._classes: list[str] = []
        self.feed(text)
        self.close()
        self.errors += [f"<{tag}> is never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if len(found) < len(attrs):
            self.errors.append(f"<{tag}> has an attribute twice")
        self.elements.append((tag, found, tuple(zip(self.open, self._classes, strict=True))))
        if tag not in VOID:
            self.open.append(tag)
            self._classes.append(found.get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.errors.append(f"</{tag}> in {self.open[-1:]} at line {self.getpos()[0]}")
        else:
            self.open.pop()
            self._classes.pop()

    def handle_data(self, data: str) -> None:
        self.text.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for found, attrs, _ in self.elements if found == tag]


def committed(name: str, tmp_path: Path, change: Callable[[str], str] = lambda label: label) -> str:
    """The page of kept results, with made-up sheets: pictures and text."""
    file = next((ROOT / "benchmarks" / "results" / name).glob("*.json"))
    results = Results.load(file)
    rows = []
    for index, row in enumerate(results.rows):
        sheet = None if row.sheet is None else f"samples/{index}.{'txt' if index % 2 else 'png'}"
        if sheet:
            (tmp_path / "samples").mkdir(exist_ok=True)
            picture = (ROOT / "docs" / "images" / "digits-samples.png").read_bytes()
            (tmp_path / sheet).write_bytes(change("a sample " * 30).encode() if index % 2 else picture)
        rows.append(row.model_copy(update={"sheet": sheet}))
    cases = tuple(case.model_copy(update={"label": change(case.label)}) for case in results.cases)
    suite = results.suite.model_copy(update={"title": change(results.suite.title)})
    write_outputs(results.model_copy(update={"rows": tuple(rows), "cases": cases, "suite": suite}), tmp_path)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.fixture(params=["finished", "distillers", "digits", "hostile"])
def text(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A page: of a suite that ran, of kept results with many and few cases, and with labels that are code."""
    if request.param == "finished":
        folder: Path = request.getfixturevalue("finished")
        return (folder / "report.html").read_text(encoding="utf-8")
    if request.param == "hostile":
        return committed("digits", tmp_path, lambda label: f"{HOSTILE} {label}")
    return committed(request.param, tmp_path)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks" / "results").glob("*/*.json")), ids=lambda p: p.parent.name
)
def test_budgets_of_all_kept_results_are_told(path: Path) -> None:
    """Logs of the first ones do not count evaluations."""
    text = budgets(Results.load(path))
    assert not text or text.startswith("Budgets differ: ")


def test_the_page_is_well_formed(text: str) -> None:
    page = Page(text)
    assert text.startswith("<!doctype html>\n")
    assert page.errors == []
    for tag in ("html", "head", "title", "style", "body", "h1"):
        assert len(page.all(tag)) == 1, tag
    assert page.all("html") == [{"lang": "en"}]
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert "h2" in {tag for tag, _ in page.text}


def test_the_page_asks_nothing_of_a_network(text: str) -> None:
    """No element but pictures refers to anything, and these hold what they show; the style fetches nothing."""
    page = Page(text)
    assert not {tag for tag, _, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attrs, _ in page.elements:
        refers = attrs.keys() & {"src", "srcset", "href", "action", "data", "poster", "background"}
        assert refers == ({"src"} if tag == "img" else set()), (tag, attrs)
        assert not [name for name in attrs if name.startswith("on")], "code in an attribute"
        assert "url(" not in (attrs.get("style") or "")
    style = "".join(data for tag, data in page.text if tag == "style")
    assert style
    assert not re.search(r"url\(|@import|@font-face|expression\(|https?:", style)


def test_pictures_are_whole_and_told_in_words(text: str) -> None:
    pictures = Page(text).all("img")
    assert pictures
    for picture in pictures:
        head, _, data = (picture["src"] or "").partition(",")
        assert head == "data:image/png;base64"
        decoded = base64.b64decode(data, validate=True)
        assert decoded.startswith(b"\x89PNG\r\n\x1a\n")
        assert b"IEND" in decoded[-12:]
        assert len(picture["alt"] or "") > 10


def test_a_narrow_screen_has_wide_things_in_boxes_of_their_own(text: str) -> None:
    """The page takes the screen's width; tables, plots and text that may be wider are moved within their box."""
    page = Page(text)
    named = {attrs["name"]: attrs["content"] for attrs in page.all("meta") if "name" in attrs}
    assert named["viewport"] == "width=device-width, initial-scale=1"
    assert {"charset": "utf-8"} in page.all("meta")
    boxes = {
        tag: [above[-1] for found, _, above in page.elements if found == tag and above] for tag in ("table", "img")
    }
    assert set(boxes["table"]) == {("div", "scroll")}
    assert set(boxes["img"]) <= {("div", "plot"), ("figure", "")}
    style = "".join(data for tag, data in page.text if tag == "style")
    rules = {name.strip(): body for name, body in re.findall(r"([^{}]+)\{([^{}]*)\}", style)}
    for name in (".scroll", ".plot"):
        assert "overflow-x: auto" in rules[name]
    assert "overflow: auto" in rules["pre"]
    assert "max-width: 100%" in rules["img"]
    assert "width" not in rules["body"].replace("max-width", "")


def test_what_people_wrote_is_shown_and_not_run(tmp_path: Path) -> None:
    page = Page(committed("digits", tmp_path, lambda label: f"{HOSTILE} {label}"))
    assert page.errors == []
    shown = {tag for tag, data in page.text if HOSTILE in data}
    assert {"title", "h1", "pre", "figcaption", "td"} <= shown
    assert any(HOSTILE in (picture["alt"] or "") for picture in page.all("img"))


@pytest.mark.medium
@pytest.mark.skipif(BROWSER is None, reason="no browser")
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_a_browser_lays_nothing_out_beside_the_screen(tmp_path: Path, width: int) -> None:
    # In a frame, since some browsers open no window narrower than 500 pixels.
    frame = f"<iframe id=page style='border:0;width:{width}px' srcdoc='{escape(committed('distillers', tmp_path))}'>"
    script = "onload = () => { document.title = page.contentDocument.documentElement.scrollWidth }"
    (tmp_path / "probe.html").write_text(f"<title>?</title>{frame}</iframe><script>{script}</script>")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    ran = subprocess.run(
        [str(BROWSER), *options, "--dump-dom", (tmp_path / "probe.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert f"<title>{width}</title>" in ran.stdout


def test_sheets_are_rows_of_one_number_of_evaluations(tmp_path: Path) -> None:
    text = committed("digits", tmp_path)
    samples = text[text.index("<h2>Samples</h2>") :]
    samples = samples[: samples.index("<h2>Models</h2>")]
    heads = re.findall(r"<h3>(.*?)</h3>", samples)
    assert heads == [f"{nfe} evaluations" for nfe in (2, 4, 8, 16, 32, 64)]
    first, *rows = samples.split("<h3>")
    assert "real samples" in first
    captions = [re.findall(r"<figcaption>([^,]*),", row) for row in rows]
    assert captions[0] == ["D-MMD student"]
    assert captions[1] == ["Teacher", "D-MMD student"], "the teacher is to the left"
    assert captions[-1] == ["Teacher"]
