"""The peers see the pictures that ours sees, and are judged by our metrics."""

import json
from pathlib import Path

import cv2
import numpy as np
import peer_data
import pytest

from sonodetr.evaluation.kept import Kept
from sonodetr.files import InputError
from sonodetr.formats import read
from sonodetr.types import Answer


def test_yolo_copy(three_parts: Path, tmp_path: Path):
    parts = peer_data.read_parts(three_parts, 64)
    file = peer_data.yolo_copy(parts, tmp_path / "copy")
    # 80 x 60 fits into 64 x 64 at 0.8, with 8 black rows above and below.
    (box,) = (file.parent / "labels" / "train" / "00000.txt").read_text().splitlines()
    expected = [0, 0.5, (8 + 0.8 * 20) / 64, 0.5, 0.8 * 20 / 64]
    np.testing.assert_allclose([float(value) for value in box.split()], expected, atol=1e-6)
    assert (file.parent / "labels" / "train" / "00001.txt").read_text() == ""
    picture = cv2.imread(str(file.parent / "images" / "test" / "00000.png"), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (64, 64)
    assert picture[:7].max() == 0
    assert picture[32, 32] == 60


def test_yolo_copy_is_read_back(three_parts: Path, tmp_path: Path):
    file = peer_data.yolo_copy(peer_data.read_parts(three_parts, 64), tmp_path / "copy")
    videos = read(file.parent)
    assert len(videos) == 6
    assert videos[0].classes == ("needle",)
    assert sorted(len(video.labels[0]) for video in videos) == [0, 0, 0, 1, 1, 1]


def test_changed_labels_get_a_copy_of_their_own(three_parts: Path, tmp_path: Path):
    first = peer_data.yolo_copy(peer_data.read_parts(three_parts, 64), tmp_path / "copy")
    picture = first.parent / "images/test/00000.png"
    stamp = picture.stat().st_mtime_ns
    assert peer_data.yolo_copy(peer_data.read_parts(three_parts, 64), tmp_path / "copy") == first
    assert picture.stat().st_mtime_ns == stamp
    labels = three_parts / "train" / "coco.json"
    labels.write_text(labels.read_text().replace("[20, 10, 40, 20]", "[21, 10, 40, 20]"))
    assert peer_data.yolo_copy(peer_data.read_parts(three_parts, 64), tmp_path / "copy") != first


def test_a_copy_that_was_moved_is_found_again(three_parts: Path, tmp_path: Path):
    parts = peer_data.read_parts(three_parts, 64)
    name = peer_data.yolo_copy(parts, tmp_path / "copy").parent.name
    (tmp_path / "copy").rename(tmp_path / "moved")
    moved = peer_data.yolo_copy(parts, tmp_path / "moved")
    assert str(tmp_path / "moved" / name) in moved.read_text()


def test_judged_by_our_metrics(three_parts: Path):
    dataset = peer_data.read_parts(three_parts, 64)["validation"]
    boxes = peer_data.boxes_of(dataset, 0)
    np.testing.assert_allclose(boxes, [[0.25, 0.25, 0.75, 0.5]])
    right = Answer(np.float32([0.9]), np.int64([0]), np.float32([[0.5, 0.375, 0.5, 0.25]]))
    none = Answer(np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros((0, 4), np.float32))

    def judged(*answers: Answer) -> Kept:
        return peer_data.judge(dataset, peer_data.detections_of(dataset, list(answers)))

    perfect = judged(right, none)
    assert peer_data.figures(perfect)["ap"]["value"] == pytest.approx(1.0)
    # Half as wide: the intersection is half of the union, found at IoU 0.5 and no higher.
    narrow = judged(right._replace(boxes_cxcywh=np.float32([[0.5, 0.375, 0.25, 0.25]])), none)
    ap = {name: each["value"] for name, each in peer_data.figures(narrow).items()}
    assert ap == pytest.approx({"ap": 0.1, "ap50": 1.0, "ap75": 0.0})
    less = {name: each["value"] for name, each in peer_data.figures(perfect, narrow).items()}
    assert less == pytest.approx({"ap": 0.9, "ap50": 0.0, "ap75": 1.0})
    assert perfect.recording.tolist() == ["validation/clip", "validation/clip"]
    assert perfect.frame_index.tolist() == [0, 1]


def test_one_class_only(three_parts: Path):
    for labels in three_parts.glob("*/coco.json"):
        document = json.loads(labels.read_text())
        document["categories"].append({"id": 2, "name": "nerve"})
        labels.write_text(json.dumps(document))
    with pytest.raises(InputError, match="2 classes; give data with one class"):
        peer_data.read_parts(three_parts, 64)
