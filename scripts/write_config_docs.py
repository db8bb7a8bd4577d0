"""Write docs/config.md from the fields of `sonodetr.config`: run it after changing a field."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sonodetr.config import Config
from sonodetr.files import write_text

HEAD = """# Every key of a config

Made by `python scripts/write_config_docs.py` from `src/sonodetr/config.py`. A YAML file names only
what differs from these defaults; `section.key=value` words on the command line come on top, and
`${NAME:-default}` in a value is replaced from the environment.
"""


def document() -> str:
    """The page as Markdown."""
    return HEAD + "".join(_sections("", Config))


def _sections(prefix: str, section: type[BaseModel]) -> Iterator[str]:
    own, nested = [], []
    for name, field in section.model_fields.items():
        if isinstance(field.default, BaseModel):
            nested.append((f"{prefix}{name}", type(field.default)))
        else:
            own.append(
                f"| `{prefix}{name}` | {field.description} | {_allowed(field)} "
                f"| `{field.default!r}` |\n"
            )
    if own:
        title = f"`{prefix.rstrip('.')}`" if prefix else "The run"
        note = (section.__doc__ or "").strip().splitlines()[0]
        yield f"\n## {title}\n\n{note}\n\n"
        yield "| key | meaning | allowed | default |\n|---|---|---|---|\n"
        yield "".join(own)
    for name, kind in nested:
        yield from _sections(f"{name}.", kind)


def _allowed(field: FieldInfo) -> str:
    """Type and limits in words."""
    if get_origin(field.annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(field.annotation))
    kind = str(getattr(field.annotation, "__name__", field.annotation))
    if get_origin(field.annotation) is tuple:
        kind = "list of numbers" if "tuple[tuple" not in str(field.annotation) else "list of pairs"
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "pattern": "like"}
    limits = [
        f"{sign} {getattr(item, name)}"
        for item in field.metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    words = {"str": "text", "bool": "true or false", "int": "whole number", "float": "number"}
    return " ".join([words.get(kind, kind), ", ".join(limits)]).strip()


if __name__ == "__main__":
    write_text(Path(__file__).parent.parent / "docs" / "config.md", document())
    sys.exit(0)
