"""Still pictures, and folders of pictures that make one recording."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from sonodetr.files import InputError
from sonodetr.formats.listing import IMAGE_SUFFIXES, checked_index, checked_size, keyed_files
from sonodetr.types import Pixels, Video

# Named, so that Pillow tries no other format (PostScript would start a program).
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
# What Pillow raises at damaged files.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError),
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class ImageFrames:
    """Pictures of one size, each `(file, page)`; a page other than 0 is of a TIFF stack.

    Palettes become RGB, transparency is dropped, EXIF rotation is ignored (labels are drawn on the
    pixels as stored), and of 16 bits the high 8 are kept, so that all pictures share one scale.
    """

    pictures: tuple[tuple[str, int], ...]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Pixels:
        path, page = self.pictures[checked_index(index, len(self))]
        try:
            with _opened(path) as image:
                image.seek(page)
                if (image.height, image.width) != self.size:
                    what = "its label file says" if len(self) == 1 else "its recording has"
                    raise InputError(
                        f"{path}: {image.width} x {image.height} pixels, but {what} "
                        f"{self.size[1]} x {self.size[0]}; correct that, or read it as a still"
                    )
                return _to_8_bit(image, path)
        except _UNREADABLE as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{path}: cannot be decoded ({_line(error)}); it may be truncated, copy it again"
            ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _to_8_bit(image: Image.Image, path: str) -> Pixels:
    match image.mode:
        case "L" | "RGB":
            return np.array(image)
        case "1" | "LA":
            return np.array(image.convert("L"))
        case "P" | "RGBA" | "RGBX" | "CMYK" | "YCbCr":
            return np.array(image.convert("RGB"))
        case "I;16" | "I;16B" | "I;16L" | "I;16N":
            return (np.array(image) >> 8).astype(np.uint8)
    raise InputError(
        f"{path}: pixels of type {image.mode}; allowed are 8 and 16 bits, grey or RGB; convert it"
    )


@contextmanager
def _opened(file: str | Path) -> Iterator[Image.Image]:
    # Pillow warns of sizes above those that `checked_size` refuses, and of damage that is an error.
    with warnings.catch_warnings(action="ignore"), Image.open(file, formats=_FORMATS) as image:
        yield image


def image_frames(path: str | os.PathLike[str]) -> ImageFrames:
    """One image file: a still, or the pages of a TIFF stack. Reads the header only.

    Raises:
        InputError: the file is missing, empty, no image, or claims an impossible size.

    >>> image_frames("scan.png").size  # doctest: +SKIP
    (480, 640)
    """
    ((_, file),) = keyed_files(path, IMAGE_SUFFIXES, "an image")
    try:
        with _opened(file) as image:
            size = checked_size(image.height, image.width, str(file))
            # Of other kinds the header alone would say how many: two billion, if it likes.
            pages = int(image.n_frames) if isinstance(image, TiffImageFile) else 1
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{file}: the header claims too many pixels; the file is damaged"
        ) from error
    except _UNREADABLE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{file}: is not an image that can be read, or is cut short; copy or convert it"
        ) from error
    return ImageFrames(tuple((str(file), page) for page in range(pages)), size)


def read_images(path: str | os.PathLike[str]) -> list[Video]:
    """One image file, or every image below a folder, each as a recording of its own.

    The key is the path relative to the folder (or the file's name), with forward slashes.

    Raises:
        InputError: there is no image, or one of them cannot be read.
    """
    videos = []
    for key, file in keyed_files(path, IMAGE_SUFFIXES, "image"):
        frames = image_frames(file)
        videos.append(Video(key, frames, np.zeros(len(frames))))
    return videos


def read_image_sequence(path: str | os.PathLike[str], frame_rate_hz: float | None = None) -> Video:
    """A folder of equally sized images as one recording, in natural order (`f9` before `f10`).

    Args:
        path: the folder; images in folders below it belong to the recording too.
        frame_rate_hz: frames a second; without it the times are all 0, which means unknown.

    Raises:
        InputError: there is no image, one cannot be read, or two differ in size.
    """
    folder = Path(path)
    parts = [image_frames(file) for _, file in keyed_files(folder, IMAGE_SUFFIXES, "image")]
    for part in parts:
        if part.size != parts[0].size:
            raise InputError(
                f"{part.pictures[0][0]}: {part.size[1]} x {part.size[0]} pixels, but the first "
                f"picture has {parts[0].size[1]} x {parts[0].size[0]}; a recording has one size"
            )
    frames = ImageFrames(tuple(one for part in parts for one in part.pictures), parts[0].size)
    times_s = np.arange(len(frames)) / frame_rate_hz if frame_rate_hz else np.zeros(len(frames))
    return Video(folder.name, frames, times_s)
