"""What a page of the site would fetch from a network when it is read; there is to be nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

FETCHING = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}
"""Tags that a browser follows by itself, and the attribute that says where to."""
HARMLESS_LINKS = {"canonical", "alternate", "next", "prev"}
"""Kinds of `<link>` that a browser does not follow by itself."""
SCRIPTED = {"mermaid"}
"""Classes for which the theme's script loads a library from a network."""
_STYLE = re.compile(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]+)|@import\s+['\"]((?:https?:)?//[^'\"]+)")


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        address = values.get(FETCHING.get(tag, ""), "")
        followed = tag != "link" or not HARMLESS_LINKS & set(values.get("rel", "").split())
        if followed and re.match(r"(https?:)?//", address):
            self.addresses.append(address)
        self.addresses += [f"class {name}" for name in SCRIPTED & set(values.get("class", "").split())]


def fetched(text: str) -> list[str]:
    """Addresses that a page or a style sheet fetches from a network."""
    reader = _Reader()
    reader.feed(text)
    return [*reader.addresses, *(first or second for first, second in _STYLE.findall(text))]


def violations(site: Path) -> list[str]:
    """`FILE: ADDRESS` of everything in a built site that is fetched from a network."""
    files = [path for path in sorted(site.rglob("*")) if path.suffix in (".html", ".css")]
    return [
        f"{path.relative_to(site)}: {address}"
        for path in files
        for address in fetched(path.read_text(encoding="utf-8"))
    ]
