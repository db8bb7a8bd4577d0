"""`sonodetr live`."""

import gc
import logging
import math
import shutil
import signal
import sys
import threading
import time
import webbrowser
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonodetr.files import InputError, check_apart
from sonodetr.verbs.answers import (
    MOST_THREADS,
    Json,
    Model,
    RegionText,
    ShowOutside,
    Threshold,
    answer,
    check_json,
    check_threshold,
    region_choice,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sonodetr.stream.pipeline import Pipeline

# How often the line that shows how it goes is written anew.
_STATUS_PERIOD_S = 0.5


def live(
    model: Model,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="igtl://HOST:PORT, igtl-listen://ADDRESS:PORT, camera:0, or a recording as "
            "predict takes it",
        ),
    ],
    sink: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="where results go, more than once if wanted: FILE.jsonl, FILE.mp4, "
            "igtl://HOST:PORT, igtl-listen://ADDRESS:PORT",
        ),
    ] = None,
    viewer: Annotated[
        bool, typer.Option("--viewer/--no-viewer", help="show it in a browser")
    ] = True,
    host: Annotated[
        str, typer.Option(help="address that the viewer listens on; any but this makes a token")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="port of the viewer; 0 takes a free one")
    ] = 8765,
    open_page: Annotated[
        bool, typer.Option("--open", help="open the viewer's page in the browser of this machine")
    ] = False,
    threshold: Threshold = None,
    region: RegionText = "",
    show_outside: ShowOutside = False,
    track: Annotated[
        bool, typer.Option("--track", help="number objects, steady them, bridge short gaps")
    ] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="a recording as fast as possible, not at its own rate")
    ] = False,
    threads: Annotated[
        int,
        typer.Option(
            min=0,
            max=MOST_THREADS,
            help="processor threads of the model; 0 leaves it to the runtime",
        ),
    ] = 0,
    seconds: Annotated[
        float | None, typer.Option(help="stop after so long  [default: at the end, or Ctrl-C]")
    ] = None,
    json_out: Json = "",
) -> None:
    """Find objects in a stream as it comes, and show how late it is.

    It never falls behind a live source: the newest frame wins, and what was skipped is counted.
    Of a recording every frame is looked at; with the viewer it stays at its end, until Ctrl-C.
    What lies outside the ultrasound picture, where names are shown, is blacked out everywhere.

    \b
    Examples:
      sonodetr live exported/nano igtl://scanner:18944
      sonodetr live nano simulator:7 --open
      sonodetr live exported/nano camera:0 --sink found.jsonl --sink found.mp4 --track
      sonodetr live runs/nerves needle.mp4 --no-viewer --fast --sink found.jsonl --json -
    """
    choice = region_choice(region)
    check_threshold(threshold)
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"--seconds {seconds} is not allowed; give more than 0")
    with _ctrl_c_afterwards():
        from sonodetr.predictor import load
        from sonodetr.stream.pipeline import Pipeline
        from sonodetr.stream.sinks import open_sink
        from sonodetr.stream.sources import open_stream

        predictor = load(model, threads=threads)
    stream = open_stream(source, fast=fast, hold=viewer and seconds is None)
    for address in (*(sink or ()), *([json_out] if json_out else [])):
        check_apart(source, address)
    check_json(json_out, *(sink or ()))
    sinks = [open_sink(address, rate_hz=stream.rate_hz) for address in sink or ()]
    with ExitStack() as stack:
        if viewer:
            from sonodetr.stream.attention import attention_of
            from sonodetr.stream.viewer import Viewer

            page = Viewer(
                (host, port),
                model=Path(model).name,
                source=stream.name,
                threshold=predictor.threshold if threshold is None else threshold,
                counters=lambda: pipeline.snapshot(),  # made below, of this viewer among others
                playback=getattr(stream, "playback", None),
                attend=attention_of(predictor),
                show_outside=show_outside,
            )
            stack.callback(page.close)
            sinks.append(page)
            print(f"sonodetr: watch it at {page.url} (Ctrl-C ends it)", file=sys.stderr, flush=True)
            if open_page:
                webbrowser.open(page.url)
        tracker = None
        if track:
            from sonodetr.stream.track import Tracker

            tracker = Tracker()
        pipeline = Pipeline(
            predictor,
            stream,
            sinks,
            threshold=threshold,
            tracker=tracker,
            region=choice,
            show_outside=show_outside,
        )
        _run(pipeline, {"model": model, "source": source}, seconds, json_out)


