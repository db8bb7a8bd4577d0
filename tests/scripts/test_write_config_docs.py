"""docs/config.md names every key as it is."""

from pathlib import Path

import write_config_docs


def test_the_page_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "config.md"
    expected = write_config_docs.document()
    assert page.read_text() == expected, "run: python scripts/write_config_docs.py"
    assert "`data.split.test_fold`" in expected
