"""Where results go: files, and OpenIGTLink; opened by address. The viewer is in `viewer`."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from sonodetr.draw import Picture, Sheet, draw
from sonodetr.files import InputError
from sonodetr.stream.flow import Deliver, Result, Sink

_ALLOWED = "FILE.mp4, FILE.jsonl, igtl://HOST:PORT or igtl-listen://ADDRESS:PORT"


def open_sink(address: str, *, rate_hz: float | None = None) -> Sink:
    """A sink by its address: FILE.mp4, FILE.jsonl, igtl://HOST:PORT, igtl-listen://ADDRESS:PORT.

    Nothing is opened yet; the pipeline does that.

    Args:
        address: one of those.
        rate_hz: frames a second of the source, where known.

    Raises:
        InputError: the address is none of those.
    """
    scheme = address.partition(":")[0].lower()
    if scheme in ("igtl", "igtl-listen"):
        from sonodetr.stream.openigtlink import IgtlClientSink, IgtlServerSink, parse_address

        where = parse_address(address)
        if scheme == "igtl":
            return IgtlClientSink(where.host, where.port)
        return IgtlServerSink(*where)
    match Path(address).suffix.lower():
        case ".mp4":
            return OverlayFile(address, rate_hz)
        case ".jsonl":
            return LinesFile(address)
    raise InputError(f"--sink {address} is not allowed; give {_ALLOWED}")


class LinesFile:
    """A file to which one line of JSON is appended for every frame (docs/cli.md).

    Each line is with the system before the next frame is taken: when the process is killed, at most
    the last one is lost, and what a kill or a full disk left of a line is cut off.

    Args:
        path: what is there stays, and more is appended.
    """

    every_frame = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)

    @contextmanager
    def open(self) -> Iterator[Deliver]:
        """As `Sink.open`.

        Raises:
            InputError: the file cannot be written, or the disk is full.
        """
        path = Path(self.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b", buffering=0) as file:
                _end_last_line(file.fileno())

                def deliver(result: Result) -> None:
                    line = json.dumps(result.detections.to_dict(), allow_nan=False) + "\n"
                    _append(file.fileno(), line.encode())

                yield deliver
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror or error}; free some space or choose "
                "another folder"
            ) from error


def _append(file: int, data: bytes) -> None:
    """Append to a file, all of it or nothing."""
    start = os.lseek(file, 0, os.SEEK_END)
    try:
        while data:
            data = data[os.write(file, data) :]
    except OSError:
        os.ftruncate(file, start)
        raise


_OUR_BEGIN = b'{"frame": '


def _end_last_line(file: int) -> None:
    """Cut off a line of ours that was begun and not ended; any other gets its end."""
    whole = os.lseek(file, 0, os.SEEK_END)
    start, tail = whole, b""
    while start and b"\n" not in tail:
        begin = max(0, start - 65536)
        os.lseek(file, begin, os.SEEK_SET)
        start, tail = begin, os.read(file, start - begin) + tail
    last = tail[tail.rfind(b"\n") + 1 :]
    if not last:
        return
    try:
        json.loads(last)
    except ValueError:
        if last.startswith(_OUR_BEGIN[: len(last)]):
            os.ftruncate(file, whole - len(last))
            return
    _append(file, b"\n")


class OverlayFile:
    """An MP4 of every frame with what was found in it; appears when the stream ends.

    Args:
        path: the file, replaced if it is there.
        rate_hz: frames a second where known; each frame keeps its own time.
    """

    every_frame = True

    def __init__(self, path: str | os.PathLike[str], rate_hz: float | None = None) -> None:
        self.name = os.fspath(path)
        self._rate_hz = rate_hz

    @contextmanager
    def open(self) -> Iterator[Deliver]:
        """As `Sink.open`.

        Raises:
            InputError: the file cannot be written, or the disk is full.
        """
        from sonodetr.sinks import UNKNOWN_RATE_HZ, picture_video

        size: tuple[int, int] | None = None
        with picture_video(self.name, self._rate_hz or UNKNOWN_RATE_HZ) as write:

            def deliver(result: Result) -> None:
                nonlocal size
                picture = draw(result.frame, result.detections, show_outside=True)
                size = size or (picture.shape[0], picture.shape[1])
                write(fitted(picture, size), result.frame.time_s)

            yield deliver


def fitted(picture: Picture, size: tuple[int, int]) -> Sheet:
    """The picture in a given height and width: as large as it fits, centred, the rest black.

    >>> fitted(np.full((2, 2, 3), 9, np.uint8), (2, 4))[..., 0]
    array([[0, 9, 9, 0],
           [0, 9, 9, 0]], dtype=uint8)
    """
    height, width = picture.shape[:2]
    if (height, width) == size:
        return picture
    scale = min(size[0] / height, size[1] / width)
    high, wide = max(1, round(height * scale)), max(1, round(width * scale))
    sheet = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - high) // 2, (size[1] - wide) // 2
    small = cv2.resize(picture, (wide, high), interpolation=cv2.INTER_AREA)
    sheet[top : top + high, left : left + wide] = small
    return sheet
