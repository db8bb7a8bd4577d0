import numpy as np
import pytest

from sonodetr.data.similarity import near_identical, thumbnail


def tissue(seed: int) -> np.ndarray:
    """Smooth random structures, bright above and dark below as ultrasound is."""
    import cv2

    random = np.random.default_rng(seed)
    blobs = cv2.GaussianBlur(random.standard_normal((260, 300)), (0, 0), 6)
    depth = np.linspace(1.0, 0.3, 260)[:, None]
    return (np.clip(60 + 900 * blobs, 5, 200) * depth).astype(np.uint8)


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    ((_, _, value),) = near_identical([thumbnail(first), thumbnail(second)], -1.0)
    return value


def test_the_same_picture_in_other_gain_size_colour_or_noise() -> None:
    picture = tissue(0)
    assert similarity(picture, picture) == pytest.approx(1, abs=1e-5)
    assert similarity(picture, (picture * 0.6 + 20).astype(np.uint8)) > 0.98
    assert similarity(picture, np.repeat(picture[::2, ::2, None], 3, -1)) > 0.95
    noise = np.random.default_rng(1).normal(0, 15, picture.shape)
    assert similarity(picture, np.clip(picture + noise, 0, 255).astype(np.uint8)) > 0.9


def test_a_shifted_picture() -> None:
    wide = tissue(2)
    # 12 and 15 pixels of 240 and 280: between two of the shifts tried
    assert similarity(wide[:240, :280], wide[12:252, 15:295]) > 0.75


def test_different_pictures_of_the_same_build() -> None:
    values = [similarity(tissue(seed), tissue(seed + 1)) for seed in range(0, 20, 2)]
    assert max(values) < 0.45


def test_pairs_are_listed_once_and_in_order() -> None:
    a, b = thumbnail(tissue(0)), thumbnail(tissue(1))
    pairs = near_identical([a, b, a, b, a], 0.9)
    assert [pair[:2] for pair in pairs] == [(0, 2), (0, 4), (1, 3), (2, 4)]
    assert near_identical([a], 0.9) == []
    assert near_identical([], 0.9) == []


def test_blank_pictures_are_not_alike() -> None:
    blank = thumbnail(np.zeros((50, 60), np.uint8))
    assert near_identical([blank, blank], 0.1) == []
