# SPDX-License-Identifier: Apache-2.0
"""What a search found as a page of HTML: one file, which shows the pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable

from ..text import printable
from ..transforms import ImageError, load_image
from .search import Found

_SIDE = 240  # of a thumbnail: sharp on a screen of two pixels a point

_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif;
  --line: #8884; --box: #8881; }}
body {{ margin: 0 auto; padding: 16px; max-width: 1080px; }}
h1 {{ font-size: 18px; margin: 0 0 16px; }}
section {{ border-top: 1px solid var(--line); padding: 16px 0; display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); }}
figure {{ margin: 0; min-width: 0; }}
figure > img, figure > span {{ width: 100%; aspect-ratio: 1; object-fit: contain;
  display: block; background: var(--box); border-radius: 4px; }}
figure > span {{ display: grid; place-items: center; text-align: center; }}
figcaption {{ overflow-wrap: anywhere; font-size: 12px; margin-top: 4px; }}
figcaption b {{ font-variant-numeric: tabular-nums; display: block; }}
.asked > img, .asked > span {{ outline: 2px solid; outline-offset: 1px; }}
</style>
<h1>{title}</h1>
{body}
"""


def page(found: Iterable[Found], title: str = "vitpool search") -> str:
    """A page of HTML: each picture that was asked for, and what was found, by score.

    It needs no other file: it holds the pictures, small. What cannot be read now says
    why in its place.
    """
    sections = []
    for query, matches in found:
        figures = [_figure(query, "asked", "asked")]
        figures += [_figure(path, f"{score:.4f}") for path, score in matches]
        sections.append("<section>\n" + "\n".join(figures) + "\n</section>")
    return _PAGE.format(title=_text(title), body="\n".join(sections))


def _figure(path: str, told: str, kind: str = "") -> str:
    try:
        picture = load_image(path, "RGB", exif=True)
    except (ImageError, OSError) as error:
        reason = error.reason if isinstance(error, ImageError) else error.strerror
        shown = f"<span>{_text(reason or str(error))}</span>"
    else:
        file = io.BytesIO()
        picture.thumbnail((_SIDE, _SIDE))
        picture.save(file, "JPEG", quality=80)
        data = base64.b64encode(file.getvalue()).decode()
        shown = f'<img alt="" src="data:image/jpeg;base64,{data}">'
    name = _text(path)
    return (
        f'<figure class="{kind}" title="{name}">{shown}'
        f"<figcaption><b>{told}</b>{_text(_short(path))}</figcaption></figure>"
    )


def _short(path: str) -> str:
    """The file's name; the whole path is shown where the pointer rests."""
    return path.rpartition("/")[2]


def _text(text: str) -> str:
    return html.escape(printable(text))
