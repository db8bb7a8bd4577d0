"""`sonodetr info`."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from sonodetr.verbs.answers import Json, answer


def info(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="run folder, or exported folder")
    ] = "",
    json_out: Json = "",
) -> None:
    """Show versions and formats, or a model.

    \b
    Examples:
      sonodetr info
      sonodetr info runs/nerves
    """
    from sonodetr.about import installation, model_folder

    result = model_folder(model) if model else installation()
    answer(result, json_out, "\n".join(_lines(result)))


def _lines(values: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Plain values as indented text."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
            yield f"{indent}{name}: {text}"
