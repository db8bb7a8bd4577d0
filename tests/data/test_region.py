import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import Stack, video

from sonodetr.data.region import find_region, find_region_in, region_of
from sonodetr.formats import read
from sonodetr.types import Region, Video


def screen(height: int, width: int, picture: Region, grey: int = 60) -> np.ndarray:
    """A scanner's screen: text, a ruler and a logo about one textured picture."""
    pixels = np.zeros((height, width), np.uint8)
    random = np.random.default_rng(0)
    inside = random.integers(2, grey, (picture.y1 - picture.y0, picture.x1 - picture.x0))
    pixels[picture.y0 : picture.y1, picture.x0 : picture.x1] = inside
    for row in range(4):
        cv2.putText(pixels, "MI 0.7 GAIN 28", (5, 15 + 13 * row), 0, 0.4, 255)
    pixels[20:-20:10, -12:-6] = 200
    pixels[-14:-4, 5:40] = 255
    return pixels


def within(found: Region, expected: Region, tolerance_px: int) -> bool:
    """The expected picture is inside, with at most `tolerance_px` more (1 less) on each side."""
    more = (
        expected.x0 - found.x0,
        expected.y0 - found.y0,
        found.x1 - expected.x1,
        found.y1 - expected.y1,
    )
    return all(-1 <= side <= tolerance_px for side in more)


def test_picture_among_text_ruler_and_logo() -> None:
    picture = Region(160, 70, 460, 370)
    assert within(find_region_in([screen(401, 601, picture)]), picture, 12)


def test_dark_parts_of_the_picture_stay_in() -> None:
    pixels = screen(401, 601, Region(160, 70, 460, 370))
    pixels[200:370, 160:460] = 2  # a deep shadow: nearly black, the screen is black
    assert within(find_region_in([pixels]), Region(160, 70, 460, 370), 12)


def test_a_picture_cut_in_two_stays_whole() -> None:
    pixels = screen(401, 601, Region(160, 70, 460, 370))
    pixels[150:230] = 0
    assert within(find_region_in([pixels]), Region(160, 70, 460, 370), 12)


def test_a_panel_that_never_moves_is_left_out_of_a_recording() -> None:
    picture = Region(160, 30, 460, 300)
    frames = [screen(401, 601, picture, grey) for grey in (60, 80, 50, 90)]
    for frame in frames:
        frame[350:390, 60:560] = 70
    assert within(find_region_in(frames), picture, 12)
    assert find_region_in(frames[:1]).y1 > 390  # a single picture cannot tell


@pytest.mark.parametrize("grey", [0, 40])
def test_nothing_or_everything_is_the_whole_frame(grey: int) -> None:
    pixels = np.full((37, 53, 3), grey, np.uint8)
    assert find_region_in([pixels]) == Region(0, 0, 53, 37)
    tiny = np.full((1, 2), grey, np.uint8)
    assert find_region_in([tiny]) == Region(0, 0, 2, 1)


def test_a_small_bright_spot_is_not_believed() -> None:
    pixels = np.zeros((200, 300), np.uint8)
    pixels[90:120, 140:180] = 200
    assert find_region_in([pixels]) == Region(0, 0, 300, 200)


def test_which_region_is_used() -> None:
    pixels = screen(401, 601, Region(160, 70, 460, 370))[None]
    named = Video("a", Stack(pixels), np.zeros(1), region_px=Region(1, 2, 30, 40))
    assert region_of(named) == Region(1, 2, 30, 40)
    assert region_of(named, "full") == Region(0, 0, 601, 401)
    assert region_of(video(pixels)) == find_region(Stack(pixels))


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # read off the frames by eye
        ("butterfly-ocular-phantom.mp4", Region(82, 200, 694, 890)),
        ("clarius-ocular-short.mp4", Region(270, 93, 1016, 872)),
        ("sonosite-anon-eye1-video.mp4", Region(386, 44, 724, 640)),
    ],
)
def test_scanner_screens(data_folder: Callable[[str], Path], name: str, expected: Region) -> None:
    (recording,) = read(data_folder("itkpocus") / name)
    assert within(find_region(recording.frames), expected, 28)


def test_echo_sector_in_a_cine_loop() -> None:
    examples = pytest.importorskip("pydicom.examples")
    from pydicom.pixels import pixel_array

    frames = pixel_array(examples.ybr_color)
    x0, y0, x1, y1 = find_region(Stack(frames))
    # The sector reaches from (38, 24) to (294, 206); its right flank is all but black. JPEG noise
    # keeps the text beside it in, the panel below, from 226 on, never changes and is left out.
    assert x0 <= 38
    assert y0 <= 24
    assert x1 >= 294
    assert 206 <= y1 < 226


def test_no_label_of_real_data_is_cut(data_folder: Callable[[str], Path]) -> None:
    folder = data_folder("usgra-seg") / "dataset"
    shares = []
    beyond_px = {}
    for still in read(folder / "coco.json", images=str(folder / "images")):
        region = find_region(still.frames)
        height, width = still.frames.size
        shares.append((region.x1 - region.x0) * (region.y1 - region.y0) / (height * width))
        boxes = still.labels[0].boxes_xyxy_px
        over = np.concatenate((region[:2] - boxes[:, :2], boxes[:, 2:] - region[2:]))
        if over.max() > 0:
            beyond_px[still.key] = float(over.max())
    # Two outlines were drawn past the lower edge of the picture, into the black of the screen.
    assert set(beyond_px) == {"0071.png", "0199.png"}
    assert max(beyond_px.values()) <= 25
    assert 0.83 < np.mean(shares) < 0.86  # a sixth of the pixels was black screen


@pytest.mark.parametrize("name", ["NwirePhantomFreehand", "WaterTankBottomTranslationVideoBuffer"])
def test_a_few_echoes_in_water_are_the_whole_frame(
    data_folder: Callable[[str], Path], name: str
) -> None:
    (recording,) = read(data_folder("plus") / f"{name}.igs.mha")
    assert find_region(recording.frames) == Region(0, 0, 820, 616)


def test_the_live_process_needs_no_torch() -> None:
    code = "import sys, sonodetr.data.region, sonodetr.data.warp; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
