"""From a source's frames to detections in every sink, each stage in a thread of its own.

Capture, then inference, then one thread for each sink, with a bounded channel between each two.
With a live source the newest frame wins, and what it replaces is counted; of a recording every
frame is looked at. No sink holds up a live pipeline.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from sonodetr.files import InputError
from sonodetr.predictor import Predictor, RegionChoice
from sonodetr.stream.channel import Channel
from sonodetr.stream.flow import Captured, Result, Sink, Source
from sonodetr.stream.latency import Counters
from sonodetr.stream.look import Look

if TYPE_CHECKING:
    from sonodetr.stream.track import Tracker

# A source that does not say its rate is held to this one.
USUAL_RATE_HZ = 30.0
# Frames of a recording that wait to be looked at, and results that wait for a sink.
_FRAMES_WAITING = 2
_RESULTS_WAITING = 32
# How often the caller's thread looks at the others and at Ctrl-C, and shows how it goes.
_LOOK_S = 0.1
# What still has not ended so long after everything was told to is left behind.
PATIENCE_S = 5.0

_log = logging.getLogger(__name__)


class _Stage(Thread):
    """A thread that tells when it has ended.

    `Thread.join` cannot be relied on for that: Ctrl-C in it makes Python 3.11 and 3.12 take the
    thread for ended while it runs.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        # What hangs in a driver must not keep the process.
        super().__init__(name=name, daemon=True)
        self._work, self.ended = work, Event()

    def run(self) -> None:
        try:
            self._work()
        finally:
            self.ended.set()


class _Outlet:
    """A sink, what waits for it, and its thread."""

    def __init__(self, sink: Sink, counters: Counters, *, live: bool) -> None:
        self.sink, self.name = sink, sink.name
        self.patient = getattr(sink, "every_frame", False)
        self.results = Channel[Result](_RESULTS_WAITING, newest_wins=live or not self.patient)
        self.stage = _Stage(f"sink {self.name}", self._run)
        self.opened = Event()
        self.error: BaseException | None = None
        self._counters = counters

    def put(self, result: Result) -> None:
        """Hand over a result, or count what is lost."""
        self._counters.sink_dropped(self.name, self.results.put(result))

    def fail(self, error: BaseException) -> None:
        """Take no more results."""
        self.error = self.error or error
        self._counters.sink_failed(self.name, error)

    def _run(self) -> None:
        try:
            with self.sink.open() as deliver:
                self.opened.set()
                for result in self.results:
                    try:
                        deliver(result)
                    except BaseException:
                        self._counters.sink_dropped(self.name, 1)
                        raise
                    self._counters.delivered(self.name, result.captured_s)
        except BaseException as error:
            self.fail(error)
        finally:
            self._counters.sink_dropped(self.name, self.results.abandon())
            self.opened.set()


