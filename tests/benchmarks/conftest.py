"""A data set that a benchmark reads in a moment."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture
def three_parts(tmp_path: Path) -> Path:
    """In each part one recording of two frames of 60 x 80; the second one is empty."""
    for number, part in enumerate(("train", "validation", "test")):
        folder = tmp_path / "data" / part
        folder.mkdir(parents=True)
        images = []
        for frame in range(2):
            name = f"{frame}.png"
            cv2.imwrite(str(folder / name), np.full((60, 80), 40 + 10 * number, np.uint8))
            size = {"height": 60, "width": 80, "video_id": 1, "frame_id": frame}
            images.append({"id": frame + 1, "file_name": name, **size})
        box = {"bbox": [20, 10, 40, 20], "area": 800, "iscrowd": 0}
        document = {
            "videos": [{"id": 1, "name": f"{part}/clip", "region_px": [0, 0, 80, 60]}],
            "images": images,
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, **box}],
            "categories": [{"id": 1, "name": "needle"}],
        }
        (folder / "coco.json").write_text(json.dumps(document))
    return tmp_path / "data"
