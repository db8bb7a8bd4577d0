"""Scenes: levels, losses and surfaces at places known by hand, and what holds for every scene."""

import dataclasses
import math

import numpy as np
import pytest

from sonodetr.simulator import layers, structures
from sonodetr.simulator.anatomy import SCENES, SHIFTED, STANDARD, draw_scene, draw_tissue
from sonodetr.simulator.beam import centre_frequency_mhz
from sonodetr.simulator.canvas import Canvas
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.tissue import Tissue

LINEAR = Probe("linear", 9.0, 0.6, 17.0, 37.0, 19.0, width_mm=41.0)
CURVED = Probe("curvilinear", 3.5, 0.6, 20.0, 113.0, 53.0, radius_mm=59.0, sector_deg=61.0)
PHASED = Probe("phased", 2.7, 0.6, 17.0, 139.0, 71.0, radius_mm=2.0, sector_deg=83.0)
PROBES = {probe.kind: probe for probe in (LINEAR, CURVED, PHASED)}
SHALLOWEST = Probe("linear", 13.0, 0.7, 11.0, 23.0, 11.0, width_mm=25.0)


def canvas(probe: Probe = LINEAR, seed: int = 3) -> Canvas:
    return Canvas(np.random.default_rng(seed), probe)


def cell(drawing: Canvas, x_mm: float, z_mm: float) -> tuple[int, int]:
    return (
        int((z_mm - drawing.top_mm) / drawing.spacing_mm),
        int((x_mm - drawing.left_mm) / drawing.spacing_mm),
    )


def surfaces(drawing: Canvas) -> dict[str, np.ndarray]:
    return dataclasses.asdict(drawing.finish((0.0, 0.0)).reflectors)


@pytest.mark.parametrize("ranges", [STANDARD, SHIFTED], ids=["standard", "shifted"])
@pytest.mark.parametrize("kind", PROBES)
@pytest.mark.parametrize("scene", SCENES)
def test_every_scene_with_every_probe(scene, kind, ranges):
    probe = PROBES[kind]
    for seed in range(3):
        tissue = draw_scene(np.random.default_rng((seed, 7)), probe, ranges, scene)
        check(tissue, probe)


def test_fat_thicker_than_the_picture():
    for seed in range(5):
        check(draw_scene(np.random.default_rng(seed), SHALLOWEST, SHIFTED, "limb"), SHALLOWEST)


def check(tissue: Tissue, probe: Probe) -> None:
    height, width = tissue.echo_db.shape
    assert max(height, width) <= 352
    assert tissue.spacing_mm >= 0.12
    assert tissue.left_mm <= -probe.half_width_mm - 8
    assert tissue.left_mm + width * tissue.spacing_mm >= probe.half_width_mm + 8
    assert tissue.top_mm <= probe.top_mm - 4
    assert tissue.top_mm + height * tissue.spacing_mm >= probe.depth_mm + 4
    assert np.isfinite(tissue.echo_db).all()
    assert np.abs(tissue.echo_db).max() < 90
    assert np.isfinite(tissue.attenuation_db_cm_mhz).all()
    assert tissue.attenuation_db_cm_mhz.min() >= 0
    surface = tissue.reflectors
    assert len(surface) <= 15_000
    assert all(np.isfinite(values).all() for values in vars(surface).values())
    if len(surface):
        assert surface.step_mm.min() > 0
        assert surface.step_mm.max() <= (0.1 if probe.depth_mm <= 70 else 0.2) + 1e-6
        assert np.abs(surface.normal_deg).max() <= 90
        assert surface.level_db.max() < 80  # copies behind gas make up for what it takes
        assert np.abs(surface.x_mm).max() < probe.half_width_mm + 10
    for artery in tissue.pulsators:
        assert 0 < artery.stroke_mm < 0.2 * artery.radius_mm


def test_same_numbers_same_bits_and_never_twice_alike():
    first, again, other = (
        draw_tissue(np.random.default_rng((5, clip)), LINEAR, STANDARD) for clip in (11, 11, 13)
    )
    assert first.echo_db.tobytes() == again.echo_db.tobytes()
    assert first.attenuation_db_cm_mhz.tobytes() == again.attenuation_db_cm_mhz.tobytes()
    assert first.reflectors.phase_rad.tobytes() == again.reflectors.phase_rad.tobytes()
    assert (first.pulsators, first.shear) == (again.pulsators, again.shear)
    assert not np.array_equal(first.echo_db, other.echo_db)


