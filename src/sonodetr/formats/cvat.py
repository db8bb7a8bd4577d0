"""CVAT XML 1.1, for video (tracks over frames) and for images (stills).

Format: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/ and its XML page. As in
CVAT, a shape holds from its frame to the next one of its track, moving linearly, `outside="1"`
hides it until then, the last shape holds to the end of the task, and every frame of the task is
labelled: one that no shape reaches is empty.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sonodetr.files import InputError
from sonodetr.formats.annotations import (
    BadLabel,
    LabelTable,
    OnBadLabel,
    Row,
    clip_box,
    find_pictures,
    number,
    read_xml,
    shown,
    unique,
)
from sonodetr.formats.images import ImageFrames, image_frames
from sonodetr.types import Video

_SHAPES = ("box", "points", "polyline", "polygon", "ellipse", "cuboid", "mask", "skeleton")


class Shape(NamedTuple):
    """Left, top, right, bottom of a box, or x, y of the two ends of a line."""

    values: np.ndarray
    is_line: bool


class Knot(NamedTuple):
    """A shape as a track has it at one frame; None where it cannot be used."""

    frame: int
    outside: bool
    shape: Shape | None


class _Task(NamedTuple):
    """What the labels of a recording are checked against."""

    classes: tuple[str, ...]
    size: tuple[int, int]
    numbers: range


def read_cvat(
    path: str | os.PathLike[str], *, images: str = "", on_bad_label: OnBadLabel = "error"
) -> list[Video]:
    """Read a CVAT XML 1.1 file of one task or job.

    Boxes are read, and `points` and `polyline` shapes of exactly two points, which become
    `points_px` and the box round them. Any other shape, and a rotated box, is a bad label.

    Args:
        path: the XML file.
        images: the recording or the folder of its frames (video), the folder of the pictures
            (images); by default what the file names, beside it or in `images/` beside it.
        on_bad_label: stop at a label that cannot be used, or leave it out and its frames
            unlabelled, between keyframes too.

    Returns:
        The recording, or one `Video` a picture. Classes are the labels of the task, in its order.

    Raises:
        InputError: the file cannot be used; the message names the place.
    """
    source = Path(path)
    root = read_xml(source)
    meta = root.find("meta")
    if root.tag != "annotations" or meta is None:
        raise InputError(f"{source}: not a CVAT file: no <annotations> with <meta> in it")
    if meta.find("project") is not None:
        raise InputError(f"{source}: is the export of a project; export its tasks one by one")
    classes = _classes(root, meta)
    unique(classes, "label", source)
    if root.find("image") is not None:
        return _read_stills(source, root, images, classes, LabelTable[str](on_bad_label))
    return [_read_video(source, root, images, classes, LabelTable[int](on_bad_label))]


def _classes(root: Any, meta: Any) -> tuple[str, ...]:
    """The task's labels (not the joints of skeletons), or else the names in use."""
    labels = [label for label in meta.iter("label") if label.find("parent") is None]
    if labels:
        return tuple((label.findtext("name") or "").strip() for label in labels)
    return tuple(sorted({item.get("label") for item in root.iter() if item.get("label")}))


def _read_stills(
    source: Path, root: Any, images: str, classes: tuple[str, ...], table: LabelTable[str]
) -> list[Video]:
    items = root.findall("image")
    names = [item.get("name") or "" for item in items]
    unique(names, "image", source)
    pictures = find_pictures(source, images, names)
    pictures.require(names, source)
    stills = {}
    for name, item in zip(names, items, strict=True):
        file = pictures.folder / name
        size = _whole(item.get("height")), _whole(item.get("width"))
        frames = ImageFrames(((str(file), 0),), size) if all(size) else image_frames(file)
        stills[name] = frames
        table.add_frame(name)
        for index, element in enumerate((child for child in item if child.tag in _SHAPES), 1):
            try:
                class_index = _class_index(element, classes)
                table.add(name, _row(_shape(element), frames.size, class_index, -1))
            except BadLabel as problem:
                table.add_bad(name, f"{source}: image {name!r}: shape {index}: {problem}")
    labels = table.finish()
    return [
        Video(name, frames, np.zeros(1), classes, {0: labels[name]} if name in labels else {})
        for name, frames in stills.items()
    ]


