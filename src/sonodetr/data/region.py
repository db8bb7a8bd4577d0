"""Where the ultrasound picture lies inside a scanner's screen. Imports no torch.

A wrong cut loses what the model should find, a missing one only some resolution: whatever is in
doubt stays in.
"""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from sonodetr.types import Frames, Pixels, Region, Video

# Frames looked at, spread over the recording.
SAMPLES = 8
# A cell is lit where most of its pixels are brighter than this. The darkest shadow of a picture is
# still 1 to 3 on the stills measured, the screen beside it 0; where compression has lifted the
# screen as well, more of it stays in.
BLACK_GREY = 0
# The search runs on this many cells along the longer side of the frame.
CELLS = 160
# Text, rulers and markers are thinner than this; the ultrasound picture is not.
THICKNESS_CELLS = 5  # odd, or the opening moves what it keeps
# Smaller pieces than this share of the largest are logos. Larger ones belong to the picture, which
# a wide anechoic structure (an eye, a bladder) can cut in two.
LEAST_PIECE = 0.1
# Where the largest piece moves (mean standard deviation over time, in grey levels; compression and
# a frozen picture stay below), a piece that moves less than this share of it is a panel.
MOVING_GREY = 2.0
LEAST_MOTION = 0.1
# Added on every side, as a share of the longer side.
MARGIN = 0.01
# A smaller picture than this share of the frame is not believed.
LEAST_AREA = 0.1


def region_of(video: Video, mode: Literal["auto", "full"] = "auto") -> Region:
    """What of a recording is shown to the model, in pixels of its frames.

    With `auto` the region that the file names, else the one that `find_region` finds; with `full`
    the whole frame.

    Raises:
        InputError: a frame cannot be decoded.
    """
    height, width = video.frames.size
    if mode == "full":
        return Region(0, 0, width, height)
    return video.region_px or find_region(video.frames)


def find_region(frames: Frames) -> Region:
    """The ultrasound picture in a recording or still whose file does not name it.

    Decodes up to 8 frames. A still of 512 x 512 pixels takes 1 ms beside its decoding.

    Raises:
        InputError: a frame cannot be decoded.
    """
    picks = np.linspace(0, len(frames) - 1, min(len(frames), SAMPLES)).round()
    return find_region_in([frames[int(pick)] for pick in picks])


def find_region_in(pictures: Sequence[Pixels]) -> Region:
    """The ultrasound picture that some frames of one size have in common.

    It is the largest thick area that is not black, with other large pieces that move as it does.
    The whole frame where nothing plausible is found, as in a water tank that shows a few echoes.

    >>> screen = np.zeros((200, 300), np.uint8)
    >>> screen[40:160, 100:250] = 50
    >>> find_region_in([screen])
    Region(x0=96, y0=36, x1=253, y1=164)
    """
    height, width = pictures[0].shape[:2]
    cell = max(height, width) / CELLS
    cells = (max(1, round(width / cell)), max(1, round(height / cell)))
    greys = [p if p.ndim == 2 else cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in pictures]
    masks = [cv2.threshold(grey, BLACK_GREY, 255, cv2.THRESH_BINARY)[1] for grey in greys]
    lit = np.mean([_averaged(mask, cells) for mask in masks], 0)
    motion = np.std([_averaged(grey, cells) for grey in greys], 0)

    thick = _opened((lit > 127).astype(np.uint8))
    count, piece_of, boxes, _ = cv2.connectedComponentsWithStats(thick)
    whole = Region(0, 0, width, height)
    if count < 2:
        return whole
    boxes = boxes[1:]  # x, y, width, height, area; the first one is the background
    areas = boxes[:, cv2.CC_STAT_AREA]
    motions = np.array([motion[piece_of == piece].mean() for piece in range(1, count)])
    largest = areas.argmax()
    kept = areas >= LEAST_PIECE * areas[largest]
    if motions[largest] > MOVING_GREY:
        kept &= motions >= LEAST_MOTION * motions[largest]

    scale = np.array((width / cells[0], height / cells[1]))
    margin = MARGIN * max(height, width)
    low = boxes[kept, :2].min(0) * scale - margin
    high = (boxes[kept, :2] + boxes[kept, 2:4]).max(0) * scale + margin
    x0, y0 = np.maximum(np.floor(low), 0).astype(int).tolist()
    x1, y1 = np.minimum(np.ceil(high), (width, height)).astype(int).tolist()
    if (x1 - x0) * (y1 - y0) < LEAST_AREA * width * height:
        return whole
    return Region(x0, y0, x1, y1)


def _averaged(picture: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    return cv2.resize(picture, cells, interpolation=cv2.INTER_AREA).astype(np.float32)


def _opened(mask: np.ndarray) -> np.ndarray:
    """Without what is thinner than `THICKNESS_CELLS`; what touches the frame goes on beyond it."""
    pad = THICKNESS_CELLS
    wide = cv2.copyMakeBorder(mask, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    kernel = np.ones((THICKNESS_CELLS, THICKNESS_CELLS), np.uint8)
    return cv2.morphologyEx(wide, cv2.MORPH_OPEN, kernel)[pad:-pad, pad:-pad]