def test_scenes_come_by_their_weights():
    only = dataclasses.replace(
        STANDARD,
        shallow_weights=(0.0,) * 7 + (5.0,),
        deep_weights=(0.0,) * 4 + (1.0,) + (0.0,) * 3,
        samples=(0.0, 0.0, 0.0, 1.0),
        gel_db=(-9.0, -9.0),
    )
    water = draw_tissue(np.random.default_rng(2), LINEAR, only)
    assert np.median(water.echo_db) == pytest.approx(-60, abs=6)
    gel = draw_tissue(np.random.default_rng(2), CURVED, only)
    assert np.percentile(gel.echo_db, 60) == pytest.approx(-9, abs=5)


def test_shifted_leaves_the_standard_ranges():
    for name in ("fat_db", "fascia_db", "gel_db", "bone_db", "fat_mm", "gel_attenuation"):
        (low, high), (other_low, other_high) = getattr(STANDARD, name), getattr(SHIFTED, name)
        assert other_low < low or other_high > high, name
    assert SHIFTED.bone > STANDARD.bone
    assert SHIFTED.gas > STANDARD.gas
    assert SHIFTED.shallow_weights != STANDARD.shallow_weights
    for ranges in (STANDARD, SHIFTED):
        assert sum(ranges.shallow_weights) == pytest.approx(1)
        assert sum(ranges.deep_weights) == pytest.approx(1)
        assert ranges.bone_attenuation[0] * 0.8 >= 20


def test_layers_lie_at_their_depth_with_their_level():
    ranges = dataclasses.replace(
        STANDARD,
        skin_mm=(2.0, 2.0),
        fat_db=(-8.0, -8.0),
        muscle_db=(1.0, 1.0),
        texture_db=(0.0, 0.0),
        fat_attenuation=(0.5, 0.5),
        muscle_attenuation=(0.9, 0.9),
        slope=0.0,
    )
    drawing = canvas()
    fat_bottom = layers.wall(drawing, ranges, 10.0)
    assert fat_bottom.mean() == pytest.approx(12, abs=1.5)
    layers.muscle(drawing, (fat_bottom, fat_bottom + 15), ranges)
    fat = slice(cell(drawing, 0, 4.5)[0], cell(drawing, 0, 8.5)[0])
    muscle = slice(cell(drawing, 0, 16)[0], cell(drawing, 0, 24)[0])
    assert drawing.echo_db[fat].mean() == pytest.approx(-8, abs=1)
    np.testing.assert_allclose(drawing.attenuation[fat], 0.5, atol=0.01)
    np.testing.assert_allclose(drawing.echo_db[muscle], 1, atol=0.01)
    assert 0.9 <= drawing.attenuation[muscle].mean() <= 0.96  # more along the fibres
    assert drawing.echo_db[cell(drawing, 3, 1)] >= 2  # skin


def test_vessel_is_dark_and_lets_sound_through_and_its_wall_is_round():
    ranges = dataclasses.replace(STANDARD, blood_db=(-37.0, -37.0), wall_db=(11.0, 11.0))
    drawing = canvas()
    x = np.linspace(-15, 15, 50)
    drawing.line(x, np.full(50, 17.0), 20.0, 10.0)  # a fascia that the vessel takes the place of
    structures.vessel(drawing, 3.0, 17.0, 5.0, ranges)
    row, column = cell(drawing, 3, 17)
    inside = np.s_[row - 8 : row + 9, column - 8 : column + 9]
    np.testing.assert_allclose(drawing.echo_db[inside], -37, atol=1e-3)
    np.testing.assert_allclose(drawing.attenuation[inside], 0.2, atol=1e-4)
    assert drawing.echo_db[cell(drawing, -9, 17)] == 0
    surface = surfaces(drawing)
    distance = np.hypot(surface["x_mm"] - 3, surface["z_mm"] - 17)
    assert distance.min() > 1.5
    wall = surface["level_db"] < 19
    assert 2.5 < distance[wall].min() < distance[wall].max() < 12
    top = np.argmin(np.where(wall, surface["z_mm"], 99))
    assert abs(surface["normal_deg"][top]) < 25  # the wall faces the probe there
    side = np.argmin(np.where(wall, surface["x_mm"], 99))
    assert abs(surface["normal_deg"][side]) > 55
    for artery in drawing.pulsators:
        assert (artery.x_mm, artery.z_mm, artery.radius_mm) == (3, 17, 5)


def test_bone_lets_nothing_through():
    drawing = canvas()
    structures.bone(drawing, np.linspace(-7, 7, 50), np.full(50, 13.0), STANDARD)
    tissue = drawing.finish((0.0, 0.0))
    rows = slice(cell(drawing, 0, 15)[0], cell(drawing, 0, 30)[0])
    columns = slice(cell(drawing, -5, 0)[1], cell(drawing, 5, 0)[1])
    assert tissue.attenuation_db_cm_mhz[rows, columns].min() >= 20
    above = tissue.attenuation_db_cm_mhz[: cell(drawing, 0, 11)[0]]
    assert above.max() < 1
    level = tissue.reflectors.level_db
    assert STANDARD.bone_db[0] - 8 < level.mean() < STANDARD.bone_db[1] + 8


