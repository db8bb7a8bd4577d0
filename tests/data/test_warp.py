import cv2
import numpy as np
import pytest
from pictures import blob, centroid

from sonodetr.config import AugmentConfig
from sonodetr.data.augment import random_geometry
from sonodetr.data.warp import warp_frame, warp_labels
from sonodetr.geometry import Letterbox, apply_affine
from sonodetr.types import Labels, Region


def rotation(degrees: float, x: float, y: float) -> np.ndarray:
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    there, back = np.eye(3), np.eye(3)
    there[:2, 2], back[:2, 2] = (-x, -y), (x, y)
    return back @ turn @ there


def test_same_size_is_a_copy() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (11, 13), dtype=np.uint8)
    picture = warp_frame(frame, Region(0, 0, 13, 11), np.eye(3), (11, 13), 1)
    np.testing.assert_array_equal(picture[..., 0], frame)


@pytest.mark.parametrize("scale", [0.21, 0.5, 0.8, 1.7])
@pytest.mark.parametrize("degrees", [0.0, 7.0, 90.0])
def test_a_bright_dot_goes_where_its_point_goes(scale: float, degrees: float) -> None:
    region = Region(20, 10, 180, 130)
    frame = blob(140, 200, 83.3, 71.9, sigma=5)
    size = (round(120 * scale), round(160 * scale))
    letterbox = Letterbox.fit(region, *size)
    matrix = rotation(degrees, size[1] / 2, size[0] / 2) @ letterbox.matrix()
    picture = warp_frame(frame, region, matrix, size, 1)[..., 0]
    expected = apply_affine(matrix, np.array((83.3, 71.9)))
    np.testing.assert_allclose(centroid(picture), expected, atol=0.06)


def test_nothing_outside_the_region_is_seen() -> None:
    frame = np.full((37, 53), 200, np.uint8)
    region = Region(7, 5, 47, 25)  # 40 x 20 into 31 x 31: bars of 7.75 above and below
    matrix = Letterbox.fit(region, 31, 31).matrix()
    picture = warp_frame(frame, region, matrix, (31, 31), 1)[..., 0]
    assert (picture[8:23] == 200).all()
    assert (picture[:7] == 0).all()
    assert (picture[24:] == 0).all()


def test_shrinking_averages_instead_of_skipping() -> None:
    frame = np.zeros((256, 256), np.uint8)
    frame[:, ::4] = 200  # a quarter of the columns; bilinear sampling would see 0 or stripes
    picture = warp_frame(frame, Region(0, 0, 256, 256), np.diag([0.125, 0.125, 1]), (32, 32), 1)
    assert (picture == 50).all()


def test_colour_and_grey() -> None:
    red = np.zeros((5, 7, 3), np.uint8)
    red[..., 0] = 200
    region = Region(0, 0, 7, 5)
    grey = warp_frame(red, region, np.eye(3), (5, 7), 1)
    assert grey.shape == (5, 7, 1)
    assert (grey == round(0.299 * 200)).all()
    assert (warp_frame(red, region, np.eye(3), (5, 7), 3) == (200, 0, 0)).all()
    repeated = warp_frame(red[..., 0], region, np.eye(3), (5, 7), 3)
    assert repeated.shape == (5, 7, 3)
    assert (repeated == 200).all()


def test_boxes_scale_shift_and_mirror() -> None:
    labels = Labels.of([[10, 20, 30, 26]], [1], [5], [[[10, 20], [np.nan, np.nan]]])
    mirror = np.array([[-2.0, 0, 100], [0, 2, 4], [0, 0, 1]])
    warped = warp_labels(labels, mirror, (101, 103))
    np.testing.assert_allclose(warped.boxes_xyxy_px, [[40, 44, 80, 56]])
    np.testing.assert_allclose(warped.points_px[0], [[80, 44], [np.nan, np.nan]])
    assert warped.classes.tolist() == [1]
    assert warped.track_ids.tolist() == [5]


def test_turned_box_is_that_of_the_inscribed_ellipse() -> None:
    labels = Labels.of([[20, 30, 60, 50]], [0])  # half sides 20 and 10 about (40, 40)
    turned = warp_labels(labels, rotation(30, 40, 40), (97, 101)).boxes_xyxy_px[0]
    half_x = np.hypot(20 * np.sqrt(3) / 2, 10 / 2)
    half_y = np.hypot(20 / 2, 10 * np.sqrt(3) / 2)
    expected = [40 - half_x, 40 - half_y, 40 + half_x, 40 + half_y]
    np.testing.assert_allclose(turned, expected, rtol=1e-6)
    upright = warp_labels(labels, rotation(90, 40, 40), (97, 101)).boxes_xyxy_px[0]
    np.testing.assert_allclose(upright, [30, 20, 50, 60], atol=1e-5)


def test_turned_ellipse_fits_its_box() -> None:
    frame = np.zeros((101, 103), np.uint8)
    cv2.ellipse(frame, (50, 50), (30, 15), 0, 0, 360, 255, -1)
    down, across = np.nonzero(frame)
    box = [across.min(), down.min(), across.max() + 1, down.max() + 1]
    matrix = rotation(20, 50.5, 50.5)
    picture = warp_frame(frame, Region(0, 0, 103, 101), matrix, (101, 103), 1)[..., 0]
    down, across = np.nonzero(picture > 127)
    seen = [across.min(), down.min(), across.max() + 1, down.max() + 1]
    warped = warp_labels(Labels.of([box], [0]), matrix, (101, 103)).boxes_xyxy_px[0]
    np.testing.assert_allclose(warped, seen, atol=1.0)


