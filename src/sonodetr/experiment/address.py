"""The address of a run: SHA-256 of all that decides its result. Same address, same bits.

That is the config, the data, the teacher, the weights it starts from, and the source of the modules
that compute it. Names, folders and what only costs time do not count. Bits also depend on the
machine, on torch's version and on the number of threads, which `run.json` and the one who starts
the experiment know; they are left out, so that a result does not end with its machine.
"""

import ast
import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import sonodetr
from sonodetr.config import Config, DataConfig
from sonodetr.files import InputError
from sonodetr.formats import read
from sonodetr.formats.picture_files import content_of, picture_files
from sonodetr.simulator.frames import SimulatedFrames
from sonodetr.types import Video

PACKAGE = Path(sonodetr.__file__).parent
# Modules that compute what a training leaves; a test compares them with what `train` imports. Not
# among them: what only carries values, checks them, tells or draws; and the readers of files, since
# what they read is part of the address itself.
CODE = (
    *("data/*", "dense_loss.py", "evaluation/matches.py", "evaluation/metrics.py", "geometry.py"),
    *("model/*", "set_loss.py", "training/*", "types.py"),
)
ONLY_TOLD = ("training/log.py", "training/pictures.py", "training/attention_pictures.py")
OF_TEACHERS = ("distill/*", "training/distillation.py", "training/teacher*.py")
OF_SIMULATOR = ("simulator/*",)
# What a finished run is evaluated with.
OF_EVALUATION = (
    "data/*",
    "engines/*",
    "evaluation/*",
    "geometry.py",
    "model/*",
    "predictor.py",
    "types.py",
)
# Of the config: names, what the address holds in another form, and what only costs time.
_NEUTRAL: dict[str, Any] = {
    "name": True,
    "data": {"path", "images", "unlabelled"},
    "model": {"weights": True},
    "train": {"workers", "checkpoint_seconds"},
    "distill": {"teacher", "cache"},
}
_PICTURES_DECODED = 16
SHORT = 12  # characters of an address in the name of a folder


def address(facts: Mapping[str, Any]) -> str:
    """SHA-256 of facts (see `facts_of`), 64 characters."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def facts_of(config: Config, teacher: str = "") -> dict[str, Any]:
    """All that decides the result of a run, as plain values.

    Args:
        config: of the run.
        teacher: its fingerprint; empty without one.

    Raises:
        InputError: the data or the weights to start from cannot be read.
    """
    values, data = config.model_dump(mode="json", exclude=_NEUTRAL), config.data
    facts: dict[str, Any] = {
        "config": values,
        "data": data_address(data.path, data.images, data.on_bad_label),
        "code": code_address(sources(), bool(teacher), simulates(data)),
    }
    if config.model.weights:
        facts["weights"] = content_of(_weights_files(Path(config.model.weights)))
    backbone = config.model.backbone.path
    if backbone and Path(backbone).is_dir():
        facts["backbone"] = content_of(sorted(Path(backbone).glob("*.*")))
    if teacher:
        facts["teacher"] = teacher
        values["distill"]["cache"] = bool(config.distill.cache)  # half precision, or the teacher's
        if data.unlabelled:
            facts["unlabelled"] = data_address(data.unlabelled, "", "skip")
    else:
        del values["distill"]  # without a teacher nothing of it is used
    return facts


def simulates(data: DataConfig) -> bool:
    """Whether pictures are simulated as they are needed."""
    return any(path.startswith("simulator:") for path in (data.path, data.unlabelled))


def code_address(code: Mapping[str, bytes], teacher: bool, simulated: bool) -> str:
    """SHA-256 of the sources that compute a run, with or without a teacher or a simulator."""
    return _sources_address(code, affecting(code, teacher, simulated))


@cache
def evaluation_address() -> str:
    """SHA-256 of the sources that evaluate a run, as they are installed here."""
    code = sources()
    return _sources_address(code, sorted(path for path in code if _among(path, OF_EVALUATION)))


def _sources_address(code: Mapping[str, bytes], paths: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        does = what_it_does(code[path])
        digest.update(f"{path} {len(does)}\n".encode() + does)
    return digest.hexdigest()


def _among(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(path, each) for each in patterns)


@cache
def what_it_does(source: bytes) -> bytes:
    """A source without comments and docstrings, whose words change no result.

    >>> what_it_does(b'def one():  # more or less\\n    "Says 1."\\n    return 1')
    b'def one():\\n    return 1'
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and (ast.get_docstring(node, clean=False) is not None):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree).encode()


