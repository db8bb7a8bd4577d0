"""COCO object detection (stills) and COCO-video: JSON with boxes `[left, top, width, height]`.

Stills: https://cocodataset.org/#format-data. COCO-video adds `videos`, and `video_id` and
`frame_id` to each image, `instance_id` (or `track_id`) to each annotation, as in MMTracking's and
TAO's files. docs/formats.md lists every field that is read.
"""

import math
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sonodetr.files import InputError, read_json
from sonodetr.formats.annotations import (
    BadLabel,
    LabelTable,
    OnBadLabel,
    Pictures,
    Row,
    checked,
    clip_box,
    find_pictures,
    numbers,
    shown,
    unique,
)
from sonodetr.formats.images import ImageFrames, image_frames
from sonodetr.types import Region, Spacing, Video

_Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Pixels = Annotated[int, Field(gt=0, lt=10**6)]
_Track = Annotated[int, Field(ge=-1, lt=2**63)]


class _Record(BaseModel):
    """Unknown fields are ignored, as COCO files carry many; types are not converted."""

    model_config = ConfigDict(strict=True, frozen=True)


class _Recording(_Record):
    """What a video and a still have in common."""

    id: int
    width: _Pixels | None = None
    height: _Pixels | None = None
    patient: str | int | None = None
    patient_id: str | int | None = None
    spacing_mm: Annotated[list[_Millimetres], Field(min_length=2, max_length=2)] | None = None
    region_px: Annotated[list[int], Field(min_length=4, max_length=4)] | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        return (self.height, self.width) if self.height and self.width else None

    @property
    def about(self) -> dict[str, Any]:
        """The fields of `Video` that the entry gives."""
        patient = self.patient if self.patient is not None else self.patient_id
        about: dict[str, Any] = {} if patient is None else {"patient": str(patient)}
        if self.spacing_mm:
            about["spacing_mm"] = Spacing(*self.spacing_mm)
        if self.region_px:
            about["region_px"] = Region(*self.region_px)
        return about


class _Image(_Recording):
    file_name: Annotated[str, Field(min_length=1)]
    video_id: int | None = None
    frame_id: Annotated[int, Field(ge=0, lt=2**31)] | None = None


class _Video(_Recording):
    name: str = ""
    file_name: str = ""
    fps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    length: Annotated[int, Field(gt=0)] | None = None

    @property
    def key(self) -> str:
        return self.name or self.file_name or str(self.id)


class _Annotation(_Record):
    id: int
    image_id: int
    category_id: int
    bbox: Any = None  # checked label by label, so that a bad one can be skipped
    keypoints: Any = None
    iscrowd: Literal[0, 1] | bool = False
    instance_id: _Track | None = None
    track_id: _Track | None = None


class _Category(_Record):
    id: int
    name: Annotated[str, Field(min_length=1)]


class _File(_Record):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]
    videos: list[_Video] = Field(default_factory=list)


# One recording, and where its labelled frames are: id of the image -> index of the frame.
_Opened = tuple[Video, dict[int, int]]


def read_coco(
    path: str | os.PathLike[str], *, images: str = "", on_bad_label: OnBadLabel = "error"
) -> list[Video]:
    """Read a COCO or COCO-video annotation file.

    Args:
        path: the JSON file.
        images: folder of the pictures or recordings; by default beside the file, or `images/`
            beside it.
        on_bad_label: stop at a label that cannot be used, or leave it out and its frame unlabelled.

    Returns:
        One `Video` a still (key: `file_name`) or recording (key: `name`). Classes are the
        categories sorted by id.

    Raises:
        InputError: the file cannot be used; the message names the place.
    """
    source = Path(path)
    file = checked(_File, read_json(source), source)
    for what in ("images", "annotations", "categories", "videos"):
        unique((record.id for record in getattr(file, what)), f"{what}: id", source)
    categories = sorted(file.categories, key=lambda category: category.id)
    unique((category.name for category in categories), "categories: name", source)
    pictures = find_pictures(source, images, [image.file_name for image in file.images])
    opened = _stills(file, pictures, source) + _recordings(file, pictures, source)
    unique((video.key for video, _ in opened), "recording", source)
    if not opened:
        raise InputError(f"{source}: lists no images; there is nothing to read")
    for video, _ in opened:
        _check_region(video, source)

    sizes = {image: video.frames.size for video, frames in opened for image in frames}
    index_of = {category.id: index for index, category in enumerate(categories)}
    table = LabelTable[int](on_bad_label)
    for image in sizes:
        table.add_frame(image)
    for annotation in file.annotations:
        try:
            table.add(annotation.image_id, _row(annotation, index_of, sizes))
        except BadLabel as problem:
            table.add_bad(annotation.image_id, f"{source}: annotation {annotation.id}: {problem}")
    labels = table.finish()
    classes = tuple(category.name for category in categories)
    return [
        replace(
            video,
            classes=classes,
            labels={frame: labels[image] for image, frame in frames.items() if image in labels},
        )
        for video, frames in opened
    ]


def _check_region(video: Video, source: Path) -> None:
    if video.region_px is None:
        return
    (x0, y0, x1, y1), (height, width) = video.region_px, video.frames.size
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise InputError(
            f"{source}: {video.key}: region_px {x0}, {y0}, {x1}, {y1} (left, top, right, bottom) "
            f"is no rectangle inside the {width} x {height} pixels"
        )


