"""What all verbs share: their last word, how they stop, and common options."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonodetr.files import InputError, write_json

if TYPE_CHECKING:
    from sonodetr.predictor import RegionChoice

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="run folder, exported folder, or name of a bundled model"),
]
Json = Annotated[
    str,
    typer.Option(
        "--json",
        metavar="FILE",
        help="write the result as JSON; - is standard output",
        callback=lambda path: _file_to_be(path),
    ),
]
Threshold = Annotated[
    float | None, typer.Option(help="least score, 0 to 1  [default: the model's own]")
]
RegionText = Annotated[
    str,
    typer.Option(
        "--region",
        metavar="auto|full|x0,y0,x1,y1",
        help="what the model sees: the ultrasound picture, everything, or a rectangle in "
        "pixels  [default: as in training]",
    ),
]
ShowOutside = Annotated[
    bool, typer.Option("--show-outside", help="do not black out what lies around the region")
]


MOST_THREADS = 256


class Stopped(Exception):
    """Ctrl-C, with a line that says how to go on."""


def answer(result: dict[str, Any], json_out: str, text: str) -> None:
    """The last word of a verb: a line of JSON, or text (and JSON in a file)."""
    if json_out == "-":
        print(json.dumps(result, allow_nan=False))
        return
    target = Path(json_out)
    if json_out and target.exists() and not target.is_file():  # a pipe or a device
        with target.open("w", encoding="utf-8") as file:
            print(json.dumps(result, allow_nan=False), file=file)
    elif json_out:
        write_json(target, result)
    print(text)


def check_json(json_out: str, *written: str | Path) -> None:
    """Whether `--json` leaves alone what the verb writes: files, and folders that are its own.

    Raises:
        InputError: it is one of them, or in one of them.
    """
    if json_out in ("", "-"):
        return
    target = Path(os.path.realpath(json_out))
    for place in (Path(os.path.realpath(each)) for each in written):
        if place == target:
            raise InputError(f"--json {json_out}: is what is written anyway; give another name")
        if place in target.parents:
            raise InputError(
                f"--json {json_out}: {place} is written there; give another name, outside of it"
            )


def _file_to_be(path: str) -> str:
    if path and Path(path).is_dir():
        raise InputError(f"--json {path}: is a folder; give the name of a file, or -")
    return path


def check_threshold(threshold: float | None) -> None:
    """Whether a score can be it.

    Raises:
        InputError: it cannot.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold} is not allowed; give a score from 0 to 1")


def region_choice(text: str) -> "RegionChoice | None":
    """What `--region` says; None where it is left out.

    Raises:
        InputError: it says nothing that can be understood.

    >>> region_choice("120,80,900,700")
    Region(x0=120, y0=80, x1=900, y1=700)
    """
    if text in ("", "auto", "full"):
        return text or None  # type: ignore[return-value]
    from sonodetr.types import Region

    try:
        x0, y0, x1, y1 = map(int, text.split(","))
    except ValueError:
        raise InputError(
            f"--region {text!r} is not allowed; give auto, full or x0,y0,x1,y1 in whole pixels"
        ) from None
    return Region(x0, y0, x1, y1)
