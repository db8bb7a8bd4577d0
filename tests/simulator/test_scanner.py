"""From levels in dB to grey values."""

from dataclasses import astuple, replace

import numpy as np
import pytest
import torch

from sonodetr.simulator.scanner import (
    MUSCLE_GREY,
    SHIFTED,
    SPECKLE_DB,
    STANDARD,
    Scanner,
    draw_scanner,
    grey,
)

PLAIN = Scanner()


def level(value_db: float) -> torch.Tensor:
    return torch.full((1, 13, 11), value_db)


def speckle(frames: int = 1, samples: int = 101, lines: int = 67) -> torch.Tensor:
    """Level of fully developed speckle, whose mean power is 0 dB."""
    parts = np.random.default_rng(7).normal(size=(2, frames, samples, lines)) * np.sqrt(0.5)
    return torch.from_numpy(20 * np.log10(np.hypot(*parts))).float()


def value(scanner: Scanner, level_db: float) -> float:
    return float(grey(scanner, level(level_db))[0][0, 5, 5])


def test_muscle_is_mid_grey() -> None:
    assert value(PLAIN, 0.0) == pytest.approx(MUSCLE_GREY) == pytest.approx(0.4)


def test_ends_of_the_dynamic_range() -> None:
    """60 dB with muscle at 0.4: black at -24 dB, white at 36 dB, and no further."""
    assert value(PLAIN, -24.0) == pytest.approx(0.0, abs=1e-6)
    assert value(PLAIN, -18.0) == pytest.approx(0.1)
    assert value(PLAIN, 36.0) == pytest.approx(1.0)
    assert value(PLAIN, 90.0) == 1.0
    assert value(PLAIN, -torch.inf) == 0.0
    assert value(replace(PLAIN, dynamic_range_db=40.0), 24.0) == pytest.approx(1.0)


def test_gain_shifts_by_its_share_of_the_range() -> None:
    assert value(replace(PLAIN, gain_db=6.0), 0.0) == pytest.approx(0.5)


def test_knobs_shape_depth_and_width() -> None:
    """Straight curves through two knobs, at the centres of samples and lines."""
    scanner = replace(PLAIN, time_gain_db=(0.0, 13.0), lateral_gain_db=(-5.5, 5.5))
    picture = grey(scanner, level(0.0))[0][0]
    np.testing.assert_allclose(picture[:, 5], 0.4 + (np.arange(13) + 0.5) / 60, atol=1e-6)
    np.testing.assert_allclose(picture[0] * 60, 24.5 + np.arange(11) - 5.0, atol=1e-4)


def test_grey_map_by_hand() -> None:
    """0.4 + 0.24 (bend + contrast (0.8 - 1)); black and white stay, and it never falls."""
    assert value(replace(PLAIN, grey_bend=-0.5), 0.0) == pytest.approx(0.28)
    assert value(replace(PLAIN, grey_contrast=0.3), 0.0) == pytest.approx(0.3856)
    for bend in (STANDARD.grey_bend, SHIFTED.grey_bend):
        for contrast in (STANDARD.grey_contrast, SHIFTED.grey_contrast):
            scanner = replace(PLAIN, grey_bend=min(bend), grey_contrast=max(contrast))
            ramp = grey(scanner, torch.linspace(-24, 36, 97).reshape(1, 97, 1))[0].flatten()
            assert ramp.diff().min() >= -1e-6
            np.testing.assert_allclose(ramp[[0, -1]], [0, 1], atol=1e-6)


def test_speckle_reduction_softens_speckle_and_keeps_its_mean() -> None:
    before = grey(PLAIN, speckle())[0]
    assert before.std() * 60 == pytest.approx(SPECKLE_DB, rel=0.05)
    after = grey(replace(PLAIN, speckle_reduction=1.0), speckle())[0]
    half = grey(replace(PLAIN, speckle_reduction=0.5), speckle())[0]
    assert after.std() < 0.45 * before.std()
    assert after.std() < half.std() < before.std()
    assert after.mean() == pytest.approx(before.mean().item(), abs=0.005)


def test_speckle_reduction_keeps_edges() -> None:
    """A cyst 30 dB below muscle: the step across its border stays steep."""
    step = speckle()
    step[:, 50:] -= 30
    picture = grey(replace(PLAIN, speckle_reduction=1.0), step)[0][0]
    assert picture[46:49].mean() - picture[52:55].mean() > 0.25


