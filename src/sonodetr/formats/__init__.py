"""Readers: from a path to recordings, with their labels where the format has them.

`read` finds out what a path holds; `open_source` opens one recording to run a model on. Every
format has one module with `read_x(path) -> list[Video]`; docs/formats.md lists them.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from sonodetr.files import InputError, existing_file
from sonodetr.formats.listing import (
    DICOM_SUFFIXES,
    IMAGE_SUFFIXES,
    METAIMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    is_dicom,
    walk,
)
from sonodetr.types import PARTS, Video

_PICTURES = {
    "images": IMAGE_SUFFIXES,
    "video": VIDEO_SUFFIXES,
    "dicom": DICOM_SUFFIXES,
    "metaimage": METAIMAGE_SUFFIXES,
}
_SIMULATOR = "simulator:"
_ALLOWED = " ".join(suffix for suffixes in _PICTURES.values() for suffix in suffixes)


def read(
    path: str | os.PathLike[str],
    *,
    images: str = "",
    on_bad_label: Literal["error", "skip"] = "error",
) -> list[Video]:
    """Read a data set, in whichever format it is.

    A `.json` file is COCO or COCO-video, an `.xml` file CVAT; a folder is YOLO (`data.yaml`, or
    `images` and `labels`), Pascal VOC (`Annotations` and `JPEGImages`), COCO (exactly one `.json`
    in it, or in each of `train`, `validation` and `test` below it), or simply holds images, videos,
    DICOM or MetaImage files, which are then unlabelled. `simulator:needle-small` and
    `simulator:needle-small/test` are simulated data sets (docs/simulator.md).

    Args:
        path: file or folder.
        images: folder of the pictures that a COCO or CVAT file names, if they do not lie beside it.
        on_bad_label: stop at a label that cannot be used, or leave it out with a warning.

    Raises:
        InputError: nothing readable is there, or something in it is wrong.

    >>> [video.key for video in read("clips")]  # doctest: +SKIP
    ['monday/clip1.mp4', 'monday/clip2.mp4']
    """
    source = Path(path)
    simulated = os.fspath(path).startswith(_SIMULATOR)
    kind = "simulator" if simulated else _kind(source)
    if images and kind not in ("coco", "cvat"):
        raise InputError(f"{source}: images={images!r} is for COCO and CVAT files; leave it out")
    match kind:
        case "simulator":
            from sonodetr.simulator.frames import read_simulated

            return read_simulated(os.fspath(path))
        case "parts":
            return _read_parts(source, on_bad_label)
        case "coco":
            from sonodetr.formats.coco import read_coco

            if source.is_dir():
                (source,) = _label_files(source)
            return read_coco(source, images=images, on_bad_label=on_bad_label)
        case "cvat":
            from sonodetr.formats.cvat import read_cvat

            return read_cvat(source, images=images, on_bad_label=on_bad_label)
        case "yolo":
            from sonodetr.formats.yolo import read_yolo

            return read_yolo(source, on_bad_label=on_bad_label)
        case "voc":
            from sonodetr.formats.voc import read_voc

            return read_voc(source, on_bad_label=on_bad_label)
    return _read_pictures(source, kind)


def open_source(address: str | os.PathLike[str]) -> Video:
    """Open one recording: a video, a DICOM or MetaImage file, an image, or a folder of images.

    The images of a folder are the frames of one recording, in natural order. `simulator:7` is a
    simulated recording of seed 7 (docs/simulator.md).

    Raises:
        InputError: nothing is there, or it is not exactly one recording.

    >>> len(open_source("needle.mp4"))  # doctest: +SKIP
    342
    """
    source = Path(address)
    if os.fspath(address).startswith(_SIMULATOR):
        return _only(read(address), source)
    kind = _kind(source)
    if kind not in _PICTURES:
        raise InputError(
            f"{source}: holds labels in {kind.upper()} format, not one recording; "
            f"name one of its files ({_ALLOWED})"
        )
    if kind == "images" and source.is_dir():
        from sonodetr.formats.images import read_image_sequence

        return read_image_sequence(source)
    return _only(_read_pictures(source, kind), source)


def _only(videos: list[Video], source: Path) -> Video:
    if len(videos) > 1:
        raise InputError(
            f"{source}: holds {len(videos)} recordings ({videos[0].key}, {videos[1].key}, ...); "
            "name one of them"
        )
    return videos[0]


def _read_parts(folder: Path, on_bad_label: Literal["error", "skip"]) -> list[Video]:
    """The recordings of all parts, each a folder with one COCO file; keys begin with its name."""
    from sonodetr.formats.annotations import unique
    from sonodetr.formats.coco import read_coco

    videos = [
        video if video.key.startswith(f"{part}/") else replace(video, key=f"{part}/{video.key}")
        for part in PARTS
        for file in _label_files(folder / part)
        for video in read_coco(file, on_bad_label=on_bad_label)
    ]
    unique((video.key for video in videos), "recording", folder)
    if len({video.classes for video in videos}) > 1:
        raise InputError(f"{folder}: the parts have different categories; give all the same ones")
    return videos


def _read_pictures(source: Path, kind: str) -> list[Video]:
    match kind:
        case "images":
            from sonodetr.formats.images import read_images

            return read_images(source)
        case "video":
            from sonodetr.formats.video import read_video

            return read_video(source)
        case "dicom":
            from sonodetr.formats.dicom import read_dicom

            return read_dicom(source)
        case _:
            from sonodetr.formats.metaimage import read_metaimage

            return read_metaimage(source)


def _kind(source: Path) -> str:
    """The format of a file or folder: a key of `_PICTURES`, coco, parts, cvat, yolo or voc."""
    if source.is_dir():
        return _kind_of_folder(source)
    existing_file(source)
    if kind := _kind_of_pictures(source):
        return kind
    match source.suffix.lower():
        case ".json":
            return "coco"
        case ".xml":
            return "cvat"
        case ".yaml" | ".yml":
            raise InputError(f"{source}: give the folder that holds this file, not the file")
    raise InputError(
        f"{source}: unknown kind of file {source.suffix!r}; allowed: {_ALLOWED} .json .xml"
    )


def _kind_of_folder(folder: Path) -> str:
    has = {path.name for path in folder.iterdir()}
    labels = _label_files(folder)
    for place in (folder, *(folder / part for part in PARTS)):
        if (place / "simulator.yaml").is_file() and not _label_files(place):
            raise InputError(
                f"{place}: simulated data that is not finished; go on with sonodetr simulate and "
                "the same options"
            )
    if has & {"data.yaml", "data.yml"} or {"images", "labels"} <= has:
        return "yolo"
    if {"Annotations", "JPEGImages"} <= has:
        return "voc"
    if len(labels) > 1:
        names = ", ".join(file.name for file in labels)
        raise InputError(f"{folder}: holds several label files; name one of: {names}")
    if labels:
        return "coco"
    if {"train", "validation"} <= has and all(
        len(_label_files(folder / part)) == 1 for part in PARTS if part in has
    ):
        return "parts"
    kinds = {kind for path in walk(folder) if (kind := _kind_of_pictures(path))}
    if not kinds:
        raise InputError(
            f"{folder}: the folder holds no picture, recording or labels; allowed: {_ALLOWED} "
            ".json .xml, or a YOLO or Pascal VOC folder"
        )
    if len(kinds) > 1:
        raise InputError(
            f"{folder}: holds several kinds of recordings ({', '.join(sorted(kinds))}); put each "
            "kind in a folder of its own"
        )
    return kinds.pop()


def _label_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))


def _kind_of_pictures(path: Path) -> str | None:
    suffix = path.suffix.lower()
    for kind, suffixes in _PICTURES.items():
        if suffix in suffixes:
            return kind
    # Scanners often write DICOM files without an ending, or with the last part of an identifier.
    return "dicom" if is_dicom(path) else None
