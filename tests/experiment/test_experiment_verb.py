"""`sonodetr experiment` from the command line."""

import pytest
from tiny_plans import write_data, write_plan


@pytest.fixture
def plan(tmp_path):
    data = write_data(tmp_path / "data")
    return lambda **changes: write_plan(tmp_path, data, **changes)


def test_the_list_as_json(answer, plan, tmp_path):
    result = answer("experiment", plan(), "--list", "--out", tmp_path / "out")
    assert result["configurations_tried"] == 4
    assert [row["state"] for row in result["runs"]].count("ready") == 1 + 2
    assert result["runs"][-1] == {
        **{"queries": "", "method": "attention", "seed": 1, "value": None, "state": "waiting"},
        "waits_for": "the tuning of plain",
    }
    assert not list((tmp_path / "out").glob("runs/*"))


def test_mistakes(refused, plan, tmp_path):
    out = ("--out", tmp_path / "out")
    assert "no such file" in refused("experiment", tmp_path / "none.yaml", *out)
    assert "unknown key 'seed'" in refused("experiment", plan(), "seed=[1]", *out)
    said = refused("experiment", plan(test={"shifted": "shifted"}), *out)
    assert "test part 'shifted'" in said
    assert "no such folder" in said
    said = refused("experiment", plan(), "--trained-at", "abc", *out)
    assert "--trained-at says what --adopt cannot know" in said
    said = refused("experiment", plan(), "--adopt", tmp_path / "none", *out)
    assert "is no run folder and holds none" in said
    said = refused("experiment", plan(changes={"data.path": "none"}, test={"a": "all"}), *out)
    assert "none: no such file" in said
