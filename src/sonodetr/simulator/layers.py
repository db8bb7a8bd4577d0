"""Layers of soft tissue, drawn onto a canvas: skin, fat, fascia, muscle, connective tissue."""

import math

import numpy as np

from sonodetr.simulator.anatomy_ranges import AnatomyRanges
from sonodetr.simulator.canvas import Canvas, Range


def skin(canvas: Canvas, ranges: AnatomyRanges) -> np.ndarray:
    """Skin with its two bright borders; returns its lower one."""
    thick = canvas.uniform(ranges.skin_mm)
    bottom = canvas.interface(thick, 0.08)
    top = canvas.interface(-40.0, 0.0)
    canvas.fill(canvas.below(top, bottom), canvas.uniform((2.0, 8.0)), 0.9)
    for depth, loss in ((0.15 * thick, 0.0), (thick, canvas.uniform((3.0, 12.0)))):
        fascia(canvas, canvas.interface(depth, 0.05), canvas.uniform(ranges.skin_db) - loss)
    return bottom


def wall(canvas: Canvas, ranges: AnatomyRanges, fat_mm: float) -> np.ndarray:
    """Skin and fat, whose lower border is returned."""
    skin_bottom = skin(canvas, ranges)
    slope = canvas.uniform((-ranges.slope, ranges.slope)) * 0.6
    fat_mm = min(fat_mm, 0.45 * canvas.probe.depth_mm)
    fat_depth = float(skin_bottom.mean()) + fat_mm
    bottom = canvas.interface(fat_depth, min(0.8, 0.12 * fat_mm), slope, 10.0)
    bottom = np.maximum(bottom, skin_bottom + 0.3)
    fat(canvas, (skin_bottom, bottom), ranges)
    return bottom


def fat(canvas: Canvas, layer: tuple[np.ndarray, np.ndarray], ranges: AnatomyRanges) -> None:
    """Dark lobules between bright curved septa, nearly parallel to the skin."""
    patch = canvas.patch(canvas.below(*layer))
    if patch is None:
        return
    texture = canvas.uniform((0.8, 2.0)) * canvas.fibres(patch, 0.0, 5.0, 1.5)
    level = canvas.uniform(ranges.fat_db)
    canvas.paint(patch, level + texture, canvas.uniform(ranges.fat_attenuation))
    thick = float(np.mean(layer[1] - layer[0]))
    count = int(canvas.uniform((0.015, 0.06)) * thick * 2 * canvas.probe.half_width_mm) + 2
    low, high = ranges.septum_db
    strands(canvas, layer, min(count, 70), (1.5, 14.0), (0.0, 9.0), (low - 3, high))


def fascia(
    canvas: Canvas, z_mm: np.ndarray, level_db: float, law_deg: float = 14.0, gaps: float = 2.5
) -> None:
    """A thin bright line along an interface that comes and goes by about `gaps` dB."""
    level = level_db + gaps * canvas.wave(canvas.x_mm, 4.0)
    thick = canvas.uniform((0.0, 2.5)) * canvas.probe.pulse_mm
    canvas.line(canvas.x_mm, z_mm, level, law_deg, canvas.uniform((0.0, 0.25)), thick)


def fascia_bundle(canvas: Canvas, z_mm: np.ndarray, ranges: AnatomyRanges) -> None:
    """One to three nearly parallel fascial lines with connective tissue between them."""
    gap = canvas.uniform((0.35, 1.1)) * (1 + 0.5 * np.tanh(canvas.wave(canvas.x_mm, 10.0)))
    lines = int(canvas.random.choice((1, 2, 3), p=(0.4, 0.45, 0.15)))
    low, high = z_mm - 0.2, z_mm + 0.25 + gap * (lines - 1)
    level = canvas.uniform(ranges.fascia_db)
    canvas.fill(canvas.below(low, high), canvas.uniform((0.0, 0.6)) * level, 0.9, 0.15)
    for row in range(lines):
        fascia(canvas, z_mm + row * gap, level - canvas.uniform((0.0, 5.0)) * row, gaps=3.0)


def strands(
    canvas: Canvas,
    layer: tuple[np.ndarray, np.ndarray],
    count: int,
    length_mm: Range,
    angle_deg: Range,
    level_db: Range,
) -> None:
    """Short bright fibres in a layer, along it but for an angle (mean, spread)."""
    random, (top, bottom) = canvas.random, layer
    half = canvas.probe.half_width_mm
    x = random.uniform(-half - 4, half + 4, count)
    upper, lower = np.interp(x, canvas.x_mm, top), np.interp(x, canvas.x_mm, bottom)
    share = random.uniform(0.04, 0.96, count)
    z = upper + share * (lower - upper)
    slopes = np.gradient(top, canvas.x_mm), np.gradient(bottom, canvas.x_mm)
    along = [np.degrees(np.arctan(np.interp(x, canvas.x_mm, slope))) for slope in slopes]
    angle = along[0] + share * (along[1] - along[0]) + random.normal(*angle_deg, count)
    # Many short ones and few long ones.
    length = length_mm[0] + (length_mm[1] - length_mm[0]) * random.random(count) ** 2
    inside = lower - upper > 0.6
    canvas.strands(
        *(values[inside] for values in (x, z, angle, length, random.uniform(*level_db, count)))
    )


