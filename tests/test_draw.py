from dataclasses import replace

import numpy as np
import pytest

from sonodetr.draw import COLOURS, as_rgb, draw, draw_labels, grid
from sonodetr.types import Detections, Frame, Labels, Region

UNKNOWN = np.full((1, 2, 2), np.nan, np.float32)


def detections(boxes, points=None, names=("nerve", "vessel"), classes=None):
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(count, 4),
        np.linspace(0.9, 0.4, count, dtype=np.float32),
        np.arange(count) % 2 if classes is None else np.array(classes),
        names,
        points if points is None else np.array(points, np.float32),
    )


def test_box_lies_on_its_outermost_pixels():
    picture = draw(Frame(np.zeros((211, 307), np.uint8)), detections([[50, 90, 120, 150]]))
    drawn = (picture == COLOURS[0]).all(-1)
    for x, y in ((50, 90), (119, 90), (50, 149), (119, 149), (80, 90), (50, 120)):
        assert drawn[y, x], (x, y)
    # The label stands above the box; nothing is drawn inside, or outside on the right and below.
    assert not drawn[91:149, 51:119].any()
    assert not drawn[150:].any()
    assert not drawn[:, 120:].any()


def test_frame_is_not_changed():
    pixels = np.full((53, 59, 3), 7, np.uint8)
    draw(Frame(pixels), detections([[5, 5, 50, 50]]))
    assert (pixels == 7).all()


def test_outside_is_black_unless_asked_for():
    frame = Frame(np.full((41, 43), 200, np.uint8), region_px=Region(10, 7, 30, 20))
    picture = draw(frame, detections([]))
    assert (picture[7:20, 10:30] == 200).all()
    picture[7:20, 10:30] = 0
    assert (picture == 0).all()
    assert (draw(frame, detections([]), show_outside=True) == 200).all()


def test_classes_keep_their_colours():
    boxes = [[10, 40, 50, 60], [80, 40, 120, 60], [10, 100, 50, 120]]
    blank = Frame(np.zeros((151, 157), np.uint8))
    picture = draw(blank, detections(boxes, classes=[1, 0, 1]))
    assert tuple(picture[59, 30]) == COLOURS[1]
    assert tuple(picture[59, 100]) == COLOURS[0]
    assert tuple(picture[119, 30]) == COLOURS[1]
    assert len(set(COLOURS)) == len(COLOURS)


def test_line_from_tip_to_entry():
    points = [[[100.5, 100.5], [20.5, 20.5]]]
    picture = draw(Frame(np.zeros((131, 137), np.uint8)), detections([[15, 15, 110, 110]], points))
    for place in (40, 60, 80):
        assert picture[place, place].max() > 100
    assert tuple(picture[20, 20]) == COLOURS[0]  # the entry is a dot
    for y, x in ((100, 106), (94, 100), (106, 100)):
        assert picture[y, x].max() > 100  # the tip is a ring
    assert (picture[98:103, 98:103] == 0).all()  # the picture shows at the tip itself


def test_label_without_a_tip_shows_its_entry_alone():
    labels = Labels.of([[15, 15, 110, 110]], [0], None, [[[np.nan, np.nan], [60.5, 40.5]]])
    picture = draw_labels(np.zeros((131, 137), np.uint8), labels, ("needle",))
    labels = replace(labels, points_px=UNKNOWN)
    plain = draw_labels(np.zeros((131, 137), np.uint8), labels, ("needle",))
    rows, columns = np.nonzero((picture != plain).any(-1))
    assert tuple(picture[40, 60]) == COLOURS[0]
    assert max(abs(rows - 40).max(), abs(columns - 60).max()) <= 3


def test_unknown_points_and_boxes_are_left_out():
    blank = Frame(np.zeros((61, 67), np.uint8))
    hidden = detections([[np.nan, 0, 5, 5]], [[[np.nan, 1], [1, np.nan]]])
    assert (draw(blank, hidden) == 0).all()
    box = [[20, 30, 50, 50]]
    unknown = detections(box, [[[np.nan, np.nan]] * 2])
    np.testing.assert_array_equal(draw(blank, unknown), draw(blank, detections(box)))


@pytest.mark.parametrize(
    "box",
    [[-50, -50, 500, 500], [0, 0, 1, 1], [58, 52, 59, 53], [70, 70, 90, 90], [-1e9, 3, 1e9, 9]],
)
def test_boxes_at_and_beyond_the_border(box):
    picture = draw(Frame(np.zeros((53, 59), np.uint8)), detections([box]))
    assert picture.shape == (53, 59, 3)


def test_names_of_any_language_and_length():
    names = ("Gefäß 血管", "a very long name of a structure" * 5)
    draw(Frame(np.zeros((53, 59), np.uint8)), detections([[1, 2, 30, 40]] * 2, names=names))


def test_labels_do_not_cover_each_other():
    """Two objects in one place: both names must still be there."""
    blank = Frame(np.zeros((201, 203), np.uint8))
    both = draw(blank, detections([[60, 80, 140, 120], [60, 80, 140, 120]]))
    one = draw(blank, detections([[60, 80, 140, 120]]))
    above = slice(60, 78)
    np.testing.assert_array_equal(both[above], one[above])
    assert (both[122:140] == COLOURS[1]).all(-1).any()


def test_labels_are_drawn_with_their_names():
    pixels = np.zeros((101, 103), np.uint8)
    labels = Labels.of([[20, 40, 60, 80]], [1])
    picture = draw_labels(pixels, labels, ("nerve", "vessel"))
    assert tuple(picture[79, 40]) == COLOURS[1]
    assert (draw_labels(pixels, Labels.of([], []), ()) == 0).all()


def test_sheet():
    pictures = [np.full((3, 5, 3), value, np.uint8) for value in (10, 20, 30)]
    sheet = grid([*pictures, np.full((2, 4, 3), 40, np.uint8)], columns=3)
    assert sheet.shape == (8, 19, 3)
    assert (sheet[:3, :5] == 10).all()
    assert (sheet[:3, 14:] == 30).all()
    assert (sheet[5:7, :4] == 40).all()  # smaller than its cell
    assert (sheet[7, :5] == 0).all()
    assert (sheet[:3, 5:7] == 128).all()


@pytest.mark.parametrize(("count", "columns"), [(0, 3), (2, 0)])
def test_sheet_of_nothing(count, columns):
    with pytest.raises(ValueError, match="make no sheet"):
        grid([np.zeros((3, 5, 3), np.uint8)] * count, columns)


def test_grey_becomes_rgb_and_rgb_a_copy():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert as_rgb(grey)[1, 2].tolist() == [5, 5, 5]
    colour = np.zeros((2, 3, 3), np.uint8)
    assert as_rgb(colour) is not colour
