"""The point-spread function of a probe: pulse along the line, beam across the lines."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex64, Complex128, Float, Float32, Float64, Int64

from sonodetr.simulator.probe import HALF_MAXIMUM_SIGMAS, SOUND_MM_PER_US, Probe

_TAPS = 7
# A beam finer than its lines are apart would leave gaps, which scanners close by blending lines:
# the finest beam has this standard deviation in lines.
_NARROWEST_LINES = 0.85
# A point between two cells is shared by both in proportion: what that adds to the variance of its
# response in cells, averaged over places f between them, is the mean of f (1 - f).
_SHARED = 1 / 6
# A rectangular aperture focuses to a sinc whose amplitude has this full width at half maximum, in
# wavelengths times the f-number (Szabo, "Diagnostic Ultrasound Imaging", 2nd ed., section 6.3).
_SINC_WIDTH = 1.21
# Side lobes and clutter as one wide, weak Gaussian below the main lobe.
_SIDE_LOBE = 10 ** (-36 / 20)
_SIDE_LOBE_WIDTH = 7.0
# Attenuation that the centre frequency and the default time-gain compensation are reckoned with.
TYPICAL_ATTENUATION_DB_CM_MHZ = 0.6


@dataclass(frozen=True)
class Beam:
    """The point-spread function at every depth, normalised to keep the energy of speckle.

    Attributes:
        pulse: `[taps]` amplitude along the line, in samples.
        across: `[samples, padded lines]` complex transfer function across the lines at every
            depth, for the discrete Fourier transform over the padded lines.
        pad: lines added on either side, so that nothing wraps round.
        phase_rad: `[samples]` phase of the carrier at every depth, there and back.
        sigma_across_mm: `[samples]` beam width (standard deviation of its amplitude).
        curvature_per_mm2: `[samples]` A of the beam `exp(-A x^2)`.
        sigma_along_mm: pulse width (standard deviation of its amplitude).
        peak: `[samples]` amplitude of the response to a point of amplitude 1 at its place, on
            average over places between the cells.
    """

    pulse: Float32[np.ndarray, " taps"]
    across: Complex64[np.ndarray, "samples padded"]
    pad: int
    phase_rad: Float64[np.ndarray, " samples"]
    sigma_across_mm: Float64[np.ndarray, " samples"]
    curvature_per_mm2: Complex128[np.ndarray, " samples"]
    sigma_along_mm: float
    peak: Float64[np.ndarray, " samples"]

    def of_line(
        self, sample: Int64[np.ndarray, " n"], off_rad: Float64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, " n"]:
        """Response to a long straight row of points of amplitude 1, one a mm, of equal phase.

        Args:
            sample: where the row crosses the beam.
            off_rad: angle of its normal off the beam.

        Through a beam `exp(-A u^2)` and a pulse `exp(-v^2 / 2 s^2)` a row adds up to the response
        to a point times the length `sqrt(pi / |A cos^2 + sin^2 / 2 s^2|)`; so do the side lobes.
        """
        across = self.curvature_per_mm2[sample] * np.cos(off_rad) ** 2
        along = np.sin(off_rad) ** 2 / (2 * self.sigma_along_mm**2)
        lengths = [
            np.sqrt(math.pi / np.abs(a + along))
            for a in (across, across.real / _SIDE_LOBE_WIDTH**2)
        ]
        return self.peak[sample] * (lengths[0] + _SIDE_LOBE * lengths[1]) / (1 + _SIDE_LOBE)


@functools.lru_cache(maxsize=4)
def make_beam(probe: Probe) -> Beam:
    """The point-spread function of a probe.

    Along the line the pulse is Gaussian. Across the lines the transmit beam is a Gaussian beam
    focused at `focus_mm`, with its curved wave front (Siegman, "Lasers", chapter 17: waist,
    Rayleigh range, radius of curvature), and the receive beam keeps `f_number` until the aperture
    ends, which limits both. Their product is a complex Gaussian `exp(-A x^2)` whose Fourier
    transform is again one, `exp(-pi^2 k^2 / A)`, so that every depth has its own beam and no zones
    can show seams.

    >>> probe = Probe("linear", 7.5, 0.5, 20.0, 40.0, 20.0, width_mm=38.0)
    >>> make_beam(probe).pulse.shape
    (7,)
    """
    pad = 8 + (-probe.lines) % 8 // 2
    padded = probe.lines + 2 * pad
    line_mm = probe.line_mm(probe.ranges_mm)
    curvature = _curvature(probe, line_mm)
    cycles = np.fft.rfftfreq(padded)
    spread = (1 / (curvature * line_mm**2) - 2 * _SHARED)[:, None]
    main = np.exp(-((math.pi * cycles) ** 2) * spread)
    side = _SIDE_LOBE_WIDTH * np.exp(-((math.pi * cycles * _SIDE_LOBE_WIDTH) ** 2) * spread.real)
    half = main + _SIDE_LOBE * side
    # The other half of the frequencies mirrors this one.
    across = half[:, np.abs(np.fft.fftfreq(padded, 1 / padded)).astype(int)]
    across, across_peak = _normalised(across)
    sigma_samples = probe.pulse_mm / HALF_MAXIMUM_SIGMAS / probe.sample_mm
    steps = np.arange(_TAPS) - _TAPS // 2
    pulse = np.exp(-(steps**2) / (2 * (sigma_samples**2 - _SHARED)))
    spectrum = np.abs(np.fft.fft(pulse, 64))
    along, along_peak = _normalised(spectrum[None])
    centre = centre_frequency_mhz(probe)
    phase = 4 * math.pi * np.cumsum(centre) * probe.sample_mm / SOUND_MM_PER_US
    return Beam(
        (pulse * (along[0, 0] / spectrum[0])).astype(np.float32),
        across.astype(np.complex64),
        pad,
        phase,
        1 / np.sqrt(2 * curvature.real),
        curvature,
        sigma_samples * probe.sample_mm,
        across_peak * along_peak,
    )


def centre_frequency_mhz(probe: Probe) -> Float[np.ndarray, " samples"]:
    """Centre frequency of the echo from every depth in typical tissue.

    Attenuation that grows with frequency shifts a Gaussian spectrum of standard deviation s down
    by `a s^2`, with `a` the attenuation in nepers per MHz on the way there and back, and leaves
    its width (Kuc 1984, "Estimating acoustic attenuation from reflected ultrasound signals").
    """
    nepers_per_mhz = 2 * TYPICAL_ATTENUATION_DB_CM_MHZ * probe.ranges_mm / 10 * math.log(10) / 20
    lowest = 0.5 * probe.frequency_mhz
    return np.maximum(probe.frequency_mhz - nepers_per_mhz * spectrum_sigma_mhz(probe) ** 2, lowest)


def spectrum_sigma_mhz(probe: Probe) -> float:
    """Standard deviation of the amplitude spectrum, whose full width at half maximum is B f."""
    return probe.bandwidth * probe.frequency_mhz / HALF_MAXIMUM_SIGMAS


def _normalised(transfer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A transfer function `[..., frequencies]` that keeps the mean square of white speckle.

    With it the amplitude of its response to a point of amplitude 1; both take into account that
    points are shared by two cells, averaged over places between them.
    """
    cycles = np.fft.fftfreq(transfer.shape[-1])
    # Mean over f of |1 - f + f exp(-2 pi i k)|^2.
    shared_power = 1 - 4 * _SHARED * np.sin(math.pi * cycles) ** 2
    power = np.mean(np.abs(transfer) ** 2 * shared_power, -1, keepdims=True)
    transfer = transfer / np.sqrt(power)
    return transfer, np.abs(np.mean(transfer * np.sinc(cycles) ** 2, -1))


def _curvature(probe: Probe, line_mm: np.ndarray) -> np.ndarray:
    """`[samples]` complex A in 1/mm^2 of the two-way beam `exp(-A x^2)` at every depth."""
    wavelength = SOUND_MM_PER_US / centre_frequency_mhz(probe)
    depth = probe.ranges_mm
    sigma_per_f_number = _SINC_WIDTH * wavelength / HALF_MAXIMUM_SIGMAS
    receive = sigma_per_f_number * np.maximum(probe.f_number, depth / probe.aperture_mm)
    transmit = sigma_per_f_number * max(probe.f_number, probe.focus_mm / probe.aperture_mm)
    waist_squared = 2 * transmit**2
    rayleigh = math.pi * waist_squared / wavelength
    offset = depth - probe.focus_mm
    spread = 1 + (offset / rayleigh) ** 2
    front = math.pi / wavelength * offset / (offset**2 + rayleigh**2)
    response = 1 / (1 / (2 * receive**2) + 1 / (waist_squared * spread) + 1j * front)
    narrowest = 2 * (_NARROWEST_LINES * line_mm) ** 2
    return 1 / (np.maximum(response.real, narrowest) + 1j * response.imag)
