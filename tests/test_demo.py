import json

import pytest

from sonodetr import demo
from sonodetr.cli import run
from sonodetr.config import Config
from sonodetr.simulator import datasets


@pytest.fixture
def tiny(monkeypatch):
    """The demo's data set and training, as small as they can be."""
    parts = {
        name: settings.model_copy(update={"clips": 2, "frames": 2, "empty": 0.0})
        for name, settings in datasets.DEMO.items()
    }
    monkeypatch.setitem(datasets.DATA_SETS, "demo", parts)
    whole = demo.demo_config

    def small(data):
        config = whole(data).model_dump()
        config["model"]["backbone"] = {"name": "compact", "width": 8}
        config["train"].update(epochs=1, batch_size=2, workers=0, validate_epochs=1)
        config["data"]["image_size"] = (64, 64)
        return Config(**config)

    monkeypatch.setattr(demo, "demo_config", small)
    monkeypatch.setattr(demo, "_LIVE_SECONDS", 0.5)


def test_demo_ends_in_a_page_and_goes_on_where_it_was(tiny, tmp_path, capfd, monkeypatch):
    opened = []
    monkeypatch.setattr(demo.webbrowser, "open", opened.append)
    words = ["demo", "--out", str(tmp_path), "--no-browser", "--json", "-"]
    assert run(words) == 0
    result = json.loads(capfd.readouterr().out)
    page = tmp_path / "report.html"
    assert result["page"] == str(page)
    assert set(result["figures"]) == set(demo._FIGURES.values())
    text = page.read_text(encoding="utf-8")
    assert "2 simulated recordings" in text
    assert text.count("data:image/png") == 2
    assert text.count("data:video/mp4") == 1
    weights = tmp_path / "runs" / "demo" / "last.safetensors"
    before = weights.stat().st_mtime_ns
    assert run(words[:-2][:3]) == 0  # this time with the browser
    assert weights.stat().st_mtime_ns == before
    assert opened == [page.resolve().as_uri()]
