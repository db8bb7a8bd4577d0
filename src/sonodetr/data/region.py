"""Where the ultrasound picture lies inside a scanner's screen. Imports no torch.

A wrong cut loses what the model should find; a missing one costs resolution and leaves names in
sight. So whatever may be picture stays in, and `None` tells that no picture was found.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Literal

import cv2
import numpy as np

from sonodetr.shapes import Bool
from sonodetr.types import Frames, Pixels, Region, Video

Cells = Bool[np.ndarray, "rows columns"]

# Frames looked at, spread over the recording.
SAMPLES = 8
# The search runs on this many cells along the longer side of the frame.
CELLS = 160
# Lit is what is brighter than the screen: than the darkest grey level where at least this share of
# the pixels has it, else than 0. The darkest shadow of a picture is still 1 to 3 on the stills
# measured, the screen beside it 0. Where compression has lifted the screen, more of it stays in.
SCREEN_SHARE = 0.2
# Text, rulers and markers are thinner than this; the ultrasound picture is not.
THICKNESS_CELLS = 5  # odd, or the opening moves what it keeps
# Pixels change where their range over time is above these grey levels (compression) plus this share
# of their highest value (a frame grabber's gain).
CHANGE_GREY = 2
CHANGE_SHARE = 0.15
# Where at least this share of the frame is lit and thick, and less than that share of its light
# changes, it is the picture. Else the picture is what changes (echoes in water are few and thin)
# with smaller gaps than this closed, and what is thick, always brighter than this and touches that.
LEAST_THICK = 0.05
LIVE_SHARE = 0.5
GAP_CELLS = 9
BRIGHT_GREY = 32
# Smaller pieces than this share of the largest, or of the frame, are logos and clocks. Larger ones
# belong to the picture, which a wide anechoic structure (an eye, a bladder) can cut in two.
LEAST_PIECE = 0.1
LEAST_PIECE_OF_FRAME = 0.003
# A piece of a live picture of which less than this share changes is a panel.
LEAST_CHANGE = 0.1
# Added on every side, as a share of the longer side. More where most of the found rectangle is
# black: a few echoes show its edges badly, and move between the frames looked at.
MARGIN = 0.01
SPARSE_MARGIN = 0.03
# A smaller picture than this share of the frame is not believed.
LEAST_AREA = 0.1


def region_of(video: Video, mode: Literal["auto", "full"] = "auto") -> Region:
    """What of a recording is shown to the model, in pixels of its frames.

    With `auto` the region that the file names, else the one that `find_region` finds. The whole
    frame where it finds none, and with `full`.

    Raises:
        InputError: a frame cannot be decoded.
    """
    height, width = video.frames.size
    whole = Region(0, 0, width, height)
    if mode == "full":
        return whole
    return video.region_px or find_region(video.frames) or whole


def find_region(frames: Frames) -> Region | None:
    """The ultrasound picture in a recording or still whose file does not name it, None if unknown.

    Decodes up to 8 frames. A still of 512 x 512 pixels takes 1 ms beside its decoding.

    Raises:
        InputError: a frame cannot be decoded.
    """
    picks = np.linspace(0, len(frames) - 1, min(len(frames), SAMPLES)).round()
    return find_region_in([frames[int(pick)] for pick in picks])


def find_region_in(pictures: Sequence[Pixels]) -> Region | None:
    """The ultrasound picture that some frames of one size have in common.

    In a still, or where little changes, it is the largest thick area that is brighter than the
    screen, with other large ones. In a live recording it is what changes over time, as echoes do
    and the scanner's text and rulers do not. That also finds a few wires in a water tank.

    None where there is nothing like it: a black frame, a still of those wires.

    >>> screen = np.zeros((200, 300), np.uint8)
    >>> screen[40:160, 100:250] = 50
    >>> find_region_in([screen])
    Region(x0=96, y0=36, x1=253, y1=164)
    """
    greys = [p if p.ndim == 2 else cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in pictures]
    height, width = greys[0].shape
    cell = max(height, width) / CELLS
    cells = (max(1, round(width / cell)), max(1, round(height / cell)))
    mask, changed = _picture_cells(greys, cells)
    count, piece_of, boxes, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2:
        return None
    boxes = boxes[1:]  # x, y, width, height, area; the first one is the background
    areas = boxes[:, cv2.CC_STAT_AREA]
    changes = np.bincount(piece_of[changed], minlength=count)[1:]
    least = max(LEAST_PIECE * areas.max(), LEAST_PIECE_OF_FRAME * mask.size)
    kept = (areas >= least) & (changes >= LEAST_CHANGE * areas)
    if not kept.any():
        return None
    low, high = boxes[kept, :2].min(0), (boxes[kept, :2] + boxes[kept, 2:4]).max(0)
    sparse = areas[kept].sum() < 0.5 * np.prod(high - low)
    margin = (SPARSE_MARGIN if sparse else MARGIN) * max(height, width)
    scale = np.array((width / cells[0], height / cells[1]))
    low, high = low * scale - margin, high * scale + margin
    x0, y0 = np.maximum(np.floor(low), 0).astype(int).tolist()
    x1, y1 = np.minimum(np.ceil(high), (width, height)).astype(int).tolist()
    believed = (x1 - x0) * (y1 - y0) >= LEAST_AREA * width * height
    return Region(x0, y0, x1, y1) if believed else None


def _picture_cells(greys: Sequence[np.ndarray], cells: tuple[int, int]) -> tuple[Cells, Cells]:
    """The cells that may belong to the picture, and those of them that count as changing."""
    screen = _screen_grey(greys[0])
    high, low = reduce(cv2.max, greys), reduce(cv2.min, greys)
    light = _averaged(high, cells)
    limit = cv2.addWeighted(high, CHANGE_SHARE, high, 0, CHANGE_GREY)
    # Against the neighbours as well: the edges of text tremble by a pixel in a frame grabber.
    steady = cv2.dilate(low, np.ones((3, 3), np.uint8))
    beyond = cv2.compare(cv2.subtract(high, steady), limit, cv2.CMP_GT)
    # A quarter of the pixels is enough: in a shadow, few of a cell flicker.
    changed = _averaged(beyond, cells) > 63

    thick = _opened(_lit([high], screen, cells))
    live = (light * (thick & changed)).sum() >= LIVE_SHARE * (light * thick).sum()
    if thick.mean() >= LEAST_THICK and not live:
        thick = _opened(_lit(greys, screen, cells))
        return thick, thick
    kernel = np.ones((GAP_CELLS, GAP_CELLS), np.uint8)
    closed = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, kernel) > 0
    return closed | _opened(_lit([low], BRIGHT_GREY, cells)), changed


def _screen_grey(grey: np.ndarray) -> int:
    darkest = int(grey.min())
    return darkest if (grey == darkest).mean() >= SCREEN_SHARE else 0


def _lit(greys: Sequence[np.ndarray], screen: int, cells: tuple[int, int]) -> Cells:
    masks = [cv2.threshold(grey, screen, 255, cv2.THRESH_BINARY)[1] for grey in greys]
    return np.mean([_averaged(mask, cells) for mask in masks], 0) > 127


def _averaged(picture: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    return cv2.resize(picture, cells, interpolation=cv2.INTER_AREA).astype(np.float32)


def _opened(mask: Cells) -> Cells:
    """Without what is thinner than `THICKNESS_CELLS`; what touches the frame goes on beyond it."""
    pad = THICKNESS_CELLS
    wide = cv2.copyMakeBorder(mask.astype(np.uint8), pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    kernel = np.ones((THICKNESS_CELLS, THICKNESS_CELLS), np.uint8)
    return cv2.morphologyEx(wide, cv2.MORPH_OPEN, kernel)[pad:-pad, pad:-pad] > 0