def _read_video(
    source: Path, root: Any, images: str, classes: tuple[str, ...], table: LabelTable[int]
) -> Video:
    meta = root.find("meta")
    recording = _recording(source, meta, images)
    numbers = _frame_numbers(source, meta)
    index_of = _frame_indices(source, numbers, recording)
    for frame in numbers:
        table.add_frame(frame)
    task = _Task(classes, recording.frames.size, numbers)
    for track in root.findall("track"):
        _read_track(track, f"{source}: track {track.get('id')}", task, table)
    labels = {index_of[frame]: found for frame, found in table.finish().items()}
    return replace(recording, classes=classes, labels=labels)


def _recording(source: Path, meta: Any, images: str) -> Video:
    from sonodetr.formats import open_source  # here, as `formats` imports this module

    named = (meta.findtext(".//source") or "").strip()
    places = [Path(images)] if images else [source.parent / "images"]
    if named and not images:
        places = [source.parent / named, source.parent / "images" / named, *places]
    place = next((place for place in places if os.path.exists(place)), None)
    if place is None:
        what = images or named or "its recording"
        raise InputError(f"{source}: {what} not found; name the recording with images=")
    recording = open_source(place)
    size = next(meta.iter("original_size"), None)
    if size is not None:
        width, height = _whole(size.findtext("width")), _whole(size.findtext("height"))
        if (height, width) != tuple(recording.frames.size):
            raise InputError(
                f"{source}: labels a recording of {width} x {height} pixels, but {place} has "
                f"{recording.frames.size[1]} x {recording.frames.size[0]}"
            )
    return recording


def _frame_numbers(source: Path, meta: Any) -> range:
    """The frames of the task, as its shapes count them: those of the original video, from 0."""
    step = re.search(r"step\s*=\s*(\d{1,6})", meta.findtext(".//frame_filter") or "")
    step_frames = max(int(step[1]), 1) if step else 1
    start, stop, size = (
        _whole(meta.findtext(f".//{name}"), -1) for name in ("start_frame", "stop_frame", "size")
    )
    start = max(start, 0)
    if stop < 0 and size > 0:
        stop = start + (size - 1) * step_frames
    if stop < start:
        raise InputError(f"{source}: <meta> has neither stop_frame nor size; export it from CVAT")
    return range(start, stop + 1, step_frames)


def _frame_indices(source: Path, numbers: range, recording: Video) -> dict[int, int]:
    """Frame of the task -> of the recording, which is the original or only the task's frames."""
    if len(recording) == len(numbers):
        return {frame: index for index, frame in enumerate(numbers)}
    if numbers[-1] < len(recording):
        return {frame: frame for frame in numbers}
    raise InputError(
        f"{source}: labels {len(numbers)} frames, up to frame {numbers[-1]}, but "
        f"{recording.key} has {len(recording)} frames; name the labelled recording with images="
    )


