"""Parts of anatomy, each drawn onto a canvas: layers, vessels, nerves, bone, gas, lesions."""

import math

import numpy as np

from sonodetr.simulator.anatomy_ranges import AnatomyRanges
from sonodetr.simulator.beam import centre_frequency_mhz
from sonodetr.simulator.canvas import Canvas, Range
from sonodetr.simulator.tissue import Pulsator

_CAP_DB = 30.0  # what a layer of gas lets pass less, there and back


def skin(canvas: Canvas, ranges: AnatomyRanges) -> np.ndarray:
    """Skin with its two bright borders; returns its lower one."""
    thick = canvas.uniform(ranges.skin_mm)
    bottom = canvas.interface(thick, 0.08)
    top = canvas.interface(-40.0, 0.0)
    canvas.fill(canvas.below(top, bottom), canvas.uniform((2.0, 8.0)), 0.9)
    for depth, loss in ((0.15 * thick, 0.0), (thick, canvas.uniform((3, 12)))):
        fascia(canvas, canvas.interface(depth, 0.05), canvas.uniform(ranges.skin_db) - loss)
    return bottom


def fascia(
    canvas: Canvas, z_mm: np.ndarray, level_db: float, law_deg: float = 14.0, gaps: float = 2.5
) -> None:
    """A thin bright line along an interface that comes and goes by about `gaps` dB."""
    level = level_db + gaps * canvas.wave(canvas.x_mm, 4.0)
    canvas.line(canvas.x_mm, z_mm, level, law_deg, canvas.uniform((0.0, 0.25)))


def fascia_bundle(canvas: Canvas, z_mm: np.ndarray, ranges: AnatomyRanges) -> None:
    """One to three nearly parallel fascial lines with connective tissue between them."""
    gap = canvas.uniform((0.35, 1.1)) * (1 + 0.5 * np.tanh(canvas.wave(canvas.x_mm, 10.0)))
    lines = int(canvas.random.choice((1, 2, 3), p=(0.4, 0.45, 0.15)))
    low, high = z_mm - 0.2, z_mm + 0.25 + gap * (lines - 1)
    level = canvas.uniform(ranges.fascia_db)
    canvas.fill(canvas.below(low, high), canvas.uniform((0.0, 0.6)) * level, 0.9, 0.15)
    for row in range(lines):
        fascia(canvas, z_mm + row * gap, level - canvas.uniform((0, 5)) * row, gaps=3.0)


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
    inside = lower - upper > 0.3
    canvas.strands(
        *(values[inside] for values in (x, z, angle, length, random.uniform(*level_db, count)))
    )


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


def muscle(canvas: Canvas, layer: tuple[np.ndarray, np.ndarray], ranges: AnatomyRanges) -> None:
    """Fibres cut along (striae at an angle of pennation) or across (short bright commas)."""
    patch = canvas.patch(canvas.below(*layer))
    if patch is None:
        return
    lengthwise = canvas.chance(0.6)
    tilt = canvas.random.choice((-1, 1)) * canvas.uniform((0, 25)) if lengthwise else 0.0
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
    sides = [np.stack([x + sign * half * across_x, z + sign * half * across_z], 1) for sign in (-1, 1)]
    outline = np.concatenate([sides[0], sides[1][::-1]])
    canvas.fill(outline, canvas.uniform(ranges.connective_db) + 2, 0.9, 0.2)
    level = canvas.uniform(ranges.fascia_db) - 3
    for side in sides:
        rows = level + 3 * canvas.wave(along * length, 4.0) - 10 * (2 * along - 1) ** 6
        canvas.line(side[:, 0], side[:, 1], rows, 25.0, 0.3)