@contextmanager
def _ctrl_c_afterwards() -> "Iterator[None]":
    """Ctrl-C waits for the end of the block: packages in C make an ImportError of it."""
    before = signal.getsignal(signal.SIGINT)
    here = threading.current_thread() is threading.main_thread()
    if not here or before is not signal.default_int_handler:
        yield
        return
    pressed = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed.is_set():
        raise KeyboardInterrupt


def _run(
    pipeline: "Pipeline", result: dict[str, Any], seconds: float | None, json_out: str
) -> None:
    """Run it to its end, whatever that is, and say what became of every frame."""
    stop = threading.Event()
    status = _Status(pipeline.source.name, stop, seconds)
    started_s = time.monotonic()
    logging.getLogger("sonodetr").addHandler(status)
    whole = False
    # What is loaded stays: going through it would hold all threads for tens of milliseconds.
    gc.freeze()
    try:
        status.show(pipeline.run(stop, status.show))
        whole = True
    except KeyboardInterrupt:
        status.show(pipeline.snapshot())  # or nobody would be told of a sink that failed
        raise
    finally:
        gc.unfreeze()
        logging.getLogger("sonodetr").removeHandler(status)
        status.clear()
        counts = pipeline.snapshot()
        if whole or counts["captured"]:
            result |= counts | {"seconds": round(time.monotonic() - started_s, 3)}
            answer(result, json_out, "\n".join(_summary(counts)))


class _Status(logging.Handler):
    """The line that shows how it goes, on a terminal; and warnings, anywhere."""

    def __init__(self, source: str, stop: threading.Event, seconds: float | None) -> None:
        super().__init__(logging.WARNING)
        self._source, self._stop = source, stop
        self._end_s = math.inf if seconds is None else time.monotonic() + seconds
        self._next_s = 0.0
        self._said: set[str] = set()
        self._terminal = sys.stderr.isatty()

    def show(self, counts: dict[str, Any]) -> None:
        """Show the counts; called ten times a second."""
        now_s = time.monotonic()
        if now_s >= self._end_s:
            self._stop.set()
        for warning in _warnings(counts, self._source):
            if warning not in self._said:
                self._said.add(warning)
                self.warn(warning)
        if self._terminal and now_s >= self._next_s:
            self._next_s = now_s + _STATUS_PERIOD_S
            line = _line(counts)[: shutil.get_terminal_size().columns - 1]
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Say something that stays."""
        start = "\r\x1b[K" if self._terminal else ""
        print(f"{start}sonodetr: warning: {text}", file=sys.stderr, flush=True)

    def emit(self, record: logging.LogRecord) -> None:
        """What sources and sinks log; comes from any thread."""
        self.warn(self.format(record))

    def clear(self) -> None:
        """Take the line away."""
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _warnings(counts: dict[str, Any], source: str) -> list[str]:
    """What a user must know."""
    warnings = []
    if counts["captured"] and counts["region"] == "whole frame":
        warnings.append(
            f"whole frames of {source} are looked at and shown, names may be visible; "
            "give --region x0,y0,x1,y1"
        )
    failed = {name: sink["error"] for name, sink in counts["sinks"].items() if sink["error"]}
    warnings += [f"sink {name} has ended ({error})" for name, error in failed.items()]
    return warnings


def _line(counts: dict[str, Any]) -> str:
    """One line of how it goes.

    >>> _line({"frames_per_second": 59.94, "latency_ms": {"p50": 4.25, "p95": 5.0, "p99": 6.1},
    ...        "dropped": 2, "late": 1, "captured": 600})
    '59.9 frames/s, latency p50 4.2 ms, p99 6.1 ms, 600 captured, 2 dropped, 1 late'
    """
    latency = counts["latency_ms"]
    times = ", ".join(
        f"{name} {latency[name]:.1f} ms" for name in ("p50", "p99") if latency[name] is not None
    )
    return (
        f"{counts['frames_per_second']:.1f} frames/s, latency {times or 'unknown'}, "
        f"{counts['captured']} captured, {counts['dropped']} dropped, {counts['late']} late"
    )


def _summary(counts: dict[str, Any]) -> list[str]:
    """What became of all frames: a line for the model, and one for each sink."""
    lines = [_line(counts)]
    for name, sink in counts["sinks"].items():
        missed = f", {sink['not_taken']} not taken" if sink["not_taken"] else ""
        lines.append(f"{name}: {sink['delivered']} delivered, {sink['dropped']} dropped{missed}")
    if counts["connections_lost"]:
        lines.append(f"connections lost: {counts['connections_lost']}")
    return lines
