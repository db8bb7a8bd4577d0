"""What recording does to the frames."""

import cv2
import numpy as np
import pytest

from sonodetr.simulator import codec as codecs
from sonodetr.simulator.codec import SHIFTED, STANDARD, Codec, compress, draw_codec

ALL = [Codec(), Codec("jpeg", 70), Codec("h264", 23)]


def clip(height: int = 97, width: int = 103) -> np.ndarray:
    """Five frames of soft noise that drifts by a pixel a frame."""
    noise = np.random.default_rng(3).rayleigh(60, (height + 5, width))
    soft = np.clip(cv2.GaussianBlur(noise, (0, 0), 1.3), 0, 255).astype(np.uint8)
    return np.stack([soft[step : step + height] for step in range(5)])


def error(codec: Codec) -> float:
    return float(np.abs(compress(codec, clip()).astype(float) - clip()).mean())


@pytest.mark.parametrize("codec", ALL, ids=lambda codec: codec.kind)
@pytest.mark.parametrize("size", [(97, 103), (17, 160), (64, 31)])
def test_shape_stays_and_runs_repeat(codec: Codec, size: tuple[int, int]) -> None:
    frames = clip(*size)
    once = compress(codec, frames)
    assert (once.shape, once.dtype) == (frames.shape, np.uint8)
    np.testing.assert_array_equal(once, compress(codec, frames))
    twice = compress(codec, once)
    assert (twice.shape, twice.dtype) == (frames.shape, np.uint8)


def test_none_changes_nothing() -> None:
    np.testing.assert_array_equal(compress(Codec(), clip()), clip())


def test_frames_keep_their_order_and_level() -> None:
    frames = np.stack([np.full((33, 47), level, np.uint8) for level in (20, 200, 90, 0, 255)])
    for codec in ALL:
        means = compress(codec, frames).mean((1, 2))
        np.testing.assert_allclose(means, [20, 200, 90, 0, 255], atol=2.0)


def test_worse_settings_lose_more() -> None:
    assert 0 < error(Codec("jpeg", 95)) < error(Codec("jpeg", 60)) < error(Codec("jpeg", 30)) < 9
    assert 0 < error(Codec("h264", 16)) < error(Codec("h264", 25)) < error(Codec("h264", 35)) < 9


def test_draws_repeat_and_mix() -> None:
    drawn = [draw_codec(np.random.default_rng(seed), STANDARD) for seed in range(101)]
    assert drawn == [draw_codec(np.random.default_rng(seed), STANDARD) for seed in range(101)]
    assert {codec.kind for codec in drawn} == {"none", "jpeg", "h264"}
    shifted = [draw_codec(np.random.default_rng(seed), SHIFTED) for seed in range(101)]
    factor = [max(c.level for c in each if c.kind == "h264") for each in (drawn, shifted)]
    assert factor[0] <= STANDARD.rate_factor[1] < factor[1]


def test_missing_encoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs.av, "codecs_available", {"mpeg4"})
    with pytest.raises(codecs.InputError, match=r"cannot write H\.264"):
        compress(Codec("h264", 23), clip())
