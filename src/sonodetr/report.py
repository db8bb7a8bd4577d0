"""Self-contained HTML pages: text, tables, pictures, charts and videos in one file."""

import base64
import html
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from sonodetr.files import whole_file

# What charts are drawn in; on the page each becomes a colour of its style (light or dark). Okabe
# and Ito's, which people with any colour vision tell apart.
INK = "#7d8590"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_STYLED = {INK: "var(--soft)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)
}
# Nothing is fetched and nothing runs, whatever is written into a page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"


@dataclass(frozen=True)
class Section:
    """A headed part of a page; `parts` are HTML, as the functions below make it."""

    title: str
    parts: Sequence[str]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a smaller line below it, and its kind.

    Attributes:
        text: as it is shown.
        note: less important; may have several lines.
        kind: "", "good", "bad", or "group": a heading over all columns, alone in its row.
        drawing: a small SVG before the text, as `interval` makes it.
    """

    text: str
    note: str = ""
    kind: str = ""
    drawing: str = ""


def write_page(
    path: str | os.PathLike[str],
    title: str,
    lead: str,
    sections: Sequence[Section],
    provenance: Mapping[str, Any],
) -> None:
    """Write a page that needs no network and no other file; whole or not at all.

    Args:
        path: the HTML file.
        title: the question that the page answers.
        lead: its answer in a sentence.
        sections: what follows, in order.
        provenance: versions, seed and command that made it, for the page's foot.

    >>> write_page("/tmp/page.html", "How good is it?", "Good.", [], {"seed": 0})
    """
    style = resources.files("sonodetr").joinpath("report.css").read_text(encoding="utf-8")
    body = "\n".join(
        f"<section><h2>{html.escape(section.title)}</h2>\n"
        + "\n".join(section.parts)
        + "</section>"
        for section in sections
    )
    foot = html.escape(json.dumps(provenance))
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>\n"
        f'<body><h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>\n'
        f"{body}\n<footer>Made by SonoDETR: {foot}</footer></body></html>\n"
    )
    with whole_file(Path(path)) as part:
        part.write_text(page, encoding="utf-8")


def paragraph(text: str) -> str:
    """A paragraph.

    >>> paragraph("AP < 0.5")
    '<p>AP &lt; 0.5</p>'
    """
    return f"<p>{html.escape(text)}</p>"


def commands(lines: Sequence[str]) -> str:
    """Lines for a terminal."""
    return f"<pre>{html.escape(chr(10).join(lines))}</pre>"


def table(head: Sequence[str], rows: Sequence[Sequence[str | Cell]], caption: str = "") -> str:
    """A table of text cells."""
    cells = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    lines = [f"<tr>{''.join(_cell(cell, len(head)) for cell in row)}</tr>" for row in rows]
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(cell: str | Cell, columns: int) -> str:
    if isinstance(cell, str):
        cell = Cell(cell)
    text = html.escape(cell.text)
    if cell.kind == "group":
        return f'<th scope="rowgroup" colspan="{columns}">{text}</th>'
    kind = f' class="{cell.kind}"' if cell.kind else ""
    note = html.escape(cell.note).replace("\n", "<br>")
    note = f"<small>{note}</small>" if note else ""
    return f"<td{kind}>{cell.drawing}{text}{note}</td>"


def interval(low: float, value: float, high: float, reach: float, *, filled: bool) -> str:
    """A value with its bounds beside a line at zero; all of one `reach` have one scale.

    Args:
        low, value, high: within `reach` of zero; what lies beyond is cut off.
        reach: what the drawing's ends stand for.
        filled: whether the value's mark is filled.
    """
    across = [100 * (1 + max(-1.0, min(1.0, each / reach))) for each in (low, value, high)]
    left, middle, right = (f"{each:.1f}" for each in across)
    return (
        '<svg class="interval" viewBox="-6 0 212 22" aria-hidden="true">'
        '<line class="zero" x1="100" x2="100" y1="0" y2="22"/>'
        f'<line x1="{left}" x2="{right}" y1="11" y2="11"/>'
        f'<circle class="{"filled" if filled else "open"}" cx="{middle}" cy="11" r="5"/>'
        "</svg>"
    )


def columns(parts: Sequence[str]) -> str:
    """Figures side by side where there is room."""
    return f'<div class="columns">{"".join(parts)}</div>'


def details(summary: str, parts: Sequence[str]) -> str:
    """Parts that are shown when asked for; on paper they are left out."""
    return f"<details><summary>{html.escape(summary)}</summary>{''.join(parts)}</details>"


def picture(
    pixels: UInt8[np.ndarray, "height width 3"], caption: str, *, lossless: bool = True
) -> str:
    """An RGB picture, as PNG, or as JPEG in a tenth of the space."""
    kind, options = ("png", []) if lossless else ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, 88])
    done, data = cv2.imencode(f".{kind}", pixels[..., ::-1], options)
    assert done
    source = _data(f"image/{kind}", data)
    return _figure(f'<img alt="{html.escape(caption)}" src="{source}">', caption)


def video(path: Path, caption: str) -> str:
    """An MP4 file, playing in a loop without sound."""
    source = _data("video/mp4", path.read_bytes())
    label = html.escape(caption)
    return _figure(
        f'<video controls loop muted autoplay playsinline aria-label="{label}" src="{source}">'
        "</video>",
        caption,
    )


def line_chart(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    across: str,
    up: str,
    caption: str,
) -> str:
    """Named lines of x and y values."""
    axes = start_chart(7.0, 3.0, across, up)
    for number, (name, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, label=name, color=SERIES[number % len(SERIES)])
    if len(lines) > 1:
        axes.legend(labelcolor=INK, framealpha=0)
    return chart(axes, caption)


def start_chart(width_in: float, height_in: float, across: str, up: str) -> Any:
    """Axes of matplotlib to draw into, in `INK` and `SERIES`, for `chart`."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.set_xlabel(across, color=INK)
    axes.set_ylabel(up, color=INK)
    axes.tick_params(colors=INK, which="both")
    axes.grid(color=INK, alpha=0.2)
    for edge in axes.spines.values():
        edge.set_color(INK)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def chart(axes: Any, caption: str) -> str:
    """A chart begun with `start_chart`, with colours and letters of the page."""
    from matplotlib import rc_context

    text = io.StringIO()
    # The salt makes ids the same in every run, and others in every chart of a page.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": caption}):
        axes.figure.savefig(text, format="svg", metadata={"Date": None})
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    drawing = re.sub("|".join(_STYLED), lambda found: _STYLED[found.group()], drawing)
    label = f'<svg role="img" aria-label="{html.escape(caption)}"'
    return _figure(drawing.replace("<svg", label, 1), caption)


def _figure(inner: str, caption: str) -> str:
    return f"<figure>{inner}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _data(kind: str, data: Any) -> str:
    return f"data:{kind};base64,{base64.b64encode(bytes(data)).decode()}"
