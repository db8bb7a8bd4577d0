"""YOLO folders: `data.yaml`, pictures below `images/`, one text file a picture below `labels/`.

A line is `class cx cy w h` as shares of the picture; with polygons `class x1 y1 x2 y2 ...`; with
keypoints (`kpt_shape` in data.yaml) `class cx cy w h`, then `x y` or `x y visibility` for each.
Described at https://docs.ultralytics.com/datasets/detect/.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field

from sonodetr.config_file import NOT_YAML
from sonodetr.files import InputError, existing_file
from sonodetr.formats.annotations import (
    BadLabel,
    LabelTable,
    OnBadLabel,
    Pictures,
    Row,
    checked,
    clip_box,
    number,
    unique,
)
from sonodetr.formats.images import image_frames
from sonodetr.formats.listing import IMAGE_SUFFIXES, walk
from sonodetr.types import Video

_Part = str | list[str] | None


class _Description(BaseModel):
    """`data.yaml`; fields that only a trainer needs are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)

    names: list[str] | dict[int, str]
    nc: int | None = None
    path: str | None = None
    train: _Part = None
    val: _Part = None
    test: _Part = None
    kpt_shape: tuple[Annotated[int, Field(ge=1)], Literal[2, 3]] | None = Field(None, strict=False)


def read_yolo(path: str | os.PathLike[str], *, on_bad_label: OnBadLabel = "error") -> list[Video]:
    """Read a YOLO data set: every picture of its train, val and test parts, as a still.

    A picture without a label file shows nothing, as YOLO has it. The header of every picture is
    read, because labels are shares of its size.

    Args:
        path: the folder with `data.yaml`, or that file.
        on_bad_label: stop at a label that cannot be used, or leave it out and its frame unlabelled.

    Returns:
        One `Video` a picture; the key is its path from the root of the data set.

    Raises:
        InputError: the data set cannot be used; the message names file and line.
    """
    source = _description_file(Path(path))
    description, classes = _description(source)
    root = source.parent / (description.path or "")
    root = (
        root if os.path.isdir(root) else source.parent
    )  # a path on the machine that wrote the file
    pictures = _pictures(description, root, source)
    label_files = [_label_file(picture) for picture in pictures]
    present = Pictures(Path())
    if not any(present.has(str(file)) for file in label_files):
        raise InputError(
            f"{source}: none of its {len(pictures)} pictures has labels; "
            f"expected {label_files[0]} and so on"
        )
    stills = {}
    table = LabelTable[Path](on_bad_label)
    for picture, label_file in zip(pictures, label_files, strict=True):
        stills[picture] = frames = image_frames(picture)
        table.add_frame(picture)
        for where, words in _lines(label_file) if present.has(str(label_file)) else ():
            try:
                table.add(picture, _row(words, frames.size, len(classes), description.kpt_shape))
            except BadLabel as problem:
                table.add_bad(picture, f"{where}: {problem}")
    _add_strays(table, pictures)
    labels = table.finish()
    return [
        Video(
            Path(os.path.relpath(picture, root)).as_posix(),
            frames,
            np.zeros(len(frames)),
            classes,
            {0: labels[picture]} if picture in labels else {},
        )
        for picture, frames in stills.items()
    ]


def _description_file(path: Path) -> Path:
    if not path.is_dir():
        return existing_file(path)
    found = sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
    named = [file for file in found if file.stem == "data"]
    if named or len(found) == 1:
        return (named or found)[0]
    raise InputError(
        f"{path}: has no data.yaml; add one with 'names: [first class, second class]', "
        "in the order of the class numbers"
    )


def _description(source: Path) -> tuple[_Description, tuple[str, ...]]:
    try:
        values = yaml.safe_load(existing_file(source).read_text(encoding="utf-8"))
    except NOT_YAML as error:
        if isinstance(error, InputError):
            raise
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise InputError(f"{source}: not valid YAML{where}") from None
    description = checked(_Description, values, source)
    names = description.names
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise InputError(f"{source}: names must be numbered 0, 1, 2, ... without a gap")
        names = [names[number] for number in range(len(names))]
    if description.nc is not None and description.nc != len(names):
        raise InputError(f"{source}: nc is {description.nc}, but there are {len(names)} names")
    unique(names, "names:", source)
    return description, tuple(names)


