"""How sure a figure is: bootstrap over recordings, never over their frames.

Frames of one recording look alike, so drawing frames would promise more than the data can tell. AP
is no mean over recordings either: it is counted anew from every draw.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

Weights = Int64[np.ndarray, "resamples units"]
Figures = Callable[[Weights], Mapping[str, Float64[np.ndarray, " resamples"]]]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% percentile bootstrap interval.

    Attributes:
        value: the figure on the data as it is; NaN where undefined.
        low, high: 2.5th and 97.5th percentile of the resamples in which the figure is defined; NaN
            with fewer than two units, or where no resample defines the figure.
        defined: share of the resamples in which the figure is defined.
    """

    value: float
    low: float
    high: float
    defined: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None."""
        return {key: None if np.isnan(item) else item for key, item in asdict(self).items()}


def draw(num_units: int, resamples: int, seed: int) -> Weights:
    """How often each unit is drawn when `num_units` are drawn with replacement, row by row.

    >>> draw(3, 2, seed=0).sum(1)
    array([3, 3])
    """
    chances = np.full(num_units, 1 / num_units)
    return np.random.default_rng(seed).multinomial(num_units, chances, size=resamples)


def bootstrap_intervals(
    figures: Figures, num_units: int, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Percentile bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", ch. 13).

    Args:
        figures: from weights (how often each unit counts, one row a resample) to named figures, one
            value a resample; NaN where a resample leaves a figure undefined.
        num_units: number of independent units, such as recordings.
        resamples: number of draws.
        seed: same seed, same draws; also between two calls with equally many units.

    >>> values = np.array([2.0, 4.0, 9.0])
    >>> mean = bootstrap_intervals(lambda w: {"mean": w @ values / w.sum(1)}, 3)["mean"]
    >>> mean.value, mean.low, mean.high
    (5.0, 2.0, 9.0)
    """
    whole = figures(np.ones((1, num_units), np.int64))
    drawn = figures(draw(num_units, resamples, seed)) if num_units > 1 else {}
    tail = 50 * (1 - CONFIDENCE)
    intervals = {}
    for name, value in whole.items():
        values = drawn.get(name, np.array([np.nan]))
        defined = values[~np.isnan(values)]
        low, high = np.percentile(defined, [tail, 100 - tail]) if len(defined) else (np.nan, np.nan)
        share = len(defined) / len(values)
        intervals[name] = Interval(float(value[0]), float(low), float(high), share)
    return intervals


def weighted_percentiles(
    values: Float64[np.ndarray, " n"],
    unit: Int64[np.ndarray, " n"],
    weights: Weights,
    percents: Sequence[float],
) -> Float64[np.ndarray, "percents resamples"]:
    """Percentiles of values that count as often as their unit does, for each row of weights.

    The same as `np.percentile` of the values repeated so often, with its linear interpolation. What
    is not finite is left out; NaN where nothing is left.

    >>> values, unit = np.array([1.0, 5.0]), np.array([0, 1])
    >>> weighted_percentiles(values, unit, np.array([[1, 1], [3, 1], [0, 0]]), [50.0])
    array([[ 3.,  1., nan]])
    """
    rows = np.flatnonzero(np.isfinite(values))
    rows = rows[np.argsort(values[rows], kind="stable")]
    ordered, unit = values[rows], unit[rows]
    result = np.full((len(percents), len(weights)), np.nan)
    for number, weight in enumerate(weights):
        reached = np.cumsum(weight[unit])
        if len(reached) and reached[-1]:
            place = (reached[-1] - 1) * np.array(percents) / 100
            low, high = np.floor(place), np.ceil(place)
            first = ordered[np.searchsorted(reached, low, side="right")]
            second = ordered[np.searchsorted(reached, high, side="right")]
            result[:, number] = first + (place - low) * (second - first)
    return result


def paired_differences(
    first: Figures, second: Figures, num_units: int, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Intervals of first - second, both counted on the same draws of the same units.

    What makes a recording easy or hard for both then cancels, so that the interval is that of the
    gain and not of the two figures.
    """

    def differences(weights: Weights) -> dict[str, Float64[np.ndarray, " resamples"]]:
        ours, theirs = first(weights), second(weights)
        return {name: ours[name] - theirs[name] for name in ours}

    return bootstrap_intervals(differences, num_units, resamples=resamples, seed=seed)
