"""The arithmetic of benchmarks/live_rate.py; no processes are started."""

import live_rate
import numpy as np
import pytest

COUNTS = {
    **{"captured": 5, "dropped": 1, "late": 2},
    "latency_ms": {"p50": 3.0, "p95": 5.0, "p99": 7.0},
    "sinks": {"viewer": {"dropped": 1, "latency_ms": {"p50": 11.0, "p95": 13.0, "p99": 17.0}}},
}


def test_result():
    due_s = np.arange(5) / 50
    sent = np.stack((due_s + 0.001, due_s), 1)
    # Frame 2 was dropped, and frame 4 was not seen: 11, 13 and 19 ms after they were sent.
    seen = np.array([[0, 0.012], [1, 0.034], [3, 0.08]])
    result = live_rate._result(COUNTS, sent, 50.0) | live_rate._seen(sent, seen)
    assert (result["sent"], result["captured"], result["dropped"], result["seen"]) == (5, 5, 1, 3)
    assert (result["p50_ms"], result["p99_ms"], result["found_p99_ms"]) == (11.0, 17.0, 7.0)
    assert result["seen_p50_ms"] == pytest.approx(13.0)
    assert result["seen_p99_ms"] == pytest.approx(13 + 0.98 * 6, abs=1e-3)
    assert result["viewer_dropped"] == 1
    assert result["held"]


def test_a_sender_that_is_behind_did_not_hold_the_rate():
    due_s = np.arange(5) / 50
    sent = np.stack((due_s + 0.07, due_s), 1)  # 3.5 periods
    assert not live_rate._result(COUNTS, sent, 50.0)["held"]


@pytest.mark.parametrize(
    ("drops_from_hz", "held_to_hz", "limit_hz", "drops_at_hz"),
    [(125.0, 1e9, 121.0, 133.1), (90.0, 1e9, None, 100.0), (1e9, 115.0, 110.0, None)],
)
def test_limit(drops_from_hz, held_to_hz, limit_hz, drops_at_hz):
    def measure_at(rate_hz):
        dropped, held = int(rate_hz >= drops_from_hz), rate_hz <= held_to_hz
        return {"rate_hz": round(rate_hz, 2), "dropped": dropped, "held": held}

    found = live_rate.find_limit(measure_at(100.0), measure_at)
    assert found == {"limit_hz": limit_hz, "drops_at_hz": drops_at_hz}
