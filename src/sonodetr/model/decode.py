"""From a model's outputs to detections in pixels of the original frame."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from sonodetr.geometry import xyxy_from_cxcywh
from sonodetr.model.tensors import Outputs, Source
from sonodetr.types import Detections


class Decoded(NamedTuple):
    """The best detections of each clip, best first, normalised to the input."""

    scores: Float[Tensor, "batch found"]
    classes: Int64[Tensor, "batch found"]
    boxes_cxcywh: Float[Tensor, "batch found 4"]
    points: Float[Tensor, "batch found 2 2"] | None


def decode(outputs: Outputs, classification: str, most: int = 100) -> Decoded:
    """Turn the last layer's outputs into scored detections.

    Args:
        outputs: of a model in evaluation mode (one query group).
        classification: "focal" scores every pair of query and class by its sigmoid; "softmax" gives
            every query its best class other than "no object", as DETR does.
        most: keep this many detections a clip at most.
    """
    logits, boxes = outputs.logits[-1].float(), outputs.boxes_cxcywh[-1].float()
    if classification == "focal":
        num_classes = logits.shape[-1]
        pairs = logits.sigmoid().flatten(1)
        scores, pair = pairs.topk(min(most, pairs.shape[1]))
        query, classes = pair // num_classes, pair % num_classes
    else:
        best, best_class = logits.softmax(-1)[..., :-1].max(-1)
        scores, query = best.topk(min(most, best.shape[1]))
        classes = best_class.gather(1, query)
    rows = torch.arange(len(query), device=query.device)[:, None]
    points = None if outputs.points is None else outputs.points[-1].float()[rows, query]
    return Decoded(scores, classes, boxes[rows, query], points)


@torch.no_grad()
def detections_of(
    outputs: Outputs,
    sources: Sequence[Source],
    image_size: tuple[int, int],
    class_names: tuple[str, ...],
    classification: str,
) -> list[Detections]:
    """Detections of every clip, mapped back to its frame, best first, none left out by score.

    Args:
        outputs: of a model in evaluation mode.
        sources: one a clip, with the letterbox that made the model's input.
        image_size: height and width of the model's input in pixels.
    """
    decoded = decode(outputs, classification)
    scores, classes = decoded.scores.cpu().numpy(), decoded.classes.cpu().numpy()
    corners = xyxy_from_cxcywh(decoded.boxes_cxcywh.cpu().numpy())
    corners = corners.reshape(*scores.shape, 2, 2)
    points = None if decoded.points is None else decoded.points.cpu().numpy()
    height, width = image_size
    found = []
    for row, source in enumerate(sources):
        boxes_px = _in_frame(corners[row], source, (width, height)).reshape(-1, 4)
        points_px = None if points is None else _in_frame(points[row], source, (width, height))
        found.append(
            Detections(
                boxes_px,
                scores[row],
                classes[row],
                class_names,
                points_px,
                frame_index=source.frame_index,
            )
        )
    return found


def _in_frame(
    points: Float32[np.ndarray, "n 2 2"], source: Source, size: tuple[int, int]
) -> Float32[np.ndarray, "n 2 2"]:
    """Points in 0..1 of the input as pixels of the frame, none beyond the picture's edges: the
    letterbox's black bars are in the model's view, but not in the picture."""
    border = np.array((source.letterbox.left, source.letterbox.top))
    inside = (points * size).clip(border, size - border)
    return source.letterbox.to_frame(inside).astype(np.float32)
