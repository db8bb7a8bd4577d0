import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sonodetr.config import ModelConfig
from sonodetr.engines.torch import TorchEngine, interface_of, open_run
from sonodetr.export.convert import export_model
from sonodetr.files import InputError, read_json, write_json
from sonodetr.model.decode import decode
from sonodetr.model.detr import DETR, Capture
from sonodetr.training.run import load_run


def test_a_run_folder(tiny_run):
    engine, interface = open_run(tiny_run)
    model, config, info = load_run(tiny_run)
    assert interface == interface_of(config, info)
    assert interface.image_size == (64, 96)
    assert (interface.channels, interface.clip_frames, interface.clip_step) == (1, 1, 1)
    assert (interface.region, interface.points) == ("auto", False)
    assert interface.classes == ("nerve", "vessel")
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 1), np.uint8)
    assert engine.see(picture) is picture
    answer = engine.detect([picture])
    with torch.no_grad():
        images = torch.from_numpy(picture[..., 0])[None, None, None].float() / 255
        scores, classes, boxes, points = decode(model(images), "focal")
    np.testing.assert_array_equal(answer.scores, scores[0])
    np.testing.assert_array_equal(answer.classes, classes[0])
    np.testing.assert_array_equal(answer.boxes_cxcywh, boxes[0])
    assert answer.points is points is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(tiny_run, tmp_path, value):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    weights = load_file(run / "model.safetensors")
    name = next(name for name in weights if name.endswith("weight"))
    weights[name].view(-1)[3] = value
    save_file(weights, run / "model.safetensors")
    with pytest.raises(
        InputError, match=rf"model\.safetensors: {re.escape(name)} is not all finite"
    ):
        open_run(run)
    with pytest.raises(InputError, match="is not all finite"):
        export_model(run, tmp_path / "out")


@pytest.mark.parametrize("threshold", [-1, 2])
def test_a_threshold_that_is_no_score(tiny_run, tmp_path, threshold):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    write_json(run / "run.json", read_json(run / "run.json") | {"threshold": threshold})
    with pytest.raises(InputError, match=f"the threshold {threshold}.* but only 0 to 1"):
        open_run(run)


def test_threads(tiny_run):
    before = torch.get_num_threads()
    try:
        open_run(tiny_run, threads=3)
        assert torch.get_num_threads() == 3
        open_run(tiny_run)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_device_that_is_not_there(tiny_run):
    model, *_ = load_run(tiny_run)
    with pytest.raises(InputError, match="device 'cuda:77' cannot be used"):
        TorchEngine(model, "cuda:77")


def clip_engine(**shape):
    """Three frames of 64 x 96 pixels a clip, on a grid of 4 x 6 tokens each."""
    backbone = {"width": 16, "depths": (1, 1, 1, 1), "stride": 16}
    named = {"hidden_dim": 16, "num_heads": 2, "feedforward_dim": 19, "num_queries": 7}
    config = ModelConfig(**{"backbone": backbone, **named, "decoder_layers": 1, **shape})
    torch.manual_seed(3)
    return TorchEngine(DETR(config, 2))


def clip(frames):
    return list(np.random.default_rng(1).integers(0, 255, (frames, 64, 96, 1), np.uint8))


def test_attention_is_a_row_of_the_last_layer():
    engine, pictures = clip_engine(encoder_layers=2), clip(3)
    weights = engine.attention(pictures, 4.5 / 6, 2.5 / 4)  # the middle of row 2, column 4
    images = torch.from_numpy(np.stack(pictures)[None, ..., 0])[:, None].float() / 255
    with torch.no_grad():
        maps = engine.model(images, Capture(encoder=(1,))).attention.encoder[1]
    assert maps.shape == (1, 2, 72, 72)
    row = maps[0].mean(0)[2 * 24 + 2 * 6 + 4]
    np.testing.assert_allclose(row.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(weights, row[48:].view(4, 6), rtol=1e-5)


def test_attention_beyond_the_picture_is_that_of_its_edge():
    engine, pictures = clip_engine(encoder_layers=1), clip(1)
    edge = engine.attention(pictures, 0.999, 0.0)
    np.testing.assert_array_equal(engine.attention(pictures, 7.0, -2.0), edge)
    np.testing.assert_array_equal(engine.attention(pictures, 1.0, 0.0), edge)
    np.testing.assert_allclose(edge.sum(), 1, rtol=1e-5)


def test_no_attention_without_an_encoder():
    engine = clip_engine(encoder_layers=0)
    assert not engine.attends
    with pytest.raises(InputError, match="no encoder layers"):
        engine.attention(clip(1), 0.5, 0.5)
