"""A run's figures, on the data as it is and on drawn recordings."""

import numpy as np
from jaxtyping import Float64, Int64

from sonodetr.evaluation.instruments import instrument_figures
from sonodetr.evaluation.kept import Kept
from sonodetr.evaluation.matches import Matches
from sonodetr.evaluation.metrics import AVERAGE_PRECISIONS, average_precisions

TIP_MM = np.arange(0, 10.25, 0.25)
# Of instruments, with an interval from fewer draws: their percentiles are counted one by one.
_INSTRUMENTS = ("tip_error_median_mm", "tip_within_3_mm", "detected")
_FEWER = 999

Units = Int64[np.ndarray, "resamples units"]


def values(kept: Kept) -> dict[str, float]:
    """AP, AP50, AP75 and, for instruments, tips; NaN where undefined."""
    whole = np.ones((1, len(np.unique(kept.unit))), np.int64)
    return {name: float(drawn[0]) for name, drawn in replicates(kept, whole).items()}


def replicates(kept: Kept, weights: Units) -> dict[str, Float64[np.ndarray, " _"]]:
    """The figures of `values` in every resample; those of instruments in the first 999.

    Args:
        kept: what a run found.
        weights: how often each unit is drawn, in the order of `np.unique(kept.unit)`.
    """
    unit = np.unique(kept.unit, return_inverse=True)[1]
    ap = average_precisions(_by_unit(kept.matches, unit), weights)
    drawn = {name: ap[name] for name in AVERAGE_PRECISIONS}
    if kept.instruments is None or kept.instruments.tip_unit != "mm":
        return drawn
    found = instrument_figures(kept.instruments, weights[:_FEWER][:, unit])
    return drawn | {name: found[name] for name in _INSTRUMENTS}


def _by_unit(matches: Matches, unit: Int64[np.ndarray, " frames"]) -> Matches:
    """The same with a unit in place of a frame: AP then needs no weight for each frame."""
    units = np.arange(unit.max() + 1)
    objects = np.zeros((len(units), len(matches.class_names)), np.int64)
    np.add.at(objects, unit, matches.objects)
    return Matches(
        matches.class_names,
        units,
        objects,
        unit[matches.frame],
        matches.label,
        matches.scores,
        matches.found,
        matches.ignored,
        {},
    )


def tips_within(kept: Kept) -> list[float] | None:
    """Share of the labelled tips found within each of `TIP_MM`; a missed one is within none.

    None where no tip can be measured in mm.
    """
    found = kept.instruments
    if found is None or found.tip_unit != "mm" or not found.sightings.tip_known.any():
        return None
    errors = found.sightings.tip_error[found.sightings.tip_known]
    errors = np.sort(np.where(np.isnan(errors), np.inf, errors))
    reached = np.searchsorted(errors, TIP_MM, side="right") / len(errors)
    return [round(float(share), 5) for share in reached]
