"""Needles, catheters and guidewires: path and echoes by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from plain_scenes import CURVED, LINEAR, SILENT_DB, amplitude, even, needle, peaks_db, reflectors

from sonodetr.simulator.instrument import in_picture, slice_profile
from sonodetr.simulator.motion import Motion
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.tissue import angle_law

STILL = Motion.still(1)


def test_straight_path_by_hand() -> None:
    """35 mm at 30 degrees, then turned by 10 more about the skin."""
    given = needle(angle_rad=math.pi / 6)
    shaft = given.shaft_mm(STILL, 0)
    np.testing.assert_allclose(shaft[0], [-30, 0, 15])
    np.testing.assert_allclose(shaft[-1], [-30 + 35 * math.sqrt(0.75), 0, 15 + 17.5])
    np.testing.assert_allclose(np.linalg.norm(np.diff(shaft, axis=0), axis=1), 0.1, atol=1e-9)
    turned = replace(given, swing_rad=np.array([math.radians(10)])).shaft_mm(STILL, 0)[-1]
    angle = math.radians(40)
    np.testing.assert_allclose(turned, [-30 + 35 * math.cos(angle), 0, 15 + 35 * math.sin(angle)])


def test_out_of_plane_path_by_hand() -> None:
    shaft = needle(out_of_plane_rad=math.pi / 6).shaft_mm(STILL, 0)
    np.testing.assert_allclose(shaft[-1], [-30 + 35 * math.sqrt(0.75), 17.5, 15], atol=1e-9)


def test_a_bent_needle_is_an_arc() -> None:
    """Curvature 1 / 60 mm over 35 mm: 60 (1 - cos(35 / 60)) deeper at the end."""
    shaft = needle(bend_per_mm=1 / 60).shaft_mm(STILL, 0)
    turn = 35 / 60
    expected = [-30 + 60 * math.sin(turn), 0, 15 + 60 * (1 - math.cos(turn))]
    np.testing.assert_allclose(shaft[-1], expected, atol=1e-3)


def test_a_hook_turns_the_end_only() -> None:
    """The last 5 mm turn by a quarter; their mean direction ends 45 degrees down."""
    shaft = needle(kind="guidewire", hook_rad=math.pi / 2, hook_mm=5.0).shaft_mm(STILL, 0)
    np.testing.assert_allclose(shaft[300], [0, 0, 15], atol=1e-3)
    reach = 5 * 2 / math.pi  # of a quarter circle of 5 mm length
    np.testing.assert_allclose(shaft[-1], [reach, 0, 15 + reach], atol=0.01)


def test_moves_with_the_probe() -> None:
    motion = replace(STILL, probe_mm=np.array([[2.0, 0.5, 1.0]]))
    shaft = needle().shaft_mm(motion, 0)
    np.testing.assert_allclose(shaft[-1], [3.0, -0.5, 14.0])


def test_slice_profile_by_hand() -> None:
    """One half at half the thickness, which is 2 mm at the focus of 20 mm."""
    points = np.array([[0.0, 0, 20], [0, 1, 20], [0, -2, 20], [0, math.sqrt(2), 36]])
    np.testing.assert_allclose(slice_profile(LINEAR, points), [1, 0.5, 0.0625, 0.5])
    inside = in_picture(LINEAR, np.concatenate((points, [[19.5, 0, 20], [0, 0, 40.5]])))
    np.testing.assert_array_equal(inside, [True, True, False, True, False, False])


def levels_db(angle_deg: float, law_deg: float) -> np.ndarray:
    """Level of the shaft's echo along it, about the focus of a quiet medium."""
    angle = math.radians(angle_deg)
    entry = np.array([-25 * math.cos(angle), 0.0, 20 - 25 * math.sin(angle)])
    given = needle(
        entry_mm=entry,
        angle_rad=angle,
        length_mm=np.array([50.0]),
        law_deg=law_deg,
        diameter_mm=0.4,
    )
    # Points above the face are none of the picture.
    echoes = given.echoes(LINEAR, STILL, 0)
    picture = amplitude(LINEAR, even(LINEAR, SILENT_DB), instrument=echoes)[0]
    lines = int(3 * math.cos(angle) / LINEAR.line_step)
    return peaks_db(picture)[80 - lines : 80 + lines]


