"""Pictures in the run folder: what the model is taught, and what it finds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from sonodetr.draw import Picture, Sheet, draw, draw_labels, grid
from sonodetr.files import whole_file
from sonodetr.geometry import xyxy_from_cxcywh
from sonodetr.model.tensors import Batch
from sonodetr.types import Detections, Frame, Labels, Video

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
        pixels = video.frames[frame_index]
        found = detections[video.key, frame_index].above(threshold)
        pair = (
            draw_labels(pixels, video.labels[frame_index], video.classes),
            draw(Frame(pixels), found),
        )
        pairs.append(grid([_shrink(picture) for picture in pair], columns=2))
    return grid(pairs, columns=3)


def save_picture(path: Path, picture: Picture) -> None:
    """Write a PNG whole or not at all."""
    with whole_file(path) as part:
        if not cv2.imwrite(str(part), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
            raise OSError("OpenCV could not write the picture")


def _shrink(picture: Picture) -> Sheet:
    factor = _CELL_PX / max(picture.shape[:2])
    if factor >= 1:
        return picture
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
