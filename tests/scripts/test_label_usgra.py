import cv2
import numpy as np
import pytest
from label_usgra import build, components

from sonodetr.files import InputError, read_json


def write_pair(folder, mask_bgr):
    for name in ("images", "masks"):
        (folder / name).mkdir(exist_ok=True)
        cv2.imwrite(str(folder / name / "0007.png"), mask_bgr)


def test_components_are_8_connected_and_at_least_100_px():
    region = np.zeros((41, 43), bool)
    region[30:40, 3:13] = True  # 100 px: kept, though last
    region[2:11, 20:31] = True  # 99 px, and
    region[11, 31] = True  # one that touches a corner: 100 px
    region[15:24, 31:42] = True  # 99 px: left out
    assert components(region) == [[20, 2, 12, 10, 100], [3, 30, 10, 10, 100]]


def test_builds_from_colours(tmp_path):
    mask = np.zeros((31, 37, 3), np.uint8)
    mask[3:13, 5:16] = (0, 128, 0)
    mask[14:29, 7:18] = (0, 0, 128)
    write_pair(tmp_path, mask)
    found = build(tmp_path)
    assert found["images"] == [{"id": 1, "file_name": "0007.png", "width": 37, "height": 31}]
    rows = [(row["category_id"], row["bbox"], row["area"]) for row in found["annotations"]]
    assert rows == [(1, [7, 14, 11, 15], 165), (2, [5, 3, 11, 10], 110)]


def test_bad_input_is_named(tmp_path):
    with pytest.raises(InputError, match="no masks"):
        build(tmp_path)
    write_pair(tmp_path, np.full((5, 7, 3), 9, np.uint8))
    with pytest.raises(InputError, match=r"0007\.png: a colour that is none of background, nerve"):
        build(tmp_path)
    (tmp_path / "masks" / "0007.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="not a readable PNG"):
        build(tmp_path)


def test_rebuilds_the_real_set_exactly(data_folder):
    folder = data_folder("usgra-seg") / "dataset"
    assert build(folder) == read_json(folder / "coco.json")
