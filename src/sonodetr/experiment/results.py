"""From finished runs to results.json: every figure, curve and comparison of an experiment.

The same runs give the same bytes, in whatever order they were trained and measured; only what
stands under `timed` was taken with a clock.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sonodetr.config import DataConfig
from sonodetr.config_file import config_from_run
from sonodetr.evaluation.kept import Kept
from sonodetr.evaluation.statistics import draw
from sonodetr.experiment.latency import latencies
from sonodetr.experiment.measure import evaluation, measure
from sonodetr.experiment.plan import Plan
from sonodetr.experiment.replicates import TIP_MM, replicates, tips_within, values
from sonodetr.experiment.statistics import RESAMPLES, Estimate, Pair, compare, estimate
from sonodetr.files import InputError, write_json
from sonodetr.progress import progress_bar
from sonodetr.training.run import provenance, read_info, untrained_model

RESULTS = "results.json"


@dataclass(frozen=True)
class Row:
    """A method in one setting of the queries, or a teacher; all trained.

    Attributes:
        queries: name of the setting; None for a teacher.
        method: name of the method, or of the teacher.
        runs: finished run folders, one a seed.
        tuned: config key -> number that was chosen for it, or taken over from other methods.
    """

    queries: str | None
    method: str
    runs: tuple[Path, ...]
    tuned: Mapping[str, Any] = field(default_factory=dict)


def collect(plan: Plan, rows: Sequence[Row], out: Path, command: str) -> dict[str, Any]:
    """Measure what is not measured yet, compare, and write `out / "results.json"`.

    Args:
        plan: of the experiment.
        rows: the teachers that can be measured, then every method.
        out: folder of the results.
        command: line that does everything again.

    Returns:
        What the file holds (docs/experiment.md names every key).

    Raises:
        InputError: a run was tested on other frames than the others, or there is too little to test
            on.
    """
    described = [_described(plan, row, out) for row in rows]
    strongest = _strongest(plan, described)
    pairs = _pairs(plan, rows, strongest)
    tests, comparisons = [], {}
    total = len(plan.test) * sum(len(row.runs) for row in rows)
    with progress_bar("measure", total, "runs") as advance:
        for name, part in plan.test.items():
            facts, found = _tested(rows, plan.data(), part, advance)
            tests.append({"name": name} | facts)
            for row, (of_row, _) in zip(described, found, strict=True):
                row["tests"][name] = of_row
            estimates = {
                (row.queries, row.method): ap for row, (_, ap) in zip(rows, found, strict=True)
            }
            comparisons[name] = compare(pairs, estimates, facts["units"])
    result = {
        "name": plan.name,
        "question": plan.question,
        "data": plan.data().path,
        "seeds": list(plan.seeds),
        "baseline": plan.baseline,
        "strongest": strongest,
        "tried": plan.configurations_tried,
        "tests": tests,
        "rows": described,
        "comparisons": comparisons,
        "again": [*plan.prepare, command],
        "plan": plan.model_dump(mode="json", exclude_defaults=True),
        "provenance": provenance(0),
        "timed": {"latency": latencies(out, [row.runs[0] for row in rows])},
    }
    write_json(out / RESULTS, result)
    return result


def _described(plan: Plan, row: Row, out: Path) -> dict[str, Any]:
    """What is known of a row without running anything."""
    config = config_from_run(row.runs[0])
    infos = [read_info(run) for run in row.runs]
    model = untrained_model(config, len(infos[0].classes))
    return {
        "queries": row.queries,
        "method": row.method,
        "teacher": "" if row.queries is None else plan.methods[row.method].teacher,
        "labels": config.data.labelled,
        "epochs": config.train.epochs,
        "clip_frames": config.data.clip_frames,
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "tuned": dict(row.tuned),
        "runs": [os.path.relpath(run, out) for run in row.runs],
        "validation_ap": [info.validation["ap"] or 0.0 for info in infos],
        "curves": [_curve(run, "validation/AP") for run in row.runs],
        "distances": [_curve(run, "validation/distill_encoder") for run in row.runs],
        "tests": {},
    }


def _curve(run: Path, key: str) -> list[tuple[int, float]]:
    """Step and a figure of the validations through a training; undefined counts as 0."""
    log = run / "metrics.jsonl"  # a bundled teacher has none
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    entries = [json.loads(line) for line in lines]
    return [(entry["step"], entry[key] or 0.0) for entry in entries if key in entry]


def _strongest(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By queries, the candidate with the best mean validation AP: the test part has no say."""
    found = {}
    for queries in plan.queries:
        mean = {
            row["method"]: float(np.mean(row["validation_ap"]))
            for row in rows
            if row["queries"] == queries and row["method"] in plan.strongest
        }
        if mean:
            found[queries] = max(mean, key=lambda method: mean[method])
    return found


