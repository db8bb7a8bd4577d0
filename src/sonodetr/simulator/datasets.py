"""Named simulated data sets, and fingerprints that show whether two machines make the same one.

Changing a number here changes a data set that published figures refer to: add a new name instead.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from sonodetr.files import InputError, closest
from sonodetr.simulator.recording import draw_recording
from sonodetr.simulator.settings import SimulatorConfig

_GRID_PX = 1e-3  # labels that differ by less count as the same
_GRID_MM = 1e-6  # likewise the size of a pixel


def _parts(
    first_seed: int, counts: tuple[int, int, int, int], **common: Any
) -> dict[str, SimulatorConfig]:
    """Training, validation, test and shifted test, each with a seed of its own."""
    names = ("train", "validation", "test", "shifted")
    return {
        name: SimulatorConfig(
            clips=clips,
            seed=first_seed + number,
            domain="shifted" if name == "shifted" else "standard",
            frame_rate_hz=10.0,
            **common,
        )
        for number, (name, clips) in enumerate(zip(names, counts, strict=True))
    }


NEEDLE_SMALL = _parts(1, (300, 60, 120, 120), frames=8, image_size=(160, 160))
NEEDLE = _parts(11, (600, 100, 200, 200), frames=16, image_size=(256, 256))
DEMO = _parts(21, (320, 40, 60, 12), frames=3, image_size=(160, 160))
DATA_SETS: Mapping[str, Mapping[str, SimulatorConfig]] = {
    "needle-small": NEEDLE_SMALL,
    "needle": NEEDLE,
    "demo": DEMO,
}


def data_set(name: str) -> Mapping[str, SimulatorConfig]:
    """The parts of a named data set: train, validation, test and shifted.

    Raises:
        InputError: there is no such data set.

    >>> data_set("needle-small")["test"].clips
    120
    """
    if name not in DATA_SETS:
        raise InputError(
            f"{name!r} is no simulated data set; {closest(name, DATA_SETS)}; "
            "for one of your own, write it with sonodetr simulate --clips N and name its folder"
        )
    return DATA_SETS[name]


def configure(**values: Any) -> SimulatorConfig:
    """The settings of a data set of one's own.

    Raises:
        InputError: a value is not allowed.

    >>> configure(clips=5, seed=3).seed
    3
    """
    try:
        return SimulatorConfig(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{name}: {first['input']!r} is not allowed; {first['msg']}") from None


def label_hash(config: SimulatorConfig) -> str:
    """SHA-256 of all labels, rounded to 0.001 px: the same on every platform.

    Boxes, tips, entry points and kinds of all frames, and the size of a pixel in mm; a frame
    without an instrument counts too.
    """
    digest = hashlib.sha256()
    for index in range(config.clips):
        recording = draw_recording(config, index)
        digest.update(_whole(np.array(recording.spacing_mm), _GRID_MM))
        for label in recording.labels:
            digest.update(b"\0" if label is None else b"\1")
            if label is not None and recording.instrument is not None:
                digest.update(recording.instrument.kind.encode())
                points = (label.box_xyxy_px, label.tip_px, label.entry_px)
                digest.update(_whole(np.concatenate(points), _GRID_PX))
    return digest.hexdigest()


def _whole(values: np.ndarray, grid: float) -> bytes:
    """Values as whole multiples of `grid`; what is not known as the least number there is."""
    known = np.isfinite(values)
    steps = np.rint(np.where(known, values, 0) / grid)
    return np.where(known, steps, np.iinfo(np.int64).min).astype("<i8").tobytes()


def pixel_hash(config: SimulatorConfig, clips: int) -> str:
    """SHA-256 of all pixels of the first `clips` clips.

    The same on one machine with the same versions; another processor or torch may round a grey
    level differently.
    """
    digest = hashlib.sha256()
    for index in range(min(clips, config.clips)):
        digest.update(draw_recording(config, index).pictures().tobytes())
    return digest.hexdigest()
