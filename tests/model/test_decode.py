"""From logits to scored boxes in the frame, worked out by hand."""

import math

import numpy as np
import torch

from sonodetr.geometry import Letterbox
from sonodetr.model.decode import decode, detections_of
from sonodetr.model.tensors import Attention, Grid, Outputs, Source
from sonodetr.types import Region


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def outputs_of(logits: torch.Tensor, points: bool = False) -> Outputs:
    """Two layers, of which the first is nonsense; box q of a clip is (q / 10, 0.5, 0.2, 0.4)."""
    batch, queries = logits.shape[:2]
    boxes = torch.tensor([[q / 10, 0.5, 0.2, 0.4] for q in range(queries)])
    boxes = torch.stack((torch.full_like(boxes, 0.9), boxes))[:, None].expand(-1, batch, -1, -1)
    return Outputs(
        torch.stack((torch.full_like(logits, 50.0), logits)),
        boxes,
        torch.stack((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), -2) if points else None,
        torch.zeros(batch, 1, 1),
        torch.zeros(batch, queries, 1),
        Grid(1, 1, 1),
        1,
        Attention(),
    )


def test_focal_scores_every_pair_of_query_and_class() -> None:
    scores = [[[0.1, 0.9], [0.8, 0.7], [0.3, 0.2]], [[0.5, 0.4], [0.01, 0.02], [0.6, 0.03]]]
    decoded = decode(outputs_of(torch.tensor(scores).logit()), "focal", most=4)
    expected = torch.tensor([[0.9, 0.8, 0.7, 0.3], [0.6, 0.5, 0.4, 0.03]])
    torch.testing.assert_close(decoded.scores, expected)
    assert decoded.classes.tolist() == [[1, 0, 1, 0], [0, 0, 1, 1]]
    queries = (decoded.boxes_cxcywh[..., 0] * 10).round().int()
    assert queries.tolist() == [[0, 1, 1, 2], [2, 0, 0, 2]]
    assert decoded.points is None


def test_softmax_gives_each_query_its_best_class() -> None:
    shares = [[[1.0, 3, 4], [6, 1, 1], [1, 1, 98]]]  # the last one is "no object"
    decoded = decode(outputs_of(torch.tensor(shares).log(), points=True), "softmax")
    torch.testing.assert_close(decoded.scores, torch.tensor([[6 / 8, 3 / 8, 1 / 100]]))
    assert decoded.classes[0, :2].tolist() == [0, 1]
    torch.testing.assert_close(decoded.boxes_cxcywh[0, :, 0], torch.tensor([0.1, 0.0, 0.2]))
    assert decoded.points is not None
    expected = torch.tensor([[[0.1, 0.5], [0.3, 0.9]], [[0.0, 0.5], [0.2, 0.9]]])
    torch.testing.assert_close(decoded.points[0, :2], expected)


def test_no_more_than_there_are() -> None:
    assert decode(outputs_of(torch.zeros(1, 3, 2)), "focal").scores.shape == (1, 6)
    assert decode(outputs_of(torch.zeros(1, 3, 3)), "softmax", most=2).scores.shape == (1, 2)


def test_half_precision_is_decoded_in_single() -> None:
    outputs = outputs_of(torch.zeros(1, 3, 2).bfloat16())
    decoded = decode(outputs, "focal")
    assert decoded.scores.dtype == decoded.boxes_cxcywh.dtype == torch.float32


def test_detections_lie_in_the_frame() -> None:
    """A region of 80 x 40 pixels at (20, 10) fills the width of an input of 160 x 160."""
    letterbox = Letterbox.fit(Region(20, 10, 100, 50), 160, 160)
    logits = torch.tensor([[[logit(0.25)], [-50.0], [logit(0.75)], [-50.0]]])
    outputs = outputs_of(logits.requires_grad_(), points=True)  # as outside torch.no_grad()
    source = Source("a", 7, letterbox)
    (found,) = detections_of(outputs, [source], (160, 160), ("nerve",), "focal")
    assert len(found) == 4  # none left out by score
    assert found.frame_index == 7
    assert found.class_names == ("nerve",)
    np.testing.assert_allclose(found.scores[:2], [0.75, 0.25], rtol=1e-6)
    corners = np.array([[0.1, 0.3], [0.3, 0.7], [0.2, 0.5], [0.4, 0.9]]) * 160  # query 2
    expected = letterbox.to_frame(corners)
    np.testing.assert_allclose(found.boxes_xyxy_px[0], expected[:2].ravel(), atol=1e-4)
    assert found.points_px is not None
    # The second point lies in the black bar below the picture, which ends at 50.
    assert expected[3, 1] > 50
    np.testing.assert_allclose(found.points_px[0], expected[2:].clip(None, (100, 50)), atol=1e-4)
    # Query 0 is centred on the left border: what lies outside is cut off.
    left = letterbox.to_frame(np.array([[0.0, 0.3]]) * 160)[0, 0]
    np.testing.assert_allclose(found.boxes_xyxy_px[1, 0], left, atol=1e-4)
