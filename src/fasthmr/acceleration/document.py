"""A report as Markdown with pictures beside it, and as one HTML page that holds everything."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from fasthmr.io.atomic import write_bytes
from fasthmr.io.images import write_image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border: 1px solid #ccc; padding: .25rem .6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead { background: #f2f2f2; }
img { max-width: 100%; }
figcaption { color: #555; }
""".strip()


@dataclass(kw_only=True)
class Document:
    """Headings, paragraphs, tables and pictures in their order."""

    title: str
    _blocks: list[tuple[str, object]] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Start a section."""
        self._blocks.append(("heading", text))

    def text(self, text: str) -> None:
        """A paragraph."""
        self._blocks.append(("text", text))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table; all cells are text."""
        self._blocks.append(("table", [list(head), *map(list, rows)]))

    def picture(self, name: str, rgb: UInt8[np.ndarray, "height width 3"], caption: str) -> None:
        """A picture; it is written beside the Markdown as `name`."""
        self._blocks.append(("picture", (name, rgb, caption)))

    def write(self, folder: Path, stem: str, *, page: bool = True) -> None:
        """Write `stem`.md with its pictures and, with `page`, `stem`.html."""
        markdown, parts = [f"# {self.title}"], [f"<h1>{html.escape(self.title)}</h1>"]
        for kind, content in self._blocks:
            if kind == "picture":
                assert isinstance(content, tuple)
                name, rgb, caption = content
                path = write_image(folder / name, rgb)
                markdown.append(f"![{caption}]({name})")
                data = base64.b64encode(path.read_bytes()).decode()
                parts.append(
                    f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(caption)}">'
                    f"<figcaption>{html.escape(caption)}</figcaption></figure>"
                )
            elif kind == "table":
                assert isinstance(content, list)
                markdown.append(_markdown_table(content))
                parts.append(_html_table(content))
            else:
                text = str(content)
                markdown.append(f"## {text}" if kind == "heading" else text)
                tag = "h2" if kind == "heading" else "p"
                parts.append(f"<{tag}>{html.escape(text)}</{tag}>")
        write_bytes(folder / f"{stem}.md", ("\n\n".join(markdown) + "\n").encode())
        if not page:
            return
        body = "\n".join(parts)
        whole = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(self.title)}</title><style>\n{_STYLE}\n</style></head>\n<body>\n{body}\n"
            "</body></html>\n"
        )
        write_bytes(folder / f"{stem}.html", whole.encode())


def _markdown_table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join("---" for _ in rows[0]) + " |", *lines[1:]])


def _html_table(rows: list[list[str]]) -> str:
    def line(row: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows[1:])
    return f"<table><thead>{line(rows[0], 'th')}</thead>\n<tbody>\n{body}\n</tbody></table>"
