"""What a scanner's settings do to the image: from levels in dB to grey values, on the beam grid."""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32
from scipy.interpolate import PchipInterpolator
from torch import Tensor
from torch.nn.functional import pad

MUSCLE_GREY = 0.4  # of full scale, where 0 dB (muscle) lands at gain 0 before the grey map
# Standard deviation of the level of fully developed speckle (Szabo, "Diagnostic Ultrasound
# Imaging", 2nd ed., section 8.4.5): what varies less than this is speckle, not structure.
SPECKLE_DB = 5.57


@dataclass(frozen=True)
class Scanner:
    """A scanner with its settings for one recording.

    Attributes:
        gain_db: overall gain.
        dynamic_range_db: levels between black and white, 40 to 80.
        time_gain_db: error of the time-gain knobs, evenly spread from the face to the bottom.
        lateral_gain_db: error of the lateral gain knobs (or of contact), from left to right.
        grey_bend: grey map `g + g (1 - g) (bend + contrast (2 g - 1))`: below 0 darkens mid-grey,
            -0.6 to 0.4.
        grey_contrast: above 0 is an S-curve; 0 to 0.4, where the map never falls.
        speckle_reduction: 0 leaves the speckle, 1 takes all that is not structure.
        edge_enhancement: 0 to 1, by how much structures stand out more than they are.
        persistence: weight of the previous frames, 0 to 0.7.
        noise_db: electronic noise at the face relative to the speckle of muscle, -75 to -50; it
            belongs into the image before the gain.
        frame_rate_hz: 8 to 60.
        mirrored: the left of the probe is shown on the right.
    """

    gain_db: float = 0.0
    dynamic_range_db: float = 60.0
    time_gain_db: tuple[float, ...] = (0.0, 0.0)
    lateral_gain_db: tuple[float, ...] = (0.0, 0.0)
    grey_bend: float = 0.0
    grey_contrast: float = 0.0
    speckle_reduction: float = 0.0
    edge_enhancement: float = 0.0
    persistence: float = 0.0
    noise_db: float = -60.0
    frame_rate_hz: float = 25.0
    mirrored: bool = False

    @property
    def black_db(self) -> float:
        """Level that just shows black, but for the knobs.

        >>> Scanner(gain_db=3.0).black_db
        -27.0
        """
        return -MUSCLE_GREY * self.dynamic_range_db - self.gain_db


@dataclass(frozen=True)
class ScannerRanges:
    """How scanners may be set; pairs are the lowest and the highest value.

    Attributes:
        time_gain_db, lateral_gain_db: largest error of a knob, either way.
        mirrored: probability.
    """

    gain_db: tuple[float, float]
    dynamic_range_db: tuple[float, float]
    time_gain_db: float
    lateral_gain_db: float
    grey_bend: tuple[float, float]
    grey_contrast: tuple[float, float]
    speckle_reduction: tuple[float, float]
    edge_enhancement: tuple[float, float]
    persistence: tuple[float, float]
    noise_db: tuple[float, float]
    frame_rate_hz: tuple[float, float]
    mirrored: float


STANDARD = ScannerRanges(
    gain_db=(-7.0, 7.0),
    dynamic_range_db=(40.0, 58.0),
    time_gain_db=5.0,
    lateral_gain_db=2.5,
    grey_bend=(-0.6, -0.1),
    grey_contrast=(0.0, 0.3),
    speckle_reduction=(0.2, 1.0),
    edge_enhancement=(0.0, 0.8),
    persistence=(0.0, 0.5),
    noise_db=(-75.0, -57.0),
    frame_rate_hz=(12.0, 45.0),
    mirrored=0.5,
)
SHIFTED = ScannerRanges(
    gain_db=(0.0, 9.0),
    dynamic_range_db=(68.0, 80.0),
    time_gain_db=9.0,
    lateral_gain_db=5.0,
    grey_bend=(0.0, 0.4),
    grey_contrast=(0.2, 0.4),
    speckle_reduction=(0.0, 0.3),
    edge_enhancement=(0.6, 1.0),
    persistence=(0.4, 0.7),
    noise_db=(-62.0, -50.0),
    frame_rate_hz=(8.0, 20.0),
    mirrored=0.5,
)


def draw_scanner(random: np.random.Generator, ranges: ScannerRanges) -> Scanner:
    """Draw a scanner's settings."""
    limit, side = ranges.time_gain_db, ranges.lateral_gain_db
    return Scanner(
        gain_db=random.uniform(*ranges.gain_db),
        dynamic_range_db=random.uniform(*ranges.dynamic_range_db),
        # Beta(2, 2): most knobs stand near where they should.
        time_gain_db=tuple((limit * (2 * random.beta(2, 2, 6) - 1)).tolist()),
        lateral_gain_db=tuple((side * (2 * random.beta(2, 2, 4) - 1)).tolist()),
        grey_bend=random.uniform(*ranges.grey_bend),
        grey_contrast=random.uniform(*ranges.grey_contrast),
        speckle_reduction=random.uniform(*ranges.speckle_reduction),
        edge_enhancement=random.uniform(*ranges.edge_enhancement),
        persistence=random.uniform(*ranges.persistence),
        noise_db=random.uniform(*ranges.noise_db),
        frame_rate_hz=random.uniform(*ranges.frame_rate_hz),
        mirrored=bool(random.random() < ranges.mirrored),
    )


