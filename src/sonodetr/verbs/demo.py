"""`sonodetr demo`."""

from pathlib import Path
from typing import Annotated

import typer

from sonodetr.verbs.answers import Json, Stopped, answer


def demo(
    out: Annotated[Path, typer.Option(help="folder for everything it makes")] = Path("runs/demo"),
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="do not open the page at the end")
    ] = False,
    json_out: Json = "",
) -> None:
    """Show everything once, on simulated data, within ten minutes on two cores.

    Simulates needle insertions, trains a small detector, measures it on recordings it never saw,
    and writes and opens OUT/report.html. Started again, it goes on where it was stopped.

    \b
    Examples:
      sonodetr demo
      sonodetr demo --out somewhere --no-browser
    """
    from sonodetr.demo import run_demo

    try:
        page, figures = run_demo(out, show=not no_browser)
    except KeyboardInterrupt:
        raise Stopped("start it again to go on") from None
    answer({"page": str(page), "figures": figures}, json_out, f"{page}: open it in a browser")
