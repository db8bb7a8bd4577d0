"""What a recording looks at: a limb or neck, a lung, organs or a phantom, never twice alike."""

import math

import numpy as np

from sonodetr.simulator import layers, organs, phantoms, structures
from sonodetr.simulator.anatomy_ranges import (
    SCENES,
    SHIFTED,
    STANDARD,
    AnatomyRanges,
    Scene,
)
from sonodetr.simulator.canvas import DEEP_MM, Canvas
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
            organs.abdomen(canvas, ranges)
        case "heart":
            organs.heart(canvas, ranges)
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
    fascia = layers.wall(canvas, ranges, canvas.uniform(ranges.fat_mm))
    probe = canvas.probe
    top, depth = fascia, float(fascia.mean())
    while depth < probe.depth_mm:
        thick = canvas.uniform(ranges.muscle_mm) * max(1.0, probe.depth_mm / 40)
        depth += thick
        slope = canvas.uniform((-ranges.slope, ranges.slope))
        bottom = np.maximum(canvas.interface(depth, 0.12 * thick, slope, 14.0), top + 0.4)
        if canvas.chance(0.25):
            layers.connective(canvas, (top, bottom), ranges)
        else:
            layers.muscle(canvas, (top, bottom), ranges)
        if canvas.chance(0.75):
            layers.fascia_bundle(canvas, top, ranges)
        top = bottom
    half, fascia_mm = probe.half_width_mm, float(fascia.mean())
    for _ in range(canvas.random.integers(0, 4)):
        radii = canvas.uniform((6.0, 22.0)), canvas.uniform((2.0, 7.0))
        z = canvas.uniform((fascia_mm + radii[1], max(0.85 * probe.depth_mm, fascia_mm + 8)))
        layers.belly(canvas, canvas.uniform((-half, half)), z, radii, ranges)
    layers.fascia_bundle(canvas, fascia, ranges)
    for _ in range(canvas.random.integers(0, 3)):
        start = (
            canvas.random.uniform(-half, half),
            canvas.uniform((fascia_mm, probe.depth_mm * 0.6)),
        )
        angle = math.radians(canvas.uniform((-55.0, 55.0)))
        length = canvas.uniform((8.0, 25.0)) * canvas.random.choice((-1, 1))
        end = start[0] + length * math.cos(angle), start[1] + abs(length * math.sin(angle))
        layers.septum(canvas, start, end, ranges)
    structures.sprinkle(canvas, ranges, (1.5, 8.0))
    bundle(canvas, ranges, fascia_mm + 1)
    if canvas.chance(ranges.bone):
        long_bone(canvas, ranges)
    if canvas.chance(ranges.gas):
        structures.bubble(canvas, ranges, canvas.uniform((4.0, 12.0)))


def bundle(canvas: Canvas, ranges: AnatomyRanges, top_mm: float) -> None:
    """Vessels and nerves beneath `top_mm`, most of them bedded in bright loose tissue."""
    depth = top_mm, 0.8 * canvas.probe.depth_mm
    if canvas.chance(0.15):
        structures.long_vessel(canvas, ranges, depth, canvas.uniform((0.8, 3.0)))
    draws = []
    for draw, count, radius_mm in (
        (structures.vessel, ranges.vessels, (1.0, 6.5)),
        (structures.nerve, ranges.nerves, (1.2, 3.2)),
    ):
        for _ in range(canvas.random.integers(count[0], count[1] + 1)):
            radius = canvas.uniform(radius_mm)
            place = structures.somewhere(canvas, (depth[0] + radius, depth[1]), radius)
            if place:
                draws.append((draw, *place, radius))
                if canvas.chance(0.7):
                    structures.bedding(canvas, *place, radius, ranges)
    for draw, x, z, radius in draws:
        draw(canvas, x, z, radius, ranges)


def long_bone(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """A bone at depth: through the whole picture, or a round one cut across."""
    half, depth = canvas.probe.half_width_mm, canvas.probe.depth_mm
    z = canvas.uniform((0.45, 0.92)) * depth
    if canvas.chance(0.4):
        surface = canvas.interface(z, canvas.uniform((0.3, 1.5)), canvas.uniform((-0.4, 0.4)))
        structures.bone(canvas, canvas.x_mm, surface, ranges)
        return
    x, width = canvas.uniform((-0.8, 0.8)) * half, canvas.uniform((6.0, 22.0))
    across = np.linspace(-1, 1, 50)
    arch = width * canvas.uniform((0.3, 0.8)) * (1 - np.sqrt(1 - 0.96 * across**2))
    bumps = canvas.uniform((0.02, 0.03 * width)) * canvas.wave(across * width, 0.4 * width)
    structures.bone(canvas, x + across * width, z + arch + bumps, ranges)


def lung(canvas: Canvas, ranges: AnatomyRanges) -> None:
    """Chest wall, ribs with shadows, the bright pleura and its copies at multiples of its depth."""
    probe = canvas.probe
    fat_mm = canvas.uniform(ranges.fat_mm) * 0.7
    top = layers.wall(canvas, ranges, min(fat_mm, 0.3 * probe.depth_mm))
    pleura_mm = float(top.mean()) + canvas.uniform((6.0, 14.0)) * min(1.0, probe.depth_mm / 60)
    pleura = np.maximum(canvas.interface(pleura_mm, 0.5, canvas.uniform((-0.1, 0.1))), top + 1)
    layers.muscle(canvas, (top, pleura), ranges)
    layers.fascia_bundle(canvas, top, ranges)
    level = canvas.uniform(ranges.pleura_db)
    structures.gas(canvas, canvas.x_mm, pleura, level, canvas.uniform((-12.0, 0.0)))
    drop = canvas.uniform((6.0, 14.0))
    for order in range(2, 2 + canvas.random.integers(0, 4)):
        x, z = canvas.deeper(canvas.x_mm, pleura, float(order))
        copy = level + 30 - drop * (order - 1) + 4 * canvas.wave(canvas.x_mm, 5.0)
        canvas.line(x, z, copy, 12.0, 0.3)
    for _ in range(canvas.random.integers(0, 4) if canvas.chance(0.5) else 0):
        comet(canvas, pleura, canvas.uniform((5.0, 14.0)))
    pitch = canvas.uniform((16.0, 32.0))
    first = canvas.uniform((-pitch, 0.0)) - pitch * (probe.half_width_mm // pitch)
    for rib in np.arange(first, probe.half_width_mm + pitch, pitch):
        width = canvas.uniform((3.0, 6.5))
        across = np.linspace(-1, 1, 40)
        high = float(np.interp(rib, canvas.x_mm, pleura)) - canvas.uniform((3.0, 7.0))
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
