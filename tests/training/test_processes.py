"""Two processes train together on the CPU (gloo); with several GPUs the code is the same."""

import os
import socket

import pytest
import torch
from conftest import contents
from safetensors.torch import load_file, save_file

from sonodetr.training import fit, validate
from sonodetr.training.fit import Trainer


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


def keeping_weights(folder, step):
    """Each process stores its weights, averaged weights and gradients at `step`."""

    def change():
        count = Trainer._count

        def call(self, values):
            count(self, values)
            if self.progress.step == step:
                tensors = {f"model.{k}": v for k, v in self.plain_model.state_dict().items()}
                tensors |= {f"gradient.{k}": v.grad for k, v in self.plain_model.named_parameters()}
                tensors |= {f"value.{k}": torch.tensor(v) for k, v in values.items()}
                tensors = {k: v.contiguous().clone() for k, v in tensors.items()}
                save_file(tensors, folder / f"rank{self.rank}.safetensors")

        Trainer._count = call

    return change


def test_both_have_the_same_weights_and_evaluate_every_frame_once(pair, tiny, tmp_path):
    def change():
        keeping_weights(tmp_path, 4)()
        match = fit.match

        def checked(videos, detections, frames):
            assert set(detections) == {(videos[v].key, f) for v, f in frames}
            return match(videos, detections, frames)

        fit.match = checked
        gather = validate.gather_object

        def counted(found):
            everything = gather(found)
            assert len(everything) == 3
            return everything

        validate.gather_object = counted

    config = tiny(train={"batch_size": 1, "workers": 1})
    codes, said = pair(config, tmp_path, before=change)
    assert codes == [0, 0], said
    assert "2 processes" in said[0]
    assert said[1] == ""
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in "01")
    statistics = ("running_mean", "running_var")  # each process has its own until the next step
    for name, tensor in first.items():
        if not name.endswith(statistics):
            assert torch.equal(tensor, second[name]), name


def test_gradient_equals_that_of_one_process(pair, start, tiny, tmp_path):
    # A frozen backbone takes its batch norm's stored statistics; no dropout.
    shape = {"dropout": 0.0}
    joint = tiny(model=shape, train={"batch_size": 4, "backbone_rate": 0, "epochs": 1}, name="one")
    apart = tiny(model=shape, train={"batch_size": 2, "backbone_rate": 0, "epochs": 1}, name="two")

    def change():
        build = fit.build_optimizer

        def with_gradients(model, config):
            optimizer = build(model, config)
            for parameter in model.backbone.parameters():
                parameter.grad = torch.zeros_like(parameter)
            return optimizer

        fit.build_optimizer = with_gradients
        (tmp_path / str(os.environ.get("WORLD_SIZE", "1"))).mkdir(exist_ok=True)
        keeping_weights(tmp_path / str(os.environ.get("WORLD_SIZE", "1")), 1)()

    one = start(joint, tmp_path, before=change)
    assert one.wait() == 0, one.said()
    codes, said = pair(apart, tmp_path, before=change)
    assert codes == [0, 0], said
    whole = load_file(tmp_path / "1" / "rank0.safetensors")
    half = load_file(tmp_path / "2" / "rank1.safetensors")
    for name, tensor in whole.items():
        if name.startswith(("gradient.", "value.")):
            torch.testing.assert_close(half[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert whole["value.loss"] > 1


def test_a_killed_pair_continues_to_the_same_bits(pair, start, tiny, tmp_path):
    from test_resume import dying_at

    config = tiny(train={"batch_size": 1})
    assert pair(config, tmp_path / "through")[0] == [0, 0]
    codes, said = pair(config, tmp_path / "killed", before=dying_at(4))
    assert codes == [-9, -9], said
    alone = start(config, tmp_path / "killed", resume=True)
    assert alone.wait() == 2
    assert "trained by 2 processes and can only be continued by as many" in alone.said()
    codes, said = pair(config, tmp_path / "killed", resume=True)
    assert codes == [0, 0], said
    assert contents(tmp_path / "killed" / "tiny") == contents(tmp_path / "through" / "tiny")
