"""Self-contained HTML pages: text, tables, pictures, charts and videos in one file."""

import base64
import html
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from sonodetr.files import whole_file

# Mid-grey reads on white and on black pages alike.
_CHART_INK = "#7d8590"
_CHART_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


@dataclass(frozen=True)
class Section:
    """A headed part of a page; `parts` are HTML, as the functions below make it."""

    title: str
    parts: Sequence[str]


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


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table of text cells."""
    cells = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    lines = [
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    ]
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{title}<thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def picture(pixels: UInt8[np.ndarray, "height width 3"], caption: str) -> str:
    """An RGB picture, as lossless PNG."""
    done, data = cv2.imencode(".png", pixels[..., ::-1])
    assert done
    return _figure(f'<img alt="{html.escape(caption)}" src="{_data("image/png", data)}">', caption)


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
    """Named lines of x and y values; legible on a white and on a black page."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for number, (name, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, label=name, color=_CHART_COLOURS[number % len(_CHART_COLOURS)])
    axes.set_xlabel(across, color=_CHART_INK)
    axes.set_ylabel(up, color=_CHART_INK)
    axes.tick_params(colors=_CHART_INK)
    axes.grid(alpha=0.3)
    for edge in axes.spines.values():
        edge.set_color(_CHART_INK)
    if len(lines) > 1:
        axes.legend(labelcolor=_CHART_INK, framealpha=0)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    drawing = text.getvalue()
    return _figure(drawing[drawing.index("<svg") :], caption)


def _figure(inner: str, caption: str) -> str:
    return f"<figure>{inner}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _data(kind: str, data: Any) -> str:
    return f"data:{kind};base64,{base64.b64encode(bytes(data)).decode()}"
