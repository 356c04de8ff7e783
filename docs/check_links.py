# SPDX-License-Identifier: Apache-2.0
"""Every link of the built pages to one another, and the anchor it names.

    python docs/check_links.py build/docs

Links that lead out of the folder are not followed.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links and the anchors of one page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An anchor, a link, or both."""
        for name, value in attrs:
            if value and (name == "id" or (tag == "a" and name == "name")):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.links.append(value)


def dead_links(folder: Path) -> list[str]:
    """'page: link' for each that leads to no file or to no anchor."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            to = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            missing = to in pages and parts.fragment
            if not to.exists() or (
                missing and unquote(parts.fragment) not in pages[to].anchors
            ):
                dead.append(f"{path.relative_to(folder.resolve())}: {link}")
    return dead


def main() -> int:
    """Print what is dead; 1 where anything is."""
    dead = dead_links(Path(sys.argv[1]))
    for line in dead:
        print(line)
    return bool(dead)


if __name__ == "__main__":
    sys.exit(main())
