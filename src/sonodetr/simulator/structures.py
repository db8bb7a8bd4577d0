"""Things within tissue, each drawn onto a canvas: vessels, nerves, bone, gas, lesions."""

import math

import numpy as np

from sonodetr.simulator.anatomy_ranges import AnatomyRanges
from sonodetr.simulator.beam import centre_frequency_mhz
from sonodetr.simulator.canvas import Canvas
from sonodetr.simulator.tissue import Pulsator

_CAP_DB = 30.0  # what a layer of gas lets pass less, there and back


def somewhere(
    canvas: Canvas, depth_mm: tuple[float, float], radius_mm: float
) -> tuple[float, float] | None:
    """A place in the picture where nothing was placed; None if none was found."""
    for _ in range(6):
        z = canvas.uniform(depth_mm)
        share = canvas.uniform((-0.92, 0.92))
        line = np.array([(share / 2 + 0.5) * (canvas.probe.lines - 1)])
        sample = np.array([z / canvas.probe.sample_mm])
        x, z = (float(at[0]) for at in canvas.probe.to_picture(sample, line))
        if canvas.free(x, z, 0.85 * radius_mm):
            return x, z
    return None


def vessel(
    canvas: Canvas, x_mm: float, z_mm: float, radius_mm: float, ranges: AnatomyRanges
) -> None:
    """A round artery that pulsates, or a flatter vein; the wall is bright across the beam."""
    artery = canvas.chance(0.5)
    flat = canvas.uniform((0.88, 1.0)) if artery else canvas.uniform((0.35, 0.95))
    radii = (radius_mm / math.sqrt(flat), radius_mm * math.sqrt(flat))
    tilt = canvas.random.normal(0, 12)
    outline = canvas.blob(x_mm, z_mm, radii, tilt, 0.02 if artery else 0.05)
    canvas.clear(outline)
    canvas.fill(outline, canvas.uniform(ranges.blood_db), 0.2, 0.15)
    wall_db = canvas.uniform(ranges.wall_db) + (2 if artery else -3)
    canvas.rim(outline, wall_db, canvas.uniform((12.0, 26.0)), 0.2)
    if artery:
        stroke = canvas.uniform((0.03, 0.1)) * radius_mm
        canvas.pulsators.append(Pulsator(x_mm, z_mm, radius_mm, stroke))


def long_vessel(
    canvas: Canvas, ranges: AnatomyRanges, depth_mm: tuple[float, float], radius_mm: float
) -> None:
    """A vessel that runs through the whole picture."""
    slope = canvas.uniform((-0.35, 0.35))
    middle = canvas.uniform((depth_mm[0] + radius_mm, depth_mm[1]))
    z = middle + slope * canvas.x_mm + radius_mm * canvas.wave(canvas.x_mm, 25.0)
    path = np.stack([canvas.x_mm, np.maximum(z, depth_mm[0] + radius_mm)], 1)
    level = canvas.uniform(ranges.wall_db)
    tube(canvas, path, radius_mm, canvas.uniform(ranges.blood_db), level)


def bedding(
    canvas: Canvas, x_mm: float, z_mm: float, radius_mm: float, ranges: AnatomyRanges
) -> None:
    """The bright loose tissue that vessels and nerves lie in; draw it before them."""
    radii = radius_mm * canvas.uniform((1.2, 2.6)) + 1, radius_mm * canvas.uniform((1.0, 1.7)) + 0.3
    x_mm = x_mm + 0.5 * radius_mm * canvas.random.normal()
    patch = canvas.patch(canvas.blob(x_mm, z_mm, radii, canvas.uniform((-25.0, 25.0)), 0.2), 0.9)
    if patch is not None:
        texture = 2 * canvas.fibres(patch, canvas.uniform((-20.0, 20.0)), 2.5, 0.8)
        canvas.paint(patch, canvas.uniform(ranges.connective_db) - 3 + texture, 0.8)


