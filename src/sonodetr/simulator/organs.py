"""Scenes of the trunk: abdomen and heart."""

import math

import numpy as np

from sonodetr.simulator import layers, structures
from sonodetr.simulator.anatomy_ranges import AnatomyRanges
from sonodetr.simulator.canvas import Canvas


def abdomen(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """Abdominal wall, liver with its vessels; at times kidney, diaphragm and bowel gas."""
    probe = canvas.probe
    scale = min(1.0, probe.depth_mm / 120)
    top = layers.wall(canvas, ranges, canvas.uniform((4.0, 22.0)) * scale)
    bottom = top + canvas.uniform((4.0, 12.0)) * scale
    organ(canvas, bottom, ranges)
    layers.muscle(canvas, (top, bottom), ranges)
    layers.fascia_bundle(canvas, top, ranges)
    layers.fascia_bundle(canvas, bottom, ranges)
    start = float(bottom.mean()) + 2
    for _ in range(canvas.random.integers(3, 10)):
        radius = canvas.uniform((1.0, 5.5)) * scale
        place = structures.somewhere(canvas, (start + radius, 0.9 * probe.depth_mm), radius)
        if place:
            branch(canvas, *place, radius, ranges)
    if canvas.chance(0.4):
        kidney(canvas, ranges, start, scale)
    if canvas.chance(0.4):
        diaphragm(canvas, ranges)
    structures.sprinkle(canvas, ranges, (3.0 * scale, 16.0 * scale))
    for _ in range(canvas.random.integers(1, 3) if canvas.chance(0.3 + ranges.gas) else 0):
        structures.bubble(canvas, ranges, canvas.uniform((12.0, 45.0)) * scale)


def organ(canvas: Canvas, top: np.ndarray, ranges: AnatomyRanges) -> None:
    """Even parenchyma beneath an interface."""
    patch = canvas.patch(canvas.below(top))
    if patch is not None:
        level = canvas.uniform(ranges.organ_db) + 0.6 * canvas.noise(3.0, 2.0, patch)
        canvas.paint(patch, level, canvas.uniform((0.4, 0.75)))


def branch(
    canvas: Canvas, x_mm: float, z_mm: float, radius_mm: float, ranges: AnatomyRanges
) -> None:
    """A vessel of the liver, cut obliquely: portal ones with bright walls, hepatic ones without."""
    length = radius_mm * canvas.uniform((1.0, 9.0))
    angle = math.radians(canvas.uniform((-80.0, 80.0)))
    along = np.linspace(-0.5, 0.5, 60) * length
    bow = canvas.random.normal(0, 0.6) * along**2 / length
    bow = bow + 0.3 * radius_mm * canvas.wave(along, 3 * radius_mm)
    path = np.stack(
        [
            x_mm + along * math.cos(angle) - bow * math.sin(angle),
            z_mm + along * math.sin(angle) + bow * math.cos(angle),
        ],
        1,
    )
    blood = canvas.uniform(ranges.blood_db)
    wall_db = canvas.uniform(ranges.wall_db) + 2 if canvas.chance(0.5) else -math.inf
    if length < 3 * radius_mm:
        outline = canvas.blob(x_mm, z_mm, (radius_mm, 0.8 * radius_mm), math.degrees(angle), 0.06)
        canvas.fill(outline, blood, 0.2, 0.4)
        if wall_db > 0:
            canvas.rim(outline, wall_db, 35.0, 0.4)
    else:
        structures.tube(canvas, path, radius_mm, blood, wall_db, 35.0, 0.16)


def kidney(canvas: Canvas, ranges: AnatomyRanges, top_mm: float, scale: float) -> None:
    """A darker bean with a bright sinus and a bright capsule."""
    long, short = canvas.uniform((40.0, 60.0)) * scale, canvas.uniform((18.0, 28.0)) * scale
    z = canvas.uniform(
        (min(top_mm + short, 0.6 * canvas.probe.depth_mm), 0.85 * canvas.probe.depth_mm)
    )
    x = canvas.uniform((-0.5, 0.5)) * canvas.probe.half_width_mm
    tilt = canvas.uniform((-35.0, 35.0))
    outline = canvas.blob(x, z, (long, short), tilt, 0.03)
    canvas.fill(outline, canvas.uniform((-9.0, -3.0)), 0.6, 0.5)
    sinus = canvas.blob(x, z, (0.6 * long, 0.4 * short), tilt, 0.15)
    canvas.fill(sinus, canvas.uniform((4.0, 9.0)), 0.6, 2.0 * scale)
    for _ in range(canvas.random.integers(4, 9)):
        at = canvas.random.uniform(0, 2 * math.pi)
        centre = np.array([0.72 * long * math.cos(at), 0.66 * short * math.sin(at)])
        turn = math.radians(tilt)
        pyramid = canvas.blob(
            x + centre[0] * math.cos(turn) - centre[1] * math.sin(turn),
            z + centre[0] * math.sin(turn) + centre[1] * math.cos(turn),
            (0.1 * long, 0.16 * short),
            tilt,
            0.1,
        )
        canvas.fill(pyramid, canvas.uniform((-15.0, -8.0)), 0.5, 1.0 * scale)
    canvas.rim(outline, canvas.uniform(ranges.wall_db), 25.0, 0.3)


def diaphragm(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """A bright arc behind the liver; what lies beyond it shows a faint mirror image."""
    depth = canvas.probe.depth_mm
    radius = canvas.uniform((0.5, 1.1)) * depth
    x, z = (
        canvas.uniform((-0.4, 0.4)) * canvas.probe.half_width_mm,
        canvas.uniform((0.7, 0.95)) * depth,
    )
    turn = math.radians(canvas.uniform((-35.0, 35.0)))
    angle = turn + np.linspace(-0.6, 0.6, 80)
    across = x + radius * (np.sin(angle) - math.sin(turn))
    down = z + radius * (np.cos(angle) - math.cos(turn)) + 0.4 * canvas.wave(angle * radius, 12.0)
    beyond = np.stack(canvas.deeper(across, down, more_mm=depth), 1)
    outline = np.concatenate([np.stack([across, down], 1), beyond[::-1]])
    canvas.fill(outline, canvas.uniform((-30.0, -6.0)), 0.6, 0.5)
    level = canvas.uniform(ranges.pleura_db) - 2 + 3 * canvas.wave(angle * radius, 10.0)
    canvas.line(across, down, level, 25.0, 0.5)


def heart(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """Dark chambers in grey muscle, with bright thin valves and a bright pericardium."""
    probe = canvas.probe
    depth, scale = probe.depth_mm, min(1.0, probe.depth_mm / 150)
    canvas.echo_db[:] = canvas.uniform(ranges.fat_db)
    top = layers.wall(canvas, ranges, canvas.uniform((2.0, 8.0)) * scale)
    layers.muscle(canvas, (top, top + canvas.uniform((5.0, 12.0)) * scale), ranges)
    x, tilt = canvas.uniform((-10.0, 10.0)) * scale, canvas.uniform((-25.0, 25.0))
    z, long = 0.58 * depth, 0.42 * depth
    outside = canvas.blob(x, z, (0.75 * long, long), tilt, 0.06)
    patch = canvas.patch(outside, 1.0)
    if patch is not None:
        muscle = canvas.uniform(ranges.muscle_db) + 2.5 * canvas.fibres(patch, 60.0, 5.0, 1.5)
        canvas.paint(patch, muscle, 0.7)
    rim_db = canvas.uniform(ranges.fascia_db) - 8
    canvas.rim(outside, rim_db, 25.0, 0.8, 2.0 * scale, uneven_db=4.0)
    blood, turn = canvas.uniform(ranges.blood_db), math.radians(tilt)
    valve_db = canvas.uniform(ranges.wall_db)
    for side, level, size in ((-1, -1, 1.0), (1, -1, 0.8), (-1, 1, 0.75), (1, 1, 0.7)):
        if canvas.chance(0.2):
            continue
        across, down = side * 0.33 * long, level * 0.42 * long
        centre = (
            x + across * math.cos(turn) - down * math.sin(turn),
            z + across * math.sin(turn) + down * math.cos(turn),
        )
        size = size * canvas.uniform((0.75, 1.15))
        radii = 0.28 * long * size, 0.4 * long * size
        chamber = canvas.blob(*centre, radii, tilt, 0.09)
        canvas.fill(chamber, blood, 0.2, 1.0)
        inner_db = canvas.uniform(ranges.wall_db) - 6
        canvas.rim(chamber, inner_db, 30.0, 0.8, 1.5 * scale, uneven_db=3.0)
        leaflet = np.linspace(-1, 1, 30)
        canvas.line(
            centre[0] + 0.9 * radii[0] * leaflet,
            centre[1] - level * 0.9 * radii[1] + 2 * canvas.wave(leaflet * radii[0], 6.0),
            valve_db + 4 * canvas.wave(leaflet * 10, 4.0),
            40.0,
            0.4,
        )
