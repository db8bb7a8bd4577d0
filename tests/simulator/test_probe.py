"""Transducers: geometry by hand and back."""

import math

import numpy as np
import pytest
import torch
from plain_scenes import CURVED, LINEAR, PHASED, PROBES

from sonodetr.files import InputError
from sonodetr.simulator.probe import Probe


def test_pulse_by_hand() -> None:
    """7.5 MHz, half of it wide: 4 ln 2 / (3.75 pi) us, there and back at 1.54 mm/us."""
    probe = Probe("linear", 7.5, 0.5, 20.0, 40.0, 20.0, width_mm=38.0)
    assert probe.wavelength_mm == pytest.approx(0.20533, abs=1e-5)
    assert probe.pulse_mm == pytest.approx(1.54 / 2 * 0.23534, abs=1e-5)
    assert probe.samples % 32 == 0
    assert probe.pulse_mm / 2 >= probe.sample_mm == 40 / probe.samples


def test_flat_probe_by_hand() -> None:
    """38 mm in 160 lines: the middle lies between lines 79 and 80."""
    probe = LINEAR
    sample, line = probe.to_beam(np.array([0.0, -19.0, 19.0]), np.array([0.0, 20.0, 40.0]))
    np.testing.assert_allclose(line, [79.5, -0.5, 159.5])
    np.testing.assert_allclose(sample, [-0.5, probe.samples / 2 - 0.5, probe.samples - 0.5])
    assert probe.half_width_mm == 19.0
    assert probe.top_mm == 0.0
    assert np.all(probe.beam_angle_rad(np.array([3.0]), np.array([5.0])) == 0)


def test_convex_probe_by_hand() -> None:
    """A point 30 degrees to the right, 20 mm from a face of radius 55 mm."""
    x, z = 75 * math.sin(math.pi / 6), 75 * math.cos(math.pi / 6) - 55
    sample, line = CURVED.to_beam(np.array([x]), np.array([z]))
    assert sample[0] == pytest.approx(20 / CURVED.sample_mm - 0.5)
    assert line[0] == pytest.approx(30 / (65 / 128) + 63.5)
    assert CURVED.beam_angle_rad(np.array([x]), np.array([z]))[0] == pytest.approx(math.pi / 6)
    assert CURVED.half_width_mm == pytest.approx(155 * math.sin(math.radians(32.5)))
    assert CURVED.top_mm == pytest.approx(55 * (math.cos(math.radians(32.5)) - 1))


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_there_and_back(probe: Probe) -> None:
    random = np.random.default_rng(3)
    sample = random.uniform(0, probe.samples, (5, 7))
    line = random.uniform(0, probe.lines, (5, 7))
    x, z = probe.to_picture(sample, line)
    np.testing.assert_allclose(probe.to_beam(x, z), (sample, line), rtol=0, atol=1e-8)
    tensors = probe.to_beam(torch.from_numpy(x), torch.from_numpy(z))
    np.testing.assert_allclose(np.stack(tensors), (sample, line), rtol=0, atol=1e-8)
    assert probe.inside(x, z).all() == (sample.max() <= probe.samples - 0.5)


@pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)
def test_inside_ends_half_a_cell_beyond_the_centres(probe: Probe) -> None:
    last_sample, last_line = probe.samples - 0.5, probe.lines - 0.5
    sample = np.array([-0.51, -0.49, last_sample - 0.01, last_sample + 0.01, 50, 50, 50, 50])
    line = np.array([9.0, 9, 9, 9, -0.51, -0.49, last_line - 0.01, last_line + 0.01])
    inside = probe.inside(*probe.to_picture(sample, line))
    np.testing.assert_array_equal(inside, [False, True, True, False] * 2)


def test_slice_is_thinnest_at_the_focus() -> None:
    assert PHASED.slice_at_mm(60.0) == 2.0
    assert PHASED.slice_at_mm(60.0 + 48.0) == pytest.approx(2 * math.sqrt(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frequency_mhz": 0.5}, "probe linear: frequency_mhz is 0.5, but must be 1 to 20"),
        ({"depth_mm": math.nan}, "probe linear: depth_mm is nan, but must be 10 to 300"),
        ({"width_mm": 0.0}, "probe linear: width_mm is 0.0, but must be 10 to 120"),
        ({"radius_mm": 40.0}, "probe linear: radius_mm is 40.0, but must be 0 to 0"),
        ({"lines": 5}, "probe linear: lines is 5, but must be 16 to 1024"),
    ],
)
def test_impossible_probes(change: dict[str, float], message: str) -> None:
    given = {
        **{"kind": "linear", "frequency_mhz": 7.5, "bandwidth": 0.5, "aperture_mm": 20.0},
        **{"depth_mm": 40.0, "focus_mm": 20.0, "width_mm": 38.0},
    }
    with pytest.raises(InputError) as caught:
        Probe(**(given | change))
    assert str(caught.value) == message
