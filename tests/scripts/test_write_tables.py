"""What README and docs say of results is what the committed results say."""

import pytest
import write_tables


@pytest.mark.parametrize("page", write_tables.PAGES, ids=lambda page: page.name)
def test_tables_are_those_of_the_results(page):
    text = page.read_text(encoding="utf-8")
    assert write_tables.filled(text) == text, "run: python scripts/write_tables.py"


def test_a_block_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(write_tables, "answer", lambda results: ["It pays.", results["name"]])
    monkeypatch.setattr(write_tables, "ROOT", tmp_path)
    (tmp_path / "results.json").write_text('{"name": "Yes."}')
    page = "Before.\n<!-- answer results.json -->\nold\n<!-- end -->\nAfter.\n"
    assert write_tables.filled(page) == page.replace("old", "It pays. Yes.")
