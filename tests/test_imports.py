"""What is loaded when, and that every public name is there."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from exported import write_exported

import sonodetr

LIGHT = ["", "cli", "config", "contract", "draw", "engines", "files", "formats", "geometry"]
LIGHT += ["predictor", "shapes", "types"]
LIGHT += [f"stream.{name}" for name in ("pipeline", "sources", "sinks", "track", "viewer")]
LIGHT += ["stream.openigtlink"]


@pytest.mark.parametrize("module", LIGHT)
def test_no_torch(module):
    """The live process, and whoever only reads data, never wait for torch."""
    name = f"sonodetr.{module}".rstrip(".")
    code = f"import sys, {name}; print({{'torch', 'transformers', 'pydicom'}} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "set()\n"


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_exported_model_runs_without_heavy_packages(runtime, tmp_path):
    folder = write_exported(tmp_path / "a", runtime, 2, two_graphs=True)
    code = f"""
import sys, numpy, sonodetr
model = sonodetr.load({str(folder)!r})
(found,) = model.predict([numpy.full((70, 90), 99, numpy.uint8)], threshold=0.0)
heavy = {{"torch", "transformers", "pydantic", "scipy", "av", "jaxtyping", "yaml", "PIL", "typer"}}
print(len(found), heavy & set(sys.modules))
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "2 set()\n"


def test_public_names():
    assert set(sonodetr.__all__) <= set(dir(sonodetr))
    for name in sonodetr.__all__:
        assert getattr(sonodetr, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = sonodetr.nonsense


def test_every_module_says_what_it_is_for():
    root = Path(sonodetr.__file__).parent
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[-1] != "__main__" and path.read_text().strip():
            name = ".".join(("sonodetr", *(part for part in parts if part != "__init__")))
            assert import_module(name).__doc__, name


def test_as_a_module():
    command = [sys.executable, "-m", "sonodetr", "--version"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout == f"sonodetr {sonodetr.__version__}\n"
