from typing import Any

import numpy as np
import pytest
from pictures import blob, centroid

from sonodetr.config import AugmentConfig
from sonodetr.data.augment import change_intensity, random_geometry
from sonodetr.data.warp import warp_frame, warp_labels
from sonodetr.geometry import apply_affine
from sonodetr.types import Labels, Region

OFF = {
    "flip": 0.0,
    "zoom": 1.0,
    "stretch": 1.0,
    "shift": 0.0,
    "rotate_deg": 0.0,
    "gain": 0.0,
    "dynamic_range": 1.0,
    "gain_curve": 0.0,
    "speckle": 0.0,
    "shadow": 0.0,
}
SIZE = (61, 83)


def only(**values: float) -> AugmentConfig:
    return AugmentConfig(**{**OFF, **values})


def speckle_clip(channels: int = 1, time: int = 3) -> np.ndarray:
    random = np.random.default_rng(5)
    return random.integers(0, 256, (channels, time, *SIZE), dtype=np.uint8)


def test_everything_off_changes_nothing() -> None:
    random = np.random.default_rng(0)
    np.testing.assert_allclose(random_geometry(only(), SIZE, random), np.eye(3), atol=1e-12)
    clip = speckle_clip()
    np.testing.assert_array_equal(change_intensity(clip, only(), random), clip)


def test_flip_by_hand() -> None:
    matrix = random_geometry(only(flip=1.0), SIZE, np.random.default_rng(0))
    labels = Labels.of([[3, 5, 13, 11]], [0], None, [[[3, 5], [13, 11]]])
    warped = warp_labels(labels, matrix, SIZE, cropped=True)
    np.testing.assert_allclose(warped.boxes_xyxy_px, [[70, 5, 80, 11]], atol=1e-5)
    np.testing.assert_allclose(warped.points_px, [[[80, 5], [70, 11]]], atol=1e-5)
    frame = np.arange(SIZE[0] * SIZE[1], dtype=np.uint8).reshape(SIZE)
    picture = warp_frame(frame, Region(0, 0, SIZE[1], SIZE[0]), matrix, SIZE, 1)
    np.testing.assert_array_equal(picture[..., 0], frame[:, ::-1])


def test_zoom_is_about_the_middle_and_within_its_limits() -> None:
    zooms = []
    for seed in range(200):
        matrix = random_geometry(only(zoom=1.5), SIZE, np.random.default_rng(seed))
        zooms.append(matrix[0, 0])
        middle = np.array((SIZE[1], SIZE[0])) / 2
        np.testing.assert_allclose(apply_affine(matrix, middle), middle, atol=1e-9)
        np.testing.assert_allclose(matrix[:2, :2], np.eye(2) * zooms[-1], atol=1e-12)
    assert 1 / 1.5 <= min(zooms) < 0.75
    assert 1.35 < max(zooms) <= 1.5
    assert abs(np.log(zooms).mean()) < 0.03  # nearer and farther are equally likely


@pytest.mark.parametrize(
    ("name", "value", "measure", "limit"),
    [
        ("rotate_deg", 8.0, lambda m: np.rad2deg(np.arctan2(m[1, 0], m[0, 0])), 8.0),
        ("stretch", 1.2, lambda m: np.log(m[0, 0] / m[1, 1]), np.log(1.2)),
        ("shift", 0.15, lambda m: m[0, 2] / SIZE[1], 0.15),
        ("shift", 0.15, lambda m: m[1, 2] / SIZE[0], 0.15),
    ],
)
def test_limits(name: str, value: float, measure: Any, limit: float) -> None:
    drawn = [
        measure(random_geometry(only(**{name: value}), SIZE, np.random.default_rng(seed)))
        for seed in range(200)
    ]
    assert 0.8 * limit < max(drawn) <= limit
    assert -limit <= min(drawn) < -0.8 * limit


@pytest.mark.parametrize("seed", range(20))
def test_pixels_and_points_move_together(seed: int) -> None:
    size = (211, 223)
    matrix = random_geometry(AugmentConfig(shift=0.1), size, np.random.default_rng(seed))
    frame = blob(*size, 101.3, 117.8, sigma=4)
    picture = warp_frame(frame, Region(0, 0, 223, 211), matrix, size, 1)[..., 0]
    labels = Labels.of([[96, 112, 106, 122]], [0], None, [[[101.3, 117.8], [np.nan, np.nan]]])
    warped = warp_labels(labels, matrix, size, cropped=True)
    np.testing.assert_allclose(centroid(picture), warped.points_px[0, 0], atol=0.05)