def vessel(
    canvas: Canvas, x_mm: float, z_mm: float, radius_mm: float, ranges: AnatomyRanges
) -> None:
    """A round artery that pulsates or a flatter vein; its wall is bright where the beam meets it."""
    artery = canvas.chance(0.5)
    flat = canvas.uniform((0.88, 1.0)) if artery else canvas.uniform((0.35, 0.95))
    radii = (radius_mm / math.sqrt(flat), radius_mm * math.sqrt(flat))
    tilt = canvas.random.normal(0, 12)
    outline = canvas.blob(x_mm, z_mm, radii, tilt, 0.02 if artery else 0.05)
    around = x_mm, z_mm
    if canvas.chance(0.5):
        sheath = around + 1.12 * (outline - around)
        canvas.fill(sheath, canvas.uniform(ranges.connective_db) - 2, 0.8, 0.3)
    canvas.fill(outline, canvas.uniform(ranges.blood_db), 0.2, 0.15)
    closed = np.concatenate([outline, outline[:1]])
    wall = canvas.uniform(ranges.wall_db) + (2 if artery else -3)
    level = wall + 2 * canvas.wave(np.arange(len(closed)) * radius_mm / 12, 2.0)
    canvas.line(closed[:, 0], closed[:, 1], level, canvas.uniform((12, 26)), 0.2)
    if artery:
        stroke = canvas.uniform((0.03, 0.1)) * radius_mm
        canvas.pulsators.append(Pulsator(x_mm, z_mm, radius_mm, stroke))


def tube(
    canvas: Canvas,
    path_mm: np.ndarray,
    radius_mm: float,
    inside_db: float,
    wall_db: float,
    law_deg: float = 16.0,
) -> None:
    """A vessel or tube cut lengthwise along a path `[n, 2]`; wall_db -inf: no wall."""
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path_mm, axis=0).T))])
    ahead = np.gradient(path_mm, axis=0)
    ahead /= np.hypot(*ahead.T)[:, None]
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], 1)
    half = (radius_mm * (1 + 0.06 * canvas.wave(along, 3 * radius_mm)))[:, None]
    sides = path_mm - half * aside, path_mm + half * aside
    canvas.fill(np.concatenate([sides[0], sides[1][::-1]]), inside_db, 0.2, 0.2)
    if wall_db > -100:
        for side in sides:
            level = wall_db + 2 * canvas.wave(along, 4.0)
            canvas.line(side[:, 0], side[:, 1], level, law_deg, 0.2)


def nerve(canvas: Canvas, x_mm: float, z_mm: float, radius_mm: float, ranges: AnatomyRanges) -> None:
    """Dark round fascicles in a bright oval with a bright rim, or a few dark ones in a row."""
    flat = canvas.uniform((0.35, 0.9))
    radii = (radius_mm / math.sqrt(flat), radius_mm * math.sqrt(flat))
    tilt = canvas.random.normal(0, 15)
    outline = canvas.blob(x_mm, z_mm, radii, tilt, 0.06)
    canvas.fill(outline, canvas.uniform(ranges.connective_db) - 1, 0.8, 0.2)
    size = canvas.uniform((0.14, 0.34)) * min(radii)
    pitch = size * canvas.uniform((2.3, 3.0))
    cosine, sine = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    dark = canvas.uniform((-16, -6))
    rows, columns = (int(0.9 * radius / pitch) for radius in radii[::-1])
    for row in range(-rows, rows + 1):
        for column in range(-columns, columns + 1):
            across = (column + 0.5 * (row % 2)) * pitch + canvas.random.normal(0, 0.18) * size
            down = row * 0.87 * pitch + canvas.random.normal(0, 0.18) * size
            if (across / radii[0]) ** 2 + (down / radii[1]) ** 2 > 0.72 or canvas.chance(0.12):
                continue
            centre = x_mm + across * cosine - down * sine, z_mm + across * sine + down * cosine
            fascicle = size * canvas.uniform((0.65, 1.25))
            canvas.fill(canvas.blob(*centre, (fascicle, fascicle), 0, 0.06), dark, 0.6, 0.08)
    closed = np.concatenate([outline, outline[:1]])
    level = canvas.uniform(ranges.septum_db) + 3 * canvas.wave(np.arange(73.0) * 0.2, 1.0)
    canvas.line(closed[:, 0], closed[:, 1], level, 35.0, 0.5)


