"""What a simulated data set looks like: a sheet of its clips, still and moving."""

import math
import os
from pathlib import Path

import numpy as np

from sonodetr.draw import Picture, as_rgb, draw_labels, grid
from sonodetr.progress import progress_bar
from sonodetr.simulator.frames import clip_name, simulated_video
from sonodetr.simulator.settings import SimulatorConfig
from sonodetr.sinks import UNKNOWN_RATE_HZ, picture_video
from sonodetr.training.pictures import save_picture
from sonodetr.types import Video

COLUMNS, ROWS = 6, 4
_SHOWN_S = 5.0  # the clips are repeated to about this length


def write_preview(
    config: SimulatorConfig, out: str | os.PathLike[str], name: str = "preview"
) -> list[Path]:
    """Write `NAME.png` and `NAME.mp4`: up to 24 clips, each with its labelled copy on the right.

    Raises:
        InputError: a file cannot be written.
    """
    count = min(COLUMNS * ROWS, config.clips)
    videos, sheets = [], []
    with progress_bar("simulate", count, "clips") as advance:
        for index in range(count):
            video = simulated_video(config, index, clip_name(index))
            videos.append(video)
            sheets.append([_pair(video, frame) for frame in range(len(video))])
            advance()
    moving = [grid(pictures, COLUMNS) for pictures in zip(*sheets, strict=True)]
    still, animation = Path(out) / f"{name}.png", Path(out) / f"{name}.mp4"
    save_picture(still, moving[len(moving) // 2])
    rate_hz = config.frame_rate_hz or UNKNOWN_RATE_HZ
    with picture_video(animation, rate_hz) as write:
        for frame in range(len(moving) * max(1, math.ceil(_SHOWN_S * rate_hz / len(moving)))):
            write(moving[frame % len(moving)], frame / rate_hz)
    return [still, animation]


def _pair(video: Video, frame: int) -> Picture:
    """A frame as it is, and with its labels."""
    pixels = video.frames[frame]
    return np.hstack((as_rgb(pixels), draw_labels(pixels, video.labels[frame], video.classes)))