def _read_track(track: Any, where: str, task: _Task, table: LabelTable[int]) -> None:
    knots: list[Knot] = []
    track_id = _whole(track.get("id"), -1)
    elements = [element for element in track if element.tag in _SHAPES]
    for element in sorted(elements, key=lambda element: _whole(element.get("frame"), -1)):
        frame, outside = _whole(element.get("frame"), -1), element.get("outside") == "1"
        if not outside and frame not in task.numbers:
            ends = f"{task.numbers[0]} to {task.numbers[-1]}"
            table.add_bad(
                None, f"{where}: frame {element.get('frame')} is outside the task's {ends}"
            )
            continue
        if knots and knots[-1].frame == frame:
            table.add_bad(frame, f"{where}: frame {frame} is given twice")
            continue
        shape = None
        try:
            shape = _shape(element)
            _row(shape, task.size, _class_index(track, task.classes), track_id)
        except BadLabel as problem:
            shape = None
            if not outside:  # where something is that cannot be seen does not matter
                table.add_bad(frame, f"{where}: frame {frame}: {problem}")
        knots.append(Knot(frame, outside, shape))
    for frame, shape in shapes_by_frame(knots, task.numbers):
        if shape is None:
            table.spoil(frame)
            continue
        try:
            table.add(frame, _row(shape, task.size, _class_index(track, task.classes), track_id))
        except BadLabel as problem:
            table.add_bad(frame, f"{where}: frame {frame}, between keyframes: {problem}")


def shapes_by_frame(knots: Sequence[Knot], numbers: range) -> Iterator[tuple[int, Shape | None]]:
    """The shape of a track at each frame of `numbers` that shows it; None where it is not known.

    Between two knots the values move linearly. Next to a knot without a usable shape they are not
    known, unless that knot is `outside`: then the shape holds still until it disappears.

    >>> box = lambda left: Shape(np.array([left, 0.0, left + 2, 3]), False)
    >>> knots = [Knot(0, False, box(0.0)), Knot(4, False, box(8.0)), Knot(5, True, None)]
    >>> [(frame, float(shape.values[0])) for frame, shape in shapes_by_frame(knots, range(9))]
    [(0, 0.0), (1, 2.0), (2, 4.0), (3, 6.0), (4, 8.0)]
    """
    for knot, following in pairwise([*knots, Knot(numbers[-1] + 1, True, None)]):
        if knot.outside:
            continue
        start, stop = knot.shape, following.shape
        if stop is None and following.outside:
            stop = start
        first = -(-(knot.frame - numbers.start) // numbers.step)  # rounded up
        for frame in numbers[first:]:
            if frame >= following.frame:
                break
            if start is None or stop is None or start.is_line != stop.is_line:
                yield frame, start if frame == knot.frame else None
                continue
            share = (frame - knot.frame) / (following.frame - knot.frame)
            yield frame, Shape(start.values + share * (stop.values - start.values), start.is_line)


def _class_index(element: Any, classes: tuple[str, ...]) -> int:
    label = element.get("label")
    if label not in classes:
        raise BadLabel(f"label {shown(label)} is not among the task's labels")
    return classes.index(label)


def _shape(element: Any) -> Shape:
    if element.tag == "box":
        if (element.get("rotation") or "0").strip("0.") != "":
            raise BadLabel(f"the box is rotated by {shown(element.get('rotation'))} degrees")
        corners = [number(element.get(name), name) for name in ("xtl", "ytl", "xbr", "ybr")]
        return Shape(np.array(corners), False)
    words = re.split("[,;]", element.get("points") or "")
    if element.tag not in ("points", "polyline") or len(words) != 4:
        raise BadLabel(f"{element.tag} is not read; allowed are box, and points or polyline of two")
    return Shape(np.array([number(word, "points") for word in words]), True)


def _row(shape: Shape, size: tuple[int, int], class_index: int, track_id: int) -> Row:
    values = shape.values
    if not shape.is_line:
        return Row(clip_box(values.tolist(), size), class_index, track_id)
    ends = values.reshape(2, 2)
    low, high = ends.min(0), ends.max(0)
    grow = np.maximum(1 - (high - low), 0) / 2  # a level line has a box too, one pixel high
    box = clip_box([*(low - grow).tolist(), *(high + grow).tolist()], size)
    return Row(box, class_index, track_id, ends)


def _whole(text: str | None, otherwise: int = 0) -> int:
    """A whole number of at most nine digits, or `otherwise`."""
    text = (text or "").strip()
    return int(text) if text.isdecimal() and len(text) < 10 else otherwise
