import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sonodetr.geometry import (
    Letterbox,
    apply_affine,
    box_iou,
    cxcywh_from_xyxy,
    line_angles_deg,
    warp_matrix_for_pixels,
    xyxy_from_cxcywh,
)
from sonodetr.types import Region


def test_boxes_change_format_and_back():
    xyxy = np.float32([[2, 3, 13, 20], [5, 7, 5, 7]])
    cxcywh = np.float32([[7.5, 11.5, 11, 17], [5, 7, 0, 0]])
    np.testing.assert_array_equal(cxcywh_from_xyxy(xyxy), cxcywh)
    np.testing.assert_array_equal(xyxy_from_cxcywh(cxcywh), xyxy)


def test_tensors_give_the_same_as_arrays():
    boxes = np.random.default_rng(0).random((3, 5, 4), np.float32)
    for change in (cxcywh_from_xyxy, xyxy_from_cxcywh):
        answer = change(torch.from_numpy(boxes))
        assert isinstance(answer, torch.Tensor)
        np.testing.assert_array_equal(answer.numpy(), change(boxes))


def test_iou_by_hand():
    first = np.float32([[0, 0, 10, 10], [0, 0, 4, 2], [3, 3, 3, 3]])
    second = np.float32([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 1, 6, 3]])
    expected = [
        [1, 50 / 150, 0, 8 / 100],  # the last one lies inside
        [8 / 100, 0, 0, 2 / 14],
        [0, 0, 0, 0],  # an empty box overlaps nothing
    ]
    np.testing.assert_allclose(box_iou(first, second), expected, rtol=1e-6)
    assert box_iou(first[2:], first[2:]) == 0  # not NaN
    assert box_iou(first[:0], second).shape == (0, 4)


def test_letterbox_of_a_wide_region():
    box = Letterbox.fit(Region(10, 20, 210, 120), 64, 96)
    assert box == Letterbox(x0=10.0, y0=20.0, scale=0.48, left=0.0, top=8.0)
    np.testing.assert_allclose(box.to_input(np.array([[10, 20], [210, 120]])), [[0, 8], [96, 56]])


def test_letterbox_of_a_tall_region_is_centred():
    box = Letterbox.fit(Region(0, 0, 50, 100), 64, 96)
    assert (box.scale, box.left, box.top) == (0.64, 32, 0)


@given(
    x0=st.integers(0, 500),
    y0=st.integers(0, 500),
    across=st.integers(1, 2000),
    down=st.integers(1, 2000),
    height=st.integers(1, 700),
    width=st.integers(1, 700),
)
def test_letterbox_goes_there_and_back(x0, y0, across, down, height, width):
    region = Region(x0, y0, x0 + across, y0 + down)
    box = Letterbox.fit(region, height, width)
    corners = np.array([[region.x0, region.y0], [region.x1, region.y1]], np.float64)
    there = box.to_input(corners)
    assert (there >= -1e-6).all()
    assert (there <= np.array([width, height]) + 1e-6).all()
    # It touches two opposite sides.
    assert np.isclose(there[1] - there[0], (width, height)).any()
    np.testing.assert_allclose(box.to_frame(there), corners, atol=1e-6)
    np.testing.assert_allclose(apply_affine(box.matrix(), corners), there, atol=1e-6)


def test_affine_by_hand():
    turn = np.array([[0, -1, 7], [1, 0, 0], [0, 0, 1.0]])
    np.testing.assert_array_equal(apply_affine(turn, np.array([[2.0, 3.0]])), [[4, 2]])


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_opencv_counts_from_pixel_centres(scale):
    """Enlarged by s, the centre 0.5 of the first pixel comes to 0.5 s: pixel 0.5 s - 0.5."""
    matrix = warp_matrix_for_pixels(np.diag([scale, scale, 1.0]))
    np.testing.assert_allclose(matrix @ [0, 0, 1], [0.5 * scale - 0.5, 0.5 * scale - 0.5, 1])


@pytest.mark.parametrize(
    ("first_deg", "second_deg", "between_deg"),
    [(0, 0, 0), (0, 90, 90), (1, 179, 2), (0, 180, 0), (89, -89, 2), (10, 55, 45), (10, 235, 45)],
)
def test_angle_between_lines_has_no_direction(first_deg, second_deg, between_deg):
    def line(degrees, length):
        angle = np.deg2rad(degrees)
        start = np.array([3.0, 5.0])
        return np.stack((start, start + length * np.array([np.cos(angle), np.sin(angle)])))[None]

    first, second = line(first_deg, 7), line(second_deg, 11)
    for pair in ((first, second), (second, first), (first[:, ::-1], second)):
        np.testing.assert_allclose(line_angles_deg(*pair), between_deg, atol=1e-6)


def test_angle_of_what_is_no_line():
    line, point = np.array([[[0.0, 0], [3, 4]]]), np.array([[[2.0, 2], [2, 2]]])
    assert line_angles_deg(point, line).tolist() == [90]  # found, but points nowhere
    assert np.isnan(line_angles_deg(line, point))
    assert np.isnan(line_angles_deg(line * np.nan, line))
    assert np.isnan(line_angles_deg(line, line * np.nan))