def lesion(canvas: Canvas, x_mm: float, z_mm: float, radius_mm: float) -> None:
    """A cyst (fluid, bright smooth wall), or a darker or brighter mass."""
    outline = canvas.blob(
        x_mm, z_mm, (radius_mm, radius_mm * canvas.uniform((0.6, 1.0))), canvas.uniform((-30, 30)), 0.08
    )
    closed = np.concatenate([outline, outline[:1]])
    if canvas.chance(0.4):
        canvas.fill(outline, canvas.uniform((-60, -35)), 0.05, 0.15)
        canvas.line(closed[:, 0], closed[:, 1], canvas.uniform((4, 16)), 15.0, 0.1)
        return
    patch = canvas.patch(outline, canvas.uniform((0.2, 0.8)))
    if patch is not None:
        sign = canvas.random.choice((-1.3, 0.7))
        texture = 2 * canvas.noise(radius_mm / 2, radius_mm / 2, patch)
        canvas.paint(patch, sign * canvas.uniform((4, 10)) + texture, canvas.uniform((0.3, 1.4)))


def bone(canvas: Canvas, x_mm: np.ndarray, z_mm: np.ndarray, ranges: AnatomyRanges) -> None:
    """A bone's surface, very bright where it faces the beam; nothing comes from beneath it."""
    rough = canvas.uniform((0.1, 0.6))
    level = canvas.uniform(ranges.bone_db) + 2.5 * canvas.wave(x_mm, 4.0)
    under = np.stack(canvas.deeper(x_mm, z_mm, more_mm=25.0), 1)
    body = np.concatenate([np.stack([x_mm, z_mm + 0.2], 1), under[::-1]])
    canvas.fill(body, -30.0, canvas.uniform(ranges.bone_attenuation), 0.2)
    canvas.line(x_mm, z_mm, level, canvas.uniform((25, 55)), rough)
    # The cortex is diffuse too: a softer bright rim beneath the line.
    rim = np.concatenate([np.stack([x_mm, z_mm], 1), np.stack([x_mm, z_mm + 0.6], 1)[::-1]])
    patch = canvas.patch(rim, 0.2)
    canvas.paint(patch, canvas.uniform((6, 14)))


def gas(
    canvas: Canvas, x_mm: np.ndarray, z_mm: np.ndarray, level_db: float, haze_db: float
) -> None:
    """A gassy surface with a dirty shadow: a thin layer that loses 30 dB, and haze beneath it.

    The haze stands for echoes to and fro above the gas. It is as much stronger as the layer loses,
    so that it shows at `haze_db` while what truly lies there is lost in it.
    """
    canvas.line(x_mm, z_mm, level_db + 3 * canvas.wave(x_mm, 2.0), 35.0, 0.6)
    thick = max(1.0, 3 * canvas.spacing_mm)
    sample, _ = canvas.probe.to_beam(float(x_mm.mean()), float(z_mm.mean()))
    row = int(np.clip(sample, 0, canvas.probe.samples - 1))
    frequency = centre_frequency_mhz(canvas.probe)[row]
    loss = _CAP_DB / (2 * frequency * thick / 10)
    under = np.stack(canvas.deeper(x_mm, z_mm, more_mm=thick), 1)
    cap = np.concatenate([np.stack([x_mm, z_mm], 1), under[::-1]])
    far = np.stack(
        canvas.deeper(under[:, 0], under[:, 1], more_mm=canvas.probe.depth_mm + 40), 1
    )
    shadow = canvas.patch(np.concatenate([under, far[::-1]]), 0.8)
    if shadow is None:
        return
    top = float(z_mm.min())
    streaks = 4 * canvas.noise(1.5, 15.0, shadow) + 1.5 * canvas.noise(6.0, 1.2, shadow)
    fade = -(0.25 + 0.15 * frequency / 5) * np.maximum(shadow.z_mm - top, 0)
    # Where the shadow's edge is soft, the haze must not outshine what lies beside it.
    level = haze_db + _CAP_DB + fade + streaks - 30 * (1 - shadow.weight)
    canvas.paint(shadow, level, 0.6)
    canvas.paint(canvas.patch(cap, 0.2), haze_db + 6, loss)


def spots(canvas: Canvas, count: int, ranges: AnatomyRanges) -> None:
    """Bright specks and short lines anywhere: calcifications, bubbles, fibres."""
    random, probe = canvas.random, canvas.probe
    canvas.strands(
        random.uniform(-probe.half_width_mm, probe.half_width_mm, count),
        random.uniform(0.03, 0.97, count) * probe.depth_mm,
        random.normal(0, 20, count),
        random.uniform(0.2, 1.2, count) ** 2 * 3,
        random.uniform(*ranges.septum_db, count) + random.uniform(-3, 6, count),
        law_deg=40.0,
    )
