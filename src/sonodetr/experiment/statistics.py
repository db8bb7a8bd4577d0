"""How sure a difference between two ways of training is: bootstrap over recordings and seeds.

A result rests on two samples: the recordings of the test part, and the seeds of the trainings. Both
are drawn anew in every resample, each on its own (Owen, "The pigeonhole bootstrap", Annals of
Applied Statistics 2007):

- **recordings** with replacement (all recordings of a patient together), as many as there are, and
  *the same ones for every run*, so that what makes a recording easy or hard for all cancels;
- **seeds** with replacement, *for each method by itself*, as if trainings of one seed had nothing
  in common. They share the order of their data and often their first weights, so intervals err on
  the safe side (see `seed_shares`).

AP is counted anew from every draw of recordings, run by run, and then averaged over the seeds.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from sonodetr.evaluation.statistics import Interval

# Odd tails of 95% fall on drawn values; the least p, 2 / 10,000, outlives Holm's factor of a table.
RESAMPLES = 9999
LEVEL = 0.05
# Below, a bootstrap calls chance a gain too often (benchmarks/difference_coverage.py).
FEWEST_UNITS = 10

Drawn = Float64[np.ndarray, " resamples"]


def seed_shares(
    num_seeds: int, resamples: int, name: str
) -> Float64[np.ndarray, "resamples seeds"]:
    """How much each seed counts in the mean of each resample; the rows sum to 1.

    Of n seeds n - 1 are drawn with replacement, so that the mean of the drawn values varies as the
    mean of n independent seeds does: s² / n (Rao and Wu, "Resampling inference with complex survey
    data", JASA 1988). With one seed nothing can be drawn: its spread is not in any interval, which
    a report must say. Another `name` of a method makes other draws.

    >>> seed_shares(1, 2, "plain").tolist()
    [[1.0], [1.0]]
    >>> float(seed_shares(3, 1, "plain").sum())
    1.0
    """
    if num_seeds == 1:
        return np.ones((resamples, 1))
    random = np.random.default_rng((1, zlib.crc32(name.encode())))
    chances = np.full(num_seeds, 1 / num_seeds)
    return random.multinomial(num_seeds - 1, chances, size=resamples) / (num_seeds - 1)


@dataclass(frozen=True)
class Estimate:
    """A figure of a method: mean over its seeds, and what it is in every resample.

    Attributes:
        per_seed: the figure of each run; NaN where undefined.
        drawn: `[resamples]` mean over drawn seeds on drawn recordings; NaN where undefined.
    """

    per_seed: tuple[float, ...]
    drawn: Drawn

    @property
    def value(self) -> float:
        """Mean over seeds; NaN where a run has none."""
        return float(np.mean(self.per_seed))

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds (n - 1 in the denominator); NaN for one seed."""
        return float(np.std(self.per_seed, ddof=1)) if len(self.per_seed) > 1 else float("nan")

    def interval(self) -> Interval:
        """95% percentile interval."""
        return percentile_interval(self.value, self.drawn)


def estimate(
    per_seed: Sequence[float], drawn: Float64[np.ndarray, "resamples seeds"], name: str
) -> Estimate:
    """Average a figure over seeds, on the data as it is and in every resample.

    Args:
        per_seed: the figure of each run.
        drawn: the same on drawn recordings; the same ones in a row for all runs of all methods.
        name: of the method (see `seed_shares`).

    >>> estimate([0.2, 0.4], np.array([[0.1, 0.3]]), "plain").value
    0.30000000000000004
    """
    shares = seed_shares(len(per_seed), len(drawn), name)
    return Estimate(tuple(map(float, per_seed)), (drawn * shares).sum(1))


def percentile_interval(value: float, drawn: Drawn) -> Interval:
    """95% percentile interval; an infinite draw keeps its place at its end.

    >>> percentile_interval(2.0, np.arange(1.0, 40.0))
    Interval(value=2.0, low=1.0, high=39.0, defined=1.0)
    """
    defined = drawn[~np.isnan(drawn)]
    if not len(defined):
        return Interval(value, np.nan, np.nan, 0.0)
    tails = [50 * LEVEL, 100 - 50 * LEVEL]
    low, high = np.percentile(defined, tails, method="inverted_cdf")
    return Interval(value, float(low), float(high), len(defined) / len(drawn))


def two_sided_p(drawn: Drawn) -> float:
    """p of "the difference is zero", by turning the percentile interval round.

    Twice the share of resamples on the rarer side of zero, of which one more is counted than there
    were (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, eq. 4.11): p is at
    most 0.05 where the 95% interval leaves zero out, and never 0.

    >>> two_sided_p(np.array([1.0, 2.0, 3.0, -1.0])), two_sided_p(np.arange(1.0, 40.0))
    (0.8, 0.05)
    """
    defined = drawn[~np.isnan(drawn)]
    below, above = (defined <= 0).sum(), (defined >= 0).sum()
    return float(min(1.0, 2 * (min(below, above) + 1) / (len(defined) + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """p after Holm's correction for as many tests (Scandinavian Journal of Statistics, 1979).

    The i-th smallest of m is multiplied by m - i + 1, and none may be below a smaller one's.

    >>> holm([0.03, 0.01, 0.5])
    [0.06, 0.03, 0.5]
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(factors * np.array(p_values)[order])
    return np.minimum(1.0, corrected).tolist()


def difference(first: Estimate, second: Estimate) -> Estimate:
    """First minus second, on the same draws of recordings."""
    return Estimate((first.value - second.value,), first.drawn - second.drawn)


def gap_closed(student: Estimate, against: Estimate, teacher: Estimate) -> Interval:
    """(student - against) / (teacher - against), with its interval.

    A ratio has bounds only where its denominator is not zero (Fieller, 1954). Where the 95%
    interval of the teacher's lead reaches zero the bounds are therefore NaN; else a resample in
    which the teacher does not lead counts as infinite, on the side of the student's gain.
    """
    gain, lead = difference(student, against), difference(teacher, against)
    value = gain.value / lead.value if lead.value > 0 else float("nan")
    if not lead.interval().low > 0:
        return Interval(value, np.nan, np.nan, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = gain.drawn / lead.drawn
    share = np.where(lead.drawn > 0, share, np.copysign(np.inf, gain.drawn))
    share[np.isnan(lead.drawn) | np.isnan(gain.drawn)] = np.nan
    return percentile_interval(value, share)


@dataclass(frozen=True)
class Pair:
    """What is compared: a method, another one, and the teacher whose lead is to be closed."""

    queries: str
    method: str
    against: str
    teacher: str = ""


def compare(
    pairs: Sequence[Pair], methods: Mapping[tuple[str | None, str], Estimate], units: int
) -> list[dict[str, Any]]:
    """Every difference of a table, corrected for as many tests as it has rows.

    Args:
        pairs: the rows, all of them: choosing among them afterwards would undo the correction.
        methods: (queries, method) -> its figure, all on the same draws of recordings; (None, name)
            is a teacher's.
        units: how many recordings (or patients) there are to draw from; with fewer than
            `FEWEST_UNITS` nothing is tested, so that `p` and `p_corrected` are None.

    Returns:
        A row for each pair, in plain values: `queries`, `method`, `against`; their `difference`,
        first minus second, with its 95% interval (not corrected); two-sided `p`, `p_corrected`
        after Holm, and the `verdict` on that; `gap_closed`, the difference as a share of the
        teacher's lead over `against`, None without a teacher.
    """
    gains = [
        difference(methods[pair.queries, pair.method], methods[pair.queries, pair.against])
        for pair in pairs
    ]
    tested: Sequence[tuple[float | None, float | None]] = [(None, None)] * len(gains)
    if units >= FEWEST_UNITS:
        p_values = [two_sided_p(gain.drawn) for gain in gains]
        tested = list(zip(p_values, holm(p_values), strict=True))
    rows = []
    for pair, gain, (p, p_corrected) in zip(pairs, gains, tested, strict=True):
        row = asdict(pair)
        teacher = row.pop("teacher")
        closed = None
        if teacher:
            student, against = (methods[pair.queries, name] for name in (pair.method, pair.against))
            closed = gap_closed(student, against, methods[None, teacher]).to_dict()
        rows.append(
            row
            | {"difference": gain.interval().to_dict(), "p": p, "p_corrected": p_corrected}
            | {"gap_closed": closed, "verdict": verdict(gain.value, p_corrected)}
        )
    return rows


def verdict(gain: float, p_corrected: float | None) -> str:
    """ "better", "worse", or "not distinguishable from zero" after the correction; "not tested"."""
    if p_corrected is None:
        return "not tested"
    if p_corrected > LEVEL:
        return "not distinguishable from zero"
    return "better" if gain > 0 else "worse"
