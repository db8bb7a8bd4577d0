"""Boxes of the rings (palm and fingers) in a scan of a water-filled glove.

Upstream: SciKit-Surgery/snappysonic (GitHub), data/glove2.mp4. BSD-3-Clause, University College
London. The upstream authors made no labels. Each ring was marked once, roughly, in the middle of
every range of frames in which it can be told apart; from there it is followed both ways. The ranges
were reviewed by eye. Where rings merge, fade or leave the sector, frames stay unlabelled: they are
not empty. The frames at the end are empty.

    python scripts/label_glove.py snappysonic-glove2 snappysonic-glove2/glove2_coco_vid.json
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from label_tool import Coco, Recording, TrackBox, coco_video, run

from sonodetr.files import InputError
from sonodetr.formats.video import read_video

NAME = "glove2"
LENGTH = 342
CLASSES = ("palm", "finger")
CREDIT = (
    "Boxes for data/glove2.mp4 of SciKit-Surgery/snappysonic (BSD-3-Clause, (c) 2019 University "
    "College London) by a seeded ring tracker; not from the upstream authors. A frame that is not "
    "listed is unlabelled, not empty."
)


class Seed(NamedTuple):
    """A ring marked by eye to 5 px: frame, centre and half axes of an ellipse in pixels."""

    frame: int
    x: float
    y: float
    half_width: float
    half_height: float


class Track(NamedTuple):
    """One ring through a range of frames, `last` included."""

    instance_id: int
    class_name: str
    first: int
    last: int
    seed: Seed


# The review: which ring can be told apart in which frames. All rings of these frames are listed.
TRACKS = (
    Track(1, "palm", 13, 78, Seed(45, 285, 180, 115, 110)),
    Track(1, "palm", 94, 103, Seed(98, 300, 180, 140, 90)),
    Track(1, "palm", 133, 139, Seed(136, 290, 185, 75, 60)),
    Track(2, "finger", 13, 78, Seed(45, 500, 225, 40, 35)),
    Track(3, "finger", 133, 139, Seed(136, 175, 165, 25, 30)),
    Track(3, "finger", 151, 228, Seed(189, 175, 170, 25, 25)),
    Track(3, "finger", 237, 244, Seed(240, 170, 175, 20, 20)),
    Track(4, "finger", 151, 228, Seed(189, 245, 185, 30, 30)),
    Track(4, "finger", 237, 244, Seed(240, 240, 195, 30, 30)),
    Track(4, "finger", 254, 278, Seed(266, 235, 200, 25, 25)),
    Track(5, "finger", 151, 228, Seed(189, 330, 205, 35, 35)),
    Track(5, "finger", 237, 244, Seed(240, 340, 220, 30, 30)),
    Track(5, "finger", 254, 278, Seed(266, 345, 230, 25, 30)),
    Track(6, "finger", 133, 139, Seed(136, 410, 215, 40, 35)),
    Track(6, "finger", 151, 228, Seed(189, 440, 230, 35, 30)),
)
EMPTY = range(292, LENGTH)

# The ring tracker.
BLUR_PX = 1.5  # sigma; the wall of a ring is about 8 px thick
ANGLES = 2 * np.pi * np.arange(128) / 128
RAYS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], -1)
OFFSETS_PX = np.arange(-10, 10.5, 0.5)  # how far the wall may lie from where it was
STAY = 0.3  # brightness (of 1) that it costs to go to the end of the offsets
LARGEST_JUMP = 2  # offsets from one ray to the next
BEND = 0.02  # brightness it costs to jump one offset, growing with the square
HARMONICS = 4  # a ring is no rougher than this
HALF_WALL_PX = 4  # from the brightest line of the wall to its outer edge


def build(folder: Path) -> Coco:
    """COCO-video labels of the reviewed frames: a track for each ring, and the empty end."""
    (video,) = read_video(folder / f"{NAME}.mp4")
    if len(video) != LENGTH:
        raise InputError(f"{folder}: {NAME}.mp4 has {len(video)} frames, not {LENGTH}; copy again")
    last = max(track.last for track in TRACKS)
    frames = [_grey(video.frames[index]) for index in range(last + 1)]
    boxes = []
    for track in TRACKS:
        for frame, box in follow_ring(frames, track.seed, track.first, track.last).items():
            left, top, right, bottom = box.tolist()
            values = (round(value, 1) for value in (left, top, right - left, bottom - top))
            boxes.append(TrackBox(frame, track.instance_id, track.class_name, tuple(values)))
    recording = Recording(NAME, f"{NAME}.mp4", LENGTH, video.frames.size, fps=30)
    listed = {box.frame for box in boxes} | set(EMPTY)
    return {"info": {"description": CREDIT}, **coco_video(recording, listed, boxes, CLASSES)}


def _grey(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)


def follow_ring(
    frames: Sequence[np.ndarray], seed: Seed, first: int, last: int
) -> dict[int, np.ndarray]:
    """Follow a bright ring from its seed to both ends of a range of frames.

    Args:
        frames: `[H, W]` uint8 each.
        seed: where the ring is in one frame of the range.
        first, last: the range, both included.

    Returns:
        Frame -> `[4]` left, top, right, bottom of the ring's outer edge in pixels.
    """
    boxes = {}
    for indices in (range(seed.frame, last + 1), range(seed.frame, first - 1, -1)):
        centre = np.array([seed.x, seed.y], float)
        # Radius of an ellipse at each angle.
        axes = seed.half_width, seed.half_height
        radii = np.prod(axes) / np.hypot(axes[1] * RAYS[:, 0], axes[0] * RAYS[:, 1])
        for index in indices:
            smooth = cv2.GaussianBlur(frames[index].astype(np.float32) / 255, (0, 0), BLUR_PX)
            # The seed is rough: let it settle.
            for _ in range(3 if index == seed.frame else 1):
                centre, radii = fit_ring(smooth, centre, radii)
            edge = centre + (radii + HALF_WALL_PX)[:, None] * RAYS
            boxes[index] = np.concatenate([edge.min(0), edge.max(0)])
    return boxes


def fit_ring(
    smooth: np.ndarray, centre: np.ndarray, radii: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Move a closed contour onto the brightest ring near it.

    Args:
        smooth: `[H, W]` blurred frame in 0..1.
        centre: `[2]` x, y in pixels.
        radii: `[128]` distance of the contour from the centre along each ray, in pixels.

    Returns:
        The same two for the new contour, its centre in the middle of its box.
    """
    along = (radii[:, None] + OFFSETS_PX)[..., None] * RAYS[:, None] + centre
    across, down = along.astype(np.float32).transpose(2, 0, 1)
    brightness = cv2.remap(smooth, across, down, cv2.INTER_LINEAR)  # nothing outside the frame
    path = closed_path(brightness - STAY * (OFFSETS_PX / OFFSETS_PX[-1]) ** 2)
    contour = centre + (radii + OFFSETS_PX[path])[:, None] * RAYS
    centre = (contour.min(0) + contour.max(0)) / 2
    x, y = (contour - centre).T
    radii = np.interp(ANGLES, *_by_angle(x, y), period=2 * np.pi)
    spectrum = np.fft.rfft(radii)
    spectrum[HARMONICS + 1 :] = 0
    return centre, np.fft.irfft(spectrum, len(radii))


