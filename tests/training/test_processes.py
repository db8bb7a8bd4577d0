"""Two processes train together on the CPU (gloo); with several GPUs the code is the same."""

import json
import os
import socket
import subprocess
import sys
from functools import partial

import pytest
import torch
from processes import (
    contents,
    count_detections,
    die_after,
    keep_state,
    keep_statistics_of_proposals,
)
from safetensors.torch import load_file
from stills import write_stills

from sonodetr.config_file import dump_config
from sonodetr.training.data import open_data


@pytest.fixture
def pair(start):
    """Starts both processes of a training; waits for them."""

    def begin(config, out, **options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        runs = [start(config, out, **options, RANK=rank, LOCAL_RANK=rank, **place) for rank in "01"]
        return [run.wait() for run in runs], [run.said() for run in runs]

    return begin


def test_both_have_the_same_weights_and_evaluate_every_frame_once(pair, tiny, tmp_path):
    config = tiny(train={"batch_size": 1, "workers": 1})
    changes = [partial(keep_state, tmp_path, 4), partial(count_detections, 3)]
    codes, said = pair(config, tmp_path, changes=changes)
    assert codes == [0, 0], said
    assert "in 2 processes" in said[0]
    assert said[1] == ""
    first, second = (load_file(tmp_path / f"2-{rank}.safetensors") for rank in "01")
    statistics = ("running_mean", "running_var")  # each process has its own until the next step
    for name, tensor in first.items():
        if not name.endswith(statistics):
            assert torch.equal(tensor, second[name]), name


def test_proposals_in_a_pair(pair, tiny, tmp_path):
    """One clip a process, some without objects: all parameters take part all the same."""
    path = write_stills(tmp_path)
    document = json.loads(path.read_text())
    kept = [label for label in document["annotations"] if label["image_id"] not in (1, 2, 3, 8)]
    path.write_text(json.dumps(document | {"annotations": kept}))
    config = tiny(data={"path": str(path)}, model={"points": True}, train={"batch_size": 1})
    data = open_data(config)
    labels = [data.videos[video].labels[frame] for video, frame in data.split.train]
    assert sorted(len(each.classes) for each in labels) == [0, 0, 1, 1, 2]
    codes, said = pair(config, tmp_path, changes=[partial(keep_state, tmp_path, 6)])
    assert codes == [0, 0], said
    first, second = (load_file(tmp_path / f"2-{rank}.safetensors") for rank in "01")
    for name, tensor in first.items():
        if not name.endswith(("running_mean", "running_var")):
            assert torch.equal(tensor, second[name]), name


def test_gradient_equals_that_of_one_process(pair, start, tiny, tmp_path):
    # A frozen backbone takes its batch norm's stored statistics, and nothing is dropped.
    shape, changes = {"dropout": 0.0}, [partial(keep_state, tmp_path, 1)]
    changes.append(keep_statistics_of_proposals)
    train = {"backbone_rate": 0.0, "epochs": 1}
    one = start(
        tiny(model=shape, train={"batch_size": 4, **train}, name="one"), tmp_path, changes=changes
    )
    assert one.wait() == 0, one.said()
    apart = tiny(model=shape, train={"batch_size": 2, **train}, name="two")
    codes, said = pair(apart, tmp_path, changes=changes)
    assert codes == [0, 0], said
    whole = load_file(tmp_path / "1-0.safetensors")
    half = load_file(tmp_path / "2-1.safetensors")
    compared = [name for name in whole if name.startswith(("gradient.", "value."))]
    assert len(compared) > 40
    for name in compared:
        torch.testing.assert_close(half[name], whole[name], rtol=1e-4, atol=1e-6, msg=name)
    assert whole["value.loss"] > 1


def test_a_killed_pair_continues_to_the_same_bits(pair, start, tiny, tmp_path):
    config = tiny(train={"batch_size": 1})
    assert pair(config, tmp_path / "through")[0] == [0, 0]
    codes, said = pair(config, tmp_path / "killed", changes=[partial(die_after, 4)])
    assert codes == [-9, -9], said
    alone = start(config, tmp_path / "killed", resume=True)
    assert alone.wait() == 2
    assert "trained by 2 processes and can only be continued by as many" in alone.said()
    codes, said = pair(config, tmp_path / "killed", resume=True)
    assert codes == [0, 0], said
    assert contents(tmp_path / "killed" / "tiny") == contents(tmp_path / "through" / "tiny")


def test_two_processes_distil(pair, tiny, teacher, tmp_path):
    """One of them fills the cache; parts that only distillation has stay equal too."""
    weight = {"weight": 1.0}
    distill = dict.fromkeys(("encoder", "decoder", "cross", "detections", "memory"), weight)
    distill |= {"encoder": {"weight": 1.0, "until": 0.5}, "cache": str(tmp_path / "cache")}
    data = {"augment": {"views": 2}}
    config = tiny(distill={"teacher": teacher(), **distill}, data=data, train={"batch_size": 1})
    codes, said = pair(config, tmp_path, changes=[partial(keep_state, tmp_path, 4)])
    assert codes == [0, 0], said
    first, second = (load_file(tmp_path / f"2-{rank}.safetensors") for rank in "01")
    assert any("training_only" in name for name in first)
    for name, tensor in first.items():
        if not name.endswith(("running_mean", "running_var")):
            assert torch.equal(tensor, second[name]), name


def test_torchrun(tiny, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(dump_config(tiny(train={"epochs": 1, "batch_size": 1})))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "sonodetr", "train", str(config), "--out", str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "in 2 processes" in done.stderr
    assert "epoch 1 of 1" in done.stderr
    assert (tmp_path / "tiny" / "last.safetensors").is_file()
