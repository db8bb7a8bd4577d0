"""From a model's outputs to detections in pixels of the original frame."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
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
    boxes = xyxy_from_cxcywh(decoded.boxes_cxcywh.cpu().numpy()).clip(0, 1)
    points = None if decoded.points is None else decoded.points.cpu().numpy()
    height, width = image_size
    found = []
    for row, source in enumerate(sources):
        corners = boxes[row].reshape(-1, 2, 2) * (width, height)
        left, top = source.letterbox.left, source.letterbox.top
        corners = corners.clip(
            (left, top), (width - left, height - top)
        )  # none in the black border
        boxes_px = source.letterbox.to_frame(corners).reshape(-1, 4)
        points_px = None
        if points is not None:
            points_px = source.letterbox.to_frame(points[row] * (width, height)).astype(np.float32)
        found.append(
            Detections(
                boxes_px.astype(np.float32),
                scores[row],
                classes[row],
                class_names,
                points_px,
                frame_index=source.frame_index,
            )
        )
    return found
