"""Pausing and moving a recording while it is played, from any thread."""

import time
from threading import Condition, Event
from typing import NamedTuple

import numpy as np

# How often whoever waits looks at `stop`.
_LOOK_S = 0.1


class Cue(NamedTuple):
    """A frame that is to be shown, and how often the recording was moved before."""

    place: int
    part: int


class Playback:
    """Where a paced recording is, and whether it goes on.

    Args:
        times_s: `[frames]` when each is due, from the first, never decreasing.
        hold: pause at the last frame, so that one can go back, instead of ending there.
    """

    def __init__(self, times_s: np.ndarray, *, hold: bool = False) -> None:
        self._times_s, self._hold = times_s, hold
        self._changed = Condition()
        self._position = 0  # of the frame shown last, or to be shown first
        self._wanted: int | None = 0  # to be shown at once
        self._paused = False
        self._part = 0
        # At this moment the frame at time 0 of the recording was, or would have been, due.
        self._zero_s = 0.0

    @property
    def length(self) -> int:
        """Number of frames."""
        return len(self._times_s)

    @property
    def position(self) -> int:
        """Index of the frame that was shown last."""
        with self._changed:
            return self._position

    @property
    def paused(self) -> bool:
        """Whether it stands."""
        with self._changed:
            return self._paused

    def pause(self) -> None:
        """Stand at the frame that is shown."""
        with self._changed:
            self._paused = True
            self._changed.notify_all()

    def play(self) -> None:
        """Go on; from the first frame where the last one is shown."""
        with self._changed:
            if self._paused and self._position == self.length - 1 and self._wanted is None:
                self._move(0)
            self._paused = False
            self._start_clock(self._position)
            self._changed.notify_all()

    def step(self, count: int) -> None:
        """Pause, so many frames further on, or back where negative; not beyond the ends."""
        with self._changed:
            self._paused = True
            start = self._position if self._wanted is None else self._wanted
            self._move(start + count)

    def seek(self, index: int) -> None:
        """Go to a frame, or to the end that is nearest; paused or playing as before."""
        with self._changed:
            self._move(index)

    def next(self, stop: Event) -> Cue | None:
        """The frame to read next, at once, while the one shown stays; None at the end or stop.

        Its time comes with `due`.
        """
        with self._changed:
            while not stop.is_set():
                if self._wanted is not None:
                    return Cue(self._wanted, self._part)
                if self._position == self.length - 1 and not self._paused:
                    if not self._hold:
                        return None
                    self._paused = True
                if not self._paused:
                    return Cue(self._position + 1, self._part)
                self._changed.wait(_LOOK_S)
            return None

    def due(self, cue: Cue, stop: Event) -> bool:
        """Wait until a frame is to be shown; False if another one is by then."""
        with self._changed:
            while not stop.is_set() and cue.part == self._part:
                if self._wanted is not None:
                    if self._wanted != cue.place:
                        return False
                    self._wanted = None
                    self._position = cue.place
                    self._start_clock(cue.place)
                    return True
                if self._paused:
                    return False
                left_s = self._zero_s + float(self._times_s[cue.place]) - time.monotonic()
                if left_s <= 0:
                    self._position = cue.place
                    return True
                self._changed.wait(min(left_s, _LOOK_S))
            return False

    def _move(self, index: int) -> None:
        index = min(max(0, index), self.length - 1)
        self._part += index != self._position + 1
        self._wanted = index
        self._changed.notify_all()

    def _start_clock(self, index: int) -> None:
        self._zero_s = time.monotonic() - float(self._times_s[index])
