"""A whole simulated recording: everything drawn, then its pictures and labels."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from sonodetr.files import InputError
from sonodetr.simulator.anatomy import draw_tissue
from sonodetr.simulator.domain import DOMAINS, draw_probe
from sonodetr.simulator.formation import Formation
from sonodetr.simulator.insertion import drag_along, draw_instrument, draw_motion
from sonodetr.simulator.instrument import Instrument
from sonodetr.simulator.labels import InstrumentLabel, Labeller
from sonodetr.simulator.layout import Layout, place
from sonodetr.simulator.motion import Motion
from sonodetr.simulator.probe import Probe
from sonodetr.simulator.scanner import Scanner, draw_scanner, grey
from sonodetr.simulator.screen import Screen, draw_screen, paint
from sonodetr.simulator.settings import SimulatorConfig
from sonodetr.simulator.tissue import Tissue
from sonodetr.types import Spacing

# What is darker shows black at most settings, and must not darken what it is averaged with.
_BLACK_DB = -45.0
_FRAMES_AT_ONCE = {"cpu": 1, "cuda": 16}  # more do not fit a CPU's cache


@dataclass(frozen=True)
class Recording:
    """One simulated recording with everything that was drawn for it."""

    config: SimulatorConfig
    index: int
    probe: Probe
    tissue: Tissue
    motion: Motion
    instrument: Instrument | None
    scanner: Scanner
    layout: Layout
    screen: Screen

    @property
    def spacing_mm(self) -> Spacing:
        """Pixel spacing."""
        return Spacing(self.layout.mm_per_px, self.layout.mm_per_px)

    @cached_property
    def labels(self) -> list[InstrumentLabel | None]:
        """The instrument in every frame, None where it cannot be seen."""
        if self.instrument is None:
            return [None] * len(self.motion)
        labeller = Labeller(
            self.probe,
            self.tissue,
            self.motion,
            self.layout,
            noise_db=self.scanner.noise_db,
            black_db=self.scanner.black_db,
        )
        return [labeller.label(self.instrument, frame) for frame in range(len(self.motion))]

    def pictures(
        self, device: torch.device | str = "cpu"
    ) -> UInt8[np.ndarray, "frames height width"]:
        """All frames as the scanner's screen shows them."""
        formation = Formation(
            self.probe,
            self.tissue,
            self.motion,
            noise_db=self.scanner.noise_db,
            seed=(self.config.seed, self.index),
            device=device,
        )
        decimate = self._decimation()
        places = self._places(decimate).to(device)
        frames, state = [], None
        at_once = _FRAMES_AT_ONCE[torch.device(device).type]
        for start in range(0, len(self.motion), at_once):
            part = slice(start, min(start + at_once, len(self.motion)))
            echoes = []
            if self.instrument is not None:
                echoes = [
                    self.instrument.echoes(self.probe, self.motion, frame)
                    for frame in range(part.start, part.stop)
                ]
            image_db = formation.image_db(part, echoes).clamp_min_(_BLACK_DB)
            image_db = avg_pool2d(image_db[:, None], decimate, ceil_mode=True)[:, 0]
            levels, state = grey(self.scanner, image_db, state)
            shown = grid_sample(
                levels[:, None],
                places.expand(len(levels), -1, -1, -1),
                padding_mode="border",
                align_corners=False,
            )
            frames.append((shown[:, 0] * 255).round().clamp(0, 255).byte().cpu().numpy())
        return paint(self.screen, np.concatenate(frames), self.layout.mask(self.probe), self.layout)

    def _decimation(self) -> tuple[int, int]:
        """Samples and lines that are averaged into one, so that scan conversion skips none."""
        line_mm = self.probe.line_mm(self.probe.depth_mm / 2)
        pixel = self.layout.mm_per_px
        return max(1, int(pixel / self.probe.sample_mm)), max(1, int(pixel / line_mm))

    def _places(self, decimate: tuple[int, int]) -> Tensor:
        """`[1, H, W, 2]` where every pixel lies on the decimated grid, in grid_sample's terms."""
        sample, line = self.probe.to_beam(*self.layout.centres_mm())
        rows = -(-self.probe.samples // decimate[0])
        columns = -(-self.probe.lines // decimate[1])
        down = (sample + 0.5) / decimate[0] * (2 / rows) - 1
        across = (line + 0.5) / decimate[1] * (2 / columns) - 1
        return torch.from_numpy(np.stack((across, down), -1).astype(np.float32))[None]


def draw_recording(config: SimulatorConfig, index: int) -> Recording:
    """Draw clip `index` of a data set: the same whoever asks, and whatever was drawn before.

    Raises:
        InputError: the index is not one of the data set's clips.
    """
    if not 0 <= index < config.clips:
        raise InputError(f"no clip {index} of {config.clips}; choose 0 to {config.clips - 1}")
    domain = DOMAINS[config.domain]
    # One stream of random numbers for each part, so that a change to one leaves the others.
    streams = (np.random.default_rng((config.seed, index, 2, part)) for part in range(7))
    random = next(streams)
    probe = draw_probe(random, domain.probes)
    scanner = draw_scanner(next(streams), domain.scanner)
    rate = config.frame_rate_hz or scanner.frame_rate_hz
    times = np.arange(config.frames) / rate
    tissue = draw_tissue(next(streams), probe, domain.anatomy)
    motion = draw_motion(next(streams), probe, times, domain.insertion)
    layout = place(next(streams), domain.layout, probe, *config.image_size, scanner.mirrored)
    screen = draw_screen(next(streams), domain.screen)
    random = next(streams)
    instrument = None
    if random.random() >= config.empty:
        kind = config.instruments[random.integers(len(config.instruments))]
        instrument = draw_instrument(random, probe, times, kind, domain.insertion)
        motion = drag_along(motion, instrument)
    return Recording(config, index, probe, tissue, motion, instrument, scanner, layout, screen)
