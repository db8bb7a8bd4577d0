"""What all verbs share: their last word, how they stop, and common options."""

import json
from typing import Annotated, Any

import typer

from sonodetr.files import write_json

Model = Annotated[str, typer.Argument(metavar="MODEL", help="run folder, or exported folder")]
Json = Annotated[
    str,
    typer.Option("--json", metavar="FILE", help="write the result as JSON; - is standard output"),
]


class Stopped(Exception):
    """Ctrl-C, with a line that says how to go on."""


def answer(result: dict[str, Any], json_out: str, text: str) -> None:
    """The last word of a verb: a line of JSON, or text (and JSON in a file)."""
    if json_out == "-":
        print(json.dumps(result, allow_nan=False))
        return
    if json_out:
        write_json(json_out, result)
    print(text)