@pytest.mark.parametrize("angle_deg", [0.0, 12.0, 25.0, 45.0, 60.0])
def test_brightness_follows_the_angle_law(angle_deg: float) -> None:
    """Without echoes from within, the front wall alone shows: `angle_law` within 1 dB."""
    expected = 30 + 20 * math.log10(angle_law(angle_deg, 25.0))
    assert levels_db(angle_deg, 25.0).mean() == pytest.approx(expected, abs=1)


def test_brightness_falls_out_of_the_slice() -> None:
    """Parallel to the plane, 1 mm (half the slice) beside it, it is at half: 6 dB weaker."""
    beside = needle(entry_mm=np.array([-30.0, 1.0, 20.0]), length_mm=np.array([60.0]))
    within = replace(beside, entry_mm=np.array([-30.0, 0.0, 20.0]))
    pictures = [
        amplitude(LINEAR, even(LINEAR, SILENT_DB), instrument=given.echoes(LINEAR, STILL, 0))[0]
        for given in (within, beside)
    ]
    drop = peaks_db(pictures[0]) - peaks_db(pictures[1])
    np.testing.assert_allclose(drop[20:-20], 20 * math.log10(2), atol=0.05)
    far = replace(beside, entry_mm=np.array([-30.0, 9.0, 20.0]))
    assert len(far.echoes(LINEAR, STILL, 0).reflectors) == 0


def test_reverberations_follow_each_a_diameter_deeper() -> None:
    """Echoes 2 mm apart, each 10 dB weaker, beneath a level needle of 2 mm."""
    given = needle(
        diameter_mm=2.0, reverberation_db=-10.0, length_mm=np.array([60.0]), level_db=40.0
    )
    echoes = given.echoes(LINEAR, STILL, 0)
    picture = amplitude(LINEAR, even(LINEAR, SILENT_DB, 0.6), instrument=echoes)[0]
    column = 20 * np.log10(picture[:, 60:100].max(1))
    for order in range(4):
        depth = 14 + 2 * order
        near = slice(*(int((depth + off) / LINEAR.sample_mm) for off in (-0.8, 0.8)))
        where = LINEAR.ranges_mm[near][column[near].argmax()]
        assert where == pytest.approx(depth, abs=LINEAR.sample_mm)
        assert column[near].max() == pytest.approx(40 - 10 * order, abs=2)


def test_tip_is_brighter() -> None:
    given = needle(tip_db=12.0, length_mm=np.array([30.0]))
    plain = replace(given, tip_db=-80.0)
    pictures = [
        amplitude(LINEAR, even(LINEAR, SILENT_DB), instrument=shown.echoes(LINEAR, STILL, 0))[0]
        for shown in (given, plain)
    ]
    change = peaks_db(pictures[0]) - peaks_db(pictures[1])
    tip = int(79.5 - 0.5 / LINEAR.line_step)
    assert change[tip] == pytest.approx(20 * math.log10(1 + 10 ** (12 / 20)), abs=1.5)
    assert abs(change[tip - 20]) < 0.3


@pytest.mark.parametrize("probe", [LINEAR, CURVED], ids=["linear", "curvilinear"])
def test_shadow_costs_what_it_says(probe: Probe) -> None:
    """Beneath a needle across the beams it is darker by `shadow_db`."""
    given = needle(
        shadow_db=7.0,
        level_db=SILENT_DB,
        tip_db=0.0,
        length_mm=np.array([60.0]),
        entry_mm=np.array([-30.0, 0.0, 20.0]),
    )
    echoes = given.echoes(probe, STILL, 0)
    pictures = [
        amplitude(probe, even(probe), seed=3, instrument=part)[0] for part in (echoes, None)
    ]
    rows = int(24 / probe.sample_mm)
    middle = slice(probe.lines // 2 - 8, probe.lines // 2 + 8)
    change = 20 * np.log10(pictures[0] / pictures[1])[rows : rows + 100, middle]
    assert change.mean() == pytest.approx(-7, abs=0.3)


def test_points_have_no_phase_of_their_own() -> None:
    """A level needle is as bright as a level surface of its level."""
    surface = reflectors(np.arange(-25, 25, 0.1), 14.65, 0.1, 30.0, 0.0, 25.0)
    tissue = even(LINEAR, SILENT_DB, surfaces=surface)
    given = needle(length_mm=np.array([60.0])).echoes(LINEAR, STILL, 0)
    as_needle = amplitude(LINEAR, even(LINEAR, SILENT_DB), instrument=given)[0]
    difference = peaks_db(as_needle)[20:-20] - peaks_db(amplitude(LINEAR, tissue)[0])[20:-20]
    np.testing.assert_allclose(difference, 0, atol=0.1)