def _row(
    annotation: _Annotation, index_of: dict[int, int], sizes: dict[int, tuple[int, int]]
) -> Row:
    if annotation.image_id not in sizes:
        raise BadLabel(f"image_id {annotation.image_id} is not among the images")
    if annotation.category_id not in index_of:
        raise BadLabel(f"category_id {annotation.category_id} is not among the categories")
    left, top, width, height = numbers(annotation.bbox, 4, "bbox")
    track = annotation.instance_id if annotation.instance_id is not None else annotation.track_id
    return Row(
        clip_box((left, top, left + width, top + height), sizes[annotation.image_id]),
        index_of[annotation.category_id],
        -1 if track is None else track,
        _points(annotation.keypoints),
        bool(annotation.iscrowd),
    )


def _points(keypoints: Any) -> list[tuple[float, float]]:
    """The first two of `[x, y, visibility] * k`; NaN where visibility is 0 or there are fewer."""
    points = [(math.nan, math.nan)] * 2
    if keypoints is None:
        return points
    if not isinstance(keypoints, list) or len(keypoints) % 3:
        raise BadLabel(f"keypoints {shown(keypoints)} are not x, y, visibility in turn")
    for index in range(min(len(keypoints) // 3, 2)):
        x, y, visibility = numbers(keypoints[3 * index : 3 * index + 3], 3, "keypoint")
        if visibility > 0:
            points[index] = (x, y)
    return points


def _stills(file: _File, pictures: Pictures, source: Path) -> list[_Opened]:
    stills = [image for image in file.images if image.video_id is None]
    pictures.require([image.file_name for image in stills], source)
    return [
        (
            Video(
                image.file_name,
                _frames([pictures.folder / image.file_name], image.size),
                np.zeros(1),
                **image.about,
            ),
            {image.id: 0},
        )
        for image in stills
    ]


def _frames(files: Sequence[Path], size: tuple[int, int] | None) -> ImageFrames:
    """Frames of the size that is named (checked when a picture is read) or the first one has."""
    pictures = tuple((str(file), 0) for file in files)
    return ImageFrames(pictures, size or image_frames(files[0]).size)


def _recordings(file: _File, pictures: Pictures, source: Path) -> list[_Opened]:
    listed: dict[int, list[_Image]] = defaultdict(list)
    known = {video.id for video in file.videos}
    for image in file.images:
        if image.video_id is None:
            continue
        if image.video_id not in known:
            raise InputError(
                f"{source}: image {image.id}: video_id {image.video_id} is not among the videos"
            )
        if image.frame_id is None:
            raise InputError(f"{source}: image {image.id}: has a video_id but no frame_id")
        listed[image.video_id].append(image)
    opened = []
    for video in file.videos:
        images = listed[video.id]
        twice = [f for f, n in Counter(image.frame_id for image in images).items() if n > 1]
        if twice:
            raise InputError(f"{source}: video {video.id}: frame_id {twice[0]} is given twice")
        images.sort(key=lambda image: image.frame_id or 0)
        if images and any(pictures.has(image.file_name) for image in images):
            opened.append(_from_pictures(video, images, pictures, source))
        else:
            opened.append(_from_recording(video, images, pictures, source))
    return opened


def _from_pictures(
    video: _Video, images: Sequence[_Image], pictures: Pictures, source: Path
) -> _Opened:
    """The listed frames are picture files; they alone make up the recording."""
    pictures.require([image.file_name for image in images], source)
    sizes = {image.size or video.size for image in images} - {None}
    if len(sizes) > 1:
        raise InputError(f"{source}: video {video.id}: its images differ in size: {shown(sizes)}")
    frames = _frames(
        [pictures.folder / image.file_name for image in images], next(iter(sizes), None)
    )
    times_s = np.array([image.frame_id for image in images]) / video.fps if video.fps else None
    recording = Video(
        video.key,
        frames,
        np.zeros(len(images)) if times_s is None else times_s - times_s[0],
        **video.about,
    )
    return recording, {image.id: index for index, image in enumerate(images)}


def _from_recording(
    video: _Video, images: Sequence[_Image], pictures: Pictures, source: Path
) -> _Opened:
    """The frames are in one file, named by the video; an image's `frame_id` counts them from 0."""
    from sonodetr.formats import open_source  # here, as `formats` imports this module

    where = f"{source}: video {video.id}"
    places = [folder / video.file_name for folder in (pictures.folder, source.parent)]
    place = next((place for place in places if os.path.isfile(place)), None)
    if place is None:
        named = f"its file {video.file_name!r}" if video.file_name else "a file_name for it"
        raise InputError(
            f"{where}: neither the pictures of its images nor {named} found in {pictures.folder}; "
            "name the folder with images="
        )
    recording = open_source(place)
    if video.length and video.length != len(recording):
        raise InputError(
            f"{where}: length is {video.length}, but {place} has {len(recording)} frames; "
            "name the recording that was labelled, or correct the length"
        )
    for image in images:
        size = image.size or video.size
        if size and size != tuple(recording.frames.size):
            height, width = recording.frames.size
            raise InputError(
                f"{where}: is listed as {size[1]} x {size[0]}, but {place} has {width} x {height}"
            )
        if image.frame_id is None or image.frame_id >= len(recording):
            raise InputError(
                f"{source}: image {image.id}: frame_id {image.frame_id} is outside {place}, "
                f"which has frames 0 to {len(recording) - 1}"
            )
    about = {"key": video.key, **video.about}
    return replace(recording, **about), {image.id: image.frame_id or 0 for image in images}
