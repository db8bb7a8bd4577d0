"""How instruments are led and how probe and tissue move: ranges and hand-computed cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
from plain_scenes import CURVED, LINEAR, PROBES, needle

from sonodetr.simulator.insertion import (
    SHIFTED,
    STANDARD,
    InsertionRanges,
    drag_along,
    draw_instrument,
    draw_motion,
)
from sonodetr.simulator.motion import Motion
from sonodetr.simulator.probe import Probe

TIMES = np.arange(16) / 10
IN_PLANE = replace(STANDARD, out_of_plane=0.0, misaligned_mm=0.0)


def random(seed: int = 3) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("ranges", [STANDARD, SHIFTED], ids=["standard", "shifted"])
@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_draws_stay_in_their_ranges(probe: Probe, ranges: InsertionRanges) -> None:
    for seed in range(41):
        drawn = draw_instrument(random(seed), probe, TIMES, "needle", ranges)
        assert ranges.level_db[0] <= drawn.level_db <= ranges.level_db[1]
        assert ranges.shadow_db[0] <= drawn.shadow_db <= ranges.shadow_db[1]
        assert ranges.law_deg[0] <= drawn.law_deg <= ranges.law_deg[1]
        assert drawn.hook_mm == 0
        assert abs(drawn.bend_per_mm) <= 1 / 120
        assert drawn.length_mm.min() >= 0
        assert drawn.entry_mm[2] == probe.top_mm
        assert drawn.length_mm.shape == drawn.swing_rad.shape == (16,)


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_an_approach_within_the_plane(probe: Probe) -> None:
    """It starts beside the probe's face, at an angle in its range, and stays in the plane."""
    outside = 0
    for seed in range(83):
        drawn = draw_instrument(random(seed), probe, TIMES, "needle", IN_PLANE)
        below = math.degrees(math.asin(math.sin(drawn.angle_rad)))
        assert IN_PLANE.angle_deg[0] - 0.01 <= below <= IN_PLANE.angle_deg[1] + 0.01
        assert drawn.out_of_plane_rad == 0
        assert drawn.entry_mm[1] == 0
        outside += abs(drawn.entry_mm[0]) > probe.aperture_mm / 2
    assert outside > 70


def test_an_approach_across_the_plane_meets_it() -> None:
    """Pushed in to its target, the shaft ends in the plane."""
    across = replace(STANDARD, out_of_plane=1.0, misaligned_mm=0.0)
    for seed in range(23):
        drawn = draw_instrument(random(seed), LINEAR, TIMES, "needle", across)
        reach = abs(drawn.entry_mm[1]) / abs(math.sin(drawn.out_of_plane_rad))
        straight = replace(
            drawn,
            bend_per_mm=0.0,
            length_mm=np.array([reach]),
            swing_rad=np.zeros(1),
        )
        tip = straight.shaft_mm(Motion.still(1), 0)[-1]
        assert abs(tip[1]) < 0.01
        assert LINEAR.inside(tip[:1], tip[2:])[0]


def test_kinds() -> None:
    wires = [draw_instrument(random(s), CURVED, TIMES, "guidewire", STANDARD) for s in range(29)]
    assert all(3 <= wire.hook_mm <= 8 and 0.5 <= abs(wire.hook_rad) <= 2.6 for wire in wires)
    assert max(wire.diameter_mm for wire in wires) == 0.97  # 0.038 inch
    tubes = [draw_instrument(random(s), CURVED, TIMES, "catheter", STANDARD) for s in range(29)]
    assert {tube.diameter_mm for tube in tubes} <= {1.0, 1.33, 1.67, 2.0, 2.67}


def test_the_hand_keeps_to_its_speed() -> None:
    for seed in range(31):
        drawn = draw_instrument(random(seed), LINEAR, TIMES, "needle", STANDARD)
        speed = np.abs(np.diff(drawn.length_mm)) * 10
        assert speed.max() <= STANDARD.speed_mm_s[1] * 1.001
        assert np.abs(np.diff(drawn.swing_rad)).max() <= math.radians(6) / 10 * 1.001


def test_motion_stays_in_its_ranges() -> None:
    for seed in range(31):
        motion = draw_motion(random(seed), LINEAR, TIMES, SHIFTED)
        tremor = SHIFTED.tremor_mm[1]
        most = SHIFTED.slide_mm[1], SHIFTED.elevation_mm[1], SHIFTED.lift_mm[1]
        assert (np.abs(motion.probe_mm).max(0) <= np.array(most) + tremor).all()
        assert np.abs(motion.tilt_rad).max() <= math.radians(SHIFTED.tilt_deg[1])
        assert np.abs(motion.breath_mm).max() <= 0.06 * 40
        assert motion.pulse.min() >= 0
        assert motion.pulse.max() <= 1


def test_drag_by_hand() -> None:
    """Pushed at 8 mm/s, the tissue at the tip is shifted by 0.5 tanh(1) along the needle."""
    times = np.arange(5) / 10
    motion = replace(Motion.still(5), times_s=times)
    given = needle(angle_rad=math.radians(30), length_mm=10 + 8 * times, swing_rad=np.zeros(5))
    moved = drag_along(motion, given)
    shift = 0.5 * math.tanh(1)
    expected = [shift * math.cos(math.pi / 6), shift / 2]
    np.testing.assert_allclose(moved.drag_mm, [expected] * 5, rtol=1e-6)
    tip = [-30 + 10.8 * math.cos(math.pi / 6), 15 + 5.4]
    np.testing.assert_allclose(moved.drag_at_mm[1], tip)
    still = drag_along(motion, replace(given, length_mm=np.full(5, 10.0)))
    np.testing.assert_allclose(still.drag_mm, 0, atol=1e-12)


def test_one_frame_has_no_speed() -> None:
    motion = Motion.still(1)
    assert drag_along(motion, needle()) is motion


def test_same_seed_same_draw() -> None:
    first, again, other = (
        draw_instrument(random(seed), LINEAR, TIMES, "needle", STANDARD) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first.length_mm, again.length_mm)
    assert first.level_db == again.level_db != other.level_db
