"""Scenes of anatomy: limb and neck, abdomen, heart, lung; never twice alike."""

import math

import numpy as np

from sonodetr.simulator import phantoms, structures
from sonodetr.simulator.anatomy_ranges import (
    DEEP_MM,
    SCENES,
    SHIFTED,
    STANDARD,
    AnatomyRanges,
    Scene,
)
from sonodetr.simulator.canvas import Canvas
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.tissue import Tissue

__all__ = ["SCENES", "SHIFTED", "STANDARD", "AnatomyRanges", "draw_scene", "draw_tissue"]


def draw_tissue(random: np.random.Generator, probe: Probe, ranges: AnatomyRanges) -> Tissue:
    """Draw what a recording looks at: one of `SCENES`, by the weights in `ranges`.

    >>> probe = Probe("linear", 7.5, 0.5, 20.0, 40.0, 20.0, width_mm=38.0)
    >>> tissue = draw_tissue(np.random.default_rng(3), probe, STANDARD)
    >>> tissue.echo_db.shape == tissue.attenuation_db_cm_mhz.shape
    True
    """
    deep = probe.depth_mm > DEEP_MM
    weights = np.array(ranges.deep_weights if deep else ranges.shallow_weights)
    scene = SCENES[int(random.choice(len(SCENES), p=weights / weights.sum()))]
    return draw_scene(random, probe, ranges, scene)


def draw_scene(
    random: np.random.Generator, probe: Probe, ranges: AnatomyRanges, scene: Scene
) -> Tissue:
    """Draw a scene of one kind."""
    canvas = Canvas(random, probe)
    match scene:
        case "limb":
            limb(canvas, ranges)
        case "abdomen":
            abdomen(canvas, ranges)
        case "heart":
            heart(canvas, ranges)
        case "lung":
            lung(canvas, ranges)
        case "gel":
            phantoms.gel(canvas, ranges)
        case "tubes":
            phantoms.tubes(canvas, ranges)
        case "wires":
            phantoms.wires(canvas, ranges)
        case "water":
            phantoms.water(canvas, ranges)
    return canvas.finish((canvas.uniform((-0.3, 0.3)), canvas.uniform((-0.12, 0.12))))


