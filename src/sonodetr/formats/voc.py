"""Pascal VOC: one XML file a picture in `Annotations/`, pictures in `JPEGImages/`.

Corners count pixels from 1 and belong to the box, so `xmin ymin xmax ymax` becomes
`xmin - 1, ymin - 1, xmax, ymax`. Everingham et al., "The Pascal Visual Object Classes (VOC)
Challenge", IJCV 88, 2010, and its development kit.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sonodetr.files import InputError
from sonodetr.formats.annotations import (
    BadLabel,
    LabelTable,
    OnBadLabel,
    Pictures,
    Row,
    clip_box,
    number,
    read_xml,
    shown,
)
from sonodetr.formats.images import ImageFrames, image_frames
from sonodetr.formats.listing import IMAGE_SUFFIXES, natural_order
from sonodetr.types import Video


class _Still(NamedTuple):
    source: Path
    root: Any
    frames: ImageFrames


def read_voc(path: str | os.PathLike[str], *, on_bad_label: OnBadLabel = "error") -> list[Video]:
    """Read a Pascal VOC data set: every picture that has an XML file, as a still.

    Objects marked `difficult` are neither object nor background (`Labels.crowd`), as in VOC's own
    evaluation. A box of one pixel (`xmin = xmax`) is taken for a slip of the hand: a bad label.

    Args:
        path: the folder with `Annotations/` and `JPEGImages/`, or one that holds XML files and
            pictures side by side.
        on_bad_label: stop at a label that cannot be used, or leave it out and its frame unlabelled.

    Returns:
        One `Video` a picture; the key is the picture's file name. Classes are the names of all
        files, sorted.

    Raises:
        InputError: the data set cannot be used; the message names the file.
    """
    folder = Path(path)
    annotations = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    files = sorted(annotations.glob("*.xml"), key=lambda file: natural_order(file.name))
    if not files:
        raise InputError(f"{folder}: holds no Annotations/*.xml; name the folder that does")
    jpegs = folder / "JPEGImages"
    pictures = Pictures(jpegs if jpegs.is_dir() else annotations)
    stills = [_still(file, pictures) for file in files]
    _check_pictures(stills)

    names = {_name(item) for still in stills for item in still.root.iter("object")} - {""}
    classes = tuple(sorted(names))
    table = LabelTable[Path](on_bad_label)
    for still in stills:
        table.add_frame(still.source)
        for index, item in enumerate(still.root.iter("object"), 1):
            try:
                table.add(still.source, _row(item, classes, still.frames.size))
            except BadLabel as problem:
                where = f"{still.source}: object {index} ({_name(item) or 'no name'})"
                table.add_bad(still.source, f"{where}: {problem}")
    labels = table.finish()
    return [
        Video(
            Path(still.frames.pictures[0][0]).name,
            still.frames,
            np.zeros(1),
            classes,
            {0: labels[still.source]} if still.source in labels else {},
        )
        for still in stills
    ]


def _still(source: Path, pictures: Pictures) -> _Still:
    root = read_xml(source)
    if root.tag != "annotation":
        raise InputError(f"{source}: is a <{shown(root.tag)}>, but <annotation> was expected")
    # The name inside the file is often of another machine or lacks the ending.
    inside = (root.findtext("filename") or "").strip()
    names = [inside, *(source.stem + suffix for suffix in IMAGE_SUFFIXES)]
    names += [source.stem + suffix.upper() for suffix in IMAGE_SUFFIXES]
    name = next((name for name in names if name and pictures.has(name)), None)
    if name is None:
        raise InputError(
            f"{source}: its picture ({inside or source.stem + '.jpg'}) is not in {pictures.folder}"
        )
    picture = pictures.folder / name
    size = _size(root) or image_frames(picture).size
    return _Still(source, root, ImageFrames(((str(picture), 0),), size))


def _check_pictures(stills: list[_Still]) -> None:
    first: dict[str, Path] = {}
    for still in stills:
        picture = still.frames.pictures[0][0]
        if picture in first:
            raise InputError(f"{still.source}: labels {picture}, as {first[picture]} does")
        first[picture] = still.source


def _size(root: Any) -> tuple[int, int] | None:
    """Height and width as the file has them; some writers leave them out or 0."""
    words = [(root.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
    height, width = (int(word) if word.isdecimal() and len(word) < 7 else 0 for word in words)
    return (height, width) if height and width else None


def _name(item: Any) -> str:
    return (item.findtext("name") or "").strip()


def _row(item: Any, classes: tuple[str, ...], size: tuple[int, int]) -> Row:
    if not _name(item):
        raise BadLabel("has no name")
    box = item.find("bndbox")
    if box is None:
        raise BadLabel("has no bndbox")
    left, top, right, bottom = (
        number(box.findtext(side), side) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    if right <= left or bottom <= top:
        raise BadLabel(
            f"box is empty (xmin {left:g}, xmax {right:g}, ymin {top:g}, ymax {bottom:g})"
        )
    return Row(
        clip_box((left - 1, top - 1, right, bottom), size),
        classes.index(_name(item)),
        crowd=(item.findtext("difficult") or "").strip() == "1",
    )
