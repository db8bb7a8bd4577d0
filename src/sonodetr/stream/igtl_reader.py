"""Reads one OpenIGTLink connection: messages to frames, with every wait and size bounded."""

import socket
import time
from collections.abc import Callable, Iterator
from threading import Event
from typing import NamedTuple

import numpy as np

from sonodetr.formats.openigtlink import (
    HEADER_BYTES,
    Header,
    Image,
    MessageError,
    Pictures,
    pack,
    read_content,
    read_header,
    read_image,
    spacing_of,
    status_content,
)
from sonodetr.stream.flow import Captured
from sonodetr.types import Frame

_MESSAGE_S = 5.0  # a message whose rest does not come within this time is given up
_OTHER_DEVICE_S = 2.0  # after this long without pictures of one device, another's are taken


class Stopped(Exception):
    """The source is to stop."""


class Received(NamedTuple):
    """An IMAGE message, the name of what sent it, and when its last byte was read."""

    image: Image
    device: bytes
    captured_s: float


class Connection:
    """Reads the messages of one connection.

    Args:
        peer: connected, with a timeout of `POLL_S`.
        between: called often while waiting and once a message; may raise.

    Attributes:
        heard_s: when the last picture came.
    """

    def __init__(self, peer: socket.socket, stop: Event, between: Callable[[], None]) -> None:
        self._peer, self._stop, self._between = peer, stop, between
        self._header = memoryview(bytearray(HEADER_BYTES))
        self._waste = memoryview(bytearray(1 << 16))
        self.heard_s = time.monotonic()

    def images(self) -> Iterator[Received]:
        """IMAGE messages until the connection ends.

        Raises:
            MessageError: the peer broke the protocol, or stopped amid a message.
            OSError: the connection was lost or closed.
        """
        while True:
            self._between()
            self._read(self._header)
            header = read_header(self._header)
            if header.kind != "IMAGE":
                self._skip(header)
                continue
            body = np.empty(header.body_bytes, np.uint8).data
            self._read(body, time.monotonic() + _MESSAGE_S)
            captured_s = self.heard_s = time.monotonic()
            yield Received(read_image(read_content(header, body)), header.device, captured_s)

    def _skip(self, header: Header) -> None:
        """Read over the body of a message that does not concern us."""
        end, left = time.monotonic() + _MESSAGE_S, header.body_bytes
        while left:
            part = self._waste[:left]
            self._read(part, end)
            left -= len(part)
        if header.kind == "GET_STATUS":
            # A peer that does not take 88 bytes within the timeout loses the connection.
            self._peer.sendall(pack("STATUS", "SonoDETR", status_content()))

    def _read(self, data: memoryview, end: float | None = None) -> None:
        """Fill `data` before `end`, or in so many seconds after its first byte, however late."""
        filled = 0
        while filled < len(data):
            if self._stop.is_set():
                raise Stopped
            try:
                count = self._peer.recv_into(data[filled:])
            except TimeoutError:
                self._between()
            else:
                if count == 0:
                    raise ConnectionError("the connection was closed")
                filled += count
                end = end or time.monotonic() + _MESSAGE_S
            if end is not None and filled < len(data) and time.monotonic() > end:
                raise MessageError(f"a message that was not whole within {_MESSAGE_S:.0f} s")


class FrameCounter:
    """Numbers pictures over all connections of one source; keeps to one device of each."""

    def __init__(self) -> None:
        self.count = 0
        self._first_s: float | None = None
        self._part = -1

    def of_connection(self, received: Iterator[Received]) -> Iterator[Captured]:
        """Frames of one connection.

        Pictures of a second device are left out until the first has been silent for 2 seconds:
        frames that alternate between two probes would be useless to every later stage.
        """
        self._part += 1
        device, heard_s, pictures = b"", float("-inf"), Pictures()
        for image, name, captured_s in received:
            if name != device:
                if captured_s - heard_s < _OTHER_DEVICE_S:
                    continue
                device, pictures = name, Pictures()
            heard_s = captured_s
            pixels = pictures.take(image)
            if pixels is None:
                continue
            first_s = self._first_s = captured_s if self._first_s is None else self._first_s
            matrix = image.ijk_to_ras_mm
            frame = Frame(
                pixels, self.count, captured_s - first_s, spacing_of(matrix), None, matrix
            )
            self.count += 1
            yield Captured(frame, captured_s, self._part)
