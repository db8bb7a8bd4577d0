"""A dozen small stills, a config that trains on them in seconds, trainings in other processes."""

import os
import signal
from contextlib import suppress

import pytest
import torch
from processes import Run
from stills import write_stills

from sonodetr.config_file import dump_config, parse_config
from sonodetr.files import write_text
from sonodetr.model.detr import DETR
from sonodetr.training.run import RunInfo, provenance, save_info, save_weights


@pytest.fixture(scope="session")
def stills(tmp_path_factory):
    return write_stills(tmp_path_factory.mktemp("stills"))


@pytest.fixture
def tiny(stills):
    """Makes a config; keywords change sections: tiny(train={"epochs": 2}, seed=3)."""

    def make(*, data=(), model=(), train=(), **top):
        values = {
            "name": "tiny",
            "data": {
                "path": str(stills),
                "image_size": [64, 64],
                "split": {"validation_fraction": 0.3, "similarity": 1.0},
                **dict(data),
            },
            "model": {
                "backbone": {"width": 8, "depths": [1, 1, 1, 1]},
                "hidden_dim": 16,
                "num_heads": 2,
                "encoder_layers": 1,
                "decoder_layers": 2,
                "feedforward_dim": 32,
                "dropout": 0.1,
                "num_queries": 5,
                "query_groups": 2,
                **dict(model),
            },
            "train": {
                "epochs": 3,
                "batch_size": 2,
                "learning_rate": 2e-3,
                "warmup_steps": 2,
                "validate_epochs": 1,
                "workers": 0,
                "checkpoint_seconds": 0,
                **dict(train),
            },
            **top,
        }
        return parse_config(values)

    return make


@pytest.fixture
def teacher(tiny, tmp_path):
    """Makes the folder of a wider model that never learnt anything."""

    def make(*, classes=("nerve", "vessel"), seed=3, data=(), **model):
        shape = {"hidden_dim": 32, "num_heads": 4, "encoder_layers": 2, "dropout": 0.0, **model}
        config = tiny(name="teacher", model=shape, data=data)
        folder = tmp_path / "teacher"
        folder.mkdir(exist_ok=True)
        torch.manual_seed(seed)
        write_text(folder / "config.yaml", dump_config(config))
        weights = DETR(config.model, len(classes)).state_dict()
        save_weights(folder / "model.safetensors", weights)
        facts = {"threshold": 0.01, "step": 0, "validation": {}, "provenance": provenance(0)}
        save_info(folder, RunInfo(classes=classes, **facts))
        return str(folder)

    return make


@pytest.fixture
def start(tmp_path):
    """Starts a training of its own: start(config, out, resume=True, changes=[partial(...)])."""
    runs = []

    def begin(config, out, *, resume=False, changes=(), **environment):
        said = tmp_path / f"said{len(runs)}.txt"
        runs.append(Run(said, config, out, resume, changes, environment))
        return runs[-1]

    yield begin
    for begun in runs:
        with suppress(ProcessLookupError):
            os.killpg(begun.process.pid, signal.SIGKILL)  # with its workers
