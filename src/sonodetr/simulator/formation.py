"""Image formation: from scatterers that move with the tissue to the envelope in dB.

The convolution model (Bamber and Dickinson 1980, "Ultrasonic B-scanning: a computer simulation"):
echo = point-spread function * (scatterers and surfaces), on the grid of samples and scan lines. It
is reckoned at the base band, so that a scatterer's depth enters as the phase of the carrier and the
grid need only be fine enough for the pulse, not for the wave.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from sonodetr.simulator.beam import (
    TYPICAL_ATTENUATION_DB_CM_MHZ,
    make_beam,
    spectrum_sigma_mhz,
)
from sonodetr.simulator.motion import Motion, Pose
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.tissue import Reflectors, Tissue, angle_law

# Elevation over which the speckle changes, as a share of the slice thickness: a Gaussian slice of
# full width w at half amplitude decorrelates by exp(-y^2 / 2 l^2) with l = w / 2.355 * sqrt(2).
_ELEVATION = math.sqrt(2) / (2 * math.sqrt(2 * math.log(2)))
_SILENT = 1e-6  # -120 dB, so that the logarithm stays finite


@dataclass(frozen=True)
class Echoes:
    """What an instrument adds to one frame, in the probe's frame.

    Attributes:
        reflectors: its surfaces and their reverberations.
        loss_db: `[N]` what a beam loses there, once for the way in and back together.
    """

    reflectors: Reflectors
    loss_db: Float32[np.ndarray, " n"]


class Formation:
    """Forms the frames of one recording.

    Args:
        probe: the transducer.
        tissue: what lies before it.
        motion: how both move.
        noise_db: level of the electronic noise at the face, relative to the speckle of muscle.
        seed: any whole numbers; they fix scatterers and noise.
        device: where to compute.
    """

    def __init__(
        self,
        probe: Probe,
        tissue: Tissue,
        motion: Motion,
        *,
        noise_db: float,
        seed: Sequence[int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.probe, self.tissue, self.motion = probe, tissue, motion
        self.seed, self.device = tuple(seed), torch.device(device)
        self.beam = make_beam(probe)
        self.lines = probe.lines + 2 * self.beam.pad
        self.pulse = self._tensor(self.beam.pulse)
        self.across = torch.from_numpy(self.beam.across).to(self.device)
        self.phase = self._tensor(self.beam.phase_rad)
        self.phase_step = self._tensor(np.gradient(self.beam.phase_rad))
        self.maps = self._tensor(np.stack((tissue.echo_db, tissue.attenuation_db_cm_mhz)))[None]
        sample, line = np.mgrid[: probe.samples, -self.beam.pad : probe.lines + self.beam.pad]
        self.grid = [self._tensor(axis.ravel()) for axis in probe.to_picture(sample, line)]
        self._draw_scatterers(sample, line)
        self.surfaces = [self._tensor(tissue.reflectors.x_mm), self._tensor(tissue.reflectors.z_mm)]
        self.surface_echo = self._complex(self._amplitude(tissue.reflectors))
        self.typical_loss_db = self._tensor(
            self._loss_db(np.cumsum(np.full(probe.samples, TYPICAL_ATTENUATION_DB_CM_MHZ)))
        )
        self.noise = 10 ** ((noise_db + self.typical_loss_db) / 20)[:, None]

    def image_db(
        self, frames: slice, instrument: Sequence[Echoes] = ()
    ) -> Float32[Tensor, "frames samples lines"]:
        """The envelope of some frames in dB, time-gain compensated for typical tissue.

        0 dB is the mean square of the speckle of muscle. `instrument` has one entry a frame.
        """
        pose = Pose.of(self.motion, frames, self.device)
        count = len(pose.pulse)
        levels = self._map(pose, count)
        amplitude = _from_db(levels[:, 0])
        field = self._speckle(pose) * amplitude
        if len(self.tissue.reflectors):
            x, _, z = pose.to_probe(self.tissue, *self.surfaces)
            field = field + self._surfaces(x, z, self.surface_echo)
        loss_db = self._loss_db(levels[:, 1].cumsum(1))
        if instrument:
            echo, lost_db = self._instrument(instrument)
            field, loss_db = field + echo, loss_db + lost_db
        field = field * _from_db(self.typical_loss_db[:, None] - loss_db)
        field = torch.fft.ifft(torch.fft.fft(field) * self.across)
        field = field[..., self.beam.pad : -self.beam.pad] + self._noise(frames, count)
        return 20 * self._along(field).abs().clamp_min(_SILENT).log10()

    def _draw_scatterers(self, sample: np.ndarray, line: np.ndarray) -> None:
        """One scatterer a cell of the grid, anywhere in it.

        Its amplitude is complex Gaussian (a Rayleigh modulus and any phase), so that sums of few
        are already fully developed speckle.
        """
        random = np.random.default_rng((*self.seed, 0))
        jitter = random.random((2, *sample.shape), np.float32) - 0.5
        x, z = self.probe.to_picture(sample + jitter[0], line + jitter[1])
        self.scatterers = [self._tensor(x.ravel()), self._tensor(z.ravel())]
        turn = random.random(x.size, np.float32)
        self.scatterer_size = self._tensor(random.rayleigh(math.sqrt(0.5), x.size))
        self.scatterer_phase = self._tensor(2 * math.pi * turn)
        # A random turn of the phase for each mm of elevation makes the field's correlation over
        # elevation a Gaussian: no scatterers outside the plane need be kept.
        spread = 1 / (_ELEVATION * self.probe.slice_mm)
        self.scatterer_turns = self._tensor(spread * random.standard_normal(x.size, np.float32))

    def _map(self, pose: Pose, count: int) -> Tensor:
        """`[F, 2, samples, lines]` echo level and attenuation on the grid of every frame."""
        x, z = pose.to_tissue(self.tissue, *self.grid)
        height, width = self.maps.shape[-2:]
        extent = self.tissue.spacing_mm
        across = (x - self.tissue.left_mm) * (2 / (extent * width)) - 1
        down = (z - self.tissue.top_mm) * (2 / (extent * height)) - 1
        places = torch.stack((across, down), -1).unflatten(1, (self.probe.samples, self.lines))
        return functional.grid_sample(
            self.maps.expand(count, -1, -1, -1),
            places,
            padding_mode="border",
            align_corners=False,
        )

    def _speckle(self, pose: Pose) -> Tensor:
        """`[F, samples, lines]` sum of the scatterers' echoes.

        Scatterers that leave the grid come in again on the other side.
        """
        x, y, z = pose.to_probe(self.tissue, *self.scatterers)
        sample, line = self.probe.to_beam(x, z)
        sample, line = _wrap(sample, self.probe.samples), _wrap(line + self.beam.pad, self.lines)
        row = sample.long()
        carrier = self.phase[row] + (sample - row) * self.phase_step[row]
        turn = self.scatterer_phase + self.scatterer_turns * y - carrier
        return self._sum(
            sample, line, self.scatterer_size * turn.cos(), self.scatterer_size * turn.sin()
        )

    def _surfaces(self, x: Tensor, z: Tensor, echo: Tensor) -> Tensor:
        """`[F, samples, lines]` sum of the echoes of points that are lost outside the grid."""
        sample, line = self.probe.to_beam(x, z)
        line = line + self.beam.pad
        known = (sample >= 0) & (sample < self.probe.samples) & (line >= 0) & (line < self.lines)
        echo = echo * known
        sample, line = sample.clamp(0, self.probe.samples - 1), line.clamp(0, self.lines - 1)
        return self._sum(sample, line, echo.real, echo.imag)

    def _sum(self, sample: Tensor, line: Tensor, real: Tensor, imaginary: Tensor) -> Tensor:
        """Sum points `[F, N]` onto the grid, each shared by the four cells around it."""
        row, column = sample.floor(), line.floor()
        down, right = sample - row, line - column
        # One row and column more, folded back below, instead of the remainder for each neighbour.
        height, width = self.probe.samples + 1, self.lines + 1
        start = torch.arange(len(sample), device=self.device)[:, None] * (height * width)
        index = ((row * width + column).long() + start).flatten()
        sums = torch.zeros(2, len(sample) * height * width, device=self.device)
        for part, values in zip(sums, (real, imaginary), strict=True):
            lower = values * down
            for offset, share in ((0, values - lower), (width, lower)):
                far = share * right
                part.scatter_add_(0, index + offset, (share - far).flatten())
                part.scatter_add_(0, index + offset + 1, far.flatten())
        grid = torch.complex(*sums).view(len(sample), height, width)
        grid[:, 0] += grid[:, -1]
        grid[:, :, 0] += grid[:, :, -1]
        return grid[:, :-1, :-1]

    def _instrument(self, instrument: Sequence[Echoes]) -> tuple[Tensor, Tensor]:
        """`[F, samples, lines]` echoes of the instrument and what its shadow costs, in dB."""
        most = max(len(echoes.reflectors) for echoes in instrument)
        x, z, loss = (np.zeros((len(instrument), most), np.float32) for _ in range(3))
        echo = np.zeros((len(instrument), most), np.complex64)
        for row, echoes in enumerate(instrument):
            count = len(echoes.reflectors)
            x[row, :count], z[row, :count] = echoes.reflectors.x_mm, echoes.reflectors.z_mm
            echo[row, :count] = self._amplitude(echoes.reflectors)
            loss[row, :count] = echoes.loss_db
        x_mm, z_mm = self._tensor(x), self._tensor(z)
        field = self._surfaces(x_mm, z_mm, self._complex(echo))
        lost = self._surfaces(x_mm, z_mm, self._complex(loss))
        return field, lost.real.cumsum(1)

    def _amplitude(self, reflectors: Reflectors) -> np.ndarray:
        """`[N]` complex amplitude of every point, so that a smooth line of them has its level.

        A dense line through a Gaussian beam of widths s_x, s_z adds up to the peak response times
        the length sqrt(2 pi) s, with s the Gaussian's width along the line.
        """
        x, z = reflectors.x_mm.astype(float), reflectors.z_mm.astype(float)
        sample, _ = self.probe.to_beam(x, z)
        sample = np.clip(np.round(sample), 0, self.probe.samples - 1).astype(int)
        off = np.radians(reflectors.normal_deg) - self.probe.beam_angle_rad(x, z)
        across, along = self.beam.sigma_across_mm[sample], self.beam.sigma_along_mm
        width = 1 / np.hypot(np.cos(off) / across, np.sin(off) / along)
        law = angle_law(np.degrees(off), reflectors.law_deg)
        level = 10 ** (reflectors.level_db / 20) * law
        size = (
            level * reflectors.step_mm / (self.beam.peak[sample] * math.sqrt(2 * math.pi) * width)
        )
        return size * np.exp(1j * reflectors.phase_rad)

    def _loss_db(self, attenuation_sum: Any) -> Any:
        """Loss on the way there and back from the sum of attenuation over the samples of a line.

        For a Gaussian spectrum of standard deviation s about f, `a` nepers per MHz cost
        `a f - a^2 s^2 / 2` nepers, because the spectrum shifts down (see `centre_frequency_mhz`).
        """
        nepers = attenuation_sum * (2 * self.probe.sample_mm / 10 * math.log(10) / 20)
        variance = spectrum_sigma_mhz(self.probe) ** 2
        # The scanner's filter follows the shift down to half the centre frequency, no further.
        tracked = nepers.clip(max=0.5 * self.probe.frequency_mhz / variance)
        excess = (nepers - tracked) * 0.5 * self.probe.frequency_mhz
        return (tracked * self.probe.frequency_mhz - tracked**2 * (variance / 2) + excess) * (
            20 / math.log(10)
        )

    def _noise(self, frames: slice, count: int) -> Tensor:
        """Electronic noise of every frame, amplified with depth by the time-gain compensation."""
        pictures = []
        for frame in range(*frames.indices(len(self.motion))):
            random = torch.Generator(self.device)
            random.manual_seed(
                int(np.random.SeedSequence((*self.seed, 1, frame)).generate_state(1)[0])
            )
            pictures.append(
                torch.randn(
                    (self.probe.samples, self.probe.lines),
                    dtype=torch.complex64,
                    generator=random,
                    device=self.device,
                )
            )
        return torch.stack(pictures) * self.noise

    def _along(self, field: Tensor) -> Tensor:
        """Convolution with the pulse along the lines."""
        half = len(self.pulse) // 2
        padded = functional.pad(field, (0, 0, half, half))
        shifted = (
            tap * padded[:, step : step + self.probe.samples]
            for step, tap in enumerate(self.beam.pulse.tolist())
        )
        return sum(shifted, start=torch.zeros((), device=self.device))

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values, np.float32), device=self.device)

    def _complex(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values.astype(np.complex64), device=self.device)


def _wrap(position: Tensor, count: int) -> Tensor:
    """The position modulo `count`, in `0 <= position < count`."""
    # Rounding may lift a tiny negative position to `count` itself.
    return (position - count * (position / count).floor()).clamp(0, count - 1e-3)


def _from_db(level_db: Tensor) -> Tensor:
    return (level_db * (math.log(10) / 20)).exp()
