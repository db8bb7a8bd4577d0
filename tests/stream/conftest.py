"""No test of the live part may leave a thread behind."""

import threading

import pytest
from live_parts import wait_until


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    wait_until(lambda: set(threading.enumerate()) <= before)
