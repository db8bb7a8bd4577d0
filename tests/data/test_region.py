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


def within(found: Region | None, expected: Region, tolerance_px: int) -> bool:
    """The expected picture is inside, with at most `tolerance_px` more (1 less) on each side."""
    assert found is not None
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


def sector_screen(second: int, echoes: int = 300) -> np.ndarray:
    """A sector of moving echoes with apex (307, 41), radius 280, among all that a screen shows."""
    pixels = np.zeros((401, 601), np.uint8)
    random = np.random.default_rng(second)
    centres = random.uniform((125, 60), (490, 320), (echoes, 2)).astype(int)
    for centre in centres.tolist():
        cv2.circle(pixels, centre, 9, int(random.integers(40, 220)), -1)
    rows, columns = np.mgrid[:401, :601]
    far = np.hypot(columns - 307, rows - 41) > 280
    pixels[far | (np.abs(columns - 307) > 0.7 * (rows - 41))] = 0
    for row, text in enumerate(("PATIENT: DOE, JANE", "PAT. ID: 271828", f"19:36:{second:02d}")):
        cv2.putText(pixels, text, (5, 14 + 13 * row), 0, 0.45, 255, 2)
    pixels[30:380, 560] = pixels[30:380:25, 550:560] = 200  # ruler with ticks
    pixels[350:390, 60:540] = 90  # panel
    return pixels


def test_live_sector_among_names_clock_ruler_and_panel() -> None:
    # At 35 degrees (tan 0.7) to either side, the arc ends 161 px from the middle.
    sector = Region(147, 41, 468, 321)
    for count in (3, 17):
        found = find_region(Stack(np.stack([sector_screen(second) for second in range(count)])))
        assert found is not None
        assert np.abs(np.subtract(found, sector)).max() <= 20


def test_a_few_live_echoes_in_water() -> None:
    frames = []
    for second in range(8):
        frame = sector_screen(second, echoes=0)
        frame[350:390] = 1  # no panel
        frame[frame == 0] = 1  # a frame grabber's black
        for x, y in ((200, 150), (410, 150), (200, 280), (410, 280)):
            cv2.ellipse(frame, (x + 4 * second, y + 2 * second), (23, 13), 0, 0, 360, 230, -1)
        frames.append(frame)
    found = find_region_in(frames)
    assert found is not None
    assert within(found, Region(177, 137, 462, 308), 30)
    assert find_region_in(frames[:1]) is None  # one picture shows four spots and text


def test_text_that_trembles_by_half_a_pixel_is_no_picture() -> None:
    frames = [sector_screen(11, echoes=0) for _ in range(7)]
    for index, frame in enumerate(frames):
        frame[350:390] = 0
        frame[:] = frame * (1 - index / 14) + np.roll(frame, 1, 1) * (index / 14)
    assert find_region_in(frames) is None


def test_a_needle_in_a_phantom_that_does_not_move() -> None:
    picture = Region(160, 70, 460, 370)
    frames = [screen(401, 601, picture) for _ in range(5)]
    for index, frame in enumerate(frames):
        cv2.line(frame, (170, 80), (200 + 30 * index, 110 + 20 * index), 255, 3)
    assert within(find_region_in(frames), picture, 12)


@pytest.mark.parametrize("grey", [0, 1, 40, 255])
@pytest.mark.parametrize("count", [1, 2, 11])
def test_nothing_is_found_in_constant_pictures(grey: int, count: int) -> None:
    assert find_region(Stack(np.full((count, 37, 53, 3), grey, np.uint8))) is None
    assert find_region_in([np.full((1, 2), grey, np.uint8)] * count) is None


def test_nothing_is_found_in_nearly_black_noise() -> None:
    random = np.random.default_rng(5)
    frames = [(random.random((211, 307)) > 0.97).astype(np.uint8) for _ in range(7)]
    assert find_region_in(frames) is None


