"""Where the picture lies in the frame."""

import numpy as np
import pytest

from sonodetr.files import InputError
from sonodetr.simulator.layout import SHIFTED, STANDARD, Layout, LayoutRanges, place
from sonodetr.simulator.probe import Probe
from sonodetr.types import Region

LINEAR = Probe("linear", 7.5, 0.5, 20.0, 40.0, 20.0, width_mm=38.0)
CURVED = Probe("curvilinear", 3.5, 0.6, 20.0, 150.0, 70.0, radius_mm=50.0, sector_deg=65.0)
WHOLE = LayoutRanges((0.8, 0.8), 0.0, 0.0, (0.0, 0.0), (0.0, 0.0))


def random(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_pixels_by_hand() -> None:
    layout = Layout(0.5, 7.25, 3.0, -11.0, 13.0, -2.0, 17.0, 53, 67)
    x, y = layout.to_pixels(np.array([-11.0, 0.0, 13.0]), np.array([-2.0, 0.0, 17.0]))
    np.testing.assert_array_equal(x, [7.25, 29.25, 55.25])
    np.testing.assert_array_equal(y, [3.0, 7.0, 41.0])
    assert layout.rectangle_px == Region(7, 3, 55, 41)


def test_mirrored_pixels_by_hand() -> None:
    layout = Layout(0.5, 7.25, 3.0, -11.0, 13.0, -2.0, 17.0, 53, 67, mirrored=True)
    x, _ = layout.to_pixels(np.array([-11.0, 0.0, 13.0]), np.zeros(3))
    np.testing.assert_array_equal(x, [55.25, 33.25, 7.25])


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("probe", [LINEAR, CURVED])
def test_round_trip(probe: Probe, mirrored: bool) -> None:
    for seed in range(11):
        layout = place(random(seed), STANDARD, probe, 97, 131, mirrored)
        x, z = random(seed).uniform(-80, 160, (2, 5, 3))
        back = layout.to_mm(*layout.to_pixels(x, z))
        np.testing.assert_allclose(back, (x, z), rtol=0, atol=1e-9)


def test_scale_and_fill_are_exact() -> None:
    """38 mm by 40 mm in 103 by 97 pixels: depth takes 0.8 of 97 pixels."""
    layout = place(random(), WHOLE, LINEAR, 97, 103)
    assert layout.mm_per_px == 40 / (0.8 * 97)
    x, y = layout.to_pixels(np.array([-19.0, 19.0]), np.array([0.0, 40.0]))
    assert y[1] - y[0] == pytest.approx(0.8 * 97, abs=1e-9)
    assert x[1] - x[0] == pytest.approx(0.8 * 97 * 38 / 40, abs=1e-9)


def test_picture_stays_in_the_frame() -> None:
    for seed in range(53):
        layout = place(random(seed), STANDARD, CURVED, 97, 103)
        x, y = layout.to_pixels(
            np.array([layout.left_mm, layout.right_mm]), np.array([layout.top_mm, layout.bottom_mm])
        )
        assert x.min() >= -1e-9
        assert x.max() <= 103 + 1e-9
        assert y.min() >= -1e-9
        assert y.max() <= 97 + 1e-9


def test_cover_leaves_nothing_around() -> None:
    ranges = LayoutRanges((0.7, 0.7), 1.0, 0.0, (0.0, 0.0), (0.0, 0.0))
    layout = place(random(), ranges, LINEAR, 97, 97)
    assert layout.rectangle_px == Region(0, 0, 97, 97)
    assert layout.mask(LINEAR).all()
    assert layout.mm_per_px == 38 / 97
    wide = Probe("linear", 7.5, 0.5, 20.0, 20.0, 10.0, width_mm=50.0)
    assert place(random(), ranges, wide, 97, 97).mm_per_px == 50 / 97  # too much to cut off


def test_crop_cuts_bottom_and_sides() -> None:
    ranges = LayoutRanges((1.0, 1.0), 0.0, 1.0, (0.25, 0.25), (0.5, 0.5))
    layout = place(random(), ranges, LINEAR, 97, 97)
    assert (layout.top_mm, layout.bottom_mm) == (0.0, 30.0)
    assert layout.right_mm - layout.left_mm == pytest.approx(19.0)
    assert layout.mm_per_px == 30 / 97


def test_mask_is_what_the_probe_sees() -> None:
    layout = place(random(), WHOLE, CURVED, 211, 199)
    mask = layout.mask(CURVED)
    ring = (200**2 - 50**2) * np.pi * 65 / 360
    assert mask.sum() * layout.mm_per_px**2 == pytest.approx(ring, rel=5e-3)
    x0, y0, x1, y1 = layout.rectangle_px
    assert mask[y0:y1, x0:x1].sum() == mask.sum()
    flipped = place(random(), WHOLE, CURVED, 211, 199, mirrored=True)
    assert flipped.mask(CURVED).sum() == pytest.approx(mask.sum(), rel=1e-3)


def test_same_generator_same_layout_and_shifted_differs() -> None:
    assert place(random(), STANDARD, LINEAR, 97, 103) == place(random(), STANDARD, LINEAR, 97, 103)
    assert SHIFTED.fill[0] < STANDARD.fill[0]
    assert SHIFTED.crop > STANDARD.crop


def test_empty_frame_is_refused() -> None:
    with pytest.raises(InputError, match="0 x 103 pixels"):
        place(random(), STANDARD, LINEAR, 0, 103)