def tube(
    canvas: Canvas,
    path_mm: np.ndarray,
    radius_mm: float,
    inside_db: float,
    wall_db: float,
    law_deg: float = 16.0,
    uneven: float = 0.06,
) -> None:
    """A vessel or tube cut lengthwise along a path `[n, 2]`; wall_db -inf: no wall."""
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(path_mm, axis=0).T))])
    ahead = np.gradient(path_mm, axis=0)
    ahead /= np.hypot(*ahead.T)[:, None]
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], 1)
    to_end = np.minimum(along, along[-1] - along) / radius_mm
    rounded = np.sqrt(1 - np.clip(1 - to_end, 0, 1) ** 2)
    half = (radius_mm * rounded * (1 + uneven * canvas.wave(along, 3 * radius_mm)))[:, None]
    sides = path_mm - half * aside, path_mm + half * aside
    outline = np.concatenate([sides[0], sides[1][::-1]])
    canvas.clear(outline)
    canvas.fill(outline, inside_db, 0.2, 0.2)
    if wall_db > -100:
        for side in sides:
            level = wall_db + 2 * canvas.wave(along, 4.0)
            canvas.line(side[:, 0], side[:, 1], level, law_deg, 0.2)


def nerve(
    canvas: Canvas, x_mm: float, z_mm: float, radius_mm: float, ranges: AnatomyRanges
) -> None:
    """Dark round fascicles in a bright oval with a bright rim, or a few dark ones in a row."""
    flat = canvas.uniform((0.35, 0.9))
    radii = (radius_mm / math.sqrt(flat), radius_mm * math.sqrt(flat))
    tilt = canvas.random.normal(0, 15)
    outline = canvas.blob(x_mm, z_mm, radii, tilt, 0.06)
    canvas.clear(outline)
    canvas.fill(outline, canvas.uniform(ranges.connective_db), 0.8, 0.2)
    size = canvas.uniform((0.14, 0.34)) * min(radii)
    pitch = size * canvas.uniform((2.3, 3.0))
    cosine, sine = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    dark = canvas.uniform((-14.0, -4.0))
    rows, columns = (int(0.9 * radius / pitch) for radius in radii[::-1])
    for row in range(-rows, rows + 1):
        for column in range(-columns, columns + 1):
            across = (column + 0.5 * (row % 2)) * pitch + canvas.random.normal(0, 0.18) * size
            down = row * 0.87 * pitch + canvas.random.normal(0, 0.18) * size
            if (across / radii[0]) ** 2 + (down / radii[1]) ** 2 > 0.72 or canvas.chance(0.12):
                continue
            centre = x_mm + across * cosine - down * sine, z_mm + across * sine + down * cosine
            fascicle = size * canvas.uniform((0.65, 1.25))
            canvas.fill(canvas.blob(*centre, (fascicle, fascicle), 0.0, 0.06), dark, 0.6, 0.08)
    canvas.rim(outline, canvas.uniform(ranges.septum_db), 35.0, 0.5, uneven_db=3.0)
    count = int(canvas.random.integers(5, 22))
    places = canvas.random.uniform(-0.75, 0.75, (2, count)) * np.array(radii)[:, None]
    canvas.strands(
        x_mm + places[0] * cosine - places[1] * sine,
        z_mm + places[0] * sine + places[1] * cosine,
        canvas.random.normal(tilt, 25, count),
        canvas.random.uniform(0.3, 1.4, count),
        canvas.random.uniform(*ranges.septum_db, count),
        law_deg=40.0,
    )


def lesion(canvas: Canvas, x_mm: float, z_mm: float, radius_mm: float) -> None:
    """A cyst (fluid, bright smooth wall), or a darker or brighter mass."""
    outline = canvas.blob(
        x_mm,
        z_mm,
        (radius_mm, radius_mm * canvas.uniform((0.6, 1.0))),
        canvas.uniform((-30.0, 30.0)),
        0.06,
    )
    canvas.clear(outline)
    if canvas.chance(0.4):
        canvas.fill(outline, canvas.uniform((-60.0, -35.0)), 0.05, 0.15)
        canvas.rim(outline, canvas.uniform((4.0, 16.0)), 15.0, 0.1)
        return
    patch = canvas.patch(outline, canvas.uniform((0.2, 0.8)))
    if patch is not None:
        sign = canvas.random.choice((-1.3, 0.7))
        texture = 2 * canvas.noise(radius_mm / 2, radius_mm / 2, patch)
        canvas.paint(
            patch, sign * canvas.uniform((4.0, 10.0)) + texture, canvas.uniform((0.3, 1.4))
        )


