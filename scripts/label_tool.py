"""What the label scripts share: command line, COCO-video layout, agreement of two label files."""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from sonodetr.files import InputError, read_json, write_json
from sonodetr.geometry import box_iou

Coco = dict[str, Any]


class TrackBox(NamedTuple):
    """One object in one frame; `box` is left, top, width, height in pixels."""

    frame: int
    instance_id: int
    class_name: str
    box: tuple[float, float, float, float]
    keypoint: tuple[float, float] | None = None


class Recording(NamedTuple):
    """The video that labels belong to."""

    name: str
    file_name: str
    length: int
    size: tuple[int, int]  # height, width
    fps: int | None = None


def run(build: Callable[[Path], Coco], description: str | None) -> int:
    """Command line of a label script: read a folder, write COCO labels, compare them.

    Args:
        build: the folder of upstream files -> COCO labels.
        description: help text that names the upstream source.

    Returns:
        The exit code: 0, or 2 after one line on standard error that says what is wrong.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder that holds the upstream files")
    parser.add_argument("out", type=Path, nargs="?", help="COCO file to write")
    parser.add_argument("--compare", type=Path, help="print the agreement with this COCO file")
    arguments = parser.parse_args()
    if arguments.out is None and arguments.compare is None:
        parser.error("give a file to write, or --compare and a file to compare with")
    try:
        if not arguments.folder.is_dir():
            raise InputError(f"{arguments.folder}: no such folder; give the upstream files' folder")
        reference = read_json(arguments.compare) if arguments.compare else None
        labels = build(arguments.folder)
        if arguments.out is not None:
            write_json(arguments.out, labels)
            counts = f"{len(labels['images'])} frames, {len(labels['annotations'])} boxes"
            print(f"{arguments.out}: {counts}", file=sys.stderr)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    if reference is not None:
        print("\n".join(agreement_lines(labels, reference)))
    return 0


def coco_video(
    recording: Recording, frames: Iterable[int], boxes: list[TrackBox], classes: tuple[str, ...]
) -> Coco:
    """COCO-video labels of one recording.

    Args:
        recording: the video.
        frames: the labelled ones; one without a box is empty.
        boxes: in any order.
        classes: names, of which the first gets category id 1.
    """
    size = {"width": recording.size[1], "height": recording.size[0]}
    video = {
        "id": 1,
        "name": recording.name,
        **size,
        "length": recording.length,
        "file_name": recording.file_name,
    }
    if recording.fps is not None:
        video["fps"] = recording.fps
    images = [
        {
            "id": frame + 1,
            "file_name": f"{recording.name}/{frame:04d}.png",
            **size,
            "video_id": 1,
            "frame_id": frame,
        }
        for frame in sorted(frames)
    ]
    annotations: list[dict[str, Any]] = []
    for row in sorted(boxes, key=lambda row: (row.frame, row.instance_id)):
        annotation = {
            "id": len(annotations) + 1,
            "image_id": row.frame + 1,
            "video_id": 1,
            "category_id": classes.index(row.class_name) + 1,
            "instance_id": row.instance_id,
            "bbox": list(row.box),
            "area": round(row.box[2] * row.box[3], 1),
            "iscrowd": 0,
        }
        if row.keypoint is not None:
            annotation["keypoints"] = [*(round(value, 2) for value in row.keypoint), 2]
        annotations.append(annotation)
    categories = [{"id": index, "name": name} for index, name in enumerate(classes, start=1)]
    return {
        "videos": [video],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def agreement(ours: Coco, reference: Coco) -> dict[str, np.ndarray]:
    """Class name -> IoU of each reference box with our box for it, 0 where we have none.

    Boxes are paired within a class and a frame (by file name) so that the sum of IoU is largest.
    """
    frames = [_boxes_by_frame(labels) for labels in (ours, reference)]
    found: dict[str, list[np.ndarray]] = defaultdict(list)
    for (file_name, class_name), boxes in frames[1].items():
        overlaps = box_iou(boxes, frames[0].get((file_name, class_name), np.empty((0, 4), "f4")))
        rows, columns = linear_sum_assignment(-overlaps)
        best = np.zeros(len(boxes))
        best[rows] = overlaps[rows, columns]
        found[class_name].append(best)
    return {name: np.concatenate(values) for name, values in found.items()}


def agreement_lines(ours: Coco, reference: Coco) -> list[str]:
    """What `--compare` prints: one line on the frames, one for each class."""
    names = [{image["file_name"] for image in labels["images"]} for labels in (ours, reference)]
    equal = "identical" if ours == reference else "not identical"
    lines = [f"{equal}; {len(names[0] & names[1])} of {len(names[1])} frames in both"]
    boxes = _boxes_by_frame(ours)
    for class_name, overlap in agreement(ours, reference).items():
        count = sum(len(rows) for (_, name), rows in boxes.items() if name == class_name)
        lines.append(
            f"{class_name}: {count} boxes for {len(overlap)}, IoU mean {overlap.mean():.3f}, "
            f"median {np.median(overlap):.3f}, least {overlap.min():.3f}, "
            f"share over 0.5 {(overlap > 0.5).mean():.3f}, over 0.7 {(overlap > 0.7).mean():.3f}"
        )
    return lines


def _boxes_by_frame(labels: Coco) -> dict[tuple[str, str], np.ndarray]:
    file_names = {image["id"]: image["file_name"] for image in labels["images"]}
    class_names = {category["id"]: category["name"] for category in labels["categories"]}
    boxes = defaultdict(list)
    for row in labels["annotations"]:
        left, top, width, height = row["bbox"]
        key = file_names[row["image_id"]], class_names[row["category_id"]]
        boxes[key].append((left, top, left + width, top + height))
    return {key: np.asarray(rows, np.float32) for key, rows in boxes.items()}
