"""Random changes of a clip that keep it a possible ultrasound picture. Imports no torch.

The scanner shows the logarithm of the echo. In that grey scale another gain, a wrong time-gain
compensation and the loss behind a shadow all *add*, and only another dynamic range *multiplies*.
Hence `change_intensity` has one table for gain and range, and one field of additions for the rest;
both are the same for all frames of a clip. Black stays black, since black is most often what lies
outside the picture.

Every change is drawn from a triangle about "no change", so that small ones are common and several
large ones at once are rare. The same state of the generator gives the same bits.
"""

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from sonodetr.config import AugmentConfig

# Additions fade in over the darkest grey levels: neither the black around the picture nor the
# compression noise in it is lifted.
FADE_IN_GREY = 24.0
# Depths at which the time-gain curve of a scanner has its sliders.
CURVE_KNOTS = 6
# Attenuation behind bone, air or calcification, in grey levels of a display of about 60 dB.
SHADOW_GREY = (60.0, 160.0)


def random_geometry(
    config: AugmentConfig, size: tuple[int, int], random: np.random.Generator
) -> Float[np.ndarray, "3 3"]:
    """A random affine map of the input onto itself: corner coordinates in input pixels.

    Mirror, then zoom and stretch, then rotation, all about the middle, then a shift. Multiply it
    from the left to `Letterbox.matrix()`, so that the pixels are sampled only once.

    Args:
        config: largest changes.
        size: height and width of the input in pixels.
        random: source of all randomness.

    >>> still = AugmentConfig(flip=0, zoom=1, stretch=1, shift=0, rotate_deg=0)
    >>> bool(np.allclose(random_geometry(still, (5, 7), np.random.default_rng(0)), np.eye(3)))
    True
    """
    height, width = size
    mirror = -1.0 if random.random() < config.flip else 1.0
    zoom = _factor(config.zoom, random)
    stretch = _factor(config.stretch, random) ** 0.5
    angle = np.deg2rad(config.rotate_deg) * random.triangular(-1, 0, 1)
    shift = config.shift * random.triangular(-1, 0, 1, 2) * (width, height)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    middle = np.array([width, height]) / 2
    matrix = np.eye(3)
    matrix[:2, :2] = turn * (mirror * zoom * stretch, zoom / stretch)
    matrix[:2, 2] = middle + shift - matrix[:2, :2] @ middle
    return matrix


def change_intensity(
    pictures: UInt8[np.ndarray, "channels time height width"],
    config: AugmentConfig,
    random: np.random.Generator,
) -> UInt8[np.ndarray, "channels time height width"]:
    """Random gain, dynamic range, time-gain curve, speckle and shadow.

    Rows are taken for depth, as with a linear probe held upright. Speckle is multiplicative grain a
    few pixels wide, wider across the beam than along it. Its strength and size belong to the clip,
    but every frame has fresh grain: real speckle moves with the tissue, which is not known here,
    and a pattern that stood still would tell a clip model what is added and what is not.

    A shadow may cover a labelled structure; the label stays, as it does where readers know from the
    surroundings what lies there.

    Args:
        pictures: a clip, grey (1 channel) or colour.
        config: largest changes.
        random: source of all randomness.

    >>> clip = np.full((1, 2, 5, 7), 100, np.uint8)
    >>> still = AugmentConfig(gain=0, dynamic_range=1, gain_curve=0, speckle=0, shadow=0)
    >>> bool((change_intensity(clip, still, np.random.default_rng(0)) == clip).all())
    True
    """
    height, width = pictures.shape[2:]
    grey = np.arange(256, dtype=np.float32)
    fade_in = np.minimum(grey / FADE_IN_GREY, 1)
    changed_grey = grey + fade_in * (_gain_and_range(pictures, config, random) - grey)
    table = np.clip(changed_grey, 0, 255)
    field = _gain_curve(height, config, random)[:, None] + np.zeros(width, np.float32)
    if random.random() < config.shadow:
        field -= _shadow(height, width, random)
    strength = np.float32(random.uniform(0, config.speckle))
    cell_px = random.uniform((1.0, 1.5), (2.5, 4.0))
    changed = np.empty_like(pictures)
    for time in reversed(range(pictures.shape[1])):  # the last frame's is that of any clip length
        grain = 1 + strength * _grain(height, width, cell_px, random)
        for channel in range(pictures.shape[0]):
            picture = pictures[channel, time]
            echo = cv2.multiply(cv2.LUT(picture, table), grain)
            added = cv2.multiply(cv2.LUT(picture, fade_in), field)
            changed[channel, time] = cv2.add(echo, added, dtype=cv2.CV_8U)
    return changed


def _factor(largest: float, random: np.random.Generator) -> float:
    """A factor between 1 / largest and largest; halving is as likely as doubling."""
    return float(largest ** random.triangular(-1, 0, 1))


def _gain_and_range(
    pictures: np.ndarray, config: AugmentConfig, random: np.random.Generator
) -> Float32[np.ndarray, "256"]:
    """Grey after another dynamic range and gain, about the mean of the last frame but for black."""
    last = pictures[:, -1]
    mean = float(last.sum()) / max(1, int(np.count_nonzero(last)))
    contrast = _factor(config.dynamic_range, random)
    gain = 255 * config.gain * random.triangular(-1, 0, 1)
    return (mean + (np.arange(256) - mean) * contrast + gain).astype(np.float32)


def _gain_curve(
    height: int, config: AugmentConfig, random: np.random.Generator
) -> Float32[np.ndarray, " height"]:
    """Grey levels to add in each row: a smooth curve through random knots."""
    limit = np.float32(255 * config.gain_curve)
    knots = (limit * random.triangular(-1, 0, 1, (CURVE_KNOTS, 1))).astype(np.float32)
    return np.clip(cv2.resize(knots, (1, height), interpolation=cv2.INTER_CUBIC), -limit, limit)[
        :, 0
    ]


def _shadow(
    height: int, width: int, random: np.random.Generator
) -> Float32[np.ndarray, "height width"]:
    """Grey levels lost behind a reflector: a column that widens with depth, with soft edges."""
    x, y = random.uniform(0, width), random.uniform(0, 0.6 * height)
    half_width = random.uniform(0.03, 0.12) * width
    slope, widening = random.uniform(-0.2, 0.2), random.uniform(0, 0.25)
    soft_px = random.uniform(0.02, 0.06) * width
    depth = np.arange(height, dtype=np.float32)[:, None] + 0.5 - np.float32(y)
    across = np.abs(np.arange(width, dtype=np.float32) + 0.5 - np.float32(x) - slope * depth)
    inside = np.clip((half_width + widening * depth - across) / soft_px, 0, 1)
    below = np.clip(depth / soft_px, 0, 1)
    return (random.uniform(*SHADOW_GREY) * inside * below).astype(np.float32)


def _grain(
    height: int, width: int, cell_px: np.ndarray, random: np.random.Generator
) -> Float32[np.ndarray, "height width"]:
    """Noise of mean 0 and standard deviation 1 whose cells are `cell_px` high and wide."""
    coarse = np.ceil(np.array((height, width)) / cell_px).astype(int)
    noise = random.standard_normal(coarse, np.float32)
    grain = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    return grain / np.float32(max(grain.std(), 1e-6))
