import numpy as np
import pytest
import torch
from live_parts import predictor

from sonodetr.predictor import load
from sonodetr.stream.attention import attention_of
from sonodetr.types import Frame, Region


def test_only_a_model_in_torch_tells(tiny_run):
    assert attention_of(predictor()) is None
    assert attention_of(load(tiny_run)).span == 1


def test_attention_lies_on_the_frame(tiny_run):
    """The tiny model sees 64 x 96 pixels in 4 x 6 tokens."""
    model = load(tiny_run)
    attend = attention_of(model)
    pixels = np.random.default_rng(3).integers(0, 255, (70, 98), np.uint8)
    # 48 x 64 pixels of it, half as large again in the input: 96 x 72, so it is 64 high and 85 1/3
    # wide, with bars of 5 1/3 left and right, which are 4 pixels of the frame.
    frame = Frame(pixels, region_px=Region(20, 10, 84, 58))
    found = attend([frame], 52.0, 34.0)
    assert found.weights.shape == (4, 6)
    np.testing.assert_allclose(found.weights.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(found.box_xyxy_px, [16, 10, 88, 58], atol=1e-4)
    assert found.point_px == (52.0, 34.0)
    # The token under a point: 52, 34 is the middle of the input, at the corner of four tokens.
    seen = model.see(frame).kept
    rows = {
        (x_px, y_px): attend([frame], x_px, y_px).weights
        for x_px, y_px in ((53.0, 35.0), (51.0, 35.0), (53.0, 33.0), (0.0, 0.0), (1e9, -1e9))
    }
    for (x_px, y_px), (column, row) in zip(
        rows, ((3, 2), (2, 2), (3, 1), (0, 0), (5, 0)), strict=True
    ):
        expected = model.engine.attention([seen], (column + 0.5) / 6, (row + 0.5) / 4)
        np.testing.assert_array_equal(rows[x_px, y_px], expected)


def test_frames_of_a_clip(tiny_run, monkeypatch):
    """Of the last 5 frames every other one; the oldest is repeated where there are fewer."""
    model = load(tiny_run)
    model.interface = model.interface.__class__(
        **{name: getattr(model.interface, name) for name in model.interface.__dataclass_fields__}
        | {"clip_frames": 3, "clip_step": 2}
    )
    seen = []
    monkeypatch.setattr(
        model.engine,
        "attention",
        lambda clip, x, y: (
            seen.append([int(each.max()) for each in clip]) or np.zeros((4, 6), np.float32)
        ),
    )
    attend = attention_of(model)
    assert attend.span == 5
    frames = [Frame(np.full((64, 96), 10 + index, np.uint8), index) for index in range(5)]
    attend(frames, 1.0, 1.0)
    attend(frames[:3], 1.0, 1.0)
    assert seen == [[10, 12, 14], [10, 10, 12]]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
