"""Image formation: from scatterers that move with the tissue to the envelope in dB.

The convolution model (Bamber and Dickinson 1980, "Ultrasonic B-scanning: a computer simulation"):
echo = point-spread function * (scatterers and surfaces), on the grid of samples and scan lines. It
is reckoned at the base band, so that a scatterer's depth enters as the phase of the carrier and the
grid need only be fine enough for the pulse, not for the wave.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
from sonodetr.simulator.probe import HALF_MAXIMUM_SIGMAS, Probe
from sonodetr.simulator.tissue import Reflectors, Tissue, angle_law

# Elevation over which the speckle changes, as a share of the slice thickness: a Gaussian slice of
# full width w at half amplitude decorrelates by exp(-y^2 / 2 l^2) with l = w / 2.355 * sqrt(2).
_ELEVATION = math.sqrt(2) / HALF_MAXIMUM_SIGMAS
_SILENT = 1e-12  # power at -120 dB, so that the logarithm stays finite
_COARSE = 4


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
        _keep_freed_memory()
        self.probe, self.tissue, self.motion = probe, tissue, motion
        self.seed, self.device = tuple(seed), torch.device(device)
        self.beam = make_beam(probe)
        self.lines = probe.lines + 2 * self.beam.pad
        self.pulse = self.beam.pulse.tolist()
        self.across = torch.from_numpy(self.beam.across).to(self.device)
        self.phase = self._tensor(self.beam.phase_rad % (2 * math.pi))
        self.phase_step = self._tensor(np.gradient(self.beam.phase_rad))
        self.echo_db = self._tensor(tissue.echo_db)[None, None]
        self.attenuation = self._tensor(tissue.attenuation_db_cm_mhz)[None, None]
        # Motion and losses are smooth: they are reckoned at every fourth sample and line.
        sample, line = np.meshgrid(
            np.linspace(0, probe.samples - 1, math.ceil(probe.samples / _COARSE) + 1),
            np.linspace(0, self.lines - 1, math.ceil(self.lines / _COARSE) + 1) - self.beam.pad,
            indexing="ij",
        )
        self.coarse = sample.shape
        self.rest = [self._tensor(axis.ravel()) for axis in (sample, line)]
        self.grid = [self._tensor(axis.ravel()) for axis in probe.to_picture(sample, line)]
        self._draw_scatterers()
        self.surfaces = [self._tensor(tissue.reflectors.x_mm), self._tensor(tissue.reflectors.z_mm)]
        self.surface_echo = self._complex(self._amplitude(tissue.reflectors))
        self.coarse_typical_loss_db = self._loss_db(
            (self.rest[0] + 1) * TYPICAL_ATTENUATION_DB_CM_MHZ
        )
        samples = torch.arange(1, probe.samples + 1, device=self.device)
        self.typical_loss_db = self._loss_db(samples * TYPICAL_ATTENUATION_DB_CM_MHZ)
        self._draw_noise(noise_db)

    def image_db(
        self, frames: slice, instrument: Sequence[Echoes] = ()
    ) -> Float32[Tensor, "frames samples lines"]:
        """The envelope of some frames in dB, time-gain compensated for typical tissue.

        0 dB is the mean square of the speckle of muscle. `instrument` has one entry a frame.
        """
        pose = Pose.of(self.motion, frames, self.device)
        echo_db, gain_db = self._levels(pose)
        field = self._speckle(pose).mul_(_from_db(echo_db))
        x, _, z = pose.to_probe(self.tissue, *self.surfaces)
        echo = self.surface_echo.expand(x.shape)
        if instrument:
            points = self._instrument(instrument)
            gain_db = gain_db - self._at_points(*points[:2], points[3]).cumsum(1)
            x, z, echo = (torch.cat(pair, 1) for pair in zip((x, z, echo), points[:3], strict=True))
        field = field.add_(self._at_points(x, z, echo)).mul_(_from_db(gain_db))
        field = torch.fft.ifft(torch.fft.fft(field).mul_(self.across))
        field = self._along(field[..., self.beam.pad : -self.beam.pad] + self._noise(frames))
        power = field.real.square().addcmul_(field.imag, field.imag)
        return power.clamp_min_(_SILENT).log10_().mul_(10)

    def _draw_scatterers(self) -> None:
        """One scatterer a cell of the grid, anywhere in it, `[samples, lines]`.

        Over elevation y its echo is `cos(turns y + start)`, with turns from a Gaussian: so the
        field's correlation over elevation is a Gaussian, and no scatterers outside the plane need
        be kept. It also is what makes the speckle fully developed though few scatterers share a
        cell of resolution: for the fourth moment of their sum to be that of Rayleigh's law, their
        strengths must vary, and about as much as those of a cosine do.
        """
        random = np.random.default_rng((*self.seed, 0))
        shape = self.probe.samples, self.lines
        draws = random.random((4, *shape), np.float32)
        self.places = [
            self._tensor(draws[0] - 0.5 + np.arange(shape[0])[:, None]),
            self._tensor(draws[1] - 0.5 + np.arange(shape[1])),
        ]
        self.phase_start, self.start = self._tensor(2 * math.pi * draws[2:])
        per_mm = 1 / (_ELEVATION * self.probe.slice_at_mm(self.probe.ranges_mm))
        turns = random.standard_normal(shape, np.float32)
        self.turns = self._tensor(turns * per_mm[:, None])

    def _finer(self, *values: Tensor) -> Tensor:
        """`[F, C, samples, lines]` from C fields on the coarse grid, `[F, n]` each."""
        coarse = torch.stack(values, 1)
        fine = functional.interpolate(
            coarse.view(-1, 1, *self.coarse),
            (self.probe.samples, self.lines),
            mode="bilinear",
            align_corners=True,
        )
        return fine.view(*coarse.shape[:2], *fine.shape[2:])

    def _levels(self, pose: Pose) -> tuple[Tensor, Tensor]:
        """Echo level, and gain over the losses above, on every frame's grid, `[F, samples, lines]`.

        The gain is that of the compensation for typical tissue, less what is lost.
        """
        x, z = pose.to_tissue(self.tissue, *self.grid)
        height, width = self.echo_db.shape[-2:]
        extent = self.tissue.spacing_mm
        across = (x - self.tissue.left_mm) * (2 / (extent * width)) - 1
        down = (z - self.tissue.top_mm) * (2 / (extent * height)) - 1
        coarse = torch.stack((across, down), -1).unflatten(1, self.coarse)
        attenuation = _looked_up(self.attenuation, coarse)
        # Trapezoids over the samples between; the first node lies half a sample below the face.
        between = (self.probe.samples - 1) / (self.coarse[0] - 1)
        total = attenuation.cumsum(1) - (attenuation + attenuation[:, :1]) / 2
        loss_db = self._loss_db(total * between + attenuation[:, :1]).flatten(1)
        fine = self._finer(across, down, self.coarse_typical_loss_db - loss_db)
        return _looked_up(self.echo_db, fine[:, :2].permute(0, 2, 3, 1)), fine[:, 2]

    def _speckle(self, pose: Pose) -> Tensor:
        """`[F, samples, lines]` sum of the scatterers' echoes.

        Scatterers that leave the grid come in again on the other side.
        """
        x, y, z = pose.to_probe(self.tissue, *self.grid)
        sample, line = self.probe.to_beam(x, z)
        moved = self._finer(sample - self.rest[0], line - self.rest[1], y)
        sample = _wrap(self.places[0] + moved[:, 0], self.probe.samples)
        line = _wrap(self.places[1] + moved[:, 1], self.lines)
        row = sample.floor()
        index = row.long().flatten()
        carrier, step = (
            table.index_select(0, index).view_as(row) for table in (self.phase, self.phase_step)
        )
        carrier.addcmul_(sample - row, step)
        size = torch.addcmul(self.start, self.turns, moved[:, 2]).cos_().mul_(math.sqrt(2))
        turn = self.phase_start - carrier
        parts = turn.cos().mul_(size), turn.sin_().mul_(size)
        return torch.complex(*self._sum(sample, line, *parts))

    def _at_points(self, x: Tensor, z: Tensor, echo: Tensor) -> Tensor:
        """`[F, samples, lines]` sum of the values of points `[F, N]`; those outside are lost."""
        sample, line = self.probe.to_beam(x, z)
        line = line + self.beam.pad
        known = (sample >= 0) & (sample < self.probe.samples - 1)
        known &= (line >= 0) & (line < self.lines - 1)
        sample, line = sample.clamp(0, self.probe.samples - 1), line.clamp(0, self.lines - 1)
        return self._sum(sample, line, echo * known)[0]

    def _sum(self, sample: Tensor, line: Tensor, *parts: Tensor) -> list[Tensor]:
        """Sum points `[F, ...]` onto the grid, each shared by the four cells around it.

        Row and column after the last are the first again.
        """
        # One row and column more, folded back below, instead of the remainder for each neighbour.
        frames, height, width = len(sample), self.probe.samples + 1, self.lines + 1
        row, column = sample.floor(), line.floor()
        down, right = (sample - row).flatten(), (line - column).flatten()
        index = row.mul_(width).add_(column).flatten(1).long()
        if frames > 1:
            index += torch.arange(frames, device=self.device)[:, None] * (height * width)
        index = index.flatten()
        grids = []
        for part in parts:
            values = part.flatten()
            sums = values.new_zeros(frames * height * width)
            lower = values * down
            for offset, share in ((0, values - lower), (width, lower)):
                far = share * right
                sums[offset:].scatter_add_(0, index, share.sub_(far))
                sums[offset + 1 :].scatter_add_(0, index, far)
            grid = sums.view(frames, height, width)
            grid[:, 0] += grid[:, -1]
            grid[:, :, 0] += grid[:, :, -1]
            grids.append(grid[:, :-1, :-1])
        return grids

    def _instrument(self, instrument: Sequence[Echoes]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Place, echo and loss of an instrument's points in every frame, `[F, N]` each."""
        most = max(len(echoes.reflectors) for echoes in instrument)
        x, z, loss = (np.zeros((len(instrument), most), np.float32) for _ in range(3))
        echo = np.zeros((len(instrument), most), np.complex64)
        for row, echoes in enumerate(instrument):
            count = len(echoes.reflectors)
            x[row, :count], z[row, :count] = echoes.reflectors.x_mm, echoes.reflectors.z_mm
            echo[row, :count] = self._amplitude(echoes.reflectors)
            loss[row, :count] = echoes.loss_db
        return self._tensor(x), self._tensor(z), self._complex(echo), self._tensor(loss)

    def _amplitude(self, reflectors: Reflectors) -> np.ndarray:
        """`[N]` complex amplitude of every point, so that a smooth line of them has its level."""
        x, z = reflectors.x_mm.astype(float), reflectors.z_mm.astype(float)
        sample, _ = self.probe.to_beam(x, z)
        sample = np.clip(np.round(sample), 0, self.probe.samples - 1).astype(int)
        off = np.radians(reflectors.normal_deg) - self.probe.beam_angle_rad(x, z)
        law = angle_law(np.degrees(off), reflectors.law_deg)
        level = 10 ** (reflectors.level_db / 20) * law
        size = level * reflectors.step_mm / self.beam.of_line(sample, off)
        return size * np.exp(1j * reflectors.phase_rad)

    def _loss_db(self, attenuation_sum: Tensor) -> Tensor:
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

    def _draw_noise(self, noise_db: float) -> None:
        """Electronic noise `[samples, lines]`, and from where on every frame has it."""
        random = np.random.default_rng((*self.seed, 1))
        size = 10 ** (noise_db / 20) / math.sqrt(2 * sum(tap**2 for tap in self.pulse))
        noise = random.standard_normal((self.probe.samples, self.probe.lines, 2), np.float32)
        self.noise = torch.view_as_complex(self._tensor(noise * np.float32(size)))
        self.noise_starts = random.integers(noise.shape[:2], size=(len(self.motion), 2)).tolist()
        self.noise_gain = _from_db(self.typical_loss_db)[:, None]

    def _noise(self, frames: slice) -> Tensor:
        """`[F, samples, lines]` noise, amplified with depth by the time-gain compensation."""
        pictures = [self.noise.roll(start, (0, 1)) for start in self.noise_starts[frames]]
        return torch.stack(pictures).mul_(self.noise_gain)

    def _along(self, field: Tensor) -> Tensor:
        """Convolution with the pulse along the lines."""
        half = len(self.pulse) // 2
        padded = functional.pad(field, (0, 0, half, half))
        total = padded[:, : self.probe.samples] * self.pulse[0]
        for step, tap in enumerate(self.pulse[1:], 1):
            total.add_(padded[:, step : step + self.probe.samples], alpha=tap)
        return total

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values, np.float32), device=self.device)

    def _complex(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values.astype(np.complex64), device=self.device)


def _keep_freed_memory() -> None:
    """Have glibc reuse the memory of one frame for the next.

    By default it gives back to the system what is freed at its end, and every frame waits for the
    pages anew, which took a quarter of the time. Having freed a larger block once, it keeps up to
    twice as much (mallopt(3), "dynamic mmap threshold"). The block itself is never touched.
    """
    np.empty(24 << 20, np.uint8)


def _looked_up(values: Tensor, places: Tensor) -> Tensor:
    """`[F, h, w]` a map `[1, 1, H, W]` at places `[F, h, w, 2]`, -1 to 1 from edge to edge."""
    return functional.grid_sample(
        values.expand(len(places), -1, -1, -1),
        places,
        padding_mode="border",
        align_corners=False,
    )[:, 0]


def _wrap(position: Tensor, count: int) -> Tensor:
    """The position modulo `count`, in `0 <= position < count`."""
    # Rounding may lift a tiny negative position to `count` itself.
    return (position - count * (position / count).floor()).clamp(0, count - 1e-3)


def _from_db(level_db: Tensor) -> Tensor:
    return (level_db * (math.log(10) / 20)).exp()