def _pairs(plan: Plan, rows: Sequence[Row], strongest: Mapping[str, str]) -> list[Pair]:
    """What is compared; how much of a teacher's lead is closed counts from the first reference."""
    measured = {row.method for row in rows if row.queries is None}
    pairs = []
    for row in rows:
        if row.queries is None:
            continue
        method = plan.methods[row.method]
        against = method.against
        if not against and row.method != plan.baseline:
            against = (plan.baseline, strongest.get(row.queries, plan.baseline))
        teacher = method.teacher if method.teacher in measured else ""
        for other in dict.fromkeys(against):
            if other != row.method:
                pairs.append(Pair(row.queries, row.method, other, teacher))
                teacher = ""
    return pairs


def _tested(
    rows: Sequence[Row], data: DataConfig, part: str, advance: Callable[[], None]
) -> tuple[dict[str, Any], list[tuple[dict[str, Any], Estimate]]]:
    """Measure all runs on one part: facts on it, and for each row all of its figures, and AP."""
    first_run = rows[0].runs[0]
    first = measure(first_run, data, part)
    units = len(np.unique(first.unit))
    objects = int(first.matches.objects.sum())
    check_enough(part, objects, units, first.unit_name)
    found = []
    for row in rows:
        of_row = []
        for run in row.runs:
            of_row.append(measure(run, data, part))
            _check_paired(first, of_row[-1], run, first_run)
            advance()
        figures, ap = _figures(of_row, f"{row.queries}/{row.method}")
        by_recording = _mean_by_recording([evaluation(run, part) for run in row.runs])
        tips = [tips_within(kept) for kept in of_row]
        found.append(({"figures": figures, "tips": tips, "recordings": by_recording}, ap))
    return {
        "part": part,
        "frames": len(first.recording),
        "objects": objects,
        "unit": first.unit_name,
        "units": units,
        "resamples": RESAMPLES,
        "recordings": [each["key"] for each in evaluation(first_run, part)["recordings"]],
        "tip_within_mm": TIP_MM.tolist(),
    }, found


def check_enough(part: str, objects: int, units: int, unit_name: str) -> None:
    """Whether there is a difference to be told, and something to draw from.

    Raises:
        InputError: there are no objects, or all are in one unit.
    """
    if units < 2 or not objects:
        raise InputError(
            f"test part {part!r}: has {objects} objects in {units} {unit_name}s; objects in two or "
            "more are needed to tell how sure a difference is"
        )


def _check_paired(first: Kept, kept: Kept, run: Path, first_run: Path) -> None:
    same = (
        np.array_equal(first.recording, kept.recording)
        and np.array_equal(first.frame_index, kept.frame_index)
        and np.array_equal(first.matches.objects, kept.matches.objects)
    )
    if not same:
        raise InputError(
            f"{run}: was tested on other frames than {first_run}, so they cannot be compared; "
            "train all on one division, by data.split.seed or data.split.by_folder"
        )


def _figures(found: Sequence[Kept], name: str) -> tuple[dict[str, Any], Estimate]:
    """Every figure of a row on a part: each seed's, their mean and its interval; and AP alone."""
    weights = draw(len(np.unique(found[0].unit)), RESAMPLES, seed=0)
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
    return {figure: _plain(each) for figure, each in estimates.items()}, estimates["ap"]


def _plain(of: Estimate) -> dict[str, Any]:
    """For JSON; what is undefined is None."""
    interval = of.interval().to_dict()
    return {
        "seeds": [None if np.isnan(value) else value for value in of.per_seed],
        "mean": interval["value"],
        "deviation": None if np.isnan(of.deviation) else of.deviation,
        "low": interval["low"],
        "high": interval["high"],
    }


def _mean_by_recording(evaluations: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """AP of each recording, mean over seeds; None where nothing is labelled in it."""
    by_seed = [[row["ap"] for row in each["recordings"]] for each in evaluations]
    return [
        None if any(ap is None for ap in aps) else float(np.mean(aps))
        for aps in zip(*by_seed, strict=True)
    ]
