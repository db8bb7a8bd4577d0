"""Which files hold the pictures of a recording, and what is in them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from sonodetr.files import InputError
from sonodetr.formats.dicom import DicomFrames
from sonodetr.formats.images import ImageFrames
from sonodetr.formats.metaimage import MetaImageFrames
from sonodetr.formats.video import VideoFrames
from sonodetr.types import Frames, Video


def picture_files(videos: Iterable[Video]) -> list[Path]:
    """The files that hold the pictures, each once; of simulated recordings there are none."""
    paths = dict.fromkeys(path for video in videos for path in _paths(video.frames))
    return [Path(path) for path in paths]


def _paths(frames: Frames) -> list[str]:
    match frames:
        case ImageFrames():
            return [path for path, _ in frames.pictures]
        case VideoFrames() | DicomFrames():
            return [frames.path]
        case MetaImageFrames():
            return [str(frames.data)]
    return []


def content_of(files: Iterable[Path]) -> str:
    """SHA-256 of the contents of files, whatever their names.

    Raises:
        InputError: one cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror or error})") from None
    return digest.hexdigest()