def _pictures(description: _Description, root: Path, source: Path) -> list[Path]:
    """All pictures of all parts, each once, in natural order within a part."""
    parts = [part for part in (description.train, description.val, description.test) if part]
    entries = [entry for part in parts for entry in ([part] if isinstance(part, str) else part)]
    found: dict[Path, None] = {}
    for entry in entries or ["images"]:
        # Some writers put a "../" too many before each part.
        places = [root / entry, root / entry.removeprefix("../")]
        place = next((place for place in places if os.path.exists(place)), None)
        if place is None:
            raise InputError(
                f"{source}: {places[0]} does not exist; correct path, train, val or test"
            )
        try:
            files = _listed(place, root) if place.suffix == ".txt" else list(walk(place))
        except OSError as error:
            raise InputError(f"{source}: {place} cannot be read ({error.strerror})") from None
        found |= {file: None for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
    if not found:
        raise InputError(f"{source}: its folders hold no picture ({' '.join(IMAGE_SUFFIXES)})")
    return list(found)


def _listed(list_file: Path, root: Path) -> list[Path]:
    """Pictures named line by line; `./` stands for the folder of the list."""
    lines = [line for _, (line,) in _lines(list_file, words=1)]
    return [list_file.parent / line if line.startswith("./") else root / line for line in lines]


def _label_file(picture: Path) -> Path:
    """The last folder `images` of the path becomes `labels`, the ending `.txt`."""
    parts = list(picture.with_suffix(".txt").parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts)


def _lines(file: Path, words: int = 0) -> list[tuple[str, list[str]]]:
    """Where each line with content is, and its words (or the whole line for `words=1`)."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read as text ({type(error).__name__})") from None
    return [
        (f"{file}: line {index}", [line.strip()] if words == 1 else line.split())
        for index, line in enumerate(text.splitlines(), 1)
        if line.strip()
    ]


def _row(
    words: Sequence[str], size: tuple[int, int], num_classes: int, kpt_shape: tuple[int, int] | None
) -> Row:
    values = [number(word, "value") for word in words]
    class_index = int(values[0])
    if class_index != values[0] or not 0 <= class_index < num_classes:
        raise BadLabel(f"class {words[0]} is not among the classes 0 to {num_classes - 1}")
    height, width = size
    num_points, point_length = kpt_shape or (0, 2)
    points = [(math.nan, math.nan)] * 2
    if len(values) == 5 + num_points * point_length:
        centre_x, centre_y, box_width, box_height = values[1:5]
        low_x, high_x = centre_x - box_width / 2, centre_x + box_width / 2
        low_y, high_y = centre_y - box_height / 2, centre_y + box_height / 2
        for index in range(min(num_points, 2)):
            x, y, *visibility = values[5 + index * point_length :][:point_length]
            if visibility != [0] and (x, y) != (0, 0):
                points[index] = (x * width, y * height)
    elif not num_points and len(values) >= 7 and len(values) % 2 == 1:
        low_x, high_x = min(values[1::2]), max(values[1::2])
        low_y, high_y = min(values[2::2]), max(values[2::2])
    else:
        allowed = 5 + num_points * point_length if num_points else "5 (box) or 7, 9, ... (polygon)"
        raise BadLabel(f"has {len(values)} values, allowed: {allowed}")
    box = clip_box((low_x * width, low_y * height, high_x * width, high_y * height), size)
    return Row(box, class_index, points_px=points)


def _add_strays(table: LabelTable[Path], pictures: Sequence[Path]) -> None:
    """Label files beside the pictures' own that belong to no picture are bad labels."""
    for folder in {picture.parent for picture in pictures}:
        files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
        known = {_label_file(file) for file in files}
        labels = next(iter(known)).parent
        if labels == folder or not labels.is_dir():
            continue
        for file in sorted(labels.glob("*.txt")):
            if file not in known and file.name != "classes.txt":
                table.add_bad(None, f"{file}: there is no picture of that name")
