"""Write docs/config.md from the fields of `sonodetr.config` and the presets: run it after changing
either."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sonodetr.bundled import preset_file, preset_names
from sonodetr.config import Config
from sonodetr.config_file import load_config
from sonodetr.files import write_text
from sonodetr.training.run import untrained_model

HEAD = """# Every key of a config

Made by `python scripts/write_config_docs.py` from `src/sonodetr/config.py` and the presets beside
it. A YAML file names only what differs from the defaults below, or from a preset;
`section.key=value` words on the command line come on top, and `${NAME:-default}` in a value is
replaced from the environment.

## Presets

A preset holds the keys that belong to a model: `model`, the size of its picture, how it is trained.
Only the data is missing:

```
sonodetr train nano data.path=my/labels.json
sonodetr distill tiny --teacher runs/teacher-2d data.path=my/labels.json
```

Where objects have a tip and an entry, say so: `model.points=true`. In a YAML file `preset: NAME`
stands at the top. The file's own keys come on top of those of the preset, key by key, and words of
the command line on top of both. The run's `config.yaml` holds every value.

```yaml
preset: tiny
name: nerves
data:
  path: my/labels.json
  image_size: [256, 256]
```

| preset | what for | parameters (M) | frames | picture (pixels) |
|---|---|---|---|---|
"""


def document() -> str:
    """The page as Markdown."""
    rows = "".join(row for _, row in sorted(map(_preset, preset_names())))
    return f"{HEAD}{rows}\nParameters are those of one class.\n" + "".join(_sections("", Config))


def _preset(name: str) -> tuple[int, str]:
    """The parameters of a preset, and its row."""
    config = load_config(name)
    what_for = preset_file(name).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    model = untrained_model(config, num_classes=1)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    height, width = config.data.image_size
    return parameters, (
        f"| `{name}` | {what_for} | {parameters / 1e6:.2f} | {config.data.clip_frames} "
        f"| {height} x {width} |\n"
    )


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
    kind = kind.removesuffix(" | None")
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
