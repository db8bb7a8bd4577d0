"""Where predictions go: one JSON line a frame, and the recording with boxes in it.

Every sink is a context manager that gives a function `write(frame, detections)`. Its file appears
under its name when the block ends without an error, and not at all otherwise.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from sonodetr.draw import Picture, draw
from sonodetr.files import InputError, whole_file
from sonodetr.types import Detections, Frame, Video

# A recording that does not say how fast it was taken is shown at this rate.
UNKNOWN_RATE_HZ = 10.0

Write = Callable[[Frame, Detections], None]
LINES, PICTURE, VIDEO = "detections.jsonl", "overlay.png", "overlay.mp4"

# Ticks a second of a written video; every common frame rate is a whole number of them.
_TICKS = 90_000
_MOST_TICKS = 2**31  # that a file can hold between two pictures


@contextmanager
def prediction_files(
    folder: Path, video: Video, *, overlay: bool = True, show_outside: bool = False
) -> Iterator[tuple[Write, list[Path]]]:
    """`detections.jsonl` and, with `overlay`, `overlay.mp4` (or `overlay.png` for one picture).

    Args:
        folder: made if it is not there; files in it are replaced.
        video: what is predicted on.
        overlay: also draw.
        show_outside: draw what lies around the ultrasound region too.

    Yields:
        The function that writes a frame to all of them, and their paths.

    Raises:
        InputError: a file cannot be written.
    """
    paths = [folder / LINES]
    with ExitStack() as stack:
        writes = [stack.enter_context(json_lines(paths[0]))]
        if overlay and len(video) == 1:
            paths.append(folder / PICTURE)
            sink = overlay_picture(paths[1], show_outside=show_outside)
            writes.append(stack.enter_context(sink))
        elif overlay:
            paths.append(folder / VIDEO)
            rate_hz = video.frame_rate_hz or UNKNOWN_RATE_HZ
            sink = overlay_video(paths[1], rate_hz, show_outside=show_outside)
            writes.append(stack.enter_context(sink))

        def write(frame: Frame, detections: Detections) -> None:
            for one in writes:
                one(frame, detections)

        yield write, paths


@contextmanager
def json_lines(path: str | os.PathLike[str]) -> Iterator[Write]:
    """A file with `Detections.to_dict` of one frame a line.

    Raises:
        InputError: the file cannot be written.
    """
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:

        def write(frame: Frame, detections: Detections) -> None:
            file.write(json.dumps(detections.to_dict(), allow_nan=False) + "\n")

        yield write


@contextmanager
def overlay_picture(path: str | os.PathLike[str], *, show_outside: bool = False) -> Iterator[Write]:
    """A PNG of one frame with its detections.

    Raises:
        InputError: the file cannot be written.
    """
    with whole_file(path) as part:

        def write(frame: Frame, detections: Detections) -> None:
            picture = draw(frame, detections, show_outside=show_outside)
            good, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            if not good:
                raise InputError(f"{path}: OpenCV could not encode the picture")
            part.write_bytes(data.tobytes())

        yield write


@contextmanager
def overlay_video(
    path: str | os.PathLike[str], frame_rate_hz: float, *, show_outside: bool = False
) -> Iterator[Write]:
    """An MP4 of every frame with its detections (see `picture_video`).

    Raises:
        InputError: the file cannot be written.
    """
    with picture_video(path, frame_rate_hz) as write_picture:

        def write(frame: Frame, detections: Detections) -> None:
            write_picture(draw(frame, detections, show_outside=show_outside), frame.time_s)

        yield write


@contextmanager
def picture_video(
    path: str | os.PathLike[str], frame_rate_hz: float
) -> Iterator[Callable[[Picture, float], None]]:
    """An MP4 (H.264, 4:2:0) that plays in a browser; yields `write(picture, time_s)`.

    Pictures keep the times they have in their source; those that do not move on, or move by more
    hours than a file can hold, are shown for one period of `frame_rate_hz`. An odd width or height
    is made even by repeating the last pixel.

    Raises:
        InputError: the file cannot be written, or pictures of this size not be coded.
    """
    if "libx264" not in av.codecs_available:
        raise InputError("this build of PyAV cannot write H.264; leave the video out (--no-video)")
    slowest, fastest = Fraction(1, 1001), Fraction(1000)  # that a file can hold
    rate = min(max(Fraction(frame_rate_hz).limit_denominator(1001), slowest), fastest)
    period = round(_TICKS / rate)
    # The index in front lets a browser play before it has everything.
    options = {"movflags": "+faststart"}
    with whole_file(path) as part, av.open(str(part), "w", options=options) as container:
        stream = container.add_stream("libx264", rate, options={"crf": "20"})
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        last, begin_s = -period, 0.0

        def write(picture: Picture, time_s: float) -> None:
            nonlocal last, begin_s
            picture = _even(picture)
            if last < 0:
                stream.height, stream.width = picture.shape[:2]
                begin_s = time_s if time_s * _TICKS >= _MOST_TICKS else 0.0
            coded = av.VideoFrame.from_ndarray(picture)
            tick = round((time_s - begin_s) * _TICKS)
            coded.pts = last = tick if 0 < tick - last < _MOST_TICKS else last + period
            coded.time_base = Fraction(1, _TICKS)
            encode(coded)

        def encode(picture: av.VideoFrame | None) -> None:
            try:
                container.mux(stream.encode(picture))
            except av.FFmpegError as error:
                if isinstance(error, OSError):  # of the file, not of the pictures
                    raise
                raise InputError(
                    f"{path}: pictures of {stream.width} x {stream.height} pixels cannot be coded "
                    f"as H.264 ({error.strerror}); leave the video out (--no-video)"
                ) from error

        yield write
        encode(None)


def _even(picture: Picture) -> UInt8[np.ndarray, "even_height even_width 3"]:
    """Even sides, as 4:2:0 needs them."""
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
