"""The site fetches nothing from a network when it is read. `make docs` checks the built one."""

from __future__ import annotations

from pathlib import Path
from runpy import run_path

import pytest

fetched = run_path(str(Path(__file__).resolve().parents[2] / "docs/site/offline.py"))["fetched"]

FETCHING = {
    '<script src="https://cdn.example/x.js"></script>': "https://cdn.example/x.js",
    '<img src="//cdn.example/x.png">': "//cdn.example/x.png",
    '<link rel="stylesheet" href="https://fonts.example/css">': "https://fonts.example/css",
    '<link rel="preconnect" href="https://fonts.example">': "https://fonts.example",
    "@import 'https://fonts.example/css';": "https://fonts.example/css",
    "a { background: url(https://cdn.example/x.png) }": "https://cdn.example/x.png",
    '<pre class="mermaid">graph</pre>': "class mermaid",
}


@pytest.mark.parametrize(("text", "address"), FETCHING.items())
def test_what_a_browser_would_fetch_is_found(text: str, address: str) -> None:
    assert fetched(text) == [address]


def test_links_that_a_reader_follows_are_fine() -> None:
    assert not fetched('<a href="https://arxiv.org/abs/2603.20155">paper</a><script src="assets/x.js"></script>')
