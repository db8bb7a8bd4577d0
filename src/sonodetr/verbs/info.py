"""`sonodetr info`."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from sonodetr.verbs.answers import Json, answer


def info(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="run folder, exported folder, or bundled model")
    ] = "",
    json_out: Json = "",
) -> None:
    """Show versions, formats, presets and bundled models, or a model.

    \b
    Examples:
      sonodetr info
      sonodetr info runs/nerves
    """
    from sonodetr.about import installation, model_facts

    result = model_facts(model) if model else installation()
    answer(result, json_out, "\n".join(_lines(result)))


def _lines(values: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Plain values as indented text."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        else:
            words = map(str, value) if isinstance(value, list | tuple) else [str(value)]
            yield f"{indent}{name}: {', '.join(words) or 'none'}"
