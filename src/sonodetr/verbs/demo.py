"""`sonodetr demo`."""

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from sonodetr.verbs.answers import Json, Stopped, answer, check_json
from sonodetr.verbs.live import live


def demo(
    out: Annotated[Path, typer.Option(help="folder for everything it makes")] = Path("runs/demo"),
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="open nothing at the end, as without a screen")
    ] = False,
    json_out: Json = "",
) -> None:
    """Show everything once, on simulated data, in ten minutes on two cores.

    Simulates needle insertions; trains the bundled `tiny` on as a teacher, a student without it and
    one that also learns from what the teacher finds and attends to; compares them on recordings
    that none has seen; exports the student; writes OUT/report.html and OUT/live.mp4. With a screen
    it then opens the page, and shows the model that comes with the package at work in the live
    viewer. Started again, it goes on where it was.

    \b
    Examples:
      sonodetr demo
      sonodetr demo --out somewhere --no-browser
    """
    from sonodetr.demo import BUNDLED, NEW_RECORDING, run_demo

    check_json(json_out, out)
    try:
        page, compared = run_demo(out)
    except KeyboardInterrupt:
        raise Stopped("start it again to go on") from None
    answer({"page": str(page), "comparisons": compared}, json_out, f"{page}: open it in a browser")
    if not no_browser and _has_screen():
        webbrowser.open(page.resolve().as_uri())
        try:
            live(BUNDLED, NEW_RECORDING, open_page=True)
        except KeyboardInterrupt:
            return


def _has_screen() -> bool:
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True
