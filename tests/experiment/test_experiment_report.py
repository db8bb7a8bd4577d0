import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sonodetr.evaluation.kept import Kept
from sonodetr.evaluation.matches import Matches
from sonodetr.experiment import charts, pictures
from sonodetr.experiment.pictures import worst_frames
from sonodetr.experiment.report import write_report
from sonodetr.experiment.story import (
    answer,
    comparison_table,
    facts,
    headline,
    markdown,
    result_table,
)
from sonodetr.files import InputError
from sonodetr.formats import read


@pytest.fixture(scope="session")
def page(collected):
    folder, _, results = collected
    return write_report(results, folder / "results")


def test_page_needs_nothing_else_and_runs_nothing(page):
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r' on[a-z]+="', text)
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(set(ids)) == len(ids)


def test_page_tells_the_whole_story(page):
    text = page.read_text(encoding="utf-8")
    assert "<h1>Does attention &lt;b&gt; help?</h1>" in text
    assert "Attention (anchor) reaches AP" in text
    headings = ["Results", "Comparisons", "Where the gain is", "Attention", "Worst failures"]
    assert re.findall("<h2>([^<]+)</h2>", text) == [*headings, "Run it again"]
    # Low labels, training and distance with each kind of queries, recordings, tips; nothing timed.
    assert text.count('<svg role="img"') == 7
    assert text.count('<svg class="interval"') == 2 * 8
    assert text.count("data:image/jpeg") == 3  # attention in two recordings, and failures
    assert "4 configurations were tried" in text
    assert "sonodetr experiment made-up.yaml" in text