def test_box_of_a_line_follows_its_ends() -> None:
    points = [[10.0, 10.0], [50.0, 50.0]]
    labels = Labels.of([[9, 9, 51, 51]], [0], None, [points])  # a margin of 1 round a needle
    matrix = rotation(10, 30, 30)
    ends = apply_affine(matrix, np.array(points))
    warped = warp_labels(labels, matrix, (61, 67))
    np.testing.assert_allclose(warped.boxes_xyxy_px[0, :2], ends.min(0) - 1, atol=1e-5)
    np.testing.assert_allclose(warped.boxes_xyxy_px[0, 2:], ends.max(0) + 1, atol=1e-5)
    np.testing.assert_allclose(warped.points_px[0], ends, rtol=1e-6)


def test_box_of_a_line_ends_where_the_line_leaves() -> None:
    points = [[20.0, 40.0], [60.0, 80.0]]  # leaves an input of 50 x 60 at (30, 50)
    labels = Labels.of([[20, 40, 60, 80]], [0], None, [points])
    warped = warp_labels(labels, np.eye(3), (50, 60), cropped=True)
    np.testing.assert_allclose(warped.boxes_xyxy_px, [[20, 40, 30, 50]], atol=1e-5)
    np.testing.assert_allclose(warped.points_px[0], [[20, 40], [30, 50]])  # entry: the visible end
    mirrored = Labels.of([[20, 40, 60, 80]], [0], None, [points[::-1]])  # now the tip is cut off
    warped = warp_labels(mirrored, np.eye(3), (50, 60), cropped=True)
    np.testing.assert_allclose(warped.points_px[0], [[np.nan, np.nan], [20, 40]])
    shifted = np.array([[1.0, 0, 0], [0, 1, 1], [0, 0, 1]])  # 9 of 40 are left: less than a quarter
    assert len(warp_labels(labels, shifted, (50, 60), cropped=True)) == 0


def test_line_that_goes_on_outside_the_frame() -> None:
    """The box shows what a frame of 100 x 100 has of the needle; its entry lies far to the left."""
    labels = Labels.of([[0, 10, 81, 60]], [0], None, [[[80, 60], [-80, -40]]])
    for matrix, at in ((np.eye(3), lambda x: x), (np.diag([0.5, 0.5, 1]), lambda x: x / 2)):
        warped = warp_labels(labels, matrix, (round(at(100)), round(at(100))))
        box = [at(0), at(10), at(81), at(60)]
        np.testing.assert_allclose(warped.boxes_xyxy_px[0], box, atol=1)
        np.testing.assert_allclose(warped.points_px[0], [[at(80), at(60)], [0, at(10)]], atol=1e-5)


def test_points_on_the_edge_stay_known() -> None:
    region = Region(0, 0, 142, 102)
    labels = Labels.of([[0, 0, 142, 102]], [0], None, [[[0, 0], [142, 102]]])
    matrix = Letterbox.fit(region, 97, 101).matrix()
    corners = apply_affine(matrix, labels.points_px[0])
    assert corners.min() < 0  # by rounding
    points = warp_labels(labels, matrix, (97, 101)).points_px[0]
    np.testing.assert_allclose(points, corners, atol=1e-5)


@pytest.mark.parametrize("seed", range(7))
def test_tip_stays_the_tip_whatever_the_augmentation(seed: int) -> None:
    """A bright dot at the tip, and a line of one grey level: both are where the label says."""
    tip, entry = np.array([120.5, 130.5]), np.array([30.5, 60.5])
    frame = blob(211, 223, *tip, sigma=4)
    labels = Labels.of([[30, 60, 121, 131]], [0], None, [[tip, entry]])
    random = np.random.default_rng(seed)
    matrix = random_geometry(AugmentConfig(flip=seed % 2, shift=0.02), (211, 223), random)
    picture = warp_frame(frame, Region(0, 0, 223, 211), matrix, (211, 223), 1)[..., 0]
    warped = warp_labels(labels, matrix, (211, 223), cropped=True)
    np.testing.assert_allclose(warped.points_px[0, 0], centroid(picture), atol=0.05)
    ends = apply_affine(matrix, np.stack((tip, entry)))
    along = warped.points_px[0, 1] - warped.points_px[0, 0]
    assert np.sign(along[0]) == np.sign(ends[1, 0] - ends[0, 0])
    np.testing.assert_allclose(np.cross([*along, 0], [*(ends[1] - ends[0]), 0]), 0, atol=0.1)


def test_what_is_kept_of_a_cut_box() -> None:
    labels = Labels.of([[0, 0, 20, 10], [0, 0, 9, 10], [-3, 0, 1, 10], [-9, 0, 0, 9]], [0, 1, 1, 0])
    move = np.array([[1.0, 0, -14.5], [0, 1, 0], [0, 0, 1]])
    assert warp_labels(labels, move, (50, 50), cropped=True).classes.tolist() == [0]  # 27.5 %
    move[0, 2] = -15.5  # 22.5 %
    assert len(warp_labels(labels, move, (50, 50), cropped=True)) == 0
    np.testing.assert_allclose(
        warp_labels(labels, move, (50, 50)).boxes_xyxy_px, [[0, 0, 4.5, 10]], atol=1e-5
    )
    plain = warp_labels(labels, np.eye(3), (50, 50))
    assert plain.classes.tolist() == [0, 1, 1]  # wholly outside: gone, in any case
    np.testing.assert_allclose(plain.boxes_xyxy_px[2], [0, 0, 1, 10])


def test_no_labels_stay_no_labels() -> None:
    warped = warp_labels(Labels.of([], []), np.eye(3), (5, 7), cropped=True)
    assert warped.boxes_xyxy_px.shape == (0, 4)
    assert warped.points_px.shape == (0, 2, 2)
