"""The point-spread function, measured in formed pictures."""

import math

import numpy as np
import pytest
from plain_scenes import CURVED, LINEAR, PROBES, SILENT_DB, amplitude, even, reflectors

from sonodetr.simulator.beam import centre_frequency_mhz, make_beam
from sonodetr.simulator.probe import Probe

HALF = 2 * math.sqrt(2 * math.log(2))  # full width at half maximum of a Gaussian, in sigmas
each_probe = pytest.mark.parametrize("probe", PROBES.values(), ids=PROBES)


def line_mm(probe: Probe) -> np.ndarray:
    """`[samples]` distance of neighbouring lines."""
    if probe.kind == "linear":
        return np.full(probe.samples, probe.line_step)
    return (probe.radius_mm + probe.ranges_mm) * probe.line_step


def width(profile: np.ndarray) -> float:
    """Full width at half maximum of a peak, in steps; between them by Fourier interpolation."""
    spectrum, count = np.fft.fft(profile), len(profile)
    finer = np.zeros(32 * count, complex)
    finer[: count // 2], finer[-(count // 2) :] = spectrum[: count // 2], spectrum[-(count // 2) :]
    curve = np.fft.ifft(finer).real
    middle = int(curve.argmax())
    below = np.flatnonzero(curve < curve[middle] / 2)
    return float(below[below > middle][0] - below[below < middle][-1] - 1) / 32


def test_centre_frequency_by_hand() -> None:
    """At 0.3 + 0.6 dB a cm and MHz, 2 cm deep: 0.27631 Np/MHz there and back, s = 1.91093 MHz."""
    frequency = np.interp(20.0, LINEAR.ranges_mm, centre_frequency_mhz(LINEAR))
    assert frequency == pytest.approx(9.0 - 0.27631 * 1.91093**2, abs=1e-3)
    broad = Probe("linear", 12.0, 1.2, 20.0, 60.0, 20.0, width_mm=38.0)
    assert centre_frequency_mhz(broad).min() == 6.0


def test_beam_at_the_focus_by_hand() -> None:
    """Where both apertures are f/2, each beam is 2.42 wavelengths wide at half amplitude."""
    probe = Probe("linear", 5.0, 0.2, 10.0, 40.0, 20.0, width_mm=20.0, lines=512)
    sample = int(20 / probe.sample_mm)
    wavelength = 1.54 / centre_frequency_mhz(probe)[sample]
    both = 1.21 * wavelength * 2 / math.sqrt(2)
    assert make_beam(probe).sigma_across_mm[sample] * HALF == pytest.approx(both, rel=0.01)


@each_probe
@pytest.mark.parametrize("share", [0.2, 0.45, 0.8])
def test_response_to_a_point(probe: Probe, share: float) -> None:
    """Its widths and height, on average over places between the cells."""
    beam = make_beam(probe)
    row, column = int(share * probe.samples), probe.lines // 2
    along, across, heights = [], [], []
    for down in (-0.25, 0.0, 0.25, 0.5):
        for right in (-0.25, 0.0, 0.25, 0.5):
            x, z = probe.to_picture(np.array(row + down), np.array(column + right))
            point = reflectors(x, z, law_deg=1e4)
            picture = amplitude(probe, even(probe, SILENT_DB, surfaces=point))[0]
            along.append(width(picture[row - 20 : row + 20, column]))
            across.append(width(picture[row]))
            heights.append(picture[row, column])
    along_mm = np.mean(along) * probe.sample_mm
    across_mm = np.mean(across) * line_mm(probe)[row]
    assert along_mm == pytest.approx(beam.sigma_along_mm * HALF, rel=0.05)
    assert along_mm == pytest.approx(probe.pulse_mm, rel=0.05)
    assert across_mm == pytest.approx(beam.sigma_across_mm[row] * HALF, rel=0.05)


@each_probe
def test_size_of_speckle(probe: Probe) -> None:
    """The intensity of speckle correlates over a distance u by `exp(-|A|^2 u^2 / Re A)`.

    This is what the response `exp(-A u^2)` leaves of scatterers without order (Wagner et al. 1983,
    "Statistics of speckle in ultrasound B-scans"); along the lines A is real.
    """
    beam = make_beam(probe)
    intensity = np.stack([amplitude(probe, even(probe), seed=seed)[0] ** 2 for seed in range(7)])
    for share in (0.15, 0.4, 0.65, 0.9):
        row = int(share * probe.samples)
        part = intensity[:, row - 30 : row + 30] - 1
        power = np.mean(part**2)
        next_sample = np.mean(part[:, 1:] * part[:, :-1]) / power
        next_line = np.mean(part[..., 1:] * part[..., :-1]) / power
        curvature = beam.curvature_per_mm2[row]
        finest = np.sqrt(curvature.real) / np.abs(curvature)
        assert probe.sample_mm / math.sqrt(-math.log(next_sample)) == pytest.approx(
            math.sqrt(2) * beam.sigma_along_mm, rel=0.1
        )
        assert line_mm(probe)[row] / math.sqrt(-math.log(next_line)) == pytest.approx(
            finest, rel=0.1
        )


@each_probe
def test_no_seams(probe: Probe) -> None:
    """Widths, carrier and height change from sample to sample by little, and speckle with them."""
    beam = make_beam(probe)
    for values in (beam.sigma_across_mm, beam.peak):
        assert np.abs(np.diff(np.log(values)))[5:].max() < 0.04
    step = np.diff(beam.phase_rad)
    assert np.abs(np.diff(step)).max() < 1e-3 * step.max()
    intensity = np.mean(
        [amplitude(probe, even(probe), seed=seed)[0] ** 2 for seed in range(5)], axis=(0, 2)
    )
    bands = intensity[: len(intensity) // 32 * 32].reshape(32, -1).mean(1)
    np.testing.assert_allclose(bands, 1, atol=0.12 if probe.kind != "phased" else 0.3)


def test_beams_are_never_finer_than_lines_can_show() -> None:
    """Where lines can show no more, 8% of the spectrum's height are left at most."""
    lines = make_beam(CURVED).sigma_across_mm / line_mm(CURVED)
    assert lines.min() == pytest.approx(0.85, abs=0.01)
    for probe in PROBES.values():
        transfer = np.abs(make_beam(probe).across)
        highest = transfer[:, transfer.shape[1] // 2]
        assert (highest / transfer[:, 0]).max() < 0.08
