"""A dozen small stills, a config that trains on them in seconds, trainings in other processes."""

import os
import signal
from contextlib import suppress

import pytest
from processes import Run
from stills import write_stills

from sonodetr.config import parse_config


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