def affecting(code: Iterable[str], teacher: bool, simulated: bool) -> list[str]:
    """The paths that matter among all, in order."""
    wanted = (*CODE, *(OF_TEACHERS if teacher else ()), *(OF_SIMULATOR if simulated else ()))
    other = (*ONLY_TOLD, *(() if teacher else OF_TEACHERS))
    return sorted(path for path in code if _among(path, wanted) and not _among(path, other))


@cache
def sources() -> Mapping[str, bytes]:
    """Path in the package -> source, of what is installed here, when it is first asked for."""
    return {
        path.relative_to(PACKAGE).as_posix(): path.read_bytes() for path in PACKAGE.rglob("*.py")
    }


@cache
def sources_at(revision: str) -> Mapping[str, bytes]:
    """The same at a git revision.

    Raises:
        InputError: the package does not lie in a git repository that has it.
    """
    # It may come from the run folder of somebody else, and must not be taken for an option.
    if not re.fullmatch(r"[A-Za-z0-9][\w./^~-]*", str(revision)):
        raise InputError(f"{revision!r} is no git revision; give a hash or the name of a tag")
    command = ["git", "archive", "--format=tar", revision, "."]
    try:
        answer = subprocess.run(command, cwd=PACKAGE, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise InputError(
            f"revision {revision}: is not in the git repository of {PACKAGE}; fetch it"
        ) from None
    with tarfile.open(fileobj=io.BytesIO(answer.stdout)) as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
    return {
        name.removeprefix("./"): file.read()
        for name, file in members.items()
        if file is not None and name.endswith(".py")
    }


@cache
def data_address(path: str, images: str, on_bad_label: Any) -> str:
    """SHA-256 of recordings: what is read of them, and all bytes of their pictures.

    Simulated ones that are in no file: of their settings and labels.

    Raises:
        InputError: they cannot be read.
    """
    digest = hashlib.sha256()
    videos = read(path, images=images, on_bad_label=on_bad_label)
    for video in videos:
        facts = [video.key, len(video), video.frames.size, video.classes, video.patient]
        digest.update(json.dumps([*facts, video.region_px]).encode())
        for frame, labels in sorted(video.labels.items()):
            digest.update(f"{frame} {len(labels)}\n".encode())
            for values in (labels.boxes_xyxy_px, labels.classes, labels.points_px, labels.crowd):
                digest.update(np.ascontiguousarray(values).tobytes())
        if isinstance(video.frames, SimulatedFrames):
            digest.update(video.frames.config.model_dump_json().encode())
    digest.update(content_of(picture_files(videos)).encode())
    for pixels in _decoded(videos):
        digest.update(f"{pixels.shape}".encode() + pixels.tobytes())
    return digest.hexdigest()


def _decoded(videos: list[Video]) -> Iterator[np.ndarray]:
    """Some pictures as the readers give them, spread evenly; their code is not in the address."""
    places = [(video, frame) for video in videos for frame in sorted(video.labels)]
    places = [place for place in places if not isinstance(place[0].frames, SimulatedFrames)]
    count = min(_PICTURES_DECODED, len(places))
    for place in np.linspace(0, len(places) - 1, count).round().astype(int):
        video, frame = places[place]
        yield video.frames[frame]


def _weights_files(path: Path) -> list[Path]:
    """As `model.weights.read_weights` finds them."""
    if not path.is_dir():
        return [path]
    own = path / "model.safetensors"  # of a run, which has a checkpoint beside it
    return [own] if own.is_file() else sorted(path.glob("*.safetensors"))
