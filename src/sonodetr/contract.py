"""`contract.json`: what an exported model is, how it must be fed and what it answers.

It lies beside the artefact, so that an exported folder is whole without the run it came from.
docs/contract.md explains every field. Imports the standard library alone, so that a live process
starts fast.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from reprlib import repr
from typing import Any, get_args, get_origin, get_type_hints

from sonodetr.files import InputError, closest, existing_file, read_json, write_json

CONTRACT = "contract.json"
FORMAT = 2
_OWN = "contract_sha256"  # of all other fields, so that a changed contract is told from a whole one
# Runtime -> endings of the files that make up one graph; the first one is the one to open.
RUNTIMES = {"onnx": (".onnx",), "openvino": (".xml", ".bin")}
# Runtime -> package that runs it.
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
PRECISIONS = ("float32", "int8")


@dataclass(frozen=True)
class Interface:
    """What goes into a model and what comes out, however it is run.

    Attributes:
        image_size: height and width in pixels that the model sees.
        channels: 1 (grey) or 3 (red, green, blue).
        clip_frames: frames a clip, the last one is answered for.
        clip_step: distance between the frames of a clip.
        region: what of a recording the model is to see, as in training: "auto" or "full".
        classes: names of what it finds, in the order of its class numbers.
        threshold: score from which on a detection is reported.
        points: whether it also gives tip and entry.
    """

    image_size: tuple[int, int]
    channels: int
    clip_frames: int
    clip_step: int
    region: str
    classes: tuple[str, ...]
    threshold: float
    points: bool


@dataclass(frozen=True)
class Contract(Interface):
    """What `contract.json` says; all of `Interface`, and what the artefact is.

    Attributes:
        name: of the run that was exported.
        runtime: "onnx" or "openvino".
        precision: "float32" or "int8".
        graphs: what a graph does -> its file: "detect", or "frame" and "clip" (see `engines`).
        spacing: in words, how pixel spacing is handled.
        input: in words, what the graphs take.
        weights_sha256: of the run's model.safetensors.
        files_sha256: every file of the artefact but `contract.json`.
        versions: of the packages that wrote it.
        parity: how far it is from torch, and AP before and after for int8.
        provenance: of the run.
    """

    name: str
    runtime: str
    precision: str
    graphs: dict[str, str]
    spacing: str
    input: str
    weights_sha256: str
    files_sha256: dict[str, str]
    versions: dict[str, str]
    parity: dict[str, Any]
    provenance: dict[str, Any]


def read_contract(folder: str | os.PathLike[str]) -> Contract:
    """Read the contract of an exported folder; `check_files` tells whether the files keep it.

    Raises:
        InputError: it is missing, not JSON, of another format, says something impossible, or is not
            as it was written.
    """
    path = Path(folder) / CONTRACT
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no fields; export the model again")
    number = values.pop("format", None)
    if number != FORMAT or isinstance(number, bool):
        raise InputError(
            f"{path}: is of format {number!r}, this version of sonodetr reads format {FORMAT}; "
            "install the version that wrote it, or export the model again"
        )
    hints = get_type_hints(Contract)
    digest = values.pop(_OWN, None)
    now = _digest(values)
    if problem := _wrong_names(values, list(hints)):
        raise InputError(f"{path}: {problem}; export the model again")
    for name, hint in hints.items():
        if not _fits(values[name], hint):
            expected = hint.__name__ if isinstance(hint, type) else str(hint)
            raise InputError(
                f"{path}: {name} is {repr(values[name])}, but must be {expected}; "
                "export the model again"
            )
        if isinstance(values[name], list):
            values[name] = tuple(values[name])
        if hint is float:
            values[name] = float(values[name])  # JSON knows no difference between 1 and 1.0
    contract = Contract(**values)
    if problem := _impossible(contract):
        raise InputError(f"{path}: {problem}; export the model again")
    if digest != now:
        raise InputError(
            f"{path}: was changed since it was written (its {_OWN} differs); copy the exported "
            "folder again, or export the model again; thresholds can be given with --threshold"
        )
    return contract


def write_contract(folder: str | os.PathLike[str], contract: Contract) -> None:
    """Write `contract.json`, whole or not at all.

    Raises:
        InputError: the folder cannot be written.
    """
    values = asdict(contract)
    write_json(Path(folder) / CONTRACT, {"format": FORMAT} | values | {_OWN: _digest(values)})


def check_files(folder: str | os.PathLike[str], contract: Contract) -> None:
    """Check that the files are those that the contract was written for, to the byte.

    Raises:
        InputError: one is missing, or differs.
    """
    for name, digest in contract.files_sha256.items():
        path = existing_file(Path(folder) / name)
        if sha256(path) != digest:
            raise InputError(
                f"{path}: is not the file that {CONTRACT} was written for (its SHA-256 differs); "
                "copy the exported folder again, or export the model again"
            )


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(values: dict[str, Any]) -> str:
    """SHA-256 of the fields, however they are laid out."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def graph_files(runtime: str, name: str) -> tuple[str, ...]:
    """All files of the graph whose file to open is `name`.

    >>> graph_files("openvino", "frame.xml")
    ('frame.xml', 'frame.bin')
    """
    return tuple(str(Path(name).with_suffix(suffix)) for suffix in RUNTIMES[runtime])


def _wrong_names(values: dict[str, Any], names: list[str]) -> str:
    if unknown := sorted(values.keys() - set(names)):
        return f"unknown field {unknown[0]!r}; {closest(unknown[0], names)}"
    missing = [name for name in names if name not in values]
    return f"has no field {', '.join(missing)}" if missing else ""


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of a field's type."""
    parts = get_args(hint)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(each, parts[1]) for each in value.values())
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            return False
        wanted = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(wanted) and all(map(_fits, value, wanted))
    if hint is Any:
        return True
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, int | float if hint is float else hint)


def _impossible(contract: Contract) -> str:
    """What in a contract cannot be, in words; nothing where all can."""
    for name, allowed in (
        ("runtime", tuple(RUNTIMES)),
        ("precision", PRECISIONS),
        ("region", ("auto", "full")),
        ("channels", (1, 3)),
    ):
        if (value := getattr(contract, name)) not in allowed:
            return f"{name} is {value!r}; allowed: {', '.join(map(str, allowed))}"
    if min(*contract.image_size, contract.clip_frames, contract.clip_step) < 1:
        return "image_size, clip_frames and clip_step must be at least 1"
    if not 0 <= contract.threshold <= 1:
        return f"threshold is {contract.threshold}, but must be from 0 to 1"
    if not contract.classes:
        return "names no classes"
    if set(contract.graphs) not in ({"detect"}, {"frame", "clip"}):
        return f"graphs are {', '.join(contract.graphs)}; allowed: detect, or frame and clip"
    if set(contract.graphs) == {"frame", "clip"} and contract.clip_frames == 1:
        return "graphs are frame and clip, but a clip has one frame"
    for name in (*contract.graphs.values(), *contract.files_sha256):
        if not re.fullmatch(r"\w[\w.-]*", name):
            return f"{name!r} is not the name of a file of the folder"
    ending = RUNTIMES[contract.runtime][0]
    for name in contract.graphs.values():
        if not name.endswith(ending):
            return f"graphs names {name!r}, but a file of {contract.runtime} ends in {ending}"
        if missing := set(graph_files(contract.runtime, name)) - set(contract.files_sha256):
            return f"files_sha256 does not hold {missing.pop()}"
    return ""
