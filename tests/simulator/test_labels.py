"""Labels of instruments, by hand and against what the picture shows."""

import math
from dataclasses import replace

import numpy as np
import pytest
from plain_scenes import CURVED, LINEAR, SILENT_DB, even, needle, pictures, whole

from sonodetr.simulator.beam import make_beam
from sonodetr.simulator.instrument import Instrument
from sonodetr.simulator.labels import InstrumentLabel, Labeller
from sonodetr.simulator.layout import Layout
from sonodetr.simulator.motion import Motion
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.tissue import Tissue

STILL = Motion.still(1)


def label(
    instrument: Instrument,
    layout: Layout | None = None,
    tissue: Tissue | None = None,
    probe: Probe = LINEAR,
    noise_db: float = -70.0,
) -> InstrumentLabel | None:
    labeller = Labeller(
        probe, tissue or even(probe, -20.0), STILL, layout or whole(probe), noise_db=noise_db
    )
    return labeller.label(instrument, 0)


def found(instrument: Instrument, **others: object) -> InstrumentLabel:
    result = label(instrument, **others)  # type: ignore[arg-type]
    assert result is not None
    return result


def margins_mm(depth_mm: float) -> tuple[float, float]:
    """Half the needle and half an echo, across and along the beam."""
    beam = make_beam(LINEAR)
    across = beam.sigma_across_mm[int(depth_mm / LINEAR.sample_mm - 0.5)]
    return 0.35 + float(across), 0.35 + beam.sigma_along_mm


def test_level_needle_by_hand() -> None:
    """From outside the picture to x = 5 mm, 15 mm deep, at 0.25 mm a pixel from 3, 5 on."""
    seen = found(needle())
    across, along = margins_mm(15)
    np.testing.assert_allclose(seen.tip_mm, [5, 15])
    np.testing.assert_allclose(seen.tip_px, [3 + 24 * 4, 5 + 15 * 4])
    np.testing.assert_allclose(seen.entry_mm, [-19, 15], atol=0.1)
    np.testing.assert_allclose(seen.entry_px, [3, 5 + 60], atol=0.4)
    expected = [3, 5 + 4 * (15 - along), 3 + 4 * (24 + across), 5 + 4 * (15 + along)]
    np.testing.assert_allclose(seen.box_xyxy_px, expected, atol=0.01)
    assert seen.angle_deg == 0
    assert seen.visible_mm == pytest.approx(24, abs=0.11)
    # The echo of 30 dB over tissue of -20 dB; noise of -70 dB is lifted, but not to that.
    assert seen.shaft_contrast_db == pytest.approx(50, abs=0.1)
    assert seen.tip_contrast_db == pytest.approx(50 - 80, abs=0.1)


def slanting(tip_mm: tuple[float, float], angle_deg: float, **changes: object) -> Instrument:
    """A needle at an angle that ends at a place."""
    angle = math.radians(angle_deg)
    length = (tip_mm[1] + 3) / math.sin(angle)
    entry = np.array([tip_mm[0] - length * math.cos(angle), 0.0, -3.0])
    return needle(
        entry_mm=entry, angle_rad=angle, length_mm=np.array([length]), law_deg=60.0, **changes
    )


def test_needle_at_45_degrees_by_hand() -> None:
    """From the face at x = -13 to 4, 17."""
    seen = found(slanting((4.0, 17.0), 45.0))
    across, along = margins_mm(17)
    np.testing.assert_allclose(seen.tip_px, [3 + 23 * 4, 5 + 17 * 4])
    np.testing.assert_allclose(seen.entry_mm, [-13, 0], atol=0.1)
    assert seen.angle_deg == pytest.approx(45)
    np.testing.assert_allclose(
        seen.box_xyxy_px[2:], [3 + 4 * (23 + across), 5 + 4 * (17 + along)], atol=0.01
    )
    np.testing.assert_allclose(seen.box_xyxy_px[:2], [3 + 4 * (6 - across), 5], atol=0.4)


