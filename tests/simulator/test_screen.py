"""What lies around and over the picture."""

from dataclasses import replace

import numpy as np
import pytest

from sonodetr.simulator.codec import Codec
from sonodetr.simulator.layout import STANDARD as LAYOUTS
from sonodetr.simulator.layout import Layout, place
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.screen import SHIFTED, STANDARD, Screen, draw_screen, paint

PROBE = Probe("linear", 7.5, 0.5, 20.0, 40.0, 20.0, width_mm=40.0)
# 40 mm by 40 mm on 100 by 100 pixels, from (29, 11) in a frame of 131 by 157.
LAYOUT = Layout(0.4, 29.0, 11.0, -20.0, 20.0, 0.0, 40.0, 131, 157)
MASK = LAYOUT.mask(PROBE)
PICTURES = np.random.default_rng(2).integers(40, 180, (3, 131, 157), np.uint8)
TEXT = ("MI 0.9  TIS 0.2", "Gn 52", "DR 60")


def shown(screen: Screen, layout: Layout = LAYOUT) -> np.ndarray:
    return paint(screen, PICTURES, MASK, layout)


def marks(screen: Screen, layout: Layout = LAYOUT) -> np.ndarray:
    """Pixels of the first frame that differ from those of an empty screen."""
    return shown(screen, layout)[0] != shown(Screen())[0]


def test_empty_screen_is_the_picture_on_black() -> None:
    painted = shown(Screen())
    assert (painted.shape, painted.dtype) == (PICTURES.shape, np.uint8)
    np.testing.assert_array_equal(painted[:, MASK], PICTURES[:, MASK])
    assert not painted[:, ~MASK].any()


def test_background() -> None:
    assert (shown(Screen(background=23))[:, ~MASK] == 23).all()


@pytest.mark.parametrize("corner", ["top left", "top right", "bottom left", "bottom right"])
def test_text_is_in_its_corner_and_outside_the_picture(corner: str) -> None:
    drawn = marks(Screen(corners={corner: TEXT}, text_height=0.03))
    assert drawn.sum() > 20
    assert not drawn[MASK].any()
    rows, columns = np.nonzero(drawn)
    assert (rows.mean() < 131 / 2) == corner.startswith("top")
    assert (columns.mean() < 157 / 2) == corner.endswith("left")


def test_text_that_would_cross_the_picture_is_left_out() -> None:
    full = np.ones_like(MASK)
    painted = paint(Screen(corners={"top left": TEXT}), PICTURES, full, LAYOUT)
    np.testing.assert_array_equal(painted, PICTURES)


def test_surroundings_never_touch_the_picture() -> None:
    for seed in range(29):
        drawn = draw_screen(np.random.default_rng(seed), SHIFTED)
        screen = replace(drawn, calipers=(), guide=(), cursor=None, codec=Codec())
        screen = replace(screen, ruler="none", mark="none")
        np.testing.assert_array_equal(shown(screen)[:, MASK], PICTURES[:, MASK])


@pytest.mark.parametrize(("fine", "step_px"), [(True, 12.5), (False, 25.0)])
def test_ticks_of_the_ruler_are_true(fine: bool, step_px: float) -> None:
    drawn = marks(Screen(ruler="right", fine_ruler=fine, ink=255, text_height=0.001))
    column = shown(Screen(ruler="right", fine_ruler=fine, ink=255))[0, :, 131].astype(float)
    assert not drawn[:, :130].any()
    rows = np.arange(131) + 0.5
    for number in range(int(100 / step_px)):
        near = np.abs(rows - 11 - number * step_px) < 3
        assert column[near].sum() > 60
        centre = (column[near] * rows[near]).sum() / column[near].sum()
        assert centre == pytest.approx(11 + number * step_px, abs=0.4)


def test_mark_follows_the_mirror() -> None:
    _, columns = np.nonzero(marks(Screen(mark="dot")))
    assert columns.max() < 29
    mirrored = replace(LAYOUT, mirrored=True)
    _, columns = np.nonzero(marks(Screen(mark="dot"), mirrored))
    assert columns.min() >= 129


def test_guide_and_calipers_lie_over_the_picture() -> None:
    guide = marks(Screen(guide=((0.0, 0.0), (1.0, 1.0)), ink=255))
    rows, columns = np.nonzero(guide & MASK)
    assert len(rows) > 30
    assert np.abs((columns - 29) - (rows - 11)).max() <= 2
    crosses = marks(Screen(calipers=((0.25, 0.5), (0.75, 0.5)), ink=255))
    assert crosses[60:63, 53:56].any()
    assert crosses[60:63, 103:106].any()


def test_every_element_draws_something() -> None:
    for part in (
        {"panel": 50, "background": 0},
        {"frame": 90},
        {"grey_bar": True},
        {"logo": True},
        {"cursor": (0.5, 0.5)},
        {"mark": "bar"},
        {"mark": "ring"},
        {"mark": "letter"},
        {"ruler": "left", "focus": 0.5},
    ):
        assert marks(Screen(ink=255, text_height=0.03, **part)).any(), part


def test_same_generator_same_bits() -> None:
    for seed in range(17):
        one, two = (draw_screen(np.random.default_rng(seed), STANDARD) for _ in range(2))
        assert one == two
        np.testing.assert_array_equal(shown(one), shown(two))


def test_any_size_and_place() -> None:
    for seed in range(31):
        random = np.random.default_rng(seed)
        height, width = random.integers(17, 211, 2).tolist()
        layout = place(random, LAYOUTS, PROBE, height, width)
        pictures = random.integers(0, 255, (2, height, width), np.uint8)
        painted = paint(draw_screen(random, SHIFTED), pictures, layout.mask(PROBE), layout)
        assert (painted.shape, painted.dtype) == (pictures.shape, np.uint8)


def test_some_screens_are_empty_and_shifted_ones_are_fuller() -> None:
    standard, shifted = (
        [draw_screen(np.random.default_rng(seed), ranges) for seed in range(101)]
        for ranges in (STANDARD, SHIFTED)
    )
    empty = [sum(screen == Screen(codec=screen.codec) for screen in s) for s in (standard, shifted)]
    assert 20 < empty[0] < 50
    assert empty[1] < 15
    height = [max(screen.text_height for screen in s) for s in (standard, shifted)]
    assert height[0] <= STANDARD.text_height[1] < height[1]
    assert max(s.background for s in standard) < max(s.background for s in shifted)
