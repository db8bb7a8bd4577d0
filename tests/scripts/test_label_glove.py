import cv2
import label_glove
import numpy as np
import pytest
from label_glove import HALF_WALL_PX, RAYS, Seed, build, closed_path, fit_ring, follow_ring
from label_tool import agreement

from sonodetr.files import InputError, read_json


def ring(centre, axes, noise=0.0):
    """A frame with an elliptic ring, its wall 2 * HALF_WALL_PX thick."""
    frame = (
        np.random.default_rng(3).uniform(0, noise, (211, 257)) if noise else np.zeros((211, 257))
    )
    cv2.ellipse(frame, centre, axes, 0, 0, 360, 200, 2 * HALF_WALL_PX)
    return frame.clip(0, 255).astype(np.uint8)


def test_closed_path_closes_and_prefers_no_jumps():
    score = np.zeros((16, 7))
    score[:, 2] = 1
    score[5, 6] = 1.5  # four offsets away: not reached within one ray
    assert closed_path(score).tolist() == [2] * 16
    score[[0, 15], 3] = 1.5  # a bump over the seam
    path = closed_path(score)
    assert path.tolist() == [3] + [2] * 14 + [3]


def test_fit_ring_finds_a_known_ellipse():
    # Blurred until the wall has one brightest line, not a plateau.
    smooth = cv2.GaussianBlur(ring((131, 97), (60, 45)).astype(np.float32) / 255, (0, 0), 3)
    centre, radii = np.array([128.0, 99.0]), np.full(128, 52.0)
    for _ in range(5):
        centre, radii = fit_ring(smooth, centre, radii)
    assert centre == pytest.approx([131, 97], abs=0.6)
    contour = radii[:, None] * RAYS
    assert np.ptp(contour, axis=0) == pytest.approx([120, 90], abs=2.5)


def test_follows_a_moving_ring_with_a_gap_through_noise():
    frames = [ring((100 + step, 90 + step // 2), (50, 40), noise=90) for step in range(23)]
    for frame in frames:
        frame[80:100, :70] = 0  # part of the wall is hidden
    boxes = follow_ring(frames, Seed(11, 115, 93, 45, 42), 5, 22)
    assert sorted(boxes) == list(range(5, 23))
    for step, box in boxes.items():
        x, y = 100 + step, 90 + step // 2
        edge = [x - 54, y - 44, x + 54, y + 44]
        assert box == pytest.approx(edge, abs=3.5), step


def test_missing_video_is_named(tmp_path):
    with pytest.raises(InputError, match=r"glove2\.mp4"):
        build(tmp_path)


def test_rebuilds_the_real_set_closely(data_folder):
    folder = data_folder("snappysonic-glove2")
    reference = read_json(folder / "glove2_coco_vid.json")
    found = build(folder)
    assert found["images"] == reference["images"]
    for key in ("image_id", "instance_id", "category_id"):
        assert [row[key] for row in found["annotations"]] == [
            row[key] for row in reference["annotations"]
        ]
    overlap = agreement(found, reference)
    assert overlap["palm"].mean() > 0.95
    assert overlap["finger"].mean() > 0.95
    assert min(overlap["palm"].min(), overlap["finger"].min()) > 0.7


def test_rough_marks_lead_to_the_same_boxes(data_folder, monkeypatch):
    folder = data_folder("snappysonic-glove2")
    marked = build(folder)
    generator = np.random.default_rng(0)
    moved = [
        track._replace(seed=Seed(track.seed.frame, *(track.seed[1:] + generator.uniform(-5, 5, 4))))
        for track in label_glove.TRACKS
    ]
    monkeypatch.setattr(label_glove, "TRACKS", tuple(moved))
    overlap = agreement(build(folder), marked)
    assert overlap["palm"].mean() > 0.99
    assert overlap["finger"].mean() > 0.99
