"""Position encodings and the boxes' bias against hand-worked values and DETR's own encoding."""

import math

import pytest
import torch

from sonodetr.model.position import (
    BoxFocus,
    Perceptron,
    box_positions,
    grid_positions,
    logit,
    sine,
)
from sonodetr.model.tensors import Grid


def test_sine_by_hand() -> None:
    """Four features have the wavelengths 1 and 100."""
    slow = 2 * math.pi * 0.25 / 100
    expected = torch.tensor([[1.0, 0.0, math.sin(slow), math.cos(slow)]])
    torch.testing.assert_close(sine(torch.tensor([0.25]), 4), expected)


def test_grid_equals_published_detr() -> None:
    module = pytest.importorskip("transformers.models.detr.modeling_detr")
    theirs = module.DetrSinePositionEmbedding(22, normalize=True)
    mask = torch.ones(1, 5, 7, dtype=torch.bool)
    expected = theirs((1, 44, 5, 7), torch.device("cpu"), torch.float32, mask)
    given = grid_positions(Grid(1, 5, 7), 44)
    torch.testing.assert_close(given, expected.flatten(2).transpose(1, 2), atol=1e-6, rtol=0)


def test_frames_lie_on_the_same_places_and_add_their_age() -> None:
    clip, frame = grid_positions(Grid(3, 2, 5), 8), grid_positions(Grid(1, 2, 5), 8)
    added = (clip - frame.repeat(1, 3, 1)).unflatten(1, (3, 10))
    assert torch.equal(clip[:, -10:], frame)  # the last frame is where a single picture is
    for age, of_frame in zip((2, 1), added[0], strict=False):
        slow = age / 100  # four features of a half have the frequencies 1 and 1/100
        half = [math.cos(slow) - 1, math.sin(slow), math.cos(age) - 1, math.sin(age)]
        torch.testing.assert_close(of_frame, torch.tensor([half + half]).expand(10, -1))


def test_ages_differ_and_leave_the_places_apart() -> None:
    """Every token of a long clip is told from all others, by far more than rounding."""
    positions = grid_positions(Grid(17, 11, 13), 64)[0]
    distances = torch.cdist(positions, positions) + 9 * torch.eye(len(positions))
    assert distances.min() > 0.5


def test_box_positions_are_four_sines() -> None:
    boxes = torch.tensor([[[0.1, 0.2, 0.3, 0.7], [0.9, 0.8, 0.5, 0.6]]])
    given = box_positions(boxes, 24)
    assert given.shape == (1, 2, 24)
    for part in range(4):
        expected = sine(boxes[..., part], 6)
        torch.testing.assert_close(given[..., 6 * part : 6 * part + 6], expected)


def test_box_focus_by_hand() -> None:
    """A new one looks half-way between the box's centre and its right, lower, left, upper edge."""
    focus = BoxFocus(13, 4)
    box = torch.tensor([[[0.5, 0.25, 0.4, 0.2]]])
    bias = focus(torch.randn(1, 1, 13), box, Grid(1, 2, 5)).detach()[0, :, 0]
    columns, rows = [0.1, 0.3, 0.5, 0.7, 0.9], [0.25, 0.75]
    spots = [(0.6, 0.25), (0.5, 0.3), (0.4, 0.25), (0.5, 0.2)]
    sigma_x, sigma_y = 0.2 + 0.1, 0.1 + 0.25  # half the box and half a cell
    expected = [
        [-(((x - a) / sigma_x) ** 2 + ((y - b) / sigma_y) ** 2) / 2 for y in rows for x in columns]
        for a, b in spots
    ]
    torch.testing.assert_close(bias, torch.tensor(expected))


def test_box_focus_moves_and_widens_with_the_content() -> None:
    focus = BoxFocus(2, 1)
    torch.nn.init.zeros_(focus.spots.bias)
    with torch.no_grad():
        focus.spots.weight.copy_(torch.tensor([[1.0, 0], [0, 0], [0, 1], [0, 0]]))
    box = torch.tensor([[[0.5, 0.5, 0.4, 0.2]]])
    # Content (-1, ln 2): the spot lies on the left edge, 0.3, and twice as wide across.
    bias = focus(torch.tensor([[[-1.0, math.log(2)]]]), box, Grid(1, 1, 5)).flatten()
    expected = [-(((x - 0.3) / (0.2 * 2 + 0.1)) ** 2) / 2 for x in (0.1, 0.3, 0.5, 0.7, 0.9)]
    torch.testing.assert_close(bias, torch.tensor(expected))


def test_box_focus_repeats_over_time_and_stays_finite() -> None:
    torch.manual_seed(0)
    focus = BoxFocus(13, 3)
    torch.nn.init.normal_(focus.spots.weight)
    boxes = torch.rand(2, 5, 4)
    still = focus(torch.randn(2, 5, 13), boxes, Grid(1, 3, 7))
    assert still.shape == (2, 3, 5, 21)
    assert (still <= 0).all()
    content = 1e6 * torch.randn(2, 5, 13)
    content[0] = 0
    clip = focus(content, boxes * torch.tensor([1, 1, 0, 0]), Grid(2, 3, 7))
    assert torch.equal(clip[..., :21], clip[..., 21:])
    assert clip.isfinite().all()


def test_perceptron_has_no_relu_at_the_end() -> None:
    network = Perceptron(1, 1, 1)
    assert [type(layer).__name__ for layer in network] == ["Linear", "ReLU", "Linear"]
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, -2.0)
    # -2 relu(-2 x - 2) - 2
    assert network(torch.tensor([[-3.0], [3.0]])).tolist() == [[-10.0], [-2.0]]


def test_logit_undoes_the_sigmoid_and_is_finite() -> None:
    values = torch.tensor([0.001, 0.3, 0.5, 0.999])
    torch.testing.assert_close(logit(values).sigmoid(), values)
    edge = math.log(0.9999 / 0.0001)
    torch.testing.assert_close(
        logit(torch.tensor([0.0, 1.0])), torch.tensor([-edge, edge]), atol=1e-3, rtol=0
    )
