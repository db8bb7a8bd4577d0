"""Where tissue lies in every frame: by hand, and there and back."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_scenes import LINEAR, even

from sonodetr.simulator.motion import Motion, Pose
from sonodetr.simulator.tissue import Pulsator

STILL = Motion.still(2)
X, Z = torch.tensor([3.0, -7.0]), torch.tensor([11.0, 29.0])
PLAIN = even(LINEAR)


def moved(motion: Motion, tissue: object = PLAIN) -> np.ndarray:
    """`[3, points]` x, y, z in the probe's frame of the second frame."""
    pose = Pose.of(motion, slice(1, 2), "cpu")
    return np.stack([value.expand(1, 2)[0] for value in pose.to_probe(tissue, X, Z)])


def second(*values: float) -> np.ndarray:
    return np.array([[0.0] * len(values), values]).squeeze(-1 if len(values) == 1 else ())


def test_still() -> None:
    np.testing.assert_allclose(moved(STILL), [[3, -7], [0, 0], [11, 29]])


def test_slide_and_lift_by_hand() -> None:
    """The probe goes right, out of the plane and into the tissue; the tissue the other way."""
    motion = replace(STILL, probe_mm=second(2.0, 0.5, 1.0))
    np.testing.assert_allclose(moved(motion), [[1, -9], [-0.5, -0.5], [10, 28]])
    points = motion.to_probe(np.array([[3.0, 0.0, 11.0]]), 1)
    np.testing.assert_allclose(points, [[1, -0.5, 10]])


def test_shear_by_hand() -> None:
    """Structures that run 0.3 mm to the right for each mm of elevation."""
    tissue = even(LINEAR, shear=(0.3, -0.1))
    motion = replace(STILL, probe_mm=second(0.0, 0.5, 0.0))
    np.testing.assert_allclose(
        moved(motion, tissue), [[2.85, -7.15], [-0.5, -0.5], [11.05, 29.05]], rtol=1e-6
    )


def test_rock_and_tilt_by_hand() -> None:
    """A rock by 30 degrees to the right moves what lies below to the right of the new axis."""
    motion = replace(STILL, rock_rad=second(math.pi / 6), tilt_rad=second(math.atan(0.1)))
    cosine, sine = math.sqrt(0.75), 0.5
    expected = [
        [3 * cosine + 11 * sine, -7 * cosine + 29 * sine],
        [-1.1, -2.9],
        [11 * cosine - 3 * sine, 29 * cosine + 7 * sine],
    ]
    np.testing.assert_allclose(moved(motion), expected, rtol=1e-6)
    rigid = motion.to_probe(np.array([[3.0, 0.0, 11.0], [-7.0, 0.0, 29.0]]), 1)
    np.testing.assert_allclose(rigid.T, expected, rtol=1e-6)


def test_breath_pulse_and_drag_by_hand() -> None:
    breath = replace(STILL, breath_mm=second(4.0), breath_depth_mm=40.0)
    np.testing.assert_allclose(moved(breath), [[3, -7], [0, 0], [12.1, 31.9]], rtol=1e-6)
    # 0.2 mm at the wall of 2 mm radius, a half of it at 4 mm, where the first point lies.
    artery = even(LINEAR, pulsators=(Pulsator(3.0, 7.0, 2.0, 0.2),))
    pulse = replace(STILL, pulse=second(1.0))
    assert moved(pulse, artery)[2, 0] == pytest.approx(11.1, rel=1e-6)
    drag = replace(STILL, drag_mm=second(0.5, -0.25), drag_at_mm=second(3.0, 11.0))
    np.testing.assert_allclose(moved(drag)[:, 0], [3.5, 0, 10.75], rtol=1e-6)
    np.testing.assert_allclose(moved(drag)[:, 1], [-7, 0, 29], atol=1e-3)


def test_to_tissue_undoes_to_probe() -> None:
    """With everything that moves at once, as far as a shifted recording may."""
    tissue = even(
        LINEAR,
        shear=(0.3, -0.12),
        pulsators=(Pulsator(3.0, 14.0, 2.5, 0.4), Pulsator(-8.0, 25.0, 4.0, 0.5)),
    )
    motion = Motion(
        STILL.times_s,
        second(5.0, 1.6, 1.5),
        second(math.radians(3)),
        second(math.radians(-3)),
        second(2.4),
        40.0,
        second(1.0),
        second(0.4, 0.3),
        second(1.0, 17.0),
    )
    pose = Pose.of(motion, slice(0, 2), "cpu")
    x, z = (
        axis.flatten()
        for axis in torch.meshgrid(
            torch.linspace(-18, 18, 37), torch.linspace(1, 39, 41), indexing="xy"
        )
    )
    rest = pose.to_tissue(tissue, x, z)
    for row in range(2):
        one = Pose.of(motion, slice(row, row + 1), "cpu")
        back_x, _, back_z = one.to_probe(tissue, rest[0][row], rest[1][row])
        np.testing.assert_allclose(back_x[0], x, atol=0.01)
        np.testing.assert_allclose(back_z[0], z, atol=0.01)
