import cv2
import label_plus_line
import label_plus_wires
import numpy as np
import pytest

from sonodetr.files import InputError, read_json


def test_blob_box_keeps_the_blob_of_the_nearest_peak():
    pixels = np.zeros((61, 71), np.uint8)
    pixels[20:27, 30:43] = 200
    pixels[20:27, 50:53] = 250  # another blob, further than the search
    pixels[24:26, 43:50] = 30  # a bridge under the threshold
    assert label_plus_wires.blob_box(cv2.GaussianBlur(pixels, (3, 3), 0), 35.4, 22.7) == (
        30,
        20,
        13,
        7,
    )


def test_blob_box_at_the_border():
    pixels = np.zeros((19, 23), np.uint8)
    pixels[:5, :3] = 200
    assert label_plus_wires.blob_box(pixels, 0.0, 0.0) == (0, 0, 3, 5)


def test_line_box_cuts_the_ends_and_what_is_far():
    pixels = np.zeros((101, 307), np.uint8)
    pixels[40:45, 50:250] = 255
    pixels[70:80, 50:250] = 255  # a reverberation
    line = label_plus_line.Line(100.0, 42.0, 1.0, 0.0)
    # The blur leaves the edge rows at 255 * 3/4 and adds rows of 255 * 1/4 on both sides. The
    # line is 202 px long; half a per cent of it is one pixel at either end.
    assert label_plus_line.line_box(pixels, line) == (50, 39, 200, 7)
    assert label_plus_line.line_box(np.zeros_like(pixels), line) is None


def test_bad_xml_is_named(tmp_path):
    path = tmp_path / "x.xml"
    for text in ("<a", "<a><TestCase/><Frame SegmentationStatus='OK'/></a>"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"x\.xml: not a PLUS segmentation baseline"):
            label_plus_wires.read_points(path)
        with pytest.raises(InputError, match=r"x\.xml: not a PLUS line segmentation baseline"):
            label_plus_line.read_lines(path)
    with pytest.raises(InputError, match="no such file"):
        label_plus_wires.build(tmp_path)


@pytest.mark.parametrize(
    ("build", "labels"),
    [
        (label_plus_wires.build, "vlcus_wires_coco_vid.json"),
        (label_plus_line.build, "watertank_line_coco_vid.json"),
    ],
)
def test_rebuilds_the_real_set_exactly(data_folder, build, labels):
    folder = data_folder("plus")
    assert build(folder) == read_json(folder / labels)
