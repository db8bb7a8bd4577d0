"""YAML in and out: what a run is told, from files, words on the command line, the environment.

A file names only what differs from the defaults, or from the preset that it names;
`section.key=value` words come on top. `${NAME}` and `${NAME:-default}` in a value are replaced from
the environment. Imports no torch.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from sonodetr.bundled import model_folder, preset_file, preset_names
from sonodetr.config import Config
from sonodetr.files import InputError, closest, existing_file

_Values = TypeVar("_Values", bound=BaseModel)
# What PyYAML raises at text that is no YAML, or whose values do not exist (2024-13-01, 0x_).
NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


class _TwiceError(yaml.YAMLError):
    """A key stands twice in one block."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-4 as text; everybody means the number. And it lets keys stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):  # a list or a mapping, as {{ name }} is
                continue
            if key.value in keys:
                line = key.start_mark.line + 1
                raise _TwiceError(f"{key.value!r} stands twice in one block, again at line {line}")
            keys.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, or a preset by its name, and apply `section.key=value` overrides.

    A file may begin with `preset: NAME`: its own keys come on top of those of the preset, and
    overrides on top of both. A file of a preset's name is read instead of it.

    Raises:
        InputError: there is no such file or preset, it cannot be parsed, or a key or value is not
            allowed; the message names the key, what was given and what is allowed.

    >>> load_config("tiny", ["train.epochs=3"]).train.epochs
    3
    """
    source, presets = Path(path), preset_names()
    if str(path) in presets and not source.is_file():
        source = preset_file(str(path))
    elif not source.exists():
        raise InputError(f"{path}: no such file, and no preset; {closest(str(path), presets)}")
    values = _with_preset(source)
    for word in overrides:
        # Would silently put back all that the file says of the section.
        if isinstance(_value(word), dict):
            key = word.partition("=")[0]
            raise InputError(
                f"{word!r}: set the keys of a section one by one, as in {key}.KEY=VALUE"
            )
    return parse_config(_with_overrides(values, overrides), str(path))


def with_weights_folder(config: Config) -> Config:
    """The config with a folder where `model.weights` names a bundled model.

    Raises:
        InputError: it is neither a file, a folder, nor the name of a bundled model.

    >>> Path(with_weights_folder(load_config("nano", ["model.weights=tiny"])).model.weights).name
    'tiny'
    """
    weights = config.model.weights
    if not weights or Path(weights).is_file():
        return config
    model = config.model.model_copy(update={"weights": str(model_folder(weights))})
    return config.model_copy(update={"model": model})


def read_yaml(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The blocks of a YAML file, with `section.key=value` overrides and what the environment says.

    Raises:
        InputError: the file is missing, cannot be parsed, or holds something else; or an override
            or a variable is not as it must be.
    """
    return _with_overrides(_blocks(path), overrides)


def _blocks(path: str | os.PathLike[str]) -> dict[str, Any]:
    source = existing_file(path)
    try:
        values = yaml.load(source.read_text(encoding="utf-8"), _Loader) or {}
    except _TwiceError as error:
        raise InputError(f"{source}: {error}; keep one") from None
    except NOT_YAML as error:
        place = getattr(error, "problem_mark", None)
        where = f" at line {place.line + 1}" if place else ""
        raise InputError(
            f"{source}: not valid YAML{where}; compare with the files in configs/"
        ) from error
    if not isinstance(values, dict):
        raise InputError(f"{source}: must hold 'section:' blocks, but is a {type(values).__name__}")
    return values


def _with_preset(path: Path) -> dict[str, Any]:
    """The blocks of a file on top of those of the preset that it names, if it names one."""
    values = _blocks(path)
    if "preset" not in values:
        return values
    try:
        preset = preset_file(str(values.pop("preset")))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return _merged(_with_preset(preset), values)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two trees as one: where both have a section its keys are merged, else the second one wins."""
    both = {
        key: _merged(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return below | above | both


def _with_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for word in overrides:
        _override(values, word)
    try:
        return _expand(values)
    except RecursionError:
        raise InputError("the config holds itself; leave out YAML's & and *") from None


def parse_config(values: dict[str, Any], where: str = "config") -> Config:
    """Check plain values against the fields of `Config`.

    Raises:
        InputError: a key or a value is not allowed.
    """
    return parse_values(Config, values, where)


def parse_values(kind: type[_Values], values: dict[str, Any], where: str) -> _Values:
    """Check plain values against the fields of `kind`.

    Raises:
        InputError: a key or a value is not allowed.
    """
    try:
        # Through JSON, so that lists may stand for tuples while "3" may not stand for 3.
        return kind.model_validate_json(json.dumps(values))
    except (ValidationError, TypeError) as error:
        raise InputError(f"{where}: {_explain(error, kind)}") from None


def dump_config(config: Config) -> str:
    """The config as YAML with every field written out; `load_config` reads it back unchanged."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100)


def _override(values: dict[str, Any], word: str) -> None:
    value = _value(word)
    *sections, last = word.partition("=")[0].split(".")
    place = values
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise InputError(f"{word!r}: {section!r} is a value, not a section")
    place[last] = value


def _value(word: str) -> Any:
    """What an override sets."""
    _, equals, text = word.partition("=")
    if not equals:
        raise InputError(
            f"{word!r} is not an override; write section.key=value, as in train.epochs=10"
        )
    try:
        return yaml.load(text, _Loader) if text else ""  # YAML calls nothing null
    except NOT_YAML:
        raise InputError(f"{word!r}: the value cannot be read; quote it") from None


_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::-([^}]*))?\}")


def _expand(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item) for item in value]
    return _VARIABLE.sub(_environment, value) if isinstance(value, str) else value


def _environment(match: re.Match[str]) -> str:
    name, default = match.groups()
    value = os.environ.get(name) or default
    if value is None:
        raise InputError(
            f"the config needs the environment variable {name}; set it: export {name}=FOLDER"
        )
    return value


def _explain(error: ValidationError | TypeError, kind: type[BaseModel]) -> str:
    if not isinstance(error, ValidationError):
        return f"a value is not plain YAML ({error})"
    first = error.errors()[0]
    # Where one of several kinds may stand, pydantic adds its own names of them.
    path = [str(part) for part in first["loc"] if "[" not in str(part)]
    key = ".".join(path)
    if first["type"] == "missing":
        return f"{key!r} is missing; add it"
    if first["type"] == "extra_forbidden":
        section: Any = kind
        for part in path[:-1]:  # of a table, whatever its keys, all values are of one kind
            fields = getattr(section, "model_fields", None)
            section = get_args(section)[-1] if fields is None else fields[part].annotation
        return f"unknown key {key!r}; {closest(path[-1], section.model_fields)}"
    if first["type"] == "value_error":  # of a section's own validator, which says it all
        return f"{key + ': ' if key else ''}{first['ctx']['error']}"
    given = first["input"]
    return f"{key + ': ' if key else ''}{given!r} is not allowed; {first['msg']}"


def config_from_run(folder: str | os.PathLike[str]) -> Config:
    """The config of a finished or interrupted run folder.

    Raises:
        InputError: the folder holds no `config.yaml`.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: is not a run folder, it has no config.yaml")
    return load_config(path)