def muscle(canvas: Canvas, layer: tuple[np.ndarray, np.ndarray], ranges: AnatomyRanges) -> None:
    """Fibres cut along (striae at an angle of pennation) or across (short bright commas)."""
    patch = canvas.patch(canvas.below(*layer))
    if patch is None:
        return
    lengthwise = canvas.chance(0.6)
    tilt = canvas.random.choice((-1, 1)) * canvas.uniform((0.0, 25.0)) if lengthwise else 0.0
    thick = canvas.uniform((0.5, 1.1))
    texture = canvas.fibres(patch, tilt, thick * (10 if lengthwise else 3), thick)
    attenuation = canvas.uniform(ranges.muscle_attenuation)
    # Sound runs worse along fibres: 0.3 dB/cm/MHz more where they point to the probe.
    attenuation += 0.3 * math.sin(math.radians(tilt)) ** 2
    level = canvas.uniform(ranges.muscle_db)
    canvas.paint(patch, level + canvas.uniform(ranges.texture_db) * texture, attenuation)
    share = float(np.mean(layer[1] - layer[0])) / canvas.probe.depth_mm
    count = int(canvas.uniform(ranges.strands) * min(1.0, share) * 1.5)
    low, high = ranges.septum_db
    if lengthwise:
        strands(canvas, layer, count, (2.0, 15.0), (tilt, 4.0), (low - 4, high))
    else:
        strands(canvas, layer, count, (0.7, 4.5), (0.0, 24.0), (low - 2, high + 2))


def belly(canvas: Canvas, x_mm: float, z_mm: float, radii_mm: Range, ranges: AnatomyRanges) -> None:
    """A muscle cut across or obliquely: a lens in its own fascia."""
    across = (canvas.x_mm - x_mm) / radii_mm[0]
    bulge = radii_mm[1] * np.sqrt(np.clip(1 - np.abs(across) ** 2.5, 0, 1))
    middle = z_mm + canvas.uniform((-0.4, 0.4)) * (canvas.x_mm - x_mm)
    wave = 0.06 * radii_mm[1] * canvas.wave(canvas.x_mm, 5.0)
    layer = middle - canvas.uniform((0.7, 1.2)) * bulge, middle + (0.9 * bulge + wave) * (bulge > 0)
    canvas.clear(canvas.below(*layer))
    muscle(canvas, layer, ranges)
    shown = np.abs(across) < 1
    if shown.sum() < 3:
        return
    level = canvas.uniform(ranges.fascia_db) - 2
    for side in layer:
        shades = level + 3 * canvas.wave(canvas.x_mm[shown], 4.0)
        canvas.line(canvas.x_mm[shown], side[shown], shades, 20.0, 0.2)


def septum(canvas: Canvas, start: Range, end: Range, ranges: AnatomyRanges) -> None:
    """A band of connective tissue between two muscles, from one place to another (x, z)."""
    along = np.linspace(0, 1, 40)
    length = math.dist(start, end)
    bow = canvas.random.normal(0, 0.12) * length * 4 * along * (1 - along)
    bow = bow + 0.25 * canvas.wave(along * length, 4.0)
    across_x, across_z = (start[1] - end[1]) / length, (end[0] - start[0]) / length
    x = start[0] + along * (end[0] - start[0]) + across_x * bow
    z = start[1] + along * (end[1] - start[1]) + across_z * bow
    taper = np.sin(math.pi * np.clip(along, 0.03, 0.97)) ** 0.4
    half = canvas.uniform((0.25, 1.0)) * taper * (1 + 0.3 * canvas.wave(along * length, 5.0))
    sides = [
        np.stack([x + sign * half * across_x, z + sign * half * across_z], 1) for sign in (-1, 1)
    ]
    outline = np.concatenate([sides[0], sides[1][::-1]])
    canvas.clear(outline)
    canvas.fill(outline, canvas.uniform(ranges.connective_db) + 2, 0.9, 0.2)
    level = canvas.uniform(ranges.fascia_db) - 3
    for side in sides:
        rows = level + 3 * canvas.wave(along * length, 4.0) - 10 * (2 * along - 1) ** 6
        canvas.line(side[:, 0], side[:, 1], rows, 25.0, 0.3)


def connective(canvas: Canvas, layer: tuple[np.ndarray, np.ndarray], ranges: AnatomyRanges) -> None:
    """Loose connective tissue: brighter than muscle, with faint streaks."""
    patch = canvas.patch(canvas.below(*layer), 0.6)
    if patch is None:
        return
    level = canvas.uniform(ranges.connective_db) - canvas.uniform((2.0, 6.0))
    texture = canvas.uniform(ranges.texture_db) * canvas.fibres(patch, 0.0, 4.0, 0.9)
    canvas.paint(patch, level + texture, 0.7)
    count = int(canvas.uniform(ranges.strands) * 0.3)
    low, high = ranges.septum_db
    strands(canvas, layer, count, (1.0, 8.0), (0.0, 15.0), (low - 2, high))
