"""Exported folders, made once for all tests."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from random_runs import KINDS, config_of, save_huggingface, write_run

from sonodetr.export import convert
from sonodetr.export.convert import export_model

Exported = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Run folder and exported folder of a kind; made once."""
    folder = tmp_path_factory.mktemp("exported")
    kept, trace = {}, convert._to_onnx

    def traced(graph):
        """The same model for two formats is traced once, since that takes seconds."""
        key = (
            graph.example.shape,
            graph.outputs,
            [p.sum().item() for p in graph.module.parameters()],
        )
        if str(key) not in kept:
            kept[str(key)] = trace(graph)
        return copy.deepcopy(kept[str(key)])

    def make(kind: str) -> tuple[Path, Path]:
        run, out = folder / "runs" / kind, folder / kind
        if not out.exists():
            format, backbone, model, data = KINDS[kind]
            if kind == "mixing":
                backbone = backbone | save_huggingface(folder / "huggingface")
            config = config_of(backbone, model, **data)
            write_run(run, config, {"train": {"a": [0]}, "validation": {}, "test": {}})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(convert, "_to_onnx", traced)
                export_model(run, out, format=format)
        return run, out

    return make


@pytest.fixture
def ready(exported, monkeypatch):
    """A run folder whose graphs need not be traced again."""
    folder, out = exported("compact-onnx")

    def write(model, config, folder, format):
        shutil.copyfile(out / "detect.onnx", folder / "detect.onnx")
        return {"detect": "detect.onnx"}

    monkeypatch.setattr(convert, "_write_graphs", write)
    return folder
