"""From finished runs to results.json: every figure, curve and comparison of an experiment.

The same runs give the same bytes, in whatever order they were trained and measured; only what
stands under `timed` was taken with a clock.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sonodetr.config import Config
from sonodetr.config_file import config_from_run
from sonodetr.evaluation.kept import Kept
from sonodetr.evaluation.statistics import Interval, draw
from sonodetr.experiment.latency import latencies
from sonodetr.experiment.measure import evaluation, measure
from sonodetr.experiment.replicates import MAIN, TIP_MM, replicates, tips_within, values
from sonodetr.experiment.statistics import RESAMPLES, Estimate, Pair, compare, estimate
from sonodetr.files import InputError, closest, write_json
from sonodetr.progress import progress_bar
from sonodetr.training.run import WEIGHTS, provenance, read_info, untrained_model

RESULTS = "results.json"


@dataclass(frozen=True)
class Row:
    """A method in one setting of the queries, all its seeds trained.

    Attributes:
        queries: name of the setting; None for a teacher.
        method: name of the method, or of the teacher.
        runs: finished run folders, one a seed.
        teacher: name of its teacher; "" without.
        tuned: config key -> number that was chosen for it, or taken over from other methods.
        against: methods of the same queries that it is compared with; none: the experiment's
            baseline and the strongest baseline. The first one is where the teacher's gap begins.
    """

    queries: str | None
    method: str
    runs: tuple[Path, ...]
    teacher: str = ""
    tuned: Mapping[str, Any] = field(default_factory=dict)
    against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finished:
    """An experiment all of whose runs are trained.

    Attributes:
        name, question: what it is called, and what it asks.
        data: `data.path` of the students.
        test: name -> part of the data (see `measure`); the first one answers the question.
        seeds: of the runs of every row.
        baseline: method that the others are compared with.
        strongest: further baselines; the one with the best mean validation AP is compared with too.
        teachers: name -> run folder; one of another library is not measured.
        rows: what was trained, in the order in which it is shown.
        tried: number of configurations tried on validation data.
        again: command lines that make everything again.
        plan: the experiment's file as plain values.
    """

    name: str
    question: str
    data: str
    test: Mapping[str, str]
    seeds: tuple[int, ...]
    baseline: str
    strongest: tuple[str, ...]
    teachers: Mapping[str, Path]
    rows: tuple[Row, ...]
    tried: int
    again: tuple[str, ...] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)


def collect(finished: Finished, out: Path) -> dict[str, Any]:
    """Measure what is not measured yet, compare, and write `out / "results.json"`.

    Returns:
        What the file holds (docs/experiment.md names every key).

    Raises:
        InputError: a run is not finished or was tested on other frames than the others, or a
            comparison names a method that there is not.
    """
    teachers = {
        name: folder for name, folder in finished.teachers.items() if (folder / WEIGHTS).is_file()
    }
    everything = (
        *(Row(None, name, (folder,)) for name, folder in teachers.items()),
        *finished.rows,
    )
    rows = [_described(row, out) for row in everything]
    strongest = _strongest(finished, rows)
    pairs = _pairs(finished, strongest, teachers)
    tests, comparisons = [], {}
    total = len(finished.test) * sum(len(row.runs) for row in everything)
    with progress_bar("measure", total, "runs") as advance:
        for name, part in finished.test.items():
            facts, estimates = _tested(name, part, finished.data, everything, rows, advance)
            tests.append(facts)
            compared = compare(pairs, estimates)
            comparisons[name] = [each.to_dict() for each in compared]
    result = {
        "name": finished.name,
        "question": finished.question,
        "data": finished.data,
        "seeds": list(finished.seeds),
        "baseline": finished.baseline,
        "strongest": strongest,
        "tried": finished.tried,
        "tests": tests,
        "rows": rows,
        "comparisons": comparisons,
        "again": list(finished.again),
        "plan": dict(finished.plan),
        "provenance": provenance(0),
        "timed": {"latency": latencies(out, [row.runs[0] for row in everything])},
    }
    write_json(out / RESULTS, result)
    return result


def _described(row: Row, out: Path) -> dict[str, Any]:
    """What is known of a row without running anything."""
    config = config_from_run(row.runs[0])
    return {
        "queries": row.queries,
        "method": row.method,
        "teacher": row.teacher,
        "labels": config.data.labelled,
        "epochs": config.train.epochs,
        "clip_frames": config.data.clip_frames,
        "parameters": _parameters(config, len(read_info(row.runs[0]).classes)),
        "tuned": dict(row.tuned),
        "runs": [os.path.relpath(run, out) for run in row.runs],
        "validation_ap": [read_info(run).validation["ap"] or 0.0 for run in row.runs],
        "curves": [curve(run) for run in row.runs],
        "tests": {},
    }


def _parameters(config: Config, num_classes: int) -> int:
    return sum(weights.numel() for weights in untrained_model(config, num_classes).parameters())


def curve(run: Path) -> list[tuple[int, float]]:
    """Step and validation AP through a training."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return [
        (entry["step"], entry["validation/AP"] or 0.0)
        for entry in entries
        if "validation/AP" in entry
    ]