def grey(
    scanner: Scanner,
    image_db: Float32[Tensor, "frames samples lines"],
    previous: Float32[Tensor, "samples lines"] | None = None,
) -> tuple[Float32[Tensor, "frames samples lines"], Float32[Tensor, "samples lines"]]:
    """Grey values 0 to 1 of successive frames, and the state that the next frames need.

    Args:
        image_db: levels relative to the speckle of muscle; -inf is allowed and black.
        previous: the state after the frames before these; None before the first frame of a
            recording. Frames that come one by one give the same result as all at once.

    >>> muscle = torch.zeros(1, 5, 3)
    >>> grey(Scanner(), muscle)[0].mean()
    tensor(0.4000)
    """
    samples, lines = image_db.shape[1:]
    offset = _knobs(scanner.time_gain_db, samples)[:, None] + scanner.gain_db
    offset = offset + _knobs(scanner.lateral_gain_db, lines)
    offset = offset / scanner.dynamic_range_db + MUSCLE_GREY
    level = torch.as_tensor(offset.astype(np.float32)).to(image_db.device)
    level = torch.add(level, image_db, alpha=1 / scanner.dynamic_range_db).clamp_(0, 1)
    if scanner.speckle_reduction > 0 or scanner.edge_enhancement > 0:
        level = _filtered(scanner, level)
    rise = (level * (2 * scanner.grey_contrast)).add_(scanner.grey_bend - scanner.grey_contrast)
    level = torch.addcmul(level, rise, level - level * level)
    if scanner.persistence > 0:
        for frame in level:
            if previous is not None:
                frame.lerp_(previous, scanner.persistence)
            previous = frame
    return level, level[-1]


@functools.lru_cache(maxsize=8)
def _knobs(values_db: tuple[float, ...], count: int) -> np.ndarray:
    """`[count]` smooth curve through evenly spread knobs that does not overshoot them."""
    knobs = np.linspace(0, 1, len(values_db))
    return PchipInterpolator(knobs, values_db)((np.arange(count) + 0.5) / count)


def _filtered(scanner: Scanner, level: Tensor) -> Tensor:
    """Less speckle, stronger structures.

    The filter of local statistics (Lee 1980, "Digital image enhancement and noise filtering by use
    of local statistics") on levels, where speckle is additive: of the local variance, what exceeds
    that of speckle is structure. The window is wider across the lines than along them, where
    compounding from several directions smooths least.
    """
    smooth = _blur(level, along=1, across=5)
    detail = level - smooth
    # Twice the variance upwards: the pits of speckle are deep in dB, but no structure.
    variance = _blur(2 * detail.clamp_min(0).square_(), along=2, across=2)
    speckle = _speckle_variance(level, variance, scanner.dynamic_range_db)
    structure = (1 - speckle / variance.clamp_min_(1e-9)).clamp_min_(0)
    weight = structure.mul_(scanner.speckle_reduction + scanner.edge_enhancement)
    weight += 1 - scanner.speckle_reduction
    return smooth.addcmul_(detail, weight).clamp_(0, 1)


def _speckle_variance(level: Tensor, variance: Tensor, dynamic_range_db: float) -> Tensor:
    """`[frames, 1, 1]` variance of the speckle: the median where the picture is not black.

    It is never more than that of fully developed speckle, and less where neighbours are alike.
    """
    some = slice(None), slice(None, None, 5), slice(None, None, 3)  # a median is slow
    shown = variance[some].where(level[some] > 0, torch.nan).flatten(1)
    largest = (SPECKLE_DB / dynamic_range_db) ** 2
    return shown.nanmedian(1).values.nan_to_num(0).clamp(max=largest)[:, None, None]


def _blur(image: Tensor, along: int, across: int) -> Tensor:
    """Average with the neighbours one to the left and right (above and below), so many times.

    Each pass has the weights 1/4, 1/2, 1/4 and so a variance of half a pixel; the edge is repeated.
    """
    image = pad(image[None], (across, across, along, along), mode="replicate")[0]
    for _ in range(2 * along):
        image = image[:, 1:] + image[:, :-1]
    for _ in range(2 * across):
        image = image[..., 1:] + image[..., :-1]
    return image.mul_(0.25 ** (along + across))