def test_mirrored_by_hand() -> None:
    seen = found(needle(), layout=whole(LINEAR, mirrored=True))
    np.testing.assert_allclose(seen.tip_px, [3 + 14 * 4, 65])
    np.testing.assert_allclose(seen.tip_mm, [5, 15])
    assert seen.box_xyxy_px[0] == pytest.approx(3 + 4 * (14 - margins_mm(15)[0]), abs=0.01)
    assert seen.box_xyxy_px[2] == 3 + 38 * 4


def test_what_the_screen_does_not_show_is_not_labelled() -> None:
    """Zoomed onto x -10 to 0: the tip at 5 is gone, the needle reaches the right edge."""
    layout = replace(whole(LINEAR), left_mm=-10.0, right_mm=0.0, width_px=43)
    seen = found(needle(), layout=layout)
    assert np.isnan(seen.tip_px).all()
    assert np.isnan(seen.tip_contrast_db)
    np.testing.assert_allclose(seen.box_xyxy_px[[0, 2]], [3, 43])
    assert seen.visible_mm == pytest.approx(10, abs=0.11)


def test_tip_out_of_the_plane_is_unknown() -> None:
    """Crossing the slice: visible where it is above a quarter, so within 2 mm at the focus."""
    angle = math.radians(30)
    given = needle(
        entry_mm=np.array([-20.0, -10.0, 20.0]),
        out_of_plane_rad=angle,
        length_mm=np.array([35.0]),
    )
    seen = found(given)
    half = math.sqrt(2)  # 0.25 = 2^-(y / 1 mm)^2
    middle = -20 + 10 / math.tan(angle)
    assert np.isnan(seen.tip_px).all()
    assert seen.entry_mm[0] == pytest.approx(middle - half / math.tan(angle), abs=0.1)
    assert seen.visible_mm == pytest.approx(2 * half / math.tan(angle), abs=0.2)


