"""From a model's outputs to detections in pixels of the original frame."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sonodetr.geometry import detections_in_frame
from sonodetr.model.tensors import Outputs, Source
from sonodetr.types import Answer, Detections

MOST = 100  # detections kept of a clip


class Decoded(NamedTuple):
    """The best detections of each clip, best first, normalised to the input."""

    scores: Float[Tensor, "batch found"]
    classes: Int64[Tensor, "batch found"]
    boxes_cxcywh: Float[Tensor, "batch found 4"]
    points: Float[Tensor, "batch found 2 2"] | None


def decode(outputs: Outputs, classification: str, most: int = MOST) -> Decoded:
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
def answers_of(outputs: Outputs, classification: str) -> list[Answer]:
    """The same as arrays, one `Answer` a clip; see `decode`."""
    scores, classes, boxes, points = decode(outputs, classification)
    columns = [each.cpu().numpy() for each in (scores, classes, boxes)]
    if points is not None:
        columns.append(points.cpu().numpy())
    return [Answer(*row) for row in zip(*columns, strict=True)]


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
    return [
        detections_in_frame(
            answer, source.letterbox, image_size, class_names, frame_index=source.frame_index
        )
        for answer, source in zip(answers_of(outputs, classification), sources, strict=True)
    ]
