"""What a live pipeline counts: frames, drops, how late. Bounded memory, any thread."""

import time
from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

from sonodetr.files import InputError

# Percentiles are those of this many last frames: 2.8 minutes at 60 frames a second.
LAST_FRAMES = 10_000
PERCENTILES = (50, 95, 99)
# A rate is that of the last frames, and sinks to 0 when none come for longer than this.
_RATE_FRAMES = 61
_RATE_GAP_S = 1.0


class Latencies:
    """Percentiles of the last times in milliseconds; not thread-safe by itself.

    >>> latencies = Latencies()
    >>> latencies.percentiles_ms()
    {'p50': None, 'p95': None, 'p99': None}
    >>> for milliseconds in range(101):
    ...     latencies.add(milliseconds / 1000)
    >>> latencies.percentiles_ms()
    {'p50': 50.0, 'p95': 95.0, 'p99': 99.0}
    """

    def __init__(self, last: int = LAST_FRAMES) -> None:
        self._times_ms = np.zeros(last)
        self._count = 0

    def add(self, seconds: float) -> None:
        """One more time; the oldest goes where there are more than the last ones."""
        self._times_ms[self._count % len(self._times_ms)] = seconds * 1000
        self._count += 1

    def percentiles_ms(self) -> dict[str, float | None]:
        """p50, p95, p99 with linear interpolation, None before the first time."""
        names = [f"p{each}" for each in PERCENTILES]
        if not self._count:
            return dict.fromkeys(names)
        values = np.percentile(self._times_ms[: self._count], PERCENTILES)
        return dict(zip(names, values.round(3).tolist(), strict=True))


class _Sink:
    """What became of the frames that one sink was given."""

    def __init__(self) -> None:
        self.delivered = self.dropped = 0
        self.error: str | None = None
        self.latencies = Latencies()


class Counters:
    """What happened to all frames, stage by stage.

    In the end `captured == found + dropped`, and for each sink `found == delivered + dropped`.

    Args:
        sinks: their names.
    """

    def __init__(self, sinks: Sequence[str] = ()) -> None:
        self._lock = Lock()
        self._captured = self._dropped = self._found = self._late = 0
        self._latencies = Latencies()
        self._found_at_s: deque[float] = deque(maxlen=_RATE_FRAMES)
        self._sinks = {name: _Sink() for name in sinks}

    def captured(self) -> None:
        """A frame was captured."""
        with self._lock:
            self._captured += 1

    def dropped(self, count: int) -> None:
        """Frames will not be looked at."""
        with self._lock:
            self._dropped += count

    def found(self, captured_s: float, found_s: float, period_s: float) -> None:
        """A frame was looked at, and handed to the sinks now.

        Late is what was found more than one frame period after its capture.
        """
        now_s = time.monotonic()
        with self._lock:
            self._found += 1
            self._late += found_s - captured_s > period_s
            self._latencies.add(now_s - captured_s)
            pause_s = max(_RATE_GAP_S, 2 * period_s)
            if self._found_at_s and found_s - self._found_at_s[-1] > pause_s:
                self._found_at_s.clear()  # a recording stood still, or its sender was away
            self._found_at_s.append(found_s)

    def delivered(self, sink: str, captured_s: float) -> None:
        """A sink took a frame, and has now done what it does with it."""
        now_s = time.monotonic()
        with self._lock:
            self._sinks[sink].delivered += 1
            self._sinks[sink].latencies.add(now_s - captured_s)

    def sink_dropped(self, sink: str, count: int) -> None:
        """Frames will not reach a sink."""
        with self._lock:
            self._sinks[sink].dropped += count

    def sink_failed(self, sink: str, error: BaseException) -> None:
        """A sink ended with an error."""
        with self._lock:
            known = isinstance(error, InputError)
            self._sinks[sink].error = str(error) if known else f"{type(error).__name__}: {error}"

    def settle(self, sink: str | None = None) -> None:
        """Count as dropped what never came through a stage that hangs: the model, or a sink."""
        with self._lock:
            if sink is None:
                self._dropped = self._captured - self._found
            else:
                self._sinks[sink].dropped = self._found - self._sinks[sink].delivered

    def progress(self) -> int:
        """A number that differs whenever anything was counted meanwhile."""
        with self._lock:
            done = self._captured + self._dropped + self._found
            return done + sum(each.delivered + each.dropped for each in self._sinks.values())

    def snapshot(self) -> dict[str, Any]:
        """All counts now, as plain values (docs/live.md)."""
        now_s = time.monotonic()
        with self._lock:
            return {
                "captured": self._captured,
                "dropped": self._dropped,
                "found": self._found,
                "late": self._late,
                "frames_per_second": round(_rate_hz(self._found_at_s, now_s), 2),
                "latency_ms": self._latencies.percentiles_ms(),
                "sinks": {
                    name: {
                        "delivered": sink.delivered,
                        "dropped": sink.dropped,
                        "error": sink.error,
                        "latency_ms": sink.latencies.percentiles_ms(),
                    }
                    for name, sink in self._sinks.items()
                },
            }


def _rate_hz(times_s: Sequence[float], now_s: float) -> float:
    """Frames a second over some last frames."""
    if len(times_s) < 2:
        return 0.0
    until_s = max(times_s[-1], now_s - _RATE_GAP_S)
    return (len(times_s) - 1) / max(until_s - times_s[0], 1e-9)
