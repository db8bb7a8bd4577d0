import json

import pytest

from sonodetr import demo
from sonodetr.cli import run
from sonodetr.simulator import datasets
from sonodetr.verbs import demo as verb


@pytest.fixture
def tiny(monkeypatch):
    """The demo's data set and trainings, as small as they can be."""
    parts = {
        name: settings.model_copy(update={"clips": 2, "frames": 2, "empty": 0.0})
        for name, settings in datasets.DEMO.items()
    }
    monkeypatch.setitem(datasets.DATA_SETS, "demo", parts)
    whole = demo.demo_plan

    def small(data):
        plan = whole(data).model_dump()
        quick = {
            "data.image_size": [64, 64],
            "model.backbone.name": "compact",
            "model.backbone.width": 8,
            "model.backbone.pretrained": False,
            "train.epochs": 1,
            "train.batch_size": 2,
            "train.workers": 0,
            "train.validate_epochs": 1,
        }
        plan["changes"].update(quick)
        plan["teachers"]["tiny"]["changes"] |= quick
        return demo.Plan(**plan)

    monkeypatch.setattr(demo, "demo_plan", small)
    monkeypatch.setattr(demo, "_SECONDS", 0.5)


def test_demo_ends_in_a_page_and_goes_on_where_it_was(tiny, tmp_path, capfd, monkeypatch):
    seen = []
    monkeypatch.setattr(verb.webbrowser, "open", seen.append)
    monkeypatch.setattr(verb, "_has_screen", lambda: True)
    monkeypatch.setattr(verb, "live", lambda model, source, open_page: seen.append((model, source)))
    words = ["demo", "--out", str(tmp_path), "--json", "-"]
    assert run([*words, "--no-browser"]) == 0
    assert not seen
    result = json.loads(capfd.readouterr().out)
    page = tmp_path / "report.html"
    assert result["page"] == str(page)
    (compared,) = (each for each in result["comparisons"] if each["against"] == "plain")
    assert compared["method"] == "distilled"
    text = page.read_text(encoding="utf-8")
    assert "Does a teacher help" in text
    assert text.count("data:video/mp4") == 1
    assert (tmp_path / "live.mp4").stat().st_size > 0
    assert (tmp_path / "exported" / "contract.json").is_file()
    weights = sorted(tmp_path.glob("runs/runs/*/last.safetensors"))
    before = [path.stat().st_mtime_ns for path in weights]
    assert len(before) == 3
    assert run(words) == 0
    assert [path.stat().st_mtime_ns for path in weights] == before
    assert seen == [page.resolve().as_uri(), ("nano", demo.NEW_RECORDING)]


def test_a_screen_needs_a_display_on_linux(monkeypatch):
    monkeypatch.setattr(verb.sys, "platform", "linux")
    monkeypatch.setattr(verb.webbrowser, "get", object)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not verb._has_screen()
    monkeypatch.setenv("DISPLAY", ":0")
    assert verb._has_screen()
    monkeypatch.setattr(verb.webbrowser, "get", _no_browser)
    assert not verb._has_screen()


def _no_browser():
    raise verb.webbrowser.Error("could not locate runnable browser")
