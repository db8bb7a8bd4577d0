"""Shared by all tests: shape checks of every public signature, and the folder of real data."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("sonodetr", "beartype.beartype").__enter__()

REPOSITORY = Path(__file__).parent.parent
DATA = Path(os.environ.get("SONODETR_DATA") or REPOSITORY.parent / "shared" / "data").resolve()


@pytest.fixture
def data_folder() -> Callable[[str], Path]:
    """A folder of real data by name; the test is skipped where it is absent (docs/data.md)."""

    def find(name: str) -> Path:
        folder = DATA / name
        if not folder.is_dir():
            pytest.skip(f"no real data: {folder} is absent; set SONODETR_DATA (docs/data.md)")
        return folder

    return find
