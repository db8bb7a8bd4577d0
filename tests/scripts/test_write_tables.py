"""What README and docs say of results is what the committed results say."""

import write_tables


def test_tables_are_those_of_the_results():
    assert [path for path, _ in write_tables.due()] == [], "run: python scripts/write_tables.py"


def test_a_block_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(write_tables, "answer", lambda results: ["It pays.", results["name"]])
    monkeypatch.setattr(write_tables, "ROOT", tmp_path)
    (tmp_path / "results.json").write_text('{"name": "Yes."}')
    page = "Before.\n<!-- answer results.json -->\nold\n<!-- end -->\nAfter.\n"
    assert write_tables.filled(page) == page.replace("old", "It pays. Yes.")
    # A block that is still empty ends where it ends, not at the end of the next one.
    empty = page.replace("old\n", "") + page
    assert write_tables.filled(empty) == (page + page).replace("old", "It pays. Yes.")


def test_progress_is_the_mean_of_the_seeds():
    curves = [[[50, 0.1], [100, 0.2], [150, 0.3], [200, 0.4]], [[50, 0.2], [100, 0.2], [150, 0.2]]]
    curves[1].append([200, 0.0])
    rows = [
        {"queries": None, "method": "large", "curves": [[]]},
        {"queries": "anchor", "method": "plain", "curves": curves},
    ]
    assert write_tables.progress({"rows": rows}).splitlines() == [
        "| method | 25% | 50% | 75% | 100% |",
        "| --- | --- | --- | --- | --- |",
        "| plain (anchor) | 0.150 | 0.200 | 0.250 | 0.200 |",
    ]


def test_gains_stand_beside_as_many_labels():
    def row(method, labels, mean, queries=""):
        figures = {"ap": {"mean": mean, "deviation": 0.01}}
        tests = {"new": {"figures": figures}}
        return {"queries": queries, "method": method, "labels": labels, "tests": tests}

    def gain(method, against, value, p):
        difference = {"value": value, "low": value - 0.25, "high": value + 0.25}
        found = {"method": method, "against": against, "difference": difference}
        return found | {"p_corrected": p}

    rows = [
        row("large", 1.0, 0.9, queries=None),
        row("plain", 1.0, 0.5),
        row("taught", 1.0, 0.625),
        row("plain, 5% of labels", 0.05, 0.125),
        row("taught, 5% of labels", 0.05, 0.375),
    ]
    compared = [
        gain("taught", "plain", 0.125, 0.5),
        gain("plain, 5% of labels", "plain", -0.375, 0.0),  # fewer labels: another question
        gain("taught, 5% of labels", "plain, 5% of labels", 0.25, 0.0004),
    ]
    results = {"tests": [{"name": "new"}], "rows": rows, "comparisons": {"new": compared}}
    assert write_tables.gains(results).splitlines()[2:] == [
        "| 5% | taught | 0.125 ± 0.010 | 0.375 ± 0.010 | +0.250 (+0.000 to +0.500) | <0.001 |",
        "| 100% | taught | 0.500 ± 0.010 | 0.625 ± 0.010 | +0.125 (−0.125 to +0.375) | 0.500 |",
    ]
