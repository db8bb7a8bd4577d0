"""The run folder: what a training leaves behind, and a model made from it again.

config.yaml, model.safetensors (best on validation data), last.safetensors, run.json (classes,
threshold, versions, git revision, seed), split.json, recordings.json (what was trained on, by its
pictures, see `training.unseen`), metrics.jsonl, checkpoint.safetensors (to resume), batch.png,
validation.png and TensorBoard's event files; with a teacher also teacher.json (its fingerprint) and
attention/ (maps of both, side by side).
"""

import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sonodetr.config import Config
from sonodetr.config_file import config_from_run, dump_config
from sonodetr.files import InputError, read_json, whole_file, write_json, write_text
from sonodetr.model.detr import DETR
from sonodetr.model.weights import read_safetensors
from sonodetr.types import PARTS

CONFIG = "config.yaml"
DIVISION = "split.json"
RECORDINGS = "recordings.json"
TEACHER = "teacher.json"
WEIGHTS = "model.safetensors"


class RunInfo(BaseModel):
    """What `run.json` says of a trained model.

    Attributes:
        classes: names of the classes, in the order of the class head.
        threshold: operating score, the best F1 on validation data.
        step: optimisation step of the weights.
        validation: figures on validation data at that step.
        provenance: versions, git revision, seed (see `provenance`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...] = Field(min_length=1)
    threshold: FiniteFloat
    step: int
    validation: dict[str, Any]
    provenance: dict[str, Any]

    @field_validator("validation", "provenance")
    @classmethod
    def _json_can_say_it(cls, value: dict[str, Any]) -> dict[str, Any]:
        json.dumps(value, allow_nan=False)
        return value


def provenance(seed: int) -> dict[str, Any]:
    """Versions, git revision and seed: what a reader needs to make a result again."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("sonodetr", "torch", "numpy", "opencv-python-headless"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "unknown"
    return {"seed": seed, "git_revision": _git_revision(), "versions": versions}


def _git_revision() -> str | None:
    """Commit of the source tree this package runs from; None for an installed package."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    if shutil.which("git") is None:
        return None
    git = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return git.stdout.strip() if git.returncode == 0 else None


def check_run(folder: Path, config: Config, *, resume: bool) -> None:
    """Check, before anything is read or written, that a run may be started or continued here.

    Raises:
        InputError: the folder holds a run already and `resume` was not asked for; or it holds a run
            of another config, or other files.
    """
    if (folder / CONFIG).is_file():
        if not resume:
            raise InputError(
                f"{folder}: a run is here already; "
                "continue it with --resume, or choose another name=..."
            )
        if config_from_run(folder) != config:
            raise InputError(
                f"{folder}: was started with another config (see its {CONFIG}); "
                "give the same one to --resume, or choose another name=..."
            )
    elif folder.exists() and not (folder.is_dir() and set(folder.iterdir()) == _unfinished(folder)):
        raise InputError(f"{folder}: holds other files, not a run; choose another name=...")


def start_run(
    folder: Path,
    config: Config,
    division: dict[str, dict[str, list[int]]],
    recordings: dict[str, str],
    teacher: dict[str, str] | None = None,
) -> None:
    """Make the folder with config, division, identities of the recordings, and the teacher's name
    and fingerprint, or clean up what a killed process left behind.

    Raises:
        InputError: the folder cannot be written, or the run has begun with another division.
    """
    for path in _unfinished(folder):
        path.unlink(missing_ok=True)
    if (folder / DIVISION).is_file() and read_json(folder / DIVISION) != division:
        raise InputError(
            f"{folder / DIVISION}: the data is now divided differently, so it has changed since "
            "the run began; restore the data, or start anew under another name=..."
        )
    if not (folder / CONFIG).is_file():
        write_text(folder / CONFIG, dump_config(config))
    write_json(folder / DIVISION, division)
    write_json(folder / RECORDINGS, recordings)
    if teacher is not None:
        write_json(folder / TEACHER, teacher)


def check_teacher(folder: Path, teacher: dict[str, str]) -> None:
    """Check that a run that has begun still has the same teacher.

    Raises:
        InputError: the run has begun with other weights of the teacher.
    """
    path = folder / TEACHER
    if path.is_file() and read_json(path) != teacher:
        raise InputError(
            f"{path}: {teacher['teacher']} has changed since the run began; restore it, or start "
            "anew under another name=..."
        )


def _unfinished(folder: Path) -> set[Path]:
    """Files that a killed process was writing (see `files.whole_file`)."""
    return set(folder.glob(".*.part*"))


def save_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as part:
        try:
            save_file(plain, part)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(str(error)) from error


def save_info(folder: Path, info: RunInfo) -> None:
    """Write `run.json`."""
    write_json(folder / "run.json", info.model_dump(mode="json"))


def read_info(folder: str | os.PathLike[str]) -> RunInfo:
    """Read `run.json`.

    Raises:
        InputError: it is missing or does not say what it must.
    """
    path = Path(folder) / "run.json"
    try:
        return RunInfo.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {place}: {first['msg']}; was it edited by hand?") from None


def read_division(folder: Path) -> dict[str, dict[str, list[int]]] | None:
    """The division of the data that a run stores: part -> key of a recording -> its frames.

    Returns:
        None where it stores none.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / DIVISION
    if not path.is_file():
        return None
    division: dict[str, dict[str, list[int]]] = read_json(path)
    whole = isinstance(division, dict) and set(division) == set(PARTS)
    parts = division.values() if whole else ()
    whole = whole and all(isinstance(part, dict) for part in parts)
    if not whole or not all(isinstance(each, list) for part in parts for each in part.values()):
        names = ", ".join(PARTS)
        raise InputError(f"{path}: does not hold {names} as training wrote it; restore it")
    return division


def untrained_model(config: Config, num_classes: int) -> DETR:
    """The model of a run whose weights are about to be loaded: fetches none to start from."""
    backbone = config.model.backbone.model_copy(update={"pretrained": False})
    shape = config.model.model_copy(update={"backbone": backbone, "weights": ""})
    return DETR(shape, num_classes, config.data.channels)


def load_run(folder: str | os.PathLike[str]) -> tuple[DETR, Config, RunInfo]:
    """The trained model of a run folder, in evaluation mode, with its config and facts.

    Raises:
        InputError: the folder is no run, has no weights yet, or weights that do not fit.
    """
    folder = Path(folder)
    config = config_from_run(folder)
    if not (folder / WEIGHTS).is_file():
        raise InputError(
            f"{folder}: the run has no {WEIGHTS} yet; it is written after the first validation"
        )
    info = read_info(folder)
    model = untrained_model(config, len(info.classes))
    try:
        model.load_state_dict(read_safetensors(folder / WEIGHTS))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(
            f"{folder / WEIGHTS}: does not fit the run's config.yaml ({reason})"
        ) from None
    return model.eval(), config, info
