import time

import numpy as np
import pytest

from sonodetr.stream.latency import LAST_FRAMES, Counters, Latencies


def test_only_the_last_ones_count():
    latencies = Latencies(last=11)
    for milliseconds in (*[900] * 50, *range(11)):
        latencies.add(milliseconds / 1000)
    expected = np.percentile(np.arange(11), [50, 95, 99])
    assert list(latencies.percentiles_ms().values()) == pytest.approx(expected)
    assert expected.tolist() == pytest.approx([5.0, 9.5, 9.9])


def test_memory_is_bounded():
    latencies = Latencies()
    for _ in range(LAST_FRAMES + 17):
        latencies.add(0.007)
    assert latencies._times_ms.shape == (LAST_FRAMES,)
    assert latencies.percentiles_ms() == {"p50": 7.0, "p95": 7.0, "p99": 7.0}


def test_counts(monkeypatch):
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    counters = Counters(["file", "viewer"])
    empty = {"p50": None, "p95": None, "p99": None}
    sink = {"delivered": 0, "dropped": 0, "error": None, "latency_ms": empty}
    assert counters.snapshot() == {
        **{"captured": 0, "dropped": 0, "found": 0, "late": 0, "frames_per_second": 0.0},
        **{"latency_ms": empty, "sinks": {"file": sink, "viewer": sink}},
    }
    for _ in range(5):
        counters.captured()
    counters.dropped(2)
    for captured_s, found_s in ((99.0, 99.019), (99.5, 99.521), (99.98, 99.999)):
        counters.found(captured_s, found_s, 1 / 50)
    counters.delivered("viewer", 99.993)
    counters.sink_dropped("viewer", 2)
    counters.sink_failed("file", OSError("gone"))
    counts = counters.snapshot()
    assert (counts["captured"], counts["dropped"], counts["found"]) == (5, 2, 3)
    assert counts["late"] == 1  # 21 ms at 50 Hz
    assert counts["frames_per_second"] == pytest.approx(2 / 0.98, abs=0.01)
    assert counts["latency_ms"]["p50"] == 500.0  # handed over at 100.0
    assert counts["sinks"]["file"]["error"] == "OSError: gone"
    assert counts["sinks"]["viewer"]["delivered"] == 1
    assert counts["sinks"]["viewer"]["dropped"] == 2
    assert counts["sinks"]["viewer"]["latency_ms"]["p99"] == pytest.approx(7.0)
    now_s = 111.0  # nothing came meanwhile
    assert counters.snapshot()["frames_per_second"] == pytest.approx(2 / (110 - 99.019), abs=0.01)


def test_the_rate_does_not_count_time_that_stood_still(monkeypatch):
    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    counters = Counters()
    for found_s in (0.0, 0.25, 0.5, 60.0, 60.125, 60.25):
        now_s = found_s
        counters.found(found_s, found_s, 1 / 8)
    assert counters.snapshot()["frames_per_second"] == 8.0
    slow = Counters()
    for now_s in (0.0, 4.0, 8.0):  # every one is due only after so long
        slow.found(now_s, now_s, 4.0)
    assert slow.snapshot()["frames_per_second"] == 0.25


def test_what_hangs_is_counted_as_dropped():
    counters = Counters(["file", "viewer"])
    for _ in range(7):
        counters.captured()
    for _ in range(3):
        counters.found(1.0, 1.0, 0.1)
    counters.delivered("viewer", 1.0)
    counters.settle()
    counters.settle("viewer")
    counts = counters.snapshot()
    assert counts["dropped"] == 4
    # The file may still take its frames.
    assert {name: sink["dropped"] for name, sink in counts["sinks"].items()} == {
        "file": 0,
        "viewer": 2,
    }