def limb(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """Skin, fat, fascia and muscles, with vessels, nerves and sometimes bone between them."""
    fascia = wall(canvas, ranges, canvas.uniform(ranges.fat_mm))
    probe = canvas.probe
    top, depth = fascia, float(fascia.mean())
    while depth < probe.depth_mm:
        thick = canvas.uniform(ranges.muscle_mm) * max(1.0, probe.depth_mm / 60)
        depth += thick
        slope = canvas.uniform((-ranges.slope, ranges.slope))
        bottom = np.maximum(canvas.interface(depth, 0.12 * thick, slope, 14.0), top + 0.4)
        if canvas.chance(0.25):
            connective(canvas, (top, bottom), ranges)
        else:
            structures.muscle(canvas, (top, bottom), ranges)
        if canvas.chance(0.75):
            structures.fascia_bundle(canvas, top, ranges)
        top = bottom
    structures.fascia_bundle(canvas, fascia, ranges)
    half, fascia_mm = probe.half_width_mm, float(fascia.mean())
    for _ in range(canvas.random.integers(0, 3)):
        start = canvas.random.uniform(-half, half), canvas.uniform((fascia_mm, probe.depth_mm * 0.6))
        angle = math.radians(canvas.uniform((-55, 55)))
        length = canvas.uniform((8, 25)) * canvas.random.choice((-1, 1))
        end = start[0] + length * math.cos(angle), start[1] + abs(length * math.sin(angle))
        structures.septum(canvas, start, end, ranges)
    if canvas.chance(ranges.bone):
        long_bone(canvas, ranges)
    place_vessels(canvas, ranges, (fascia_mm + 1, 0.8 * probe.depth_mm), (1.0, 6.5))
    for _ in range(canvas.random.integers(ranges.nerves[0], ranges.nerves[1] + 1)):
        radius = canvas.uniform((1.2, 3.2))
        place = somewhere(canvas, (fascia_mm + radius, 0.7 * probe.depth_mm), radius)
        if place:
            structures.nerve(canvas, *place, radius, ranges)
    sprinkle(canvas, ranges, (1.5, 8.0))
    if canvas.chance(ranges.gas):
        bubble(canvas, ranges, canvas.uniform((4, 12)))


def wall(canvas: Canvas, ranges: AnatomyRanges, fat_mm: float) -> np.ndarray:
    """Skin and fat, whose lower border is returned."""
    skin_bottom = structures.skin(canvas, ranges)
    slope = canvas.uniform((-ranges.slope, ranges.slope)) * 0.6
    fat_depth = float(skin_bottom.mean()) + fat_mm
    bottom = canvas.interface(fat_depth, min(0.8, 0.12 * fat_mm), slope, 10.0)
    bottom = np.maximum(bottom, skin_bottom + 0.3)
    structures.fat(canvas, (skin_bottom, bottom), ranges)
    return bottom


def connective(
    canvas: Canvas, layer: tuple[np.ndarray, np.ndarray], ranges: AnatomyRanges
) -> None:
    """Loose connective tissue: brighter than muscle, with faint streaks."""
    patch = canvas.patch(canvas.below(*layer), 0.6)
    if patch is None:
        return
    level = canvas.uniform(ranges.connective_db) - canvas.uniform((2, 6))
    texture = canvas.uniform(ranges.texture_db) * canvas.fibres(patch, 0.0, 4.0, 0.9)
    canvas.paint(patch, level + texture, 0.7)
    count = int(canvas.uniform(ranges.strands) * 0.3)
    low, high = ranges.septum_db
    structures.strands(canvas, layer, count, (1.0, 8.0), (0.0, 15.0), (low - 2, high))


def somewhere(
    canvas: Canvas, depth_mm: tuple[float, float], radius_mm: float
) -> tuple[float, float] | None:
    """A place in the picture where nothing was placed; None if none was found."""
    for _ in range(6):
        z = canvas.uniform(depth_mm)
        share = canvas.uniform((-0.92, 0.92))
        line = (share / 2 + 0.5) * (canvas.probe.lines - 1)
        sample = z / canvas.probe.sample_mm
        x, z = (float(v) for v in canvas.probe.to_picture(np.array(sample), np.array(line)))
        if canvas.free(x, z, 0.85 * radius_mm):
            return x, z
    return None


def place_vessels(
    canvas: Canvas,
    ranges: AnatomyRanges,
    depth_mm: tuple[float, float],
    radius_mm: tuple[float, float],
) -> None:
    """Vessels cut across, and now and then one cut lengthwise."""
    if canvas.chance(0.15):
        tube_along(canvas, ranges, depth_mm, canvas.uniform((0.8, 3.0)))
    for _ in range(canvas.random.integers(ranges.vessels[0], ranges.vessels[1] + 1)):
        radius = canvas.uniform(radius_mm)
        place = somewhere(canvas, (depth_mm[0] + radius, depth_mm[1]), radius)
        if place:
            structures.vessel(canvas, *place, radius, ranges)


def tube_along(
    canvas: Canvas, ranges: AnatomyRanges, depth_mm: tuple[float, float], radius_mm: float
) -> None:
    """A vessel that runs through the whole picture."""
    slope = canvas.uniform((-0.35, 0.35))
    middle = canvas.uniform((depth_mm[0] + radius_mm, depth_mm[1]))
    z = middle + slope * canvas.x_mm + radius_mm * canvas.wave(canvas.x_mm, 25.0)
    path = np.stack([canvas.x_mm, np.maximum(z, depth_mm[0] + radius_mm)], 1)
    level = canvas.uniform(ranges.wall_db)
    structures.tube(canvas, path, radius_mm, canvas.uniform(ranges.blood_db), level)


def sprinkle(canvas: Canvas, ranges: AnatomyRanges, radius_mm: tuple[float, float]) -> None:
    """Lesions (in half of the scenes) and bright specks."""
    lesions = canvas.random.integers(ranges.lesions[0], ranges.lesions[1] + 1)
    for _ in range(lesions if canvas.chance(0.5) else 0):
        radius = canvas.uniform(radius_mm)
        place = somewhere(canvas, (4 + radius, 0.85 * canvas.probe.depth_mm), radius)
        if place:
            structures.lesion(canvas, *place, radius)
    structures.spots(
        canvas, int(canvas.random.integers(ranges.spots[0], ranges.spots[1] + 1)), ranges
    )


def long_bone(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """A bone at depth: through the whole picture, or a round one cut across."""
    half, depth = canvas.probe.half_width_mm, canvas.probe.depth_mm
    z = canvas.uniform((0.45, 0.92)) * depth
    if canvas.chance(0.4):
        surface = canvas.interface(z, canvas.uniform((0.3, 1.5)), canvas.uniform((-0.4, 0.4)))
        structures.bone(canvas, canvas.x_mm, surface, ranges)
        return
    x, width = canvas.uniform((-0.8, 0.8)) * half, canvas.uniform((6, 22))
    across = np.linspace(-1, 1, 50)
    arch = width * canvas.uniform((0.15, 0.7)) * (1 - np.sqrt(1 - 0.96 * across**2))
    bumps = canvas.uniform((0.05, 0.5)) * canvas.wave(across * width, 3.0)
    structures.bone(canvas, x + across * width, z + arch + bumps, ranges)


def bubble(canvas: Canvas, ranges: AnatomyRanges, width_mm: float) -> None:
    """A pocket of gas: an irregular bright line and its dirty shadow."""
    half, depth = canvas.probe.half_width_mm, canvas.probe.depth_mm
    across = np.linspace(-1, 1, 40) * width_mm / 2
    x = canvas.uniform((-0.8, 0.8)) * half + across
    z = canvas.uniform((0.3, 0.85)) * depth + 0.08 * width_mm * canvas.wave(across, width_mm / 6)
    z = z + 0.15 * width_mm * (2 * across / width_mm) ** 2
    structures.gas(canvas, x, z, canvas.uniform(ranges.gas_db), canvas.uniform((-16, -4)))


def abdomen(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """Abdominal wall, liver with its vessels; at times kidney, diaphragm and bowel gas."""
    probe = canvas.probe
    scale = min(1.0, probe.depth_mm / 120)
    top = wall(canvas, ranges, canvas.uniform((4, 22)) * scale)
    bottom = top + canvas.uniform((4, 12)) * scale
    organ(canvas, bottom, ranges)
    structures.muscle(canvas, (top, bottom), ranges)
    structures.fascia_bundle(canvas, top, ranges)
    structures.fascia_bundle(canvas, bottom, ranges)
    start = float(bottom.mean()) + 2
    for _ in range(canvas.random.integers(3, 10)):
        radius = canvas.uniform((1.2, 7.0)) * scale
        place = somewhere(canvas, (start + radius, 0.9 * probe.depth_mm), radius)
        if place:
            branch(canvas, *place, radius, ranges)
    if canvas.chance(0.4):
        kidney(canvas, ranges, start, scale)
    if canvas.chance(0.4):
        diaphragm(canvas, ranges)
    sprinkle(canvas, ranges, (3.0 * scale, 16.0 * scale))
    for _ in range(canvas.random.integers(1, 3) if canvas.chance(0.3 + ranges.gas) else 0):
        bubble(canvas, ranges, canvas.uniform((12, 45)) * scale)


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
    angle = math.radians(canvas.uniform((-80, 80)))
    along = np.linspace(-0.5, 0.5, 24) * length
    bow = canvas.random.normal(0, 0.2) * along**2 / max(length, 1)
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
            canvas.line(*np.concatenate([outline, outline[:1]]).T, wall_db, 35.0, 0.4)
    else:
        structures.tube(canvas, path, radius_mm, blood, wall_db, 35.0)


def kidney(canvas: Canvas, ranges: AnatomyRanges, top_mm: float, scale: float) -> None:
    """A darker bean with a bright sinus and a bright capsule."""
    long, short = canvas.uniform((40, 60)) * scale, canvas.uniform((18, 28)) * scale
    z = canvas.uniform((min(top_mm + short, 0.6 * canvas.probe.depth_mm), 0.85 * canvas.probe.depth_mm))
    x = canvas.uniform((-0.5, 0.5)) * canvas.probe.half_width_mm
    tilt = canvas.uniform((-35, 35))
    outline = canvas.blob(x, z, (long, short), tilt, 0.03)
    canvas.fill(outline, canvas.uniform((-9, -3)), 0.6, 0.5)
    sinus = canvas.blob(x, z, (0.6 * long, 0.4 * short), tilt, 0.15)
    canvas.fill(sinus, canvas.uniform((4, 9)), 0.6, 2.0 * scale)
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
        canvas.fill(pyramid, canvas.uniform((-15, -8)), 0.5, 1.0 * scale)
    capsule = np.concatenate([outline, outline[:1]])
    canvas.line(*capsule.T, canvas.uniform(ranges.wall_db), 25.0, 0.3)


def diaphragm(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """A bright arc behind the liver; what lies beyond it shows a faint mirror image."""
    depth = canvas.probe.depth_mm
    radius = canvas.uniform((0.5, 1.1)) * depth
    x, z = canvas.uniform((-0.4, 0.4)) * canvas.probe.half_width_mm, canvas.uniform((0.7, 0.95)) * depth
    turn = math.radians(canvas.uniform((-35, 35)))
    angle = turn + np.linspace(-0.6, 0.6, 80)
    across = x + radius * (np.sin(angle) - math.sin(turn))
    down = z + radius * (np.cos(angle) - math.cos(turn)) + 0.4 * canvas.wave(angle * radius, 12.0)
    beyond = np.stack(canvas.deeper(across, down, more_mm=depth), 1)
    outline = np.concatenate([np.stack([across, down], 1), beyond[::-1]])
    canvas.fill(outline, canvas.uniform((-30, -6)), 0.6, 0.5)
    level = canvas.uniform(ranges.pleura_db) - 2 + 3 * canvas.wave(angle * radius, 10.0)
    canvas.line(across, down, level, 25.0, 0.5)


def heart(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """Dark chambers in grey muscle, with bright thin valves and a bright pericardium."""
    probe = canvas.probe
    depth, scale = probe.depth_mm, min(1.0, probe.depth_mm / 150)
    structures.fat(canvas, (canvas.interface(-40.0, 0.0), canvas.x_mm * 0 + 999.0), ranges)
    top = wall(canvas, ranges, canvas.uniform((2, 8)) * scale)
    structures.muscle(canvas, (top, top + canvas.uniform((5, 12)) * scale), ranges)
    x, tilt = canvas.uniform((-10, 10)) * scale, canvas.uniform((-25, 25))
    z, long = 0.58 * depth, 0.42 * depth
    outside = canvas.blob(x, z, (0.75 * long, long), tilt, 0.06)
    patch = canvas.patch(outside, 1.0)
    if patch is not None:
        muscle = canvas.uniform(ranges.muscle_db) + 2.5 * canvas.fibres(patch, 60.0, 5.0, 1.5)
        canvas.paint(patch, muscle, 0.7)
    rim = np.concatenate([outside, outside[:1]])
    canvas.line(*rim.T, canvas.uniform(ranges.fascia_db) + 6, 35.0, 0.6)
    blood, turn = canvas.uniform(ranges.blood_db), math.radians(tilt)
    valve_db = canvas.uniform(ranges.wall_db) + 4
    for side, level, size in ((-1, -1, 1.0), (1, -1, 0.8), (-1, 1, 0.75), (1, 1, 0.7)):
        across, down = side * 0.33 * long, level * 0.42 * long
        centre = (
            x + across * math.cos(turn) - down * math.sin(turn),
            z + across * math.sin(turn) + down * math.cos(turn),
        )
        radii = 0.25 * long * size, 0.36 * long * size
        chamber = canvas.blob(*centre, radii, tilt, 0.09)
        canvas.fill(chamber, blood, 0.2, 1.0)
        inner = np.concatenate([chamber, chamber[:1]])
        canvas.line(*inner.T, canvas.uniform(ranges.wall_db) - 2, 30.0, 0.7)
        leaflet = np.linspace(-1, 1, 30)
        canvas.line(
            centre[0] + 0.9 * radii[0] * leaflet,
            centre[1] - level * 0.9 * radii[1] + 2 * canvas.wave(leaflet * radii[0], 6.0),
            valve_db + 4 * canvas.wave(leaflet * 10, 4.0),
            40.0,
            0.4,
        )


def lung(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """Chest wall, ribs with shadows, the bright pleura and its copies at multiples of its depth."""
    probe = canvas.probe
    fat_mm = canvas.uniform(ranges.fat_mm) * 0.7
    top = wall(canvas, ranges, min(fat_mm, 0.3 * probe.depth_mm))
    pleura_mm = float(top.mean()) + canvas.uniform((6, 14)) * min(1.0, probe.depth_mm / 60)
    pleura = np.maximum(canvas.interface(pleura_mm, 0.5, canvas.uniform((-0.1, 0.1))), top + 1)
    structures.muscle(canvas, (top, pleura), ranges)
    structures.fascia_bundle(canvas, top, ranges)
    level = canvas.uniform(ranges.pleura_db)
    structures.gas(canvas, canvas.x_mm, pleura, level, canvas.uniform((-16, -4)))
    drop = canvas.uniform((6, 14))
    for order in range(2, 2 + canvas.random.integers(0, 4)):
        x, z = canvas.deeper(canvas.x_mm, pleura, float(order))
        copy = level + 30 - drop * (order - 1) + 4 * canvas.wave(canvas.x_mm, 5.0)
        canvas.line(x, z, copy, 12.0, 0.3)
    for _ in range(canvas.random.integers(0, 4) if canvas.chance(0.5) else 0):
        comet(canvas, pleura, canvas.uniform((4, 10)))
    pitch = canvas.uniform((16, 32))
    first = canvas.uniform((-pitch, 0)) - pitch * (probe.half_width_mm // pitch)
    for rib in np.arange(first, probe.half_width_mm + pitch, pitch):
        width = canvas.uniform((4, 8))
        across = np.linspace(-1, 1, 40)
        high = float(np.interp(rib, canvas.x_mm, pleura)) - canvas.uniform((3, 7))
        arch = 0.7 * width * (1 - np.sqrt(1 - 0.95 * across**2))
        structures.bone(canvas, rib + width * across, max(high, 2.0) + arch, ranges)
    structures.spots(canvas, int(canvas.random.integers(0, 5)), ranges)


def comet(canvas: Canvas, pleura: np.ndarray, gain_db: float) -> None:
    """A B line: a bright ray from the pleura to the bottom."""
    x = canvas.uniform((-0.8, 0.8)) * canvas.probe.half_width_mm
    width = canvas.uniform((0.8, 3.0))
    ends = np.array([x - width, x + width])
    z = np.interp(ends, canvas.x_mm, pleura) + 1.5
    far = np.stack(canvas.deeper(ends, z, more_mm=canvas.probe.depth_mm + 40), 1)
    patch = canvas.patch(np.concatenate([np.stack([ends, z], 1), far[::-1]]), 0.8)
    if patch is not None:
        level = canvas.echo_db[patch.rows, patch.columns] + gain_db
        canvas.paint(patch, level + 2 * canvas.noise(3.0, 2.0, patch))
