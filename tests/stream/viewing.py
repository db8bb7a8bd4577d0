"""A viewer with made-up frames, and pages that a test holds the strings of."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from live_parts import CLASSES, LONGEST_S, wait_until
from websockets.sync.client import ClientConnection, connect

from sonodetr.stream.flow import Deliver, Result
from sonodetr.stream.viewer import Viewer
from sonodetr.stream.viewer_messages import unpack
from sonodetr.types import Detections, Frame


def result(index: int = 0, *, size: tuple[int, int] = (61, 83), **frame: Any) -> Result:
    """Frame `index`, 0.1 s apart, of one grey level, with a needle and a less likely nerve."""
    pixels = np.full(size, 40 + index % 200, np.uint8)
    everything = Detections(
        np.float32([[10, 20, 30, 50], [40, 5, 60, 25]]),
        np.float32([0.9, 0.4]),
        np.int64([0, 1]),
        CLASSES,
        np.float32([[[10, 50], [30, 20]], [[np.nan, 7], [3, 5]]]),
        np.int64([3, -1]),
        index,
        index / 10,
    )
    now_s = time.monotonic()
    shown = Frame(pixels, index, index / 10, **frame)
    return Result(shown, everything.above(0.5), everything, now_s - 0.005, now_s - 0.003)


@contextmanager
def watched(**options: Any) -> Iterator[tuple[Viewer, Deliver]]:
    """A viewer on loopback that is open."""
    named = {"model": "nano", "source": "made up", "threshold": 0.5, "counters": dict}
    viewer = Viewer(options.pop("address", ("127.0.0.1", 0)), **named | options)
    with viewer.open() as deliver:
        yield viewer, deliver


class Page(ClientConnection):
    """A page that watches."""

    def header(self, where: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The header of the first message to come for which `where` holds."""
        return self.message(where)[0]

    def message(self, where: Callable[[dict[str, Any]], object]) -> tuple[dict[str, Any], bytes]:
        until_s = time.monotonic() + LONGEST_S
        while True:
            header, picture = unpack(self.recv(timeout=until_s - time.monotonic()))
            if where(header):
                return header, picture

    def frame(self, index: int) -> tuple[dict[str, Any], bytes]:
        """The message with a frame."""
        return self.message(lambda header: header.get("frame") == index)

    def ask(self, **command: Any) -> None:
        self.send(json.dumps(command))


def page_of(viewer: Viewer, path: str = "frames", **options: Any) -> Page:
    base, _, query = viewer.url.partition("?")
    address = f"{base.replace('http', 'ws', 1)}{path}" + (f"?{query}" if query else "")
    page = connect(address, create_connection=Page, close_timeout=2, **options)
    assert isinstance(page, Page)
    return page


def port_of(viewer: Viewer) -> int:
    port = urlsplit(viewer.url).port
    assert port is not None
    return port


def ready(viewer: Viewer, pages: int = 1) -> None:
    """Wait until so many pages are there: frames that came before are not all sent."""
    wait_until(lambda: len(viewer._pages) == pages)