class Pipeline:
    """Runs a model on a source and hands what it finds to sinks.

    Args:
        predictor: the model.
        source: where frames come from.
        sinks: where results go; their names differ.
        threshold: least score of a detection; default is the model's own.
        tracker: gives detections ids and steadies them.
        region: what the model sees, as in `Predictor.predict`; default is as in training.
        show_outside: let sinks see what lies around the region, which is otherwise black.

    Attributes:
        source: as given.

    Raises:
        InputError: two sinks have one name, or a given region does not lie inside a recording.
    """

    def __init__(
        self,
        predictor: Predictor,
        source: Source,
        sinks: Sequence[Sink] = (),
        *,
        threshold: float | None = None,
        tracker: "Tracker | None" = None,
        region: RegionChoice | None = None,
        show_outside: bool = False,
    ) -> None:
        names = [sink.name for sink in sinks]
        places = [os.path.realpath(name) for name in names]  # of files
        for name, place in zip(names, places, strict=True):
            if places.count(place) > 1:
                raise InputError(f"sink {name}: is given {places.count(place)} times; give it once")
        self.source = source
        least = predictor.threshold if threshold is None else threshold
        self._look = Look(predictor, source, least, tracker, region, show_outside)
        self._counters = Counters(names)
        self._outlets = [_Outlet(sink, self._counters, live=source.live) for sink in sinks]
        self._frames = Channel[Captured](
            1 if source.live else _FRAMES_WAITING, newest_wins=source.live
        )
        self._ready = Event()
        self._error: BaseException | None = None

    def snapshot(self) -> dict[str, Any]:
        """All counters now, as plain values (docs/live.md); for any thread, and cheap."""
        region = self._look.region.state
        counts = self._counters.snapshot()
        for outlet in self._outlets:
            counts["sinks"][outlet.name]["not_taken"] = getattr(outlet.sink, "dropped", 0)
        return counts | {
            "region": region if isinstance(region, str) else list(region),
            "connections_lost": getattr(self.source, "lost", 0),
        }

    def run(
        self, stop: Event, watch: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Run until the source ends, `stop` is set or a stage fails; once for each pipeline.

        Whatever ends it, all frames that sinks still have to take are given to them first, and the
        sinks are closed. Ctrl-C (a `KeyboardInterrupt` in this thread) ends it in the same way, and
        is raised again when all is closed; a second one ends the waiting.

        Args:
            stop: ends it from outside; is set here when it ends for another reason.
            watch: is called with `snapshot()` ten times a second, in this thread.

        Returns:
            The last `snapshot()`.

        Raises:
            Exception: what the source, the model or a sink raised. When the source or the model
                fails, everything ends; when a sink fails, only that sink does until the end.
        """
        self._stop = stop
        capture, infer = _Stage("capture", self._capture), _Stage("infer", self._infer)
        pressed = False
        try:
            for stage in (*(outlet.stage for outlet in self._outlets), infer):
                stage.start()
            if self._all_ready():
                capture.start()
            # The source's last frame is not yet looked at when the source ends.
            while not infer.ended.wait(_LOOK_S) and not stop.is_set():
                if watch is not None:
                    watch(self.snapshot())
        except KeyboardInterrupt:
            pressed = True
            raise
        finally:
            self._finish(capture, infer, pressed)
            if pressed and self._error is not None:
                _log.warning("%s", self._error)  # which is not what is raised
        error = self._error or next((each.error for each in self._outlets if each.error), None)
        if error is not None:
            raise error
        return self.snapshot()

    def _all_ready(self) -> bool:
        """Whether the model has run once and the sinks are open, before the first frame is read."""
        patient_until_s = time.monotonic() + PATIENCE_S
        while not self._stop.wait(0.01):
            opened = all(outlet.opened.is_set() for outlet in self._outlets)
            for outlet in self._outlets:  # after `opened`, which an error comes before
                if outlet.error is not None:
                    self._fail(outlet.error)
            if self._ready.is_set() and (opened or time.monotonic() > patient_until_s):
                return not self._stop.is_set()
        return False

    def _finish(self, capture: _Stage, infer: _Stage, pressed: bool) -> None:
        """End all stages and see them end, also through the first Ctrl-C."""
        try:
            self._end(capture, infer)
        except KeyboardInterrupt:
            if not pressed:
                self._end(capture, infer)
            raise

    def _end(self, capture: _Stage, infer: _Stage) -> None:
        """End all stages, in the order in which frames pass them."""
        self._stop.set()
        captured = self._ended(capture)
        self._frames.close()
        if not self._ended(infer):
            self._frames.abandon()  # capture may wait for a place in it
            capture.ended.wait(_LOOK_S)
            self._counters.settle()
            self._fail(
                InputError(f"the model takes over {PATIENCE_S:g} s for a frame, and was left")
            )
        elif not captured:
            self._fail(
                InputError(f"{self.source.name}: does not answer, and was left; look at the device")
            )
        for outlet in self._outlets:
            outlet.results.close()
        for outlet in self._outlets:
            # A long video may take its time to be closed.
            if not self._ended(outlet.stage, patient=outlet.patient):
                self._counters.settle(outlet.name)
                outlet.fail(InputError(f"{outlet.name}: takes no more frames, and was left"))

    def _ended(self, stage: _Stage, *, patient: bool = False) -> bool:
        """Wait for a stage while frames still move; False when it is left behind."""
        if stage.ident is None:
            return True  # never started
        moved, moved_at_s = -1, 0.0
        while not stage.ended.wait(_LOOK_S):
            if moved != (moved := self._counters.progress()):
                moved_at_s = time.monotonic()
            elif not patient and time.monotonic() > moved_at_s + PATIENCE_S:
                return False
        stage.join(_LOOK_S)
        return True

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._stop.set()

    def _capture(self) -> None:
        try:
            for captured in self.source.frames(self._stop):
                self._counters.captured()
                self._counters.dropped(self._frames.put(captured))
                if self._stop.is_set():
                    break
        except BaseException as error:
            self._fail(error)
        finally:
            self._frames.close()

    def _period_s(self) -> float:
        """How long a frame may take before it is late; for ever if it does not come at its time."""
        if not self.source.live and getattr(self.source, "playback", None) is None:
            return math.inf
        return 1 / (self.source.rate_hz or USUAL_RATE_HZ)

    def _infer(self) -> None:
        period_s = self._period_s()
        try:
            self._look.warm_up()
            self._ready.set()
            for captured in self._frames:
                try:
                    result = self._look.at(captured)
                except BaseException:
                    self._counters.dropped(1)
                    raise
                for outlet in self._outlets:
                    outlet.put(result)
                self._counters.found(result.captured_s, result.found_s, period_s)
        except BaseException as error:
            self._fail(error)
        finally:
            self._counters.dropped(self._frames.abandon())
            for outlet in self._outlets:
                outlet.results.close()
