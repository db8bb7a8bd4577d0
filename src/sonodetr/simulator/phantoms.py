"""Scenes that are no anatomy: blocks of gel, tubes, wires, and samples in a water bath."""

import math

import numpy as np

from sonodetr.simulator import layers, structures
from sonodetr.simulator.anatomy_ranges import AnatomyRanges
from sonodetr.simulator.canvas import Canvas

_WATER_DB, _WATER_ATTENUATION = -60.0, 0.002


def gel(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """An even block, with or without inclusions, with a bright bottom where it is shallow."""
    gel_block(canvas, ranges)
    probe, scale = canvas.probe, max(1.0, canvas.probe.depth_mm / 60)
    for _ in range(canvas.random.integers(0, 5) if canvas.chance(0.6) else 0):
        radius = canvas.uniform((1.5, 7.0)) * scale
        x = canvas.uniform((-0.9, 0.9)) * probe.half_width_mm
        z = canvas.uniform((0.15, 0.9)) * probe.depth_mm
        if canvas.free(x, z, radius):
            structures.lesion(canvas, x, z, radius)
    if canvas.chance(0.4):
        structures.spots(canvas, int(canvas.random.integers(1, 30)), ranges)


def gel_block(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """Gel over the whole picture, at times with a skin, and with its bottom."""
    patch = canvas.patch(canvas.below(canvas.interface(-60.0, 0.0)))
    if patch is not None:
        texture = canvas.uniform((0.0, 1.2)) * canvas.noise(2.0, 2.0, patch)
        level = canvas.uniform(ranges.gel_db) + texture
        canvas.paint(patch, level, canvas.evened(canvas.uniform(ranges.gel_attenuation)))
    if canvas.chance(0.35):
        layers.skin(canvas, ranges)
    if canvas.chance(0.4):
        floor(canvas, canvas.uniform((0.6, 0.97)) * canvas.probe.depth_mm)


def floor(canvas: Canvas, depth_mm: float) -> None:
    """The bottom of a container or block: a straight mirror, with copies of itself beneath."""
    z = depth_mm + canvas.uniform((-0.08, 0.08)) * canvas.x_mm
    level = canvas.uniform((22.0, 36.0))
    canvas.clear(canvas.below(z))
    canvas.fill(canvas.below(z), _WATER_DB + 15, 0.6)
    canvas.line(canvas.x_mm, z, level, canvas.uniform((6.0, 12.0)), 0.05)
    gap = canvas.uniform((1.0, 4.0))
    for order in range(1, 1 + canvas.random.integers(0, 5)):
        canvas.line(canvas.x_mm, z + order * gap, level - 7.0 * order, 8.0, 0.1)


def tubes(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """A training block: gel with one to three vessels of smooth tube, across or lengthwise."""
    gel_block(canvas, ranges)
    probe, scale = canvas.probe, max(1.0, canvas.probe.depth_mm / 80)
    fluid = canvas.uniform((-60.0, -35.0))
    wall_db = canvas.uniform((6.0, 22.0)) if canvas.chance(0.7) else -math.inf
    lengthwise = canvas.chance(0.35)
    for _ in range(canvas.random.integers(1, 4)):
        radius = canvas.uniform((1.5, 5.5)) * scale
        x = canvas.uniform((-0.7, 0.7)) * probe.half_width_mm
        z = canvas.uniform((0.2, 0.75)) * probe.depth_mm
        if not canvas.free(0.0 if lengthwise else x, z, radius + 1):
            continue
        if lengthwise:
            slope = canvas.uniform((-0.2, 0.2))
            path = np.stack([canvas.x_mm, z + slope * canvas.x_mm], 1)
            structures.tube(canvas, path, radius, fluid, wall_db)
            continue
        outline = canvas.blob(x, z, (radius * canvas.uniform((1.0, 1.3)), radius), 0.0, 0.004)
        ring(canvas, outline, fluid, wall_db)


def ring(canvas: Canvas, outline_mm: np.ndarray, fluid_db: float, wall_db: float) -> None:
    """A closed smooth wall filled with fluid."""
    canvas.clear(outline_mm)
    canvas.fill(outline_mm, fluid_db, canvas.evened(_WATER_ATTENUATION), 0.12)
    if wall_db > -100:
        canvas.rim(outline_mm, wall_db, canvas.uniform((14.0, 40.0)), 0.3, uneven_db=1.5)


def wires(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """Thin wires seen end on (bright points in rows) or lengthwise, in water or gel."""
    probe = canvas.probe
    if canvas.chance(0.5):
        gel_block(canvas, ranges)
    else:
        bath(canvas)
    level, pitch = canvas.uniform((18.0, 34.0)), canvas.uniform((0.1, 0.25)) * probe.depth_mm
    if canvas.chance(0.35):
        for _ in range(canvas.random.integers(2, 8)):
            slope, middle = (
                canvas.uniform((-0.35, 0.35)),
                canvas.uniform((0.1, 0.7)) * probe.depth_mm,
            )
            z = middle + slope * canvas.x_mm
            shades = level - 8 + 3 * canvas.wave(canvas.x_mm, 3.0)
            for shift in (0.0, 0.35):
                canvas.line(canvas.x_mm, z + shift, shades, 70.0, 0.7)
        return
    lean = canvas.uniform((-0.3, 0.3))
    columns = np.arange(-1, 2) * canvas.uniform((0.3, 0.6)) * probe.half_width_mm
    for shift in columns if canvas.chance(0.5) else columns[1:2]:
        for row in np.arange(0.12 * probe.depth_mm, probe.depth_mm, pitch):
            wire(canvas, float(shift + lean * row - 0.5 * lean * probe.depth_mm), float(row), level)
    for x in np.arange(-0.8, 0.9, 0.2) * probe.half_width_mm if canvas.chance(0.6) else ():
        wire(canvas, float(x), float(0.5 * probe.depth_mm + lean * x), level)
    for _ in range(canvas.random.integers(0, 4)):
        radius = canvas.uniform((1.0, 0.07 * probe.depth_mm))
        place = (
            canvas.uniform((-0.8, 0.8)) * probe.half_width_mm,
            canvas.uniform((0.2, 0.9)) * probe.depth_mm,
        )
        if canvas.free(*place, radius):
            outline = canvas.blob(*place, (radius, radius), 0.0, 0.0)
            canvas.clear(outline)
            canvas.fill(outline, _WATER_DB, 0.1, 0.15)


def wire(canvas: Canvas, x_mm: float, z_mm: float, level_db: float) -> None:
    """The round top of a wire of 0.4 mm, seen end on."""
    angle = np.linspace(-0.9, 0.9, 7)
    canvas.line(x_mm + 0.3 * np.sin(angle), z_mm - 0.1 * np.cos(angle), level_db, 70.0)


def bath(canvas: Canvas) -> None:
    """Nothing but water."""
    canvas.echo_db[:] = _WATER_DB
    canvas.attenuation[:] = canvas.evened(_WATER_ATTENUATION)


def water(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """A water bath with a piece of meat, a block of gel, a glove full of water, or nothing."""
    bath(canvas)
    probe = canvas.probe
    if canvas.chance(0.6):
        floor(canvas, canvas.uniform((0.7, 0.98)) * probe.depth_mm)
    match int(canvas.random.choice(4, p=np.array(ranges.samples) / sum(ranges.samples))):
        case 0:
            sample(canvas, ranges, meat=True)
        case 1:
            sample(canvas, ranges, meat=False)
        case 2:
            glove(canvas)
    if canvas.chance(0.4):
        structures.spots(canvas, int(canvas.random.integers(1, 12)), ranges)


def sample(canvas: Canvas, ranges: AnatomyRanges, meat: bool) -> None:
    """A block with a bright uneven surface: even gel, or meat with fibres and fascia."""
    probe = canvas.probe
    top = canvas.uniform((0.05, 0.4)) * probe.depth_mm
    high = canvas.uniform((0.25, 0.6)) * probe.depth_mm
    half = canvas.uniform((0.4, 1.3)) * probe.half_width_mm
    x = canvas.uniform((-0.4, 0.4)) * probe.half_width_mm
    across = np.linspace(-1, 1, 60)
    wobble = (canvas.uniform((0.3, 1.5)) if meat else 0.15) * (1 - across**6)
    round_off = 0.5 * high * np.abs(across) ** canvas.uniform((3.0, 8.0) if meat else (6.0, 14.0))
    upper = top + round_off + wobble * canvas.wave(across * half, 6.0)
    lower = top + high - round_off + wobble * canvas.wave(across * half, 6.0)
    edge_x = x + half * across
    outline = np.concatenate([np.stack([edge_x, upper], 1), np.stack([edge_x, lower], 1)[::-1]])
    patch = canvas.patch(outline, 0.2)
    if patch is None:
        return
    if meat:
        tilt = canvas.uniform((-20.0, 20.0))
        texture = canvas.uniform(ranges.texture_db) * canvas.fibres(patch, tilt, 8.0, 0.8)
        canvas.paint(patch, canvas.uniform(ranges.muscle_db) + texture, canvas.uniform((0.6, 1.1)))
        middle = top + high / 2
        layer = (
            np.interp(canvas.x_mm, edge_x, upper, left=middle, right=middle),
            np.interp(canvas.x_mm, edge_x, lower, left=middle, right=middle),
        )
        low, most = ranges.septum_db
        count = int(canvas.random.integers(5, 50))
        layers.strands(canvas, layer, count, (2.0, 14.0), (tilt, 6.0), (low - 3, most))
    else:
        canvas.paint(patch, canvas.uniform(ranges.gel_db), canvas.uniform(ranges.gel_attenuation))
    level = canvas.uniform((10.0, 20.0))
    for side, loss in ((upper, 0.0), (lower, 3.0)):
        shades = level - loss + 2 * canvas.wave(edge_x, 4.0)
        canvas.line(edge_x, side, shades, 25.0 if meat else 10.0, 0.4 if meat else 0.05)


def glove(canvas: Canvas) -> None:
    """Rings of a thin wall, filled with water: fingers or a palm, in water or in gel."""
    probe = canvas.probe
    if canvas.chance(0.6):
        canvas.echo_db[:] = canvas.uniform((-22.0, -6.0))
        canvas.attenuation[:] = canvas.evened(0.3)
    inside, wall_db = canvas.uniform((-60.0, -25.0)), canvas.uniform((14.0, 26.0))
    for _ in range(canvas.random.integers(1, 7)):
        radius = canvas.uniform((0.05, 0.13)) * probe.depth_mm * (3 if canvas.chance(0.12) else 1)
        x = canvas.uniform((-0.8, 0.8)) * probe.half_width_mm
        z = canvas.uniform((0.2, 0.8)) * probe.depth_mm
        if not canvas.free(x, z, 1.1 * radius):
            continue
        radii = radius * canvas.uniform((1.0, 1.3)), radius
        outline = canvas.blob(x, z, radii, canvas.uniform((-20.0, 20.0)), 0.02)
        ring(canvas, outline, inside, wall_db)
        if canvas.chance(0.6):
            inner = (x, z) + 0.93 * (outline - (x, z))
            canvas.rim(inner, wall_db - 5, 40.0, 0.5)
