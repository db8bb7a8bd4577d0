"""Which files a reader takes from a path, in which order, and under which key."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sonodetr.files import InputError, existing_file

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".wmv", ".ts"),
    *(".mpeg", ".mpg", ".m1v", ".m2v", ".mjpeg"),
)
DICOM_SUFFIXES = (".dcm", ".dicom", ".dic", ".ima")
METAIMAGE_SUFFIXES = (".mha", ".mhd")

# No ultrasound picture is near this size; a header that claims more is damaged or hostile, and is
# refused before any memory is asked for.
MAX_FRAME_PIXELS = 64_000_000


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that puts `frame9` before `frame10`.

    >>> sorted(["f10", "f9"], key=natural_order)
    ['f9', 'f10']
    """
    return [
        (int(word), "") if word.isdigit() and word.isascii() else (-1, word)
        for word in re.split(r"([0-9]+)", name)
        if word
    ]


def walk(folder: Path) -> Iterator[Path]:
    """All files below `folder`, in natural order, without hidden ones."""
    found = [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    ]
    yield from sorted(found, key=lambda path: natural_order(path.relative_to(folder).as_posix()))


def is_dicom(path: Path) -> bool:
    """Whether the file carries the DICOM mark: `DICM` after 128 bytes."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def keyed_files(
    path: str | os.PathLike[str], suffixes: tuple[str, ...], what: str
) -> list[tuple[str, Path]]:
    """`path` itself under its name, or every matching file below it under its relative path.

    Raises:
        InputError: nothing is there, the file is empty or has another suffix, or the folder holds
            no such file.
    """
    source = Path(path)
    if not source.is_dir():
        existing_file(source)
        if source.suffix.lower() not in suffixes:
            raise InputError(
                f"{source}: not the name of {what}; allowed endings: {' '.join(suffixes)}"
            )
        return [(source.name, source)]
    found = [file for file in walk(source) if file.suffix.lower() in suffixes]
    if not found:
        raise InputError(f"{source}: the folder holds no {what} ({' '.join(suffixes)})")
    return [(file.relative_to(source).as_posix(), file) for file in found]


def checked_size(height: int, width: int, where: str) -> tuple[int, int]:
    """`(height, width)` if a frame may be that large.

    Raises:
        InputError: a side is not positive or the frame is larger than `MAX_FRAME_PIXELS`.
    """
    if height < 1 or width < 1 or height * width > MAX_FRAME_PIXELS:
        raise InputError(
            f"{where}: the header claims {width} x {height} pixels; a frame has at least 1 and at "
            f"most {MAX_FRAME_PIXELS // 1_000_000} million; the file is damaged or no ultrasound"
        )
    return height, width


def checked_index(index: int, count: int) -> int:
    """`index` with negative ones counted from the end, as a list does.

    Raises:
        IndexError: outside the recording (which also ends a `for` loop over the frames).
    """
    if not -count <= index < count:
        raise IndexError(f"frame {index} of a recording of {count}")
    return int(index) % count
