"""What passes through a live pipeline, and what its two ends must do. No torch.

A source gives frames as they come, the pipeline finds objects in them, sinks take what was found.
All times are of `time.monotonic`, so that stages can be compared.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from threading import Event
from typing import NamedTuple, Protocol, runtime_checkable

from sonodetr.types import Detections, Frame


class Captured(NamedTuple):
    """A frame, and when its last byte was read.

    Attributes:
        frame: the picture.
        captured_s: when its last byte was read.
        part: another number than before where this frame does not follow the one before it: the
            source was connected anew, or a recording was moved to another place.
    """

    frame: Frame
    captured_s: float
    part: int = 0


class Result(NamedTuple):
    """What was found in a frame.

    Attributes:
        frame: as captured, with the region that was looked at.
        detections: those above the threshold, with track ids where tracking is on.
        everything: all above a low score, for viewers that choose their own threshold.
        captured_s: when the frame's last byte was read.
        found_s: when the detections were ready.
    """

    frame: Frame
    detections: Detections
    everything: Detections
    captured_s: float
    found_s: float


@runtime_checkable
class Source(Protocol):
    """Where frames come from.

    Attributes:
        name: to show; never holds patient text.
        live: the newest frame wins; otherwise every frame is looked at.
        rate_hz: frames a second where known.
        video: a recording, whose region is looked for beforehand; others leave it out.
        playback: how a paced recording is paused and moved; others may leave it out.
        lost: how often the connection was lost; those without one may leave it out.
    """

    name: str
    live: bool
    rate_hz: float | None

    def frames(self, stop: Event) -> Iterator[Captured]:
        """Frames until the source ends or `stop` is set, which it looks at ten times a second.

        Frame indices count what the source gave, from 0; `Frame.time_s` is since its first frame.

        Raises:
            InputError: the source cannot be opened or read.
        """
        ...


Deliver = Callable[[Result], None]


@runtime_checkable
class Sink(Protocol):
    """Where results go: a context manager that gives the function that takes them.

    It is opened, called and closed by one thread of its own, so it may be slow.

    Attributes:
        name: to show.
        every_frame: with a recording, the pipeline waits for this sink rather than drop a frame (as
            files want it); sinks that never make it wait may leave it out.
        dropped: how many results somebody behind it did not take; others may leave it out.
    """

    name: str

    def open(self) -> AbstractContextManager[Deliver]:
        """Gives `deliver(result)`; an error in it ends this sink alone."""
        ...