@pytest.mark.parametrize("probe", [LINEAR, CURVED], ids=["linear", "curvilinear"])
def test_gas_takes_30_db_and_shows_haze(probe):
    drawing = canvas(probe)
    before = drawing.attenuation.copy()
    assert before.max() < 1
    z = 0.4 * probe.depth_mm
    structures.gas(drawing, np.linspace(-17, 17, 90), np.full(90, z), 30.0, -11.0)
    column = cell(drawing, 0, z)[1]
    more = (drawing.attenuation - before)[:, column].sum() * drawing.spacing_mm / 10
    sample = int(z / probe.sample_mm)
    lost_db = 2 * centre_frequency_mhz(probe)[sample] * more
    assert lost_db == pytest.approx(30, abs=2.5)
    under = cell(drawing, 0, z + 4)[0]
    haze = drawing.echo_db[under : under + 20, column - 9 : column + 10].mean()
    assert haze == pytest.approx(30 - 11, abs=8)


def test_lines_know_their_normal_and_step():
    drawing = canvas()
    drawing.line(np.array([-8.0, 9.0]), np.array([20.0, 20.0]), 7.0, 12.0)
    drop = 11 * math.tan(math.radians(30))
    drawing.line(np.array([-5.0, 6.0]), np.array([9.0, 9.0 + drop]), 8.0, 13.0)
    surface = surfaces(drawing)
    flat = surface["level_db"] == 7
    np.testing.assert_allclose(surface["normal_deg"][flat], 0, atol=1e-4)
    np.testing.assert_allclose(surface["normal_deg"][~flat], -30, atol=1e-3)
    assert len(np.unique(surface["phase_rad"][flat])) == 1
    assert surface["step_mm"][flat].sum() == pytest.approx(17, abs=0.11)
    assert np.diff(surface["x_mm"][flat]).max() <= 0.1 + 1e-5


def test_a_surface_along_a_convex_face_meets_every_beam_at_right_angles():
    drawing = canvas(CURVED)
    z = drawing.interface(0.0, 0.0)
    reach = np.abs(drawing.x_mm) < 25
    face = np.sqrt(59.0**2 - drawing.x_mm[reach] ** 2) - 59
    np.testing.assert_allclose(z[reach], face, atol=1e-9)
    drawing.line(drawing.x_mm[reach], z[reach], 10.0, 10.0)
    surface = surfaces(drawing)
    beam = np.degrees(CURVED.beam_angle_rad(surface["x_mm"], surface["z_mm"]))
    np.testing.assert_allclose(surface["normal_deg"], beam, atol=1.5)


def test_copies_lie_on_the_same_scan_line():
    x, z = np.array([11.0]), np.array([17.0])
    assert canvas(LINEAR).deeper(x, z, 2.0, 3.0) == (11.0, 37.0)
    sample, line = CURVED.to_beam(x, z)
    again, same = CURVED.to_beam(*canvas(CURVED).deeper(x, z, 2.0))
    np.testing.assert_allclose(same, line)
    np.testing.assert_allclose(again + 0.5, 2 * (sample + 0.5))


def test_strands_fade_at_their_ends():
    drawing = canvas()
    one = np.ones(1)
    drawing.strands(0 * one, 15 * one, 20 * one, 5 * one, 9 * one)
    surface = surfaces(drawing)
    assert surface["level_db"].max() == pytest.approx(9, abs=0.1)
    assert surface["level_db"][[0, -1]] == pytest.approx([-3, -3], abs=0.1)
    assert surface["x_mm"].max() == pytest.approx(2.5 * math.cos(math.radians(20)), abs=0.4)
    assert np.abs(surface["normal_deg"] + 20).max() < 40


def test_fill_keeps_to_its_outline():
    drawing = canvas()
    square = np.array([[-3.0, 10.0], [3.0, 10.0], [3.0, 16.0], [-3.0, 16.0]])
    drawing.fill(square, -12.0, 0.3, 0.1)
    assert drawing.echo_db[cell(drawing, 0, 13)] == pytest.approx(-12)
    assert drawing.echo_db[cell(drawing, 2.5, 15.5)] == pytest.approx(-12, abs=0.1)
    assert drawing.echo_db[cell(drawing, 3.7, 13)] == pytest.approx(0, abs=0.1)
    area_mm2 = (drawing.echo_db / -12).sum() * drawing.spacing_mm**2
    assert area_mm2 == pytest.approx(36, rel=0.05)
    drawing.fill(square + 500, -12.0)  # far off the maps: nothing happens
    assert drawing.patch(square + 500) is None
