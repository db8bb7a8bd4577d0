"""The pictures that ours and the peers see, and a copy of them in YOLO's format."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from sonodetr.config import DataConfig, SplitConfig
from sonodetr.data.clips import ClipDataset
from sonodetr.data.splits import split
from sonodetr.evaluation.evaluate import kept_of
from sonodetr.evaluation.kept import Kept
from sonodetr.evaluation.matches import match
from sonodetr.evaluation.metrics import average_precisions
from sonodetr.evaluation.statistics import (
    Figures,
    Weights,
    bootstrap_intervals,
    paired_differences,
)
from sonodetr.files import InputError, write_text
from sonodetr.formats import read
from sonodetr.geometry import detections_in_frame, xyxy_from_cxcywh
from sonodetr.types import PARTS, Answer, Detections

_KEYS = ("train", "val", "test")  # as ultralytics calls the parts
FIGURES = ("ap", "ap50", "ap75")
Parts = Mapping[str, ClipDataset]
Found = Mapping[tuple[str, int], Detections]  # by recording and frame


def read_parts(path: Path, side: int) -> Parts:
    """The parts of a data set that lie in folders, as a model of ours of that input size sees them:
    only the ultrasound picture, letterboxed.

    Raises:
        InputError: it cannot be read, or has more than one class.
    """
    config = DataConfig(image_size=(side, side), split=SplitConfig(by_folder=True, similarity=1.0))
    videos = read(path)
    if len(videos[0].classes) != 1:
        raise InputError(f"{path}: has {len(videos[0].classes)} classes; give data with one class")
    division = split(videos, config.split, seed=0)
    return {part: ClipDataset(videos, getattr(division, part), config) for part in PARTS}


def pictures_of(dataset: ClipDataset) -> np.ndarray:
    """All pictures in memory, uint8 `[n, side, side]`."""
    return np.stack([dataset[index].image[0, 0] for index in range(len(dataset))])


def boxes_of(dataset: ClipDataset, index: int) -> np.ndarray:
    """`[n, 4]` left, top, right, bottom in 0..1 of the picture; what lies outside is cut off."""
    target = dataset[index].target
    assert target is not None
    boxes = np.clip(xyxy_from_cxcywh(target.boxes_cxcywh.numpy()), 0, 1)
    return boxes[(boxes[:, 2:] > boxes[:, :2]).all(1)]


def yolo_copy(parts: Parts, folder: Path) -> Path:
    """Write images/PART/N.png, labels/PART/N.txt and data.yaml below `folder`, once.

    Returns:
        The data.yaml; its folder is named by a digest of the labels, so that changed data never
        meets an old copy.
    """
    digest = hashlib.sha256()
    rows: dict[Path, str] = {}
    for part, dataset in parts.items():
        for index, (video, frame) in enumerate(dataset.samples):
            boxes = boxes_of(dataset, index)
            centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
            lines = [
                " ".join(["0", *(f"{value:.6f}" for value in row)])
                for row in np.concatenate([centres, sizes], 1)
            ]
            rows[Path(part) / f"{index:05d}"] = "".join(f"{line}\n" for line in lines)
            digest.update(f"{dataset.videos[video].key} {frame} {lines}\n".encode())
    folder = (folder / digest.hexdigest()[:12]).resolve()
    file = folder / "data.yaml"
    for name, text in ({} if file.is_file() else rows).items():
        picture = folder / "images" / name.with_suffix(".png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(picture), parts[name.parent.name][int(name.name)].image[0, 0])
        write_text(folder / "labels" / name.with_suffix(".txt"), text)
    names = dict(enumerate(parts["train"].videos[0].classes))
    places = {
        key: f"images/{part}" for key, part in zip(("train", "val", "test"), PARTS, strict=True)
    }
    # Last, so that it says that all is there; and anew, since the folder may have moved.
    write_text(file, yaml.safe_dump({"path": str(folder), "names": names} | places))
    return file


def detections_of(dataset: ClipDataset, answers: list[Answer]) -> Found:
    """What a peer found in the pictures of a part, in their order, in pixels of the frames."""
    found = {}
    for index, answer in enumerate(answers):
        video, frame = dataset.samples[index]
        source, key = dataset[index].source, dataset.videos[video].key
        found[key, frame] = detections_in_frame(
            answer,
            source.letterbox,
            dataset.config.image_size,
            dataset.videos[video].classes,
            frame_index=frame,
        )
    return found


def judge(dataset: ClipDataset, found: Found) -> Kept:
    """What our metrics are counted from."""
    matches = match(dataset.videos, found, dataset.samples)
    return kept_of(dataset.videos, dataset.samples, matches, None, threshold=0.5)


def figures(kept: Kept, other: Kept | None = None) -> dict[str, dict[str, Any]]:
    """AP, AP50 and AP75 with 95% intervals by recording; with `other`, by how much they lie above
    its, both counted on the same draws."""
    units, unit = np.unique(kept.unit, return_inverse=True)

    def of(each: Kept) -> Figures:
        def drawn(weights: Weights) -> dict[str, np.ndarray]:
            ap = average_precisions(each.matches, weights[:, unit])
            return {name: ap[name] for name in FIGURES}

        return drawn

    if other is None:
        intervals = bootstrap_intervals(of(kept), len(units))
    else:
        intervals = paired_differences(of(kept), of(other), len(units))
    return {name: interval.to_dict() for name, interval in intervals.items()}
