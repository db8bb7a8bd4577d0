"""Shared by all tests: shape checks of every public signature, and the folder of real data."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Benchmarks are no package: their scripts import each other by name, and so do their tests.
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "peers")]

# Test processes run side by side: more threads each would only fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

install_import_hook("sonodetr", "beartype.beartype").__enter__()

# They hold no examples, and pytest, looking for some, would take one folder's for another's.
collect_ignore_glob = ["*conftest.py"]

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


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """The last line on standard output of a command that must succeed, as JSON."""

    from sonodetr.cli import run

    def ask(*words: object) -> dict:
        assert run([*map(str, words), "--json", "-"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return ask


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line on standard error of a command that must be refused."""

    from sonodetr.cli import run

    def ask(*words: object) -> str:
        assert run([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"sonodetr: error: .+\n", err), err
        return err

    return ask


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a very small model that never learned anything; copy it before a change."""
    import torch

    from sonodetr.config_file import dump_config, parse_config
    from sonodetr.files import write_text
    from sonodetr.model.detr import DETR
    from sonodetr.training.run import RunInfo, provenance, save_info, save_weights

    shape = {
        "backbone": {"width": 16, "depths": [1, 1, 1, 1], "stride": 16},
        **{"hidden_dim": 16, "num_heads": 2, "feedforward_dim": 19, "num_queries": 7},
        **{"encoder_layers": 1, "decoder_layers": 1},
    }
    config = parse_config({"data": {"image_size": [64, 96]}, "model": shape})
    folder = tmp_path_factory.mktemp("run") / "tiny"
    torch.manual_seed(3)
    write_text(folder / "config.yaml", dump_config(config))
    save_weights(folder / "model.safetensors", DETR(config.model, 2).state_dict())
    facts = RunInfo(
        classes=("nerve", "vessel"), threshold=0.01, step=0, validation={}, provenance=provenance(0)
    )
    save_info(folder, facts)
    return folder


@pytest.fixture(scope="session")
def tiny_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of 13 noisy frames of 70 x 98 pixels at 17 Hz."""
    import numpy as np

    from sonodetr.sinks import overlay_video
    from sonodetr.types import Detections, Frame

    path = tmp_path_factory.mktemp("video") / "tiny.mp4"
    nothing = Detections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, int), ()
    )
    random = np.random.default_rng(5)
    with overlay_video(path, 17.0) as write:
        for index in range(13):
            pixels = random.integers(30, 250, (70, 98), np.uint8)
            write(Frame(pixels, index, index / 17), nothing)
    return path


@pytest.fixture(scope="session")
def tiny_training(tmp_path_factory: pytest.TempPathFactory, tiny_run: Path) -> Path:
    """A config that trains a very small model for 2 epochs on 13 noisy stills, each with a box."""
    import cv2
    import numpy as np
    import yaml

    folder = tmp_path_factory.mktemp("training")
    random = np.random.default_rng(11)
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "nerve"}]}
    for number in range(13):
        picture = random.integers(0, 90, (61, 67), np.uint8)
        x, y = random.integers(3, 37, 2).tolist()
        picture[y : y + 17, x : x + 19] += 120
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        size = {"height": 61, "width": 67}
        document["images"].append({"id": number, "file_name": f"{number}.png", **size})
        box = {"bbox": [x, y, 19, 17], "area": 323, "iscrowd": 0}
        document["annotations"].append(
            {"id": number + 1, "image_id": number, "category_id": 1, **box}
        )
    (folder / "coco.json").write_text(json.dumps(document))
    config = yaml.safe_load((tiny_run / "config.yaml").read_text())
    config["data"] |= {"path": str(folder / "coco.json"), "image_size": [64, 64]}
    config["data"]["split"] |= {"validation_fraction": 0.3, "similarity": 1.0}
    config["train"] |= {"epochs": 2, "batch_size": 3, "workers": 0, "validate_epochs": 1}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config | {"name": "tiny"}))
    return folder / "tiny.yaml"