def bone(canvas: Canvas, x_mm: np.ndarray, z_mm: np.ndarray, ranges: AnatomyRanges) -> None:
    """A bone's surface, very bright where it faces the beam; nothing comes from beneath it."""
    rough = canvas.uniform((0.1, 0.6))
    level = canvas.uniform(ranges.bone_db) + 2.5 * canvas.wave(x_mm, 4.0)
    under = np.stack(canvas.deeper(x_mm, z_mm, more_mm=25.0), 1)
    body = np.concatenate([np.stack([x_mm, z_mm + 0.2], 1), under[::-1]])
    canvas.clear(body)
    canvas.fill(body, -30.0, canvas.uniform(ranges.bone_attenuation), 0.5)
    canvas.line(x_mm, z_mm, level, canvas.uniform((25.0, 55.0)), rough)
    # The cortex is diffuse too: a softer bright rim beneath the line.
    rim = np.concatenate([np.stack([x_mm, z_mm], 1), np.stack([x_mm, z_mm + 0.6], 1)[::-1]])
    patch = canvas.patch(rim, 0.2)
    canvas.paint(patch, canvas.uniform((6.0, 14.0)))


def gas(
    canvas: Canvas, x_mm: np.ndarray, z_mm: np.ndarray, level_db: float, haze_db: float
) -> None:
    """A gassy surface with a dirty shadow: a thin layer that loses 30 dB, and haze beneath it.

    The haze stands for echoes to and fro above the gas. It is as much stronger as the layer loses,
    so that it shows at `haze_db` while what truly lies there is lost in it.
    """
    fade_out = 12 * np.linspace(-1, 1, len(x_mm)) ** 8
    canvas.line(x_mm, z_mm, level_db + 3 * canvas.wave(x_mm, 2.0) - fade_out, 35.0, 0.6)
    thick = max(1.0, 3 * canvas.spacing_mm)
    sample, _ = canvas.probe.to_beam(float(x_mm.mean()), float(z_mm.mean()))
    row = int(np.clip(sample, 0, canvas.probe.samples - 1))
    frequency = centre_frequency_mhz(canvas.probe)[row]
    under = np.stack(canvas.deeper(x_mm, z_mm, more_mm=thick), 1)
    cap = canvas.patch(np.concatenate([np.stack([x_mm, z_mm], 1), under[::-1]]), 0.2)
    far = np.stack(canvas.deeper(under[:, 0], under[:, 1], more_mm=canvas.probe.depth_mm + 40), 1)
    shadow = canvas.patch(np.concatenate([under, far[::-1]]), 0.8)
    if cap is None or shadow is None:
        return
    drawn_cm = float(np.median(cap.weight.sum(0))) * canvas.spacing_mm / 10
    loss = _CAP_DB / (2 * frequency * max(drawn_cm, thick / 10))
    top = float(z_mm.min())
    streaks = 4 * canvas.noise(1.5, 15.0, shadow) + 1.5 * canvas.noise(6.0, 1.2, shadow)
    # Losing its high frequencies at the gas, the echo loses less on its way through what follows.
    share = (shadow.z_mm - top) / canvas.probe.depth_mm
    fade = -share * (canvas.uniform((5.0, 28.0)) + 0.6 * frequency)
    # Where the shadow's edge is soft, the haze must not outshine what lies beside it.
    level = haze_db + _CAP_DB + fade + streaks - 15 * (1 - shadow.weight)
    canvas.paint(shadow, level, 0.6)
    canvas.paint(cap, haze_db + 6, loss)


def bubble(canvas: Canvas, ranges: AnatomyRanges, width_mm: float) -> None:
    """A pocket of gas: an irregular bright line and its dirty shadow."""
    half, depth = canvas.probe.half_width_mm, canvas.probe.depth_mm
    across = np.linspace(-1, 1, 40) * width_mm / 2
    x = canvas.uniform((-0.8, 0.8)) * half + across
    z = canvas.uniform((0.3, 0.85)) * depth + 0.03 * width_mm * canvas.wave(across, width_mm / 5)
    z = z + canvas.uniform((0.0, 0.25)) * width_mm * (2 * across / width_mm) ** 2
    gas(canvas, x, z, canvas.uniform(ranges.gas_db), canvas.uniform((-20.0, -6.0)))


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


def sprinkle(canvas: Canvas, ranges: AnatomyRanges, radius_mm: tuple[float, float]) -> None:
    """Lesions (in half of the scenes) and bright specks."""
    lesions = canvas.random.integers(ranges.lesions[0], ranges.lesions[1] + 1)
    for _ in range(lesions if canvas.chance(0.5) else 0):
        radius = canvas.uniform(radius_mm)
        place = somewhere(canvas, (4 + radius, 0.85 * canvas.probe.depth_mm), radius)
        if place:
            lesion(canvas, *place, radius)
    spots(canvas, int(canvas.random.integers(ranges.spots[0], ranges.spots[1] + 1)), ranges)
