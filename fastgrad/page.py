"""A report: one text with tables and pictures, written as a self-contained HTML page and as markdown.

    page = Page("CIFAR experiments")
    page.heading("Accuracy")
    page.paragraph("Mean of three seeds, see `docs/experiments.md`.")
    page.table(("run", "accuracy"), [("plain", "85.7 %")])
    page.figure("accuracy", figure, "test accuracy over epochs")
    page.write("report")            # report/index.html, report/report.md, report/accuracy.png

There is one text, the markdown; the page is what markdown-it makes of it, with the pictures inside and a list of the
headings. It loads nothing, from nowhere: it can be mailed.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastgrad.replacing import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

_DPI = 130
_NUMBER = re.compile(r"^[-+]?[\d.,]*\d[\d.,]*(e[-+]?\d+)?( ?[%x]| ± .*)?$")
_NAME = re.compile(r"[\w.-]+")


class Page:
    """Collects the parts of a report in order; ``write`` writes them.

    Texts are markdown (CommonMark and tables); what comes from outside goes through :func:`plain` first.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts = [f"# {title}"]
        self._pictures: dict[str, bytes] = {}  # file name -> PNG

    def heading(self, text: str, level: int = 2) -> None:
        """A heading; those of level 2 are listed beside the page."""
        self._parts.append(f"{'#' * level} {text}")

    def paragraph(self, text: str) -> None:
        """Any markdown block: a paragraph, a list, a code block."""
        self._parts.append(text)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
        """Cells are markdown; columns whose cells all look like numbers (or are empty) are set to the right."""
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"table: expected {len(header)} cells in every row, got {len(row)}: {row}")
        columns = list(zip(*rows, strict=True)) or [()] * len(header)
        right = [any(column) and all(not cell or _NUMBER.match(cell) for cell in column) for column in columns]
        lines = [
            f"| {' | '.join(map(_cell, header))} |",
            f"|{'|'.join('--:' if to_right else '---' for to_right in right)}|",
            *(f"| {' | '.join(map(_cell, row))} |" for row in rows),
        ]
        self._parts.append("\n".join(lines))
        if caption:
            self._parts.append(f"*{caption}*")

    def figure(self, name: str, figure: Figure, caption: str) -> None:
        """A matplotlib figure as ``name``.png; the caption stands under it and is read to those who cannot see it."""
        png = io.BytesIO()
        figure.savefig(png, dpi=_DPI, format="png")
        self._picture(name, png.getvalue(), caption)

    def image(self, name: str, image: Image, caption: str) -> None:
        """A PIL image as ``name``.png."""
        png = io.BytesIO()
        image.save(png, format="PNG")
        self._picture(name, png.getvalue(), caption)

    @property
    def markdown(self) -> str:
        return "\n\n".join(self._parts) + "\n"

    def html(self) -> str:
        """The page, pictures and style inside."""
        from markdown_it import MarkdownIt

        # html=False: a tag in the text is shown, not obeyed.
        body = MarkdownIt("commonmark", {"html": False}).enable("table").render(self.markdown)
        body = re.sub(r'src="([^"]+)"', self._embedded, body)
        body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
        body, contents = _anchored(body)
        return _PAGE.format(title=html.escape(self.title), style=_STYLE, contents=contents, body=body)

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Writes index.html, report.md and the pictures into ``folder``; returns the paths of the first two."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, png in self._pictures.items():
            with replacing(folder / name, "wb") as file:
                file.write(png)
        paths = folder / "index.html", folder / "report.md"
        for path, text in zip(paths, (self.html(), self.markdown), strict=True):
            with replacing(path, "w") as file:
                file.write(text)
        return paths

    def _picture(self, name: str, png: bytes, caption: str) -> None:
        if not _NAME.fullmatch(name) or f"{name}.png" in self._pictures:
            raise ValueError(f"figure: expected a new name of letters, digits, '_', '-' and '.', got {name!r}")
        self._pictures[f"{name}.png"] = png
        self._parts.append(f"![{caption}]({name}.png)\n\n*{caption}*")

    def _embedded(self, source: re.Match) -> str:
        png = self._pictures.get(source[1])
        return f'src="data:image/png;base64,{base64.b64encode(png).decode()}"' if png else source[0]


def plain(text: str) -> str:
    """``text`` with the characters escaped that markdown would take for its own."""
    # An underscore inside a word is none of markdown's.
    return re.sub(r"([\\`*\[\]<>|#~!]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _cell(text: str) -> str:
    return text.replace("\n", " ") if "\\|" in text else text.replace("\n", " ").replace("|", "\\|")


def _anchored(body: str) -> tuple[str, str]:
    """(body with an id at every h2, links to them)."""
    links: list[str] = []

    def anchor(found: re.Match) -> str:
        links.append(f'<a href="#part-{len(links) + 1}">{found[1]}</a>')
        return f'<h2 id="part-{len(links)}">{found[1]}</h2>'

    body = re.sub(r"<h2>(.*?)</h2>", anchor, body)
    return body, "\n".join(links)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<nav>{contents}</nav>
<main>
{body}</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: #2563a8; }
@media (prefers-color-scheme: dark) { :root { --link: #8ab8f0; } img { filter: brightness(.92); } }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0; display: flex; justify-content: center; gap: 2rem; }
nav { position: sticky; top: 0; align-self: flex-start; width: 13rem; padding: 2.6rem 0 0 1rem; font-size: .9rem; }
nav a { display: block; padding: .2rem 0; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
main { max-width: 62rem; min-width: 0; padding: 1rem 1rem 5rem; }
h1 { line-height: 1.2; }
h2 { margin-top: 2.6rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { text-align: left; background: var(--soft); }
tr:hover td { background: var(--soft); }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
code { background: var(--soft); padding: .1rem .3rem; border-radius: 4px; font-size: .9em; }
pre { background: var(--soft); padding: .8rem; border-radius: 6px; overflow-x: auto; }
pre code { background: none; padding: 0; }
@media (max-width: 60rem) { nav { display: none; } }
@media print { nav { display: none; } }
"""