def test_a_picture_without_a_screen_is_taken_whole() -> None:
    random = np.random.default_rng(5)
    frames = [random.integers(0, 90, (211, 307), np.uint8) for _ in range(7)]
    assert find_region_in(frames) == Region(0, 0, 307, 211)
    assert find_region_in(frames[:1]) == Region(0, 0, 307, 211)


def test_a_small_bright_spot_is_not_believed() -> None:
    pixels = np.zeros((200, 300), np.uint8)
    pixels[90:120, 140:180] = 200
    assert find_region_in([pixels]) is None


def test_which_region_is_used() -> None:
    pixels = screen(401, 601, Region(160, 70, 460, 370))[None]
    named = Video("a", Stack(pixels), np.zeros(1), region_px=Region(1, 2, 30, 40))
    assert region_of(named) == Region(1, 2, 30, 40)
    assert region_of(named, "full") == Region(0, 0, 601, 401)
    assert region_of(video(pixels)) == find_region(Stack(pixels))
    assert region_of(video(pixels * 0)) == Region(0, 0, 601, 401)


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
    # The sector; its right flank is all but black. "MI" and "TIS" begin at 302, the panel at 226.
    assert within(find_region(Stack(frames)), Region(38, 24, 294, 206), 14)


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


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # of all that ever changes; the tanks hold nothing else
        ("NwirePhantomFreehand", Region(164, 194, 656, 598)),
        ("WaterTankBottomTranslationVideoBuffer", Region(208, 155, 610, 600)),
        ("SegmentationTest_VLCUS_RandomStepperMotionData2", Region(86, 60, 504, 354)),
    ],
)
def test_echoes_in_water(data_folder: Callable[[str], Path], name: str, expected: Region) -> None:
    (recording,) = read(data_folder("plus") / f"{name}.igs.mha")
    assert within(find_region(recording.frames), expected, 29)


@pytest.mark.parametrize(
    ("folder", "labels"),
    [
        ("plus", "vlcus_wires_coco_vid"),
        ("plus", "watertank_line_coco_vid"),
        ("snappysonic-glove2", "glove2_coco_vid"),
    ],
)
def test_no_label_of_a_recording_is_cut(
    data_folder: Callable[[str], Path], folder: str, labels: str
) -> None:
    place = data_folder(folder)
    (recording,) = read(place / f"{labels}.json", images=str(place))
    boxes = np.concatenate([label.boxes_xyxy_px for label in recording.labels.values()])
    found = find_region(recording.frames)
    assert found is not None
    assert (boxes[:, :2] >= found[:2]).all()
    assert (boxes[:, 2:] <= found[2:]).all()


@pytest.mark.parametrize("piece", [slice(0, 67), slice(67, 134), slice(134, 201)])
def test_names_and_clock_of_a_water_tank_are_left_out(
    data_folder: Callable[[str], Path], piece: slice
) -> None:
    (recording,) = read(
        data_folder("plus") / "SegmentationTest_VLCUS_RandomStepperMotionData2.igs.mha"
    )
    frames = [recording.frames[index] for index in range(201)[piece][::9]]
    found = find_region_in(frames)
    assert found is not None
    # The patient's name and id end at row 30; hospital, date and clock begin at column 540 above
    # row 48.
    assert found.y0 >= 30
    assert found.x1 <= 540
    assert find_region_in(frames[:1]) is None


def test_predict_warns_where_nothing_is_found(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sonodetr.cli import run

    source = tmp_path / "black.png"
    cv2.imwrite(str(source), np.zeros((71, 99), np.uint8))
    words = ["predict", str(tiny_run), str(source), "--out", str(tmp_path / "out")]
    assert run(words) == 0
    assert (
        f"sonodetr: warning: no ultrasound region found in {source}: whole frames are shown, names "
        "may be visible; give --region x0,y0,x1,y1\n"
    ) in capsys.readouterr().err
    for choice in ("full", "10,20,60,50"):  # as the user wished
        assert run([*words, "--region", choice]) == 0
        assert "warning" not in capsys.readouterr().err


def test_the_live_process_needs_no_torch() -> None:
    code = "import sys, sonodetr.data.region, sonodetr.data.warp; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
