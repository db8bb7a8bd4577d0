"""Where frames come from: recordings, cameras, scanners; opened by address."""

import os
import time
from collections.abc import Iterator
from threading import Event
from typing import Any

import cv2
import numpy as np

from sonodetr.files import InputError
from sonodetr.formats import open_source
from sonodetr.stream.flow import Captured, Source
from sonodetr.stream.playback import Playback
from sonodetr.types import Frame, Video, frame_at

# A recording that does not say how fast it was taken is played at this rate.
UNKNOWN_RATE_HZ = 10.0
# How long a camera that has gone is waited for before it is tried again.
RETRY_S = 1.0


def open_stream(address: str, *, fast: bool = False, hold: bool = False) -> Source:
    """Open where frames come from.

    `igtl://HOST:PORT` connects to an OpenIGTLink server, `igtl-listen://ADDRESS:PORT` waits for a
    client (docs/openigtlink.md), `camera:0` is the first camera; anything else is a recording, as
    `formats.open_source` opens it.

    Args:
        address: one of those.
        fast: give the frames of a recording as fast as they are taken, not at their own times.
        hold: a recording that is not fast pauses at its last frame instead of ending.

    Raises:
        InputError: there is nothing like that, or it cannot be opened.
    """
    scheme = address.partition(":")[0].lower()
    if fast and scheme in ("igtl", "igtl-listen", "camera"):
        raise InputError(f"{address}: --fast is for recordings, this source is live; leave it out")
    if scheme in ("igtl", "igtl-listen"):
        from sonodetr.stream.openigtlink import IgtlClientSource, IgtlServerSource, parse_address

        where = parse_address(address)
        if scheme == "igtl":
            return IgtlClientSource(where.host, where.port)
        return IgtlServerSource(*where)
    if scheme == "camera":
        return Camera(_number(address))
    return Recording(open_source(address), fast=fast, hold=hold)


def _number(address: str) -> int:
    number = address.partition(":")[2] or "0"
    if not (number.isascii() and number.isdecimal() and len(number) < 4):
        raise InputError(f"{address}: not the name of a camera; give camera:0, camera:1, ...")
    return int(number)


class Recording:
    """Every frame of a recording, at its own times or as fast as they are taken.

    Frames are read before they are due and stamped when they are, as if they came from a scanner.

    Args:
        video: the recording; one without times is played at 10 frames a second.
        fast: do not wait for the frames' times.
        hold: pause at the last frame instead of ending; not if `fast`.

    Attributes:
        playback: pauses and moves it; None if `fast`.
    """

    live = False

    def __init__(self, video: Video, *, fast: bool = False, hold: bool = False) -> None:
        self.video = video
        self.name = os.path.basename(video.key) or video.key
        self.rate_hz = video.frame_rate_hz
        times_s = np.asarray(video.times_s, np.float64)
        if self.rate_hz is None:
            times_s = np.arange(len(video)) / UNKNOWN_RATE_HZ
        self.playback = None if fast else Playback(times_s - times_s[0], hold=hold)

    def frames(self, stop: Event) -> Iterator[Captured]:
        """As `Source.frames`; an index is a frame's place in the recording."""
        if self.playback is None:
            for index in range(len(self.video)):
                if stop.is_set():
                    return
                frame = frame_at(self.video, index)
                yield Captured(frame, time.monotonic())
            return
        while (cue := self.playback.next(stop)) is not None:
            frame = frame_at(self.video, cue.place)
            if self.playback.due(cue, stop):
                yield Captured(frame, time.monotonic(), cue.part)


class Camera:
    """A camera or frame grabber that OpenCV opens.

    One that goes away is tried again every second until it is back.

    Args:
        number: as OpenCV counts them, from 0.

    Attributes:
        lost: how often it went away.

    Raises:
        InputError: it cannot be opened.
    """

    live = True

    def __init__(self, number: int) -> None:
        self.name = f"camera:{number}"
        self._number, self.lost = number, 0
        self._device = _open_camera(number)
        if self._device is None:
            raise InputError(
                f"{self.name}: cannot be opened; plug it in, close other programs that use it, or "
                "give another number"
            )
        rate_hz = self._device.get(cv2.CAP_PROP_FPS)
        self.rate_hz: float | None = rate_hz if 0 < rate_hz < 1000 else None

    def frames(self, stop: Event) -> Iterator[Captured]:
        """As `Source.frames`."""
        index = 0
        first_s: float | None = None
        try:
            while not stop.is_set():
                if self._device is None:
                    if not stop.wait(RETRY_S):
                        self._device = _open_camera(self._number)
                    continue
                good, picture = self._device.read()
                captured_s = time.monotonic()
                if not good:
                    self._device.release()
                    self._device = None
                    self.lost += 1
                    continue
                first_s = captured_s if first_s is None else first_s
                if picture.ndim == 3:
                    picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
                yield Captured(Frame(picture, index, captured_s - first_s), captured_s, self.lost)
                index += 1
        finally:
            if self._device is not None:
                self._device.release()


def _open_camera(number: int) -> Any:
    logging = cv2.utils.logging
    level = logging.setLogLevel(logging.LOG_LEVEL_ERROR)  # what is wrong is said in one line, by us
    device = cv2.VideoCapture(number)
    logging.setLogLevel(level)
    if not device.isOpened():
        device.release()
        return None
    device.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest picture, not the oldest that waits
    return device
