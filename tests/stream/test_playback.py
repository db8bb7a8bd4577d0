import threading
import time

import numpy as np
from live_parts import wait_until

from sonodetr.stream.playback import Playback


class Player:
    """What a source does, in a thread; remembers which frames were due when, and of which part."""

    def __init__(self, count, period_s=0.02, **options):
        self.playback = Playback(np.arange(count) * period_s, **options)
        self.stop = threading.Event()
        self.shown, self.parts, self.times_s = [], [], []
        self.thread = threading.Thread(target=self.play)

    def play(self):
        while (cue := self.playback.next(self.stop)) is not None:
            if self.playback.due(cue, self.stop):
                self.times_s.append(time.monotonic())
                self.parts.append(cue.part)
                self.shown.append(cue.place)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def until(self, *shown):
        """Until these were shown one after the other; who is late may find more."""

        def were_shown():
            starts = range(len(self.shown) - len(shown) + 1)
            return any(self.shown[at : at + len(shown)] == list(shown) for at in starts)

        wait_until(were_shown)


def test_frames_come_at_their_times():
    with Player(11) as player:
        player.thread.join(10)
    assert player.shown == list(range(11))
    assert set(player.parts) == {0}
    after_s = np.array(player.times_s) - player.times_s[0]
    assert (after_s >= np.arange(11) * 0.02 - 1e-3).all()
    assert np.median(after_s - np.arange(11) * 0.02) < 0.05


def test_paused_at_its_end():
    with Player(3, hold=True) as player:
        player.until(0, 1, 2)
        wait_until(lambda: player.playback.paused)
        player.playback.play()
        player.until(0, 1, 2, 0, 1, 2)
    assert player.parts == [0, 0, 0, 1, 1, 1]
    assert player.playback.length == 3


def test_pause_and_step():
    with Player(1000, 0.005) as player:
        player.until(5)
        player.playback.pause()
        place = player.playback.position
        time.sleep(0.05)
        assert player.playback.position == player.shown[-1] == place
        player.playback.step(1)
        player.until(place, place + 1)
        player.playback.step(-1)
        player.until(place, place + 1, place)
        assert player.playback.paused
        assert player.parts[-1] == player.parts[-2] + 1 == player.parts[-3] + 1
        player.playback.play()
        player.until(place + 1, place + 2)


def test_seek_while_paused_and_while_playing():
    with Player(1000, 0.01) as player:
        player.until(1)
        player.playback.seek(500)
        player.until(500, 501, 502)
        player.playback.pause()
        player.playback.seek(7)
        player.until(7)
        player.playback.seek(-5)
        player.until(7, 0)
        player.playback.seek(99999)
        player.until(0, 999)
        assert player.playback.position == 999
        time.sleep(0.02)
        assert player.shown[-1] == 999


def test_moved_twice_before_a_frame_was_read():
    """On to the next frame in the end: the one that was wanted in between is not shown."""
    playback, stop = Playback(np.arange(31) / 100), threading.Event()
    for _ in range(6):
        cue = playback.next(stop)
        assert playback.due(cue, stop)
    playback.seek(2)
    cue = playback.next(stop)
    playback.seek(6)
    assert not playback.due(cue, stop)
    assert playback.due(playback.next(stop), stop)
    assert (cue.place, playback.position) == (2, 6)


def test_a_still_is_shown_once():
    with Player(1) as player:
        player.thread.join(10)
    assert player.shown == [0]
    with Player(1, hold=True) as player:
        player.until(0)
        time.sleep(0.05)
        assert player.shown == [0]


def test_stopped_while_waiting():
    started_s = time.monotonic()
    with Player(2, 1000.0) as player:
        player.until(0)
    assert time.monotonic() - started_s < 2