def test_weak_lines_survive_where_speckle_is_weak() -> None:
    """Averaged speckle varies less, and so a line of 8 dB stands out that was lost in it before."""
    fine, averaged = speckle(), speckle() / 3
    kept = []
    for image in (fine, averaged):
        image[:, 50] += 8
        picture = grey(replace(PLAIN, speckle_reduction=1.0), image)[0][0]
        kept.append(float(picture[50].mean() - picture[[44, 56]].mean()) * 60 / 8)
    assert kept[1] > 0.7
    assert kept[1] > kept[0] + 0.1


def test_edge_enhancement_raises_a_line_over_its_surround() -> None:
    image = level(0.0).repeat(1, 3, 3)
    image[:, 19] = 25.0
    plain, sharp = (
        grey(replace(PLAIN, edge_enhancement=amount), image)[0][0, :, 16] for amount in (0.0, 1.0)
    )
    assert sharp[19] > plain[19] + 0.03
    assert sharp[18] < plain[18]
    assert sharp[3] == pytest.approx(0.4)


def test_flat_picture_passes_every_filter() -> None:
    scanner = replace(PLAIN, speckle_reduction=0.7, edge_enhancement=0.7, persistence=0.5)
    np.testing.assert_allclose(grey(scanner, level(0.0))[0], 0.4, atol=1e-6)


def test_persistence_by_hand() -> None:
    """Black, then muscle twice: 0, then 0.6 of 0.4, then 0.6 of 0.4 and 0.4 of what was."""
    frames = torch.cat((level(-40.0), level(0.0), level(0.0)))
    picture, state = grey(replace(PLAIN, persistence=0.4), frames)
    np.testing.assert_allclose(picture[:, 3, 5], [0.0, 0.24, 0.336], atol=1e-6)
    torch.testing.assert_close(state, picture[-1])


def test_frames_one_by_one_equal_all_at_once() -> None:
    image = speckle(frames=5)
    scanner = draw_scanner(np.random.default_rng(11), STANDARD)
    together, last = grey(scanner, image)
    state, single = None, []
    for frame in image:
        picture, state = grey(scanner, frame[None], state)
        single.append(picture)
    torch.testing.assert_close(torch.cat(single), together, rtol=0, atol=1e-6)
    assert state is not None
    torch.testing.assert_close(state, last, rtol=0, atol=1e-6)


def test_input_is_left_as_it_was() -> None:
    image = speckle(frames=2)
    copy = image.clone()
    grey(draw_scanner(np.random.default_rng(1), STANDARD), image)
    assert torch.equal(image, copy)


def test_values_stay_in_range() -> None:
    for seed in range(7):
        for ranges in (STANDARD, SHIFTED):
            scanner = draw_scanner(np.random.default_rng(seed), ranges)
            picture, _ = grey(scanner, 4 * speckle(frames=2))
            assert 0 <= picture.min() <= picture.max() <= 1


def test_draws_repeat_and_keep_to_their_ranges() -> None:
    for ranges in (STANDARD, SHIFTED):
        drawn = [draw_scanner(np.random.default_rng(seed), ranges) for seed in range(23)]
        again = draw_scanner(np.random.default_rng(5), ranges)
        assert astuple(again) == astuple(drawn[5])
        assert {scanner.mirrored for scanner in drawn} == {False, True}
        for name in ("gain_db", "dynamic_range_db", "persistence", "noise_db", "frame_rate_hz"):
            low, high = getattr(ranges, name)
            assert all(low <= getattr(scanner, name) <= high for scanner in drawn)
        assert all(abs(knob) <= ranges.time_gain_db for s in drawn for knob in s.time_gain_db)


def test_muscle_is_believable_at_gain_0() -> None:
    drawn = [draw_scanner(np.random.default_rng(seed), STANDARD) for seed in range(23)]
    for scanner in drawn:
        flat = replace(scanner, gain_db=0.0, time_gain_db=(0.0, 0.0), lateral_gain_db=(0.0, 0.0))
        assert 0.23 < value(flat, 0.0) < 0.45


def test_shifted_lies_outside_standard() -> None:
    assert SHIFTED.dynamic_range_db[0] >= STANDARD.dynamic_range_db[1]
    assert SHIFTED.time_gain_db > STANDARD.time_gain_db
    assert SHIFTED.noise_db[1] > STANDARD.noise_db[1]
    assert SHIFTED.persistence[1] > STANDARD.persistence[1]
    assert SHIFTED.speckle_reduction[0] < STANDARD.speckle_reduction[0]
