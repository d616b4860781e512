"""Parts of a self-contained HTML page, without scripts and without external files: tables, plots, sheets."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

from fewstep.bench.report.canvas import DOTS
from fewstep.bench.report.tables import Grid

_TEXT_SHOWN = 6000
"""Number of characters shown of a text sheet."""
_LONG = 40
"""Number of characters above which a cell of a table may wrap."""

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #59636e; --page: #ffffff; --box: #f3f5f7; --line: #d5dae0;
        --good: #0a6b4f; --bad: #b03a00; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ed; --soft: #9aa4af; --page: #14171b; --box: #1f242a; --line: #39414a;
          --good: #4fd1a5; --bad: #ff9a63; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 68rem; color: var(--text); background: var(--page);
       font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.4rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 0.4rem; }
.soft, figcaption { color: var(--soft); font-size: 0.9rem; }
.note { border-left: 4px solid var(--bad); padding: 0.5rem 0.9rem; background: var(--box); }
.conclusion { font-size: 1.1rem; }
ul { padding-left: 0; list-style: none; }
li { margin: 0.45rem 0; padding-left: 1.7rem; text-indent: -1.7rem; }
li b { display: inline-block; width: 1.7rem; text-indent: 0; }
.good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.8rem 0.3rem 0; text-align: right; white-space: nowrap;
         border-bottom: 1px solid var(--line); }
th.word, td.word { text-align: left; }
td.best { font-weight: 700; }
td.long { white-space: normal; min-width: 16rem; }
.plot { background: #ffffff; border-radius: 8px; max-width: calc(6.5rem * var(--inches, 8)); padding: 0.4rem;
        overflow-x: auto; }
.plot img { min-width: calc(3.3rem * var(--inches, 8)); }
img { max-width: 100%; height: auto; display: block; }
.sheets { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: 1.2rem; }
figure { margin: 0; }
figcaption { padding-top: 0.35rem; }
figure img { width: 100%; border-radius: 4px; image-rendering: pixelated; }
pre { background: var(--box); padding: 0.8rem; border-radius: 6px; overflow: auto; max-height: 28rem;
      font-size: 0.82rem; line-height: 1.4; margin: 0.3rem 0; }
.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: 0.3rem 0; }
@media (max-width: 40rem) { td.word { white-space: normal; } td.best { font-weight: 700; }
td.long { min-width: 9rem; } }
"""


def page(title: str, body: str) -> str:
    """The page with its style."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def table(grid: Grid) -> str:
    """A table, which scrolls in its box on a narrow page."""

    def cells(tag: str, row: list[str], number: int = -1) -> str:
        marks = [" best" if (number, i) in grid.best else "" for i in range(len(row))]
        return "".join(f'<{tag} class="{kind(i, cell)}{marks[i]}">{escape(cell)}</{tag}>' for i, cell in enumerate(row))

    def kind(column: int, cell: str) -> str:
        return "number" if column >= grid.text_columns else "word long" if len(cell) > _LONG else "word"

    head, rows = cells("th", grid.header), "".join(f"<tr>{cells('td', row, i)}</tr>" for i, row in enumerate(grid.rows))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def plot(path: Path, alt: str) -> str:
    """A plot in its own width. On a narrow page it scrolls in its box, so that it stays readable."""
    pixels = int.from_bytes(path.read_bytes()[16:20], "big")
    return f'<div class="plot" style="--inches: {pixels / DOTS:.1f}">{image(path, alt)}</div>'


def sheet(file: Path, caption: str) -> str:
    """A sheet of samples, a picture or text, with its caption."""
    if file.suffix == ".png":
        shown = image(file, caption)
    else:
        text = file.read_text(encoding="utf-8", errors="replace")
        shown = f"<pre>{escape(text[:_TEXT_SHOWN])}{' …' if len(text) > _TEXT_SHOWN else ''}</pre>"
    return f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>"


def image(path: Path, alt: str) -> str:
    """A picture within the page."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
