import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from made_up_runs import AGAIN, SKILLS, made_up_answers

from sonodetr.evaluation.kept import read_kept
from sonodetr.evaluation.metrics import average_precisions
from sonodetr.evaluation.statistics import bootstrap_intervals, draw
from sonodetr.experiment.measure import evaluation, measure
from sonodetr.experiment.replicates import replicates, tips_within, values
from sonodetr.experiment.results import _curve, collect
from sonodetr.files import InputError, read_json


def row_of(results, queries, method):
    return next(r for r in results["rows"] if (r["queries"], r["method"]) == (queries, method))


def pairs(results, test="standard"):
    return [
        (each["queries"], each["method"], each["against"]) for each in results["comparisons"][test]
    ]


def test_figures_are_means_of_the_evaluations(collected):
    _, (_, rows), results = collected
    row = row_of(results, "anchor", "attention")
    aps = [evaluation(run, "test")["figures"]["ap"] for run in rows[2].runs]
    figure = row["tests"]["standard"]["figures"]["ap"]
    assert figure["seeds"] == pytest.approx(aps, abs=1e-12)
    assert figure["mean"] == pytest.approx(np.mean(aps))
    assert figure["deviation"] == pytest.approx(np.std(aps, ddof=1))
    assert figure["low"] < figure["mean"] < figure["high"]
    median = row["tests"]["standard"]["figures"]["tip_error_median_mm"]["seeds"]
    theirs = [
        evaluation(run, "test")["intervals"]["figures"]["tip_error_median_mm"]["value"]
        for run in rows[2].runs
    ]
    assert median == pytest.approx(theirs)


def test_interval_of_one_run_is_that_over_its_recordings(collected):
    _, (_, rows), results = collected
    teacher = row_of(results, None, "2D")["tests"]["standard"]["figures"]["ap"]
    kept = read_kept(rows[0].runs[0] / "evaluation-test" / "matches.npz")
    unit = np.unique(kept.unit, return_inverse=True)[1]
    own = bootstrap_intervals(
        lambda weights: average_precisions(kept.matches, weights[:, unit]), 11, resamples=999
    )["ap"]
    assert teacher["seeds"] == [pytest.approx(own.value)]
    assert teacher["deviation"] is None
    assert (teacher["low"], teacher["high"]) == pytest.approx((own.low, own.high), abs=5e-3)


def test_ap_of_drawn_recordings_is_that_of_their_frames(collected):
    _, (_, rows), _ = collected
    kept = read_kept(rows[1].runs[0] / "evaluation-test" / "matches.npz")
    names, unit = np.unique(kept.unit, return_inverse=True)
    weights = draw(len(names), 7, seed=0)
    theirs = average_precisions(kept.matches, weights[:, unit])
    ours = replicates(kept, weights)
    for figure in ("ap", "ap50", "ap75"):
        np.testing.assert_allclose(ours[figure], theirs[figure], rtol=0, atol=1e-12)


def test_tips_reach_the_share_within_3_mm(collected):
    _, (_, rows), results = collected
    kept = read_kept(rows[2].runs[0] / "evaluation-test" / "matches.npz")
    at_mm = results["tests"][0]["tip_within_mm"]
    shares = tips_within(kept)
    assert shares[at_mm.index(3.0)] == pytest.approx(values(kept)["tip_within_3_mm"], abs=1e-5)
    assert shares == sorted(shares)
    assert shares[-1] < 1  # missed ones are never within


def test_what_is_compared(collected):
    _, _, results = collected
    # By validation AP, detections is the stronger candidate; with learned queries there is none.
    assert results["strongest"] == {"anchor": "detections"}
    assert pairs(results) == [
        ("anchor", "attention", "plain"),
        ("anchor", "attention", "detections"),
        ("anchor", "detections", "plain"),
        ("anchor", "cells", "plain"),
        ("anchor", "cells", "detections"),
        ("anchor", "plain, 10% of labels", "plain"),
        ("anchor", "attention, 10% of labels", "plain, 10% of labels"),
        ("learned", "attention", "plain"),
    ]
    first, second, *_ = results["comparisons"]["standard"]
    means = {
        method: row_of(results, "anchor", method)["tests"]["standard"]["figures"]["ap"]["mean"]
        for method in SKILLS
    }
    teacher = row_of(results, None, "2D")["tests"]["standard"]["figures"]["ap"]["mean"]
    gain = means["attention"] - means["plain"]
    assert first["difference"]["value"] == pytest.approx(gain)
    assert first["gap_closed"]["value"] == pytest.approx(gain / (teacher - means["plain"]))
    assert first["verdict"] == "better"
    assert second["gap_closed"] is None  # the lead is counted from the first reference