def _by_angle(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.arctan2(y, x), np.hypot(x, y)


def closed_path(score: np.ndarray) -> np.ndarray:
    """The path round a ring with the largest sum of scores, less what its jumps cost.

    Dynamic programming (Viterbi) over two turns, of which the middle one is kept: its ends know
    each other, so that the path closes without trying every start.

    Args:
        score: `[N, R]` gain of each of R offsets on each of N rays.

    Returns:
        `[N]` offset on each ray; neighbours differ by `LARGEST_JUMP` at most.
    """
    turns = np.concatenate([score, score])
    steps, offsets = turns.shape
    jumps = np.arange(-LARGEST_JUMP, LARGEST_JUMP + 1)
    # came_from[j, r]: the offset before a jump to r; outside the range it costs everything.
    came_from = np.arange(offsets) - jumps[:, None]
    cost = np.where((came_from >= 0) & (came_from < offsets), BEND * jumps[:, None] ** 2, np.inf)
    came_from = came_from.clip(0, offsets - 1)
    total = turns[0]
    before = np.zeros((steps, offsets), int)
    for step in range(1, steps):
        gains = total[came_from] - cost
        best = gains.argmax(0)
        before[step] = came_from[best, np.arange(offsets)]
        total = gains.max(0) + turns[step]
    path = np.empty(steps, int)
    path[-1] = total.argmax()
    for step in range(steps - 1, 0, -1):
        path[step - 1] = before[step, path[step]]
    half = len(score) // 2
    return np.roll(path[half : half + len(score)], half)


if __name__ == "__main__":
    sys.exit(run(build, __doc__))