def test_hidden_behind_bone() -> None:
    """Bone over x < 0 hides that part: the needle is seen from 0 to its tip."""
    tissue = even(LINEAR, -20.0)
    loss = tissue.attenuation_db_cm_mhz.copy()
    loss[30:34, : loss.shape[1] // 2] = 40.0  # 10 to 12 mm deep
    seen = found(needle(), tissue=replace(tissue, attenuation_db_cm_mhz=loss))
    np.testing.assert_allclose(seen.entry_mm, [0, 15], atol=0.6)
    np.testing.assert_allclose(seen.tip_mm, [5, 15])
    other = needle(length_mm=np.array([25.0]))
    assert label(other, tissue=replace(tissue, attenuation_db_cm_mhz=loss)) is None


def test_bone_moves_with_the_tissue() -> None:
    """Breathing presses it from 12 mm down to 16.8 mm, beneath the needle, which then shows."""
    tissue = even(LINEAR, -20.0)
    loss = tissue.attenuation_db_cm_mhz.copy()
    loss[34:40] = 40.0  # 12 to 15 mm deep
    tissue = replace(tissue, attenuation_db_cm_mhz=loss)
    layout = whole(LINEAR)
    assert Labeller(LINEAR, tissue, STILL, layout, noise_db=-70.0).label(needle(), 0) is None
    breath = replace(STILL, breath_mm=np.array([16.0]), breath_depth_mm=40.0)
    seen = Labeller(LINEAR, tissue, breath, layout, noise_db=-70.0).label(needle(), 0)
    assert seen is not None
    assert seen.visible_mm == pytest.approx(24, abs=0.11)


@pytest.mark.parametrize(
    "instrument",
    [
        needle(entry_mm=np.array([-30.0, 6.0, 15.0])),
        needle(length_mm=np.array([10.0])),
        needle(length_mm=np.array([12.0])),
        needle(entry_mm=np.array([-30.0, 0.0, 45.0])),
        needle(level_db=-30.0),
    ],
    ids=["beside the slice", "not yet there", "1 mm of it", "too deep", "darker than tissue"],
)
def test_nothing_to_see(instrument: Instrument) -> None:
    assert label(instrument) is None


def test_noise_hides_what_is_deep() -> None:
    """At 35 mm compensation lifts noise of -30 dB over the needle's 0 dB."""
    deep = needle(entry_mm=np.array([-30.0, 0.0, 35.0]), level_db=0.0)
    assert label(deep) is not None
    assert label(deep, noise_db=-20.0) is None


def test_what_the_screen_shows_black_cannot_be_seen() -> None:
    """In fluid, 10 dB below what the screen shows at all; the same 10 dB above it is seen."""
    fluid = even(LINEAR, -60.0)
    labellers = [
        Labeller(LINEAR, fluid, STILL, whole(LINEAR), noise_db=-90.0, black_db=black_db)
        for black_db in (-10.0, 10.0)
    ]
    bright, dark = (labeller.label(needle(level_db=0.0), 0) for labeller in labellers)
    assert bright is not None
    assert dark is None
    assert bright.shaft_contrast_db == pytest.approx(10 - 6, abs=0.1)


def shown_angle_deg(picture: np.ndarray, columns: slice) -> float:
    """Angle of a line through the brightest part of every column."""
    x = np.arange(picture.shape[1])[columns] + 0.5
    weight = np.clip(picture[:, columns].astype(float) - 60, 0, None) ** 2
    y = (np.arange(len(picture))[:, None] + 0.5) * weight
    slope, _ = np.polyfit(x, y.sum(0) / weight.sum(0), 1)
    return math.degrees(math.atan(abs(slope)))


@pytest.mark.parametrize("probe", [LINEAR, CURVED], ids=["linear", "curvilinear"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle_deg", [5.0, 20.0, 35.0])
def test_angle_in_the_picture(probe: Probe, mirrored: bool, angle_deg: float) -> None:
    """The line that the pixels show lies at the label's angle, to 0.1 degree."""
    scale = probe.depth_mm / 40
    tip = 9.0 * scale, 22.0 * scale
    given = slanting(tip, angle_deg, level_db=30.0, diameter_mm=0.3)
    layout = whole(probe, 0.2 * scale, mirrored)
    picture = pictures(probe, even(probe, SILENT_DB, 0.6), layout, given)[0]
    seen = found(given, layout=layout, probe=probe, tissue=even(probe, SILENT_DB))
    ends = layout.to_pixels(np.array([tip[0] - 19 * scale, tip[0] - 2 * scale]), np.zeros(2))[0]
    shown_deg = shown_angle_deg(picture, slice(int(ends.min()), int(ends.max())))
    assert seen.angle_deg == pytest.approx(angle_deg, abs=0.05)
    assert shown_deg == pytest.approx(seen.angle_deg, abs=0.1)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("tip_x_mm", [5.0, 5.13, 5.31])
def test_tip_in_the_picture(mirrored: bool, tip_x_mm: float) -> None:
    """A long row of points that ends is half as high at its end: there the label puts the tip."""
    layout = whole(LINEAR, 0.2, mirrored)
    given = needle(length_mm=np.array([30 + tip_x_mm]), diameter_mm=0.3, tip_db=-80.0)
    picture = pictures(LINEAR, even(LINEAR, SILENT_DB), layout, given)[0].astype(float)
    seen = found(given, layout=layout, tissue=even(LINEAR, SILENT_DB))
    row = picture.max(0)[:: -1 if mirrored else 1]
    shaft = np.median(row[20:80])
    half = shaft - 255 * 20 * math.log10(2) / 60
    last = int(np.flatnonzero(row > half)[-1])
    edge = last + 0.5 + (row[last] - half) / (row[last] - row[last + 1])
    edge = layout.width_px - edge if mirrored else edge
    assert seen.tip_px[0] == pytest.approx(edge, abs=0.5)
    column = picture[:, int(seen.tip_px[0]) + (30 if mirrored else -30)]
    depth = (np.arange(len(picture)) + 0.5) @ column / column.sum()
    front_px = 0.15 / 0.2  # the front wall shows, half a diameter above the axis
    assert seen.tip_px[1] == pytest.approx(depth + front_px, abs=0.5)
