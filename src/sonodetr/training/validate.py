"""Detections of a model on labelled clips, while it is being trained."""

from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from sonodetr.model.decode import detections_of
from sonodetr.model.detr import DETR
from sonodetr.model.tensors import Batch
from sonodetr.types import Detections


@torch.no_grad()
def predict_clips(
    model: DETR, batches: Iterable[Batch], class_names: tuple[str, ...], accelerator: Accelerator
) -> dict[tuple[str, int], Detections]:
    """Detections by recording and frame, gathered from all processes.

    The model is left in evaluation mode.
    """
    model.eval()
    found: list[tuple[tuple[str, int], Detections]] = []
    for batch in batches:
        with accelerator.autocast():
            outputs = model(batch.images.to(accelerator.device))
        size = (batch.images.shape[-2], batch.images.shape[-1])
        detections = detections_of(
            outputs, batch.sources, size, class_names, model.config.classification
        )
        found += [
            ((source.key, source.frame_index), item)
            for source, item in zip(batch.sources, detections, strict=True)
        ]
    return dict(gather_object(found))
