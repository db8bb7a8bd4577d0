import numpy as np
import pytest
import torch

from sonodetr.engines.torch import TorchEngine, interface_of, open_run
from sonodetr.files import InputError
from sonodetr.model.decode import decode
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