def test_facts_of_a_row(collected):
    folder, (_, rows), results = collected
    row = row_of(results, "anchor", "attention, 10% of labels")
    assert row["labels"] == 0.1
    assert row["teacher"] == "2D"
    assert row["runs"][2] == "../runs/anchor-attention-10-of-labels-2"
    assert (folder / "results" / row["runs"][2]).resolve() == rows[6].runs[2].resolve()
    assert [step for step, _ in row["curves"][0]] == [15, 30, 45, 60, 75, 90]
    assert row["distances"][0] == [
        (15, 1.0),
        (30, 0.5),
        (45, 15 / 45),
        (60, 0.25),
        (75, 0.2),
        (90, 15 / 90),
    ]
    assert row_of(results, "anchor", "plain")["distances"] == [[], [], []]
    assert row["parameters"] > row_of(results, "learned", "plain")["parameters"]
    assert [each["method"] for each in results["rows"] if each["queries"] is None] == ["2D"]
    test = results["tests"][1]
    assert (test["name"], test["units"], test["frames"]) == ("shifted", 5, 25)
    by_recording = row["tests"]["shifted"]["recordings"]
    assert len(by_recording) == 5
    assert by_recording[4] is None  # nothing is labelled in it


def test_same_bytes_whatever_was_measured_first(collected, monkeypatch, tmp_path):
    folder, (plan, rows), results = collected
    other = tmp_path / "copy"
    shutil.copytree(folder / "runs", other / "runs")
    for path in other.glob("runs/*/evaluation-*"):
        shutil.rmtree(path)

    def moved(run):
        return other / run.relative_to(folder)

    again = [replace(row, runs=tuple(map(moved, row.runs))) for row in rows]
    with made_up_answers(monkeypatch):
        for row in reversed(again):
            for run in reversed(row.runs):
                measure(run, plan.data(), "test")
        collect(plan, again, other / "results", AGAIN)
    first, second = ((place / "results" / "results.json").read_bytes() for place in (folder, other))
    assert first == second
    assert read_json(folder / "results" / "results.json") == json.loads(json.dumps(results))


def test_runs_that_were_tested_on_other_frames_are_refused(collected, monkeypatch, tmp_path):
    _, (plan, rows), _ = collected
    run = shutil.copytree(rows[1].runs[0], tmp_path / "other")
    shutil.rmtree(run / "evaluation-test")
    division = read_json(run / "split.json")
    division["test"].pop("test/clip3")
    (run / "split.json").write_text(json.dumps(division))
    rows = [rows[1], replace(rows[2], runs=(run, *rows[2].runs[1:]))]
    with (
        made_up_answers(monkeypatch),
        pytest.raises(InputError, match=r"other: was tested on other frames than .*by_folder"),
    ):
        collect(plan, rows, tmp_path, "")
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("kept", "said"),
    [(slice(5), "4 objects in 1 recordings"), (slice(20, 25), "0 objects in 1 recordings")],
)
def test_too_little_to_test_on_is_refused(collected, monkeypatch, tmp_path, kept, said):
    """One recording has no spread, and would make every difference sure."""
    _, (plan, rows), _ = collected
    whole = measure(rows[1].runs[0], plan.data(), "test")
    frames = np.zeros(len(whole.recording), bool)
    frames[kept] = True
    per_frame = ("recording", "frame_index", "unit")
    little = replace(
        whole,
        matches=whole.matches.only(frames),
        instruments=None,
        **{name: getattr(whole, name)[frames] for name in per_frame},
    )
    monkeypatch.setattr("sonodetr.experiment.results.measure", lambda *_: little)
    with pytest.raises(InputError, match=f"test part 'test': has {said}; objects in two"):
        collect(plan, rows[1:2], tmp_path, "")


def test_latency_of_networks_of_one_shape(collected, tmp_path):
    from sonodetr.experiment.latency import latencies

    _, (_, asked), _ = collected
    timed = {"runtime": "onnx", "precision": "float32", "threads": 1, "image_size": [64, 64]}
    rows = [
        timed | {"model": str(asked[1].runs[0]), "frame_ms": {"p50": 0.7, "p99": 0.9}},
        timed | {"model": str(asked[0].runs[0]), "frame_ms": {"p50": 9.0, "p99": 9.9}},
        timed | {"model": str(asked[1].runs[0]), "image_size": [96, 96], "frame_ms": {}},
        timed | {"model": str(tmp_path), "frame_ms": {}},  # an exported folder
    ]
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "benchmark.json").write_text(json.dumps({"results": rows}))
    runs = [row.runs[0] for row in asked]
    student, teacher = latencies(tmp_path, runs)
    assert student["rows"] == [1, 2, 3, 4, 5, 6]  # learned queries are another network
    assert (student["p50_ms"], student["p99_ms"]) == (0.7, 0.9)
    assert teacher["rows"] == [0]
    assert latencies(tmp_path / "none", runs) == []


def test_a_teacher_that_came_without_its_training_has_no_curve(tmp_path):
    assert _curve(tmp_path, "validation/AP") == []
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 3, "validation/AP": 0.25}\n{"step": 4}\n{"step": 6, "validation/AP": null}\n'
    )
    assert _curve(tmp_path, "validation/AP") == [(3, 0.25), (6, 0.0)]