def test_page_without_the_runs_says_what_is_left_out(collected, page, tmp_path):
    _, _, results = collected
    path = write_report(results, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert text.count("Left out: ") == 2
    assert "data:image" not in text
    assert (tmp_path / "report.md").read_text() == (page.parent / "report.md").read_text()


def test_same_results_same_page(collected, page):
    folder, _, results = collected
    before = page.read_bytes()
    assert write_report(results, folder / "results").read_bytes() == before


def test_markdown_holds_the_tables(page):
    text = (page.parent / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Does attention <b> help?\n")
    assert "| **anchor queries** |" in text
    assert text.count("against plain, 10% of labels") == 2  # a row on each part
    assert "| ± |" not in text  # drawings are for the page


def comparison(method, value, low, high, p, against="plain", closed=None):
    telling = p <= 0.05
    verdict = ("better" if value > 0 else "worse") if telling else "not distinguishable from zero"
    return {
        **{"queries": "", "method": method, "against": against, "p": p, "p_corrected": p},
        "difference": {"value": value, "low": low, "high": high, "defined": 1.0},
        **{"gap_closed": closed, "verdict": verdict},
    }


def made_row(method, ap, validation, labels=1.0, queries=""):
    figure = {"seeds": [ap], "mean": ap, "deviation": None, "low": ap - 0.02, "high": ap + 0.02}
    return {
        **{"queries": queries, "method": method, "teacher": "", "labels": labels, "epochs": 3},
        **{"clip_frames": 1, "parameters": 5e5, "tuned": {}, "runs": [method]},
        **{"curves": [[]], "distances": [[]]},
        "validation_ap": [validation],
        "tests": {"new": {"figures": {"ap": figure, "ap50": figure}, "tips": [None]}},
    }


def small(comparisons, rows, seeds=(0, 1, 2)):
    return {
        **{"name": "small", "question": "?", "baseline": "plain", "strongest": {}, "tried": 4},
        "seeds": list(seeds),
        "tests": [
            {"name": "new", "part": "test", "frames": 7, "objects": 5, "unit": "patient"}
            | {"units": 3, "resamples": 99, "recordings": [], "tip_within_mm": []}
        ],
        **{"rows": rows, "comparisons": {"new": comparisons}, "timed": {"latency": []}},
    }


ROWS = [
    made_row("plain", 0.3, 0.31),
    made_row("good", 0.35, 0.4),
    made_row("lucky", 0.5, 0.35),
    made_row("good, 10% of labels", 0.2, 0.9, labels=0.1),
]


def test_answer_is_about_the_best_on_validation_data():
    closed = {"value": 0.25, "low": 0.1, "high": 0.4, "defined": 1.0}
    compared = [
        comparison("good", 0.05, 0.02, 0.08, 0.004, closed=closed),
        comparison("lucky", 0.2, 0.1, 0.3, 0.0002),
        comparison("good, 10% of labels", -0.1, -0.2, -0.05, 0.01),
    ]
    results = small(compared, ROWS)
    assert headline(results)["method"] == "good"
    first, second, third, *clear = answer(results)
    # No-break spaces hold "p = 0.004" together.
    assert first.replace("\xa0", " ") == (
        "Good reaches AP 0.350 where plain reaches 0.300: +0.050 (+0.020 to +0.080; p = 0.004 "
        "after correction)."
    )
    assert second == "That closes 25% (10% to 40%) of its teacher's lead."
    assert third == (
        "Comparisons that show a gain: 2 of 2; a loss: 0; nothing distinguishable from zero: 0."
    )
    assert clear == ["Lucky beats plain: +0.200 (+0.100 to +0.300)."]


def test_answer_says_what_cannot_be_told():
    results = small([comparison("good", 0.01, -0.02, 0.04, 0.41)], ROWS[:2])
    (only,) = answer(results)
    assert only.endswith("a difference that is not distinguishable from zero.")
    assert answer(small([], ROWS[:1])) == ["Nothing was compared with the baseline."]


def test_a_reader_is_told_what_an_interval_does_not_hold():
    assert "3 seeds a method" in facts(small([], ROWS))[0]
    assert "another training" in " ".join(facts(small([], ROWS, seeds=(0,))))
    assert "3 patients that no training saw" in facts(small([], ROWS))[0]
    one = small([], ROWS)
    assert "fewer than 10 patients" in facts(one)[-1]
    one["tests"][0]["units"] = 10
    assert "are not tested" not in " ".join(facts(one))


def test_what_is_not_tested_is_not_judged():
    compared = comparison("good", 0.05, 0.02, 0.08, 0.004)
    compared |= {"p": None, "p_corrected": None, "verdict": "not tested"}
    results = small([compared, compared], ROWS[:2])
    assert answer(results) == [
        "Good reaches AP 0.350 where plain reaches 0.300: +0.050 (+0.020 to +0.080), a difference "
        "that is not tested."
    ]
    assert "| +0.050 (+0.020 to +0.080) |  | not\xa0tested |" in markdown(
        comparison_table(results, "new")
    )


def test_tables_by_hand():
    results = small([comparison("good", 0.05, 0.02, 0.08, 0.004)], ROWS[:2])
    text = markdown(result_table(results))
    assert "| good | 0.350 (0.330 to 0.370) | **+0.050** (+0.020 to +0.080) |" in text
    text = markdown(comparison_table(results, "new"))
    assert (
        "| good (against plain) | **+0.050** (+0.020 to +0.080) | 0.004 (before: 0.004) |" in text
    )
    assert "1 comparison, at 0.05" in text


def test_differences_that_are_all_zero_are_drawn_at_zero():
    results = small([comparison("good", 0.0, 0.0, 0.0, 1.0)], ROWS[:2])
    drawn = comparison_table(results, "new").rows[-1][1]
    assert 'cx="100.0"' in drawn.drawing


def test_families_of_few_labels():
    rows = [*ROWS, made_row("good, 25% of labels", 0.3, 0.9, labels=0.25)]
    families = charts.label_families(small([], rows))
    assert {name: [row["labels"] for row in of] for name, of in families.items()} == {
        "good": [0.1, 0.25, 1.0]
    }


def test_worst_frames_by_hand():
    # Frames 0 to 3 of two recordings, one object each; at the threshold 0.5:
    # 0 is found, 1 is missed, 2 and 3 are missed and have a wrong one, 3 a surer one.
    scores = np.array([0.9, 0.8, 0.7, 0.4])
    found = np.zeros((10, 4), bool)
    found[0] = [True, False, False, True]
    matches = Matches(
        ("needle",),
        np.array([0, 0, 1, 1]),
        np.ones((4, 1), np.int64),
        np.array([0, 3, 2, 1]),  # frame of each detection
        np.zeros(4, np.int64),
        scores,
        found,
        np.zeros_like(found),
        {},
    )
    recording = np.array(["a", "a", "b", "b"])
    kept = Kept(recording, np.array([5, 6, 5, 6]), recording, "recording", 0.5, matches, None)
    assert worst_frames(kept, 7) == [("b", 6, "1 missed, 1 wrong"), ("a", 6, "1 missed")]
    assert worst_frames(kept, 1) == [("b", 6, "1 missed, 1 wrong")]


def test_labels_out_of_sight_make_no_picture(needles, monkeypatch):
    batch = SimpleNamespace(targets=[SimpleNamespace(boxes_cxcywh=torch.zeros(0, 4))])
    monkeypatch.setattr(pictures, "_maps", lambda *_: (batch, None, None))
    video = read(needles / "test")[0]
    with pytest.raises(InputError, match="clip0: its labels lie outside of what the models see"):
        pictures._attention_sheet(Path("teacher"), {"plain": Path("run")}, video)


def test_a_table_has_columns_of_tips_where_any_row_has_some():
    rows = [made_row("plain", 0.3, 0.3), made_row("good", 0.3, 0.3)]
    tips = {"seeds": [2.5], "mean": 2.5, "deviation": None, "low": 1.0, "high": 4.0}
    both = {"tip_within_3_mm": tips, "tip_error_median_mm": tips}
    rows[1]["tests"]["new"]["figures"] |= both
    text = markdown(result_table(small([], rows)))
    assert "| tip error, mm |" in text
    assert "2.50 (1.00 to 4.00) |" in text
    assert text.count("undefined") == 4  # AP75 of both rows, tips of one


def test_pictures_say_when_the_data_is_gone(collected, tmp_path):
    folder, _, results = collected
    shutil.copytree(folder / "runs", tmp_path / "runs")
    (tmp_path / "results").mkdir()
    gone = results | {"data": str(tmp_path / "gone")}
    text = write_report(gone, tmp_path / "results").read_text(encoding="utf-8")
    assert text.count("Left out: ") == 2
    assert "gone: no such file" in text


def test_charts_of_few_labels_alone_have_their_lines():
    """Where all students have as few labels as the baseline, they are what is drawn."""
    row = {"queries": "", "validation_ap": [0.25], "teacher": ""}
    rows = [
        {"queries": None, "method": "large", "labels": 1.0},
        row | {"method": "plain", "labels": 0.05},
        row | {"method": "taught", "labels": 0.05},
        row | {"method": "taught, all", "labels": 1.0},
    ]
    results = {"rows": rows, "baseline": "plain", "strongest": {}, "comparisons": {"new": []}}
    results["tests"] = [{"name": "new"}]
    assert [each["method"] for each in charts.chosen(results, "")] == ["plain", "taught"]
