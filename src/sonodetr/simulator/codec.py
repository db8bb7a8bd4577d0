"""What recording does to the frames: nothing, a JPEG each, or H.264 video."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext
from jaxtyping import UInt8

from sonodetr.files import InputError


@dataclass(frozen=True)
class Codec:
    """How a recording was compressed.

    Attributes:
        kind: none, jpeg or h264.
        level: jpeg: quality, 1 to 100; h264: constant rate factor, 0 to 51 (higher is worse).
    """

    kind: Literal["none", "jpeg", "h264"] = "none"
    level: int = 0


@dataclass(frozen=True)
class CodecRanges:
    """Probabilities of JPEG and H.264, lowest and highest quality and rate factor."""

    jpeg: float
    h264: float
    quality: tuple[int, int]
    rate_factor: tuple[int, int]


STANDARD = CodecRanges(0.3, 0.4, (55, 95), (16, 28))
SHIFTED = CodecRanges(0.45, 0.5, (35, 60), (26, 33))


def draw_codec(random: np.random.Generator, ranges: CodecRanges) -> Codec:
    """Draw a codec."""
    chance = random.random()
    quality = int(random.integers(*ranges.quality, endpoint=True))
    rate_factor = int(random.integers(*ranges.rate_factor, endpoint=True))
    if chance < ranges.jpeg:
        return Codec("jpeg", quality)
    return Codec("h264", rate_factor) if chance < ranges.jpeg + ranges.h264 else Codec()


def compress(
    codec: Codec, frames: UInt8[np.ndarray, "frames height width"]
) -> UInt8[np.ndarray, "frames height width"]:
    """The frames after compression and decompression.

    Raises:
        InputError: the codec is H.264 and PyAV was built without its encoder.
    """
    match codec.kind:
        case "jpeg":
            option = [cv2.IMWRITE_JPEG_QUALITY, codec.level]
            files = [cv2.imencode(".jpg", frame, option)[1] for frame in frames]
            return np.array([cv2.imdecode(file, cv2.IMREAD_GRAYSCALE) for file in files], np.uint8)
        case "h264":
            return _h264(frames, codec.level)
    return frames


def _h264(frames: np.ndarray, rate_factor: int) -> np.ndarray:
    """Through x264 and back, in memory, with one thread, so that the same goes in and out."""
    if "libx264" not in av.codecs_available:
        raise InputError("this build of PyAV cannot write H.264; set the chance of h264 to 0")
    encoder = VideoCodecContext.create("libx264", "w")
    encoder.height, encoder.width = frames.shape[1:]
    encoder.pix_fmt, encoder.thread_count = "gray", 1
    encoder.framerate, encoder.time_base = Fraction(25), Fraction(1, 25)
    encoder.options = {"preset": "superfast", "crf": str(rate_factor), "bf": "0"}
    packets = []
    for number, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="gray")
        picture.pts = number
        packets += encoder.encode(picture)
    packets += encoder.encode(None)
    decoder = VideoCodecContext.create("h264", "r")
    decoder.thread_count = 1
    decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return np.stack([_luma(frame) for frame in decoded])


def _luma(frame: av.VideoFrame) -> np.ndarray:
    plane = frame.planes[0]
    rows = np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: frame.height, : frame.width]
