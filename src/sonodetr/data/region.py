"""Where the ultrasound picture lies inside a scanner's screen. Imports no torch."""

from typing import Literal

from sonodetr.types import Frames, Region, Video


def region_of(video: Video, mode: Literal["auto", "full"] = "auto") -> Region:
    """What of a recording is shown to the model."""
    height, width = video.frames.size
    if mode == "full":
        return Region(0, 0, width, height)
    return video.region_px or find_region(video.frames)


def find_region(frames: Frames) -> Region:
    """The ultrasound picture in a recording whose file does not name it."""
    height, width = frames.size
    return Region(0, 0, width, height)
