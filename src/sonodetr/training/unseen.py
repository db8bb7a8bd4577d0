"""What validates and tests a model must be new to it, and to all that it learns from.

That is its teacher, video without labels, and the weights it starts from. Recordings are told by
their pictures, as names and folders differ from machine to machine.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from sonodetr.config import Config
from sonodetr.config_file import config_from_run
from sonodetr.data.splits import Split
from sonodetr.files import InputError, read_json
from sonodetr.simulator.frames import SimulatedFrames
from sonodetr.training.run import CONFIG, RECORDINGS, read_division
from sonodetr.types import Video


def identity(video: Video) -> str:
    """SHA-256 of a recording's length and middle frame; of its settings if it is simulated as read.

    Returns:
        32 characters; none where that frame is of one grey, as many recordings may have.
    """
    if isinstance(video.frames, SimulatedFrames):
        shown = f"{video.frames.config.model_dump_json()} {video.frames.index}".encode()
    else:
        pixels = video.frames[len(video) // 2]
        if pixels.min() == pixels.max():
            return ""
        shown = f"{len(video)} {pixels.shape}".encode() + pixels.tobytes()
    return hashlib.sha256(shown).hexdigest()[:32]


def identities(videos: list[Video], samples: Iterable[tuple[int, int]]) -> dict[str, str]:
    """Key -> identity of the recordings that these frames are of, for `recordings.json`."""
    return {videos[number].key: identity(videos[number]) for number in _numbers(samples)}


def check_unseen(what: str, path: str, config: Config, videos: list[Video], parts: Split) -> None:
    """Check that a model has not learnt from frames that validate or test a run.

    Of a model that is no run of ours nobody knows what it has seen. Of a run that stores no
    identities, recordings of the same data folder are told by their keys.

    Args:
        what: the model is to the run, for the message.
        path: its folder, or the file of its weights there.
        config: of the run.

    Raises:
        InputError: it has, or its files are damaged.
    """
    folder = Path(path)
    folder = folder if folder.is_dir() else folder.parent
    division = read_division(folder) if (folder / CONFIG).is_file() else None
    if division is None:
        return
    held = sorted({*parts.validation, *parts.test})
    if (folder / RECORDINGS).is_file():
        stored = read_json(folder / RECORDINGS)
        if not isinstance(stored, dict) or {type(each) for each in stored.values()} - {str}:
            raise InputError(
                f"{folder / RECORDINGS}: names no recordings as a training writes them; restore it"
            )
        theirs = {each: key for key, each in stored.items() if each}
        names = {number: theirs.get(identity(videos[number])) for number in _numbers(held)}
    elif Path(config_from_run(folder).data.path).resolve() == Path(config.data.path).resolve():
        names = {number: videos[number].key for number in _numbers(held)}
    else:
        return  # equal names in other data are other recordings
    seen = [
        f"{videos[number].key}:{frame}"
        for number, frame in held
        if frame in division["train"].get(names[number] or "", ())
    ]
    if seen:
        raise InputError(
            f"{what} {folder}: was trained on {len(seen)} of the {len(held)} frames that validate "
            f"and test this run, {seen[0]} for one; give this run the seed and data.split of that "
            "one"
        )


def check_apart(more: list[Video], videos: list[Video], parts: Split, path: str) -> None:
    """Check that recordings without labels are none that validate or test a run.

    Raises:
        InputError: one is, or is of the same patient.
    """
    held = [videos[number] for number in _numbers((*parts.validation, *parts.test))]
    patients = {video.patient for video in held} - {None}
    known = {identity(video) for video in held} - {""}
    for video in more:
        same = identity(video) in known
        if same or video.patient in patients:
            whose = "is a recording" if same else "is of a patient"
            raise InputError(
                f"data.unlabelled {path}: {video.key} {whose} of the validation or test part, "
                "which no part of the training may see; name a folder without these"
            )


def _numbers(samples: Iterable[tuple[int, int]]) -> list[int]:
    return sorted({number for number, _ in samples})
