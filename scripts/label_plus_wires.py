"""Boxes of the wires in a phantom sequence of the PLUS toolkit.

Upstream: PlusToolkit/PlusLibData (GitHub), folder TestImages. BSD-3-Clause, PLUS toolkit. Needs
SegmentationTest_VLCUS_RandomStepperMotionData2.igs.mha and the file of the same name that ends in
_Segmentation_baseline.xml: six points a frame that the toolkit's own algorithm found (no person
marked them). A box is the bright blob around such a point; frames in which the algorithm did not
find all six stay unlabelled.

    python scripts/label_plus_wires.py plus plus/vlcus_wires_coco_vid.json
"""

import sys
from pathlib import Path

import cv2
import numpy as np
from defusedxml import ElementTree
from label_tool import Coco, Recording, TrackBox, coco_video, run

from sonodetr.files import InputError, existing_file
from sonodetr.formats.metaimage import read_metaimage

NAME = "SegmentationTest_VLCUS_RandomStepperMotionData2"
# A blob is what is at least this share of the brightest pixel near the point, after a 3 x 3 blur.
SHARE_OF_PEAK = 0.4
SEARCH_PX = 6
WINDOW_PX = 40


def build(folder: Path) -> Coco:
    """COCO-video labels: one track for each wire, its keypoint the point from the XML file."""
    points_by_frame = read_points(folder / f"{NAME}_Segmentation_baseline.xml")
    (video,) = read_metaimage(folder / f"{NAME}.igs.mha")
    height, width = video.frames.size
    boxes = []
    for frame, points in points_by_frame.items():
        if not 0 <= frame < len(video):
            raise InputError(
                f"{folder}: the XML names frame {frame} of {len(video)} in the sequence"
            )
        smooth = cv2.GaussianBlur(video.frames[frame], (3, 3), 0)
        for instance_id, (x, y) in enumerate(points, start=1):
            if not (0 <= x < width and 0 <= y < height):
                raise InputError(f"{folder}: frame {frame} has a point {x}, {y} outside the frame")
            boxes.append(TrackBox(frame, instance_id, "wire", blob_box(smooth, x, y), (x, y)))
    recording = Recording(NAME, f"{NAME}.igs.mha", len(video), video.frames.size)
    return coco_video(recording, points_by_frame, boxes, ("wire",))


def read_points(path: Path) -> dict[int, list[tuple[float, float]]]:
    """Frame -> x, y of its points in pixels, for the frames with a successful segmentation."""
    source = existing_file(path)
    found = {}
    try:
        for case in ElementTree.parse(source).getroot().iter("TestCase"):
            output = case.find("Output")
            if output.get("SegmentationSuccess") != "1":
                continue
            values = [float(word) for word in output.get("SegmentationPoints").split()]
            frame = int(case.find("Input").get("ImageSeqFrameIndex"))
            found[frame] = list(zip(values[::2], values[1::2], strict=True))
    except (ElementTree.ParseError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a PLUS segmentation baseline; copy it again") from error
    return found


def blob_box(smooth: np.ndarray, x: float, y: float) -> tuple[int, int, int, int]:
    """Left, top, width, height of the bright blob around a point of a blurred frame."""
    column, row = round(x), round(y)
    near_left, near_top = max(column - SEARCH_PX, 0), max(row - SEARCH_PX, 0)
    near = smooth[near_top : row + SEARCH_PX + 1, near_left : column + SEARCH_PX + 1]
    peak_y, peak_x = np.unravel_index(near.argmax(), near.shape)
    left, top = max(column - WINDOW_PX, 0), max(row - WINDOW_PX, 0)
    window = smooth[top : row + WINDOW_PX + 1, left : column + WINDOW_PX + 1]
    bright = (window >= SHARE_OF_PEAK * int(near.max())).astype(np.uint8)
    _, index, table, _ = cv2.connectedComponentsWithStats(bright, connectivity=8)
    blob = index[near_top + peak_y - top, near_left + peak_x - left]
    blob_left, blob_top, width, height, _ = table[blob].tolist()
    return left + blob_left, top + blob_top, width, height


if __name__ == "__main__":
    sys.exit(run(build, __doc__))
