"""Pictures in the run folder: what the model is taught, and what it finds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from sonodetr.draw import Picture, Sheet, draw, draw_labels, grid
from sonodetr.files import whole_file
from sonodetr.geometry import xyxy_from_cxcywh
from sonodetr.model.tensors import Batch
from sonodetr.types import Detections, Frame, Labels, Pixels, Video

_CELL_PX = 384


def draw_batch(batch: Batch, class_names: Sequence[str]) -> Sheet:
    """The clips' last frames as the model sees them, with the boxes it is taught."""
    height, width = batch.images.shape[-2:]
    pictures = []
    for image, target in zip(batch.images[:16, :, -1], batch.targets, strict=False):
        pixels = (image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        labels = Labels.of(
            xyxy_from_cxcywh(target.boxes_cxcywh.cpu().numpy()) * np.tile((width, height), 2),
            target.classes.cpu().numpy(),
            points_px=target.points.cpu().numpy() * (width, height),
        )
        grey = pixels.shape[2] == 1
        pictures.append(draw_labels(pixels[..., 0] if grey else pixels, labels, class_names))
    return grid(pictures, columns=4)


def draw_found(
    videos: Sequence[Video],
    samples: Sequence[tuple[int, int]],
    detections: Mapping[tuple[str, int], Detections],
    threshold: float,
) -> Sheet:
    """Pairs of pictures: the labels on the left, what was found on the right."""
    pairs = []
    for video_index, frame_index in samples:
        video = videos[video_index]
        pixels, factor = _shrink(video.frames[frame_index])
        labels = video.labels[frame_index]
        labels = replace(
            labels,
            boxes_xyxy_px=labels.boxes_xyxy_px * factor,
            points_px=labels.points_px * factor,
        )
        found = detections[video.key, frame_index].above(threshold)
        points = found.points_px
        found = replace(
            found,
            boxes_xyxy_px=found.boxes_xyxy_px * factor,
            points_px=None if points is None else points * factor,
        )
        known = draw_labels(pixels, labels, video.classes)
        pairs.append(grid([known, draw(Frame(pixels), found)], columns=2))
    return grid(pairs, columns=3)


def save_picture(path: Path, picture: Picture) -> None:
    """Write a PNG whole or not at all."""
    with whole_file(path) as part:
        if not cv2.imwrite(str(part), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise OSError("OpenCV could not write the picture")


def _shrink(pixels: Pixels) -> tuple[np.ndarray, np.float32]:
    """The picture in a cell's size, and the factor that takes its coordinates there."""
    factor = min(1.0, _CELL_PX / max(pixels.shape[:2]))
    small = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return small, np.float32(factor)