def _strongest(finished: Finished, rows: Sequence[Mapping[str, Any]]) -> dict[str | None, str]:
    """By queries, the candidate with the best mean validation AP: the test part has no say."""
    found: dict[str | None, str] = {}
    for queries in dict.fromkeys(row.queries for row in finished.rows):
        mean = {
            row["method"]: float(np.mean(row["validation_ap"]))
            for row in rows
            if row["queries"] == queries and row["method"] in finished.strongest
        }
        if mean:
            found[queries] = max(mean, key=lambda method: mean[method])
    return found


def _pairs(
    finished: Finished, strongest: Mapping[str | None, str], teachers: Mapping[str, Path]
) -> list[Pair]:
    """What is compared; how much of a teacher's lead is closed counts from the first reference."""
    pairs = []
    for row in finished.rows:
        assert row.queries is not None
        known = [other.method for other in finished.rows if other.queries == row.queries]
        if unknown := [name for name in row.against if name not in known]:
            raise InputError(
                f"{row.queries}, {row.method}: is to be compared with {unknown[0]!r}, which is "
                f"not trained with these queries; {closest(unknown[0], known)}"
            )
        usual = [finished.baseline, *filter(None, [strongest.get(row.queries)])]
        if row.method == finished.baseline:
            usual = []  # the others are compared with it
        teacher = row.teacher if row.teacher in teachers else ""
        for against in dict.fromkeys(row.against or usual):
            if against in known and against != row.method:
                pairs.append(Pair(row.queries, row.method, against, teacher))
                teacher = ""
    return pairs


def _tested(
    name: str,
    part: str,
    data: str,
    everything: Sequence[Row],
    rows: Sequence[dict[str, Any]],
    advance: Any,
) -> tuple[dict[str, Any], dict[tuple[str | None, str], Estimate]]:
    """Measure all runs on one part, fill in `rows`; facts on the part, and AP by row."""
    first: Kept | None = None
    estimates: dict[tuple[str | None, str], Estimate] = {}
    for row, described in zip(everything, rows, strict=True):
        found = []
        for run in row.runs:
            kept = measure(run, data, part)
            first = kept if first is None else first
            _check_paired(first, kept, run, everything[0].runs[0])
            found.append(kept)
            advance()
        key = row.queries, row.method
        filled, estimates[key] = _figures(found, f"{row.queries}/{row.method}")
        described["tests"][name] = filled | {
            "recordings": _mean_by_recording([evaluation(run, part) for run in row.runs])
        }
    assert first is not None
    whole = evaluation(everything[0].runs[0], part)
    return {
        "name": name,
        "part": part,
        "frames": len(first.recording),
        "objects": int(first.matches.objects.sum()),
        "unit": first.unit_name,
        "units": len(set(first.unit.tolist())),
        "resamples": RESAMPLES,
        "recordings": [each["key"] for each in whole["recordings"]],
        "tip_within_mm": TIP_MM.tolist(),
    }, estimates


def _check_paired(first: Kept, kept: Kept, run: Path, first_run: Path) -> None:
    same = (
        np.array_equal(first.recording, kept.recording)
        and np.array_equal(first.frame_index, kept.frame_index)
        and np.array_equal(first.matches.objects, kept.matches.objects)
    )
    if not same:
        raise InputError(
            f"{run}: was tested on other frames than {first_run}, so they cannot be compared; "
            "train all on one division, as data.split.by_folder names it"
        )


def _figures(found: Sequence[Kept], name: str) -> tuple[dict[str, Any], Estimate]:
    """Every figure of a row on a part: each seed's, their mean and its interval; and AP alone."""
    units = len(set(found[0].unit.tolist()))
    weights = draw(units, RESAMPLES, seed=0)
    drawn = [replicates(kept, weights) for kept in found]
    whole = [values(kept) for kept in found]
    estimates = {
        figure: estimate(
            [of_run[figure] for of_run in whole],
            np.stack([of_run[figure] for of_run in drawn], 1),
            name,
        )
        for figure in drawn[0]
    }
    filled: dict[str, Any] = {
        "figures": {figure: _plain(each) for figure, each in estimates.items()},
        "tips": [tips_within(kept) for kept in found],
    }
    return filled, estimates[MAIN]


def _plain(of: Estimate) -> dict[str, Any]:
    interval = of.interval()
    return {
        "seeds": [none_if_nan(value) for value in of.per_seed],
        "mean": none_if_nan(of.value),
        "deviation": none_if_nan(of.deviation),
        **bounds(interval),
    }


def bounds(interval: Interval) -> dict[str, float | None]:
    """Both ends of an interval for JSON."""
    return {"low": none_if_nan(interval.low), "high": none_if_nan(interval.high)}


def none_if_nan(value: float) -> float | None:
    """What is not finite has no value in JSON."""
    return float(value) if np.isfinite(value) else None


def _mean_by_recording(evaluations: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """AP of each recording, mean over seeds; None where nothing is labelled in it."""
    by_seed = [[row["ap"] for row in each["recordings"]] for each in evaluations]
    return [
        None if any(ap is None for ap in aps) else float(np.mean(aps))
        for aps in zip(*by_seed, strict=True)
    ]