def test_gain_adds_and_black_stays_black() -> None:
    clip = np.tile(np.array([0, 12, 100, 250], np.uint8), (1, 1, 7, 5))
    for seed in range(20):
        changed = change_intensity(clip, only(gain=0.25), np.random.default_rng(seed))
        added = int(changed[0, 0, 0, 2]) - 100
        assert abs(added) <= 64
        assert (changed[..., 0::4] == 0).all()
        assert int(changed[0, 0, 0, 3]) == min(255, 250 + added)
        assert abs(int(changed[0, 0, 0, 1]) - max(0, 12 + added / 2)) <= 1  # faded in by half


def test_dynamic_range_turns_about_the_mean() -> None:
    clip = np.tile(np.array([60, 100, 140], np.uint8), (1, 1, 7, 5))  # mean 100
    for seed in range(20):
        low, mean, high = change_intensity(
            clip, only(dynamic_range=1.5), np.random.default_rng(seed)
        )[0, 0, 0, :3].astype(int)
        assert mean == 100
        assert abs((high - 100) - (100 - low)) <= 1
        assert 40 / 1.5 - 1 <= high - 100 <= 40 * 1.5 + 1


def test_no_grey_overtakes_a_brighter_one() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 1, 1, 256)
    config = only(gain=0.25, dynamic_range=1.5)
    for seed in range(100):
        changed = change_intensity(ramp, config, np.random.default_rng(seed)).astype(int)
        assert np.diff(changed.ravel()).min() >= 0


def test_gain_curve_depends_on_depth_alone_and_is_smooth() -> None:
    clip = np.full((1, 2, 97, 31), 120, np.uint8)
    changed = change_intensity(clip, only(gain_curve=0.2), np.random.default_rng(1)).astype(int)
    assert (changed == changed[0, 0, :, :1]).all()
    curve = changed[0, 0, :, 0] - 120
    assert 5 < abs(curve).max() <= 51
    assert abs(np.diff(curve)).max() <= 6


def test_speckle_keeps_the_mean_and_is_fresh_in_every_frame() -> None:
    clip = np.full((1, 2, 211, 223), 100, np.uint8)
    strengths = []
    for seed in range(10):
        changed = change_intensity(clip, only(speckle=0.2), np.random.default_rng(seed))
        first, second = changed[0].astype(float)
        assert abs(first.mean() - 100) < 1
        strengths.append(first.std() / 100)
        assert abs(first.std() - second.std()) < 0.5  # one strength a clip
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05
        neighbours = np.corrcoef(first[:, :-1].ravel(), first[:, 1:].ravel())[0, 1]
        assert neighbours > 0.3  # grain, not pixel noise
    assert 0.1 < max(strengths) <= 0.21


def test_shadow_darkens_below_a_point_only() -> None:
    clip = np.full((1, 2, 97, 101), 200, np.uint8)
    changed = change_intensity(clip, only(shadow=1.0), np.random.default_rng(3)).astype(int)
    assert (changed[0, 0] == changed[0, 1]).all()
    lost = 200 - changed[0, 0]
    assert lost.min() == 0
    assert 60 <= lost.max() <= 160
    shaded_rows = np.flatnonzero((lost > 0).any(1))
    assert shaded_rows[-1] == 96  # down to the bottom, once begun
    assert len(shaded_rows) == 97 - shaded_rows[0]


def test_colour_gets_the_same_grain_in_all_channels() -> None:
    clip = np.repeat(speckle_clip(), 3, 0)
    changed = change_intensity(clip, AugmentConfig(), np.random.default_rng(2))
    np.testing.assert_array_equal(changed[0], changed[1])
    np.testing.assert_array_equal(changed[0], changed[2])


def test_same_state_same_bits_and_input_untouched() -> None:
    clip = speckle_clip()
    before = clip.copy()
    first = change_intensity(clip, AugmentConfig(shadow=1), np.random.default_rng(7))
    again = change_intensity(clip, AugmentConfig(shadow=1), np.random.default_rng(7))
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(clip, before)
    assert (first != change_intensity(clip, AugmentConfig(), np.random.default_rng(8))).any()


def test_the_labelled_frame_looks_the_same_in_clips_of_any_length() -> None:
    """So that students of teachers of clips see the pictures that other students see."""
    clip = speckle_clip()
    whole = change_intensity(clip, AugmentConfig(shadow=1), np.random.default_rng(7))
    alone = change_intensity(clip[:, -1:], AugmentConfig(shadow=1), np.random.default_rng(7))
    np.testing.assert_array_equal(whole[:, -1:], alone)
