"""The viewer as pages see it: the frames, the controls, and what happens to rude pages."""

import asyncio
import json
import logging
import socket
import threading
import time
import urllib.request
from contextlib import ExitStack, suppress

import numpy as np
import pytest
from live_parts import wait_until
from viewing import Page, page_of, port_of, ready, result, watched
from websockets.asyncio.client import connect as connect_asyncio
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sonodetr.files import InputError
from sonodetr.stream import viewer as module
from sonodetr.stream.attention import Attention
from sonodetr.stream.flow import Sink
from sonodetr.stream.playback import Playback
from sonodetr.stream.viewer import Viewer
from sonodetr.stream.viewer_messages import Attended


def test_a_frame_arrives_with_all_that_is_known():
    counters = {"captured": 11, "dropped": 2}
    playback = Playback(np.arange(13) / 10)
    with watched(counters=lambda: counters, playback=playback) as (viewer, deliver):
        assert isinstance(viewer, Sink)
        with page_of(viewer) as page:
            ready(viewer)
            deliver(result(5))
            header, picture = page.frame(5)
    assert header["width"], header["height"] == (83, 61)
    assert header["detections"][0]["angle_deg"] == 56.3
    assert picture[:2] == b"\xff\xd8"
    assert {name: header[name] for name in ("model", "source", "threshold", "attention")} == {
        "model": "nano",
        "source": "made up",
        "threshold": 0.5,
        "attention": False,
    }
    assert header["counters"] == counters
    assert header["playback"] == {"position": 0, "length": 13, "paused": False}
    assert header["frozen"] is False


def test_pages_see_the_same_frames():
    with watched() as (viewer, deliver), ExitStack() as stack:
        pages = [stack.enter_context(page_of(viewer)) for _ in range(3)]
        ready(viewer, 3)
        for index in range(7):
            deliver(result(index))
            first, *others = [page.frame(index) for page in pages]
            assert all(other == first for other in others)


def test_nothing_is_encoded_while_nobody_watches(monkeypatch):
    encoded = []
    encode = module.frame_message
    monkeypatch.setattr(
        module,
        "frame_message",
        lambda *words, **named: encoded.append(1) or encode(*words, **named),
    )
    with watched() as (viewer, deliver):
        for index in range(5):
            deliver(result(index))
        assert not encoded
        with page_of(viewer) as page:  # who comes later sees the last frame
            page.frame(4)
        with page_of(viewer) as page:
            page.frame(4)
    assert len(encoded) == 2


def test_who_comes_later_never_sees_an_older_frame():
    with watched(playback=Playback(np.arange(13) / 10)) as (viewer, deliver):
        with page_of(viewer) as page:
            ready(viewer)
            deliver(result(1))
            page.frame(1)
        ready(viewer, 0)
        deliver(result(2))
        with page_of(viewer) as page:
            page.frame(2)
            page.ask(pause=True)  # which is answered with the newest frame
            assert page.header(lambda header: "frame" in header)["frame"] == 2


def test_a_slow_page_gets_the_newest_frame():
    with watched() as (viewer, deliver), page_of(viewer, max_queue=1) as page:
        ready(viewer)
        for index in range(300):
            deliver(result(index, size=(256, 256)))
            time.sleep(0.001)
        seen = []
        while not seen or seen[-1] != 299:
            seen.append(page.header(lambda header: "frame" in header)["frame"])
        assert seen == sorted(set(seen))
        assert len(seen) < 30


def test_a_page_that_never_reads_is_closed(monkeypatch):
    monkeypatch.setattr(module, "LONGEST_SILENCE_S", 0.5)
    with watched() as (viewer, deliver), page_of(viewer) as page, raw_page(viewer) as silent:
        ready(viewer, 2)
        started_s = time.monotonic()
        index = 0
        while len(viewer._pages) == 2:
            deliver(result(index, size=(480, 640)))
            page.frame(index)  # the other page misses nothing
            index += 1
            assert time.monotonic() - started_s < 5
        assert time.monotonic() - started_s > 0.4
        read_to_the_end(silent)


def read_to_the_end(connection: socket.socket) -> None:
    with suppress(ConnectionResetError):
        while connection.recv(1 << 16):
            pass


def raw_page(viewer: Viewer) -> socket.socket:
    """A page that has been accepted, and does nothing of its own."""
    port = port_of(viewer)
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.sendall(
        f"GET /frames HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return connection


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", 1007),
        ('{"stop": true}', 1007),
        ("[" * 4000, 1007),
        (b'{"pause": true}', 1007),
        ("x" * 4097, 1009),
        ("x" * 10_000_000, 1009),
    ],
    ids=["cut", "unknown", "deep", "binary", "long", "huge"],
)
def test_a_malformed_message_closes_that_page_alone(message, code):
    with watched() as (viewer, deliver), page_of(viewer) as good, page_of(viewer) as bad:
        ready(viewer, 2)
        closed = closing(bad, message)
        if len(message) < 1_000_000:  # else the connection is gone while it is still being sent
            assert closed == code
        ready(viewer, 1)
        deliver(result(3))
        good.frame(3)


def test_too_many_messages():
    with watched(playback=Playback(np.arange(13) / 10)) as (viewer, deliver):
        with page_of(viewer) as page:
            ready(viewer)
            for index in range(20):
                page.ask(seek=index)
            deliver(result(1))
            page.frame(1)
        with page_of(viewer) as page:
            assert closing(page, *(json.dumps({"seek": index}) for index in range(21))) == 1008


def closing(page: Page, *messages: str | bytes) -> int | None:
    """The code with which the server closes a page that sends these; None where it just goes."""
    try:
        for message in messages:
            page.send(message)
        page.header(lambda header: False)
    except ConnectionClosed as closed:
        return closed.rcvd and closed.rcvd.code
    raise AssertionError("the page is still open")


def test_a_flood_of_pings():
    with watched() as (viewer, _), raw_page(viewer) as page:
        ready(viewer)
        with suppress(ConnectionResetError, BrokenPipeError):
            for _ in range(20):
                page.sendall(b"\x89\x80\x00\x00\x00\x00" * 100)
        ready(viewer, 0)


def test_two_hundred_connections():
    async def come(viewer: Viewer) -> list[int]:
        address = viewer.url.replace("http", "ws", 1) + "frames"
        pages, refused = [], []

        async def one() -> None:
            try:
                pages.append(await connect_asyncio(address))
            except InvalidStatus as error:
                refused.append(error.response.status_code)

        await asyncio.gather(*(one() for _ in range(200)))
        assert len(pages) == 64
        await pages.pop().close()
        while len(viewer._pages) == 64:
            await asyncio.sleep(0.01)
        await one()  # into the place that is free now
        assert len(pages) == 64
        await asyncio.gather(*(page.recv() for page in pages))
        await asyncio.gather(*(page.close() for page in pages))
        return refused

    with watched() as (viewer, deliver):
        deliver(result(1))
        assert asyncio.run(come(viewer)) == [503] * 136
        with page_of(viewer) as page:
            page.frame(1)


def test_sockets_that_say_nothing():
    with watched() as (viewer, deliver):
        port = port_of(viewer)
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
        wait_until(lambda: sum(map(is_closed, idle)) == 44)  # 256 are left, for 5 s
        for each in idle:
            each.close()
        deliver(result(1))
        with page_of(viewer) as page:
            page.frame(1)


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_live_page_freezes_alone():
    with watched() as (viewer, deliver), page_of(viewer) as one, page_of(viewer) as other:
        ready(viewer, 2)
        deliver(result(0))
        one.frame(0)
        one.ask(pause=True)
        one.header(lambda header: header["frozen"])
        for index in (1, 2):
            deliver(result(index))
            header, _ = other.frame(index)
            assert header["frozen"] is False
        one.ask(step=1)  # nothing to step in
        frozen = one.header(lambda header: True)
        assert frozen["frozen"] is True
        assert "frame" not in frozen
        one.ask(play=True)
        one.frame(2)


def test_a_recording_is_controlled_by_all():
    playback = Playback(np.arange(13) / 10, hold=True)
    with watched(playback=playback) as (viewer, _), ExitStack() as stack:
        one, other = (stack.enter_context(page_of(viewer)) for _ in range(2))
        ready(viewer, 2)
        one.ask(pause=True)
        other.header(lambda header: header["playback"]["paused"])
        assert playback.paused
        one.ask(seek=7)
        wait_until(lambda: playback.next(threading.Event()).place == 7)
        assert playback.due(playback.next(threading.Event()), threading.Event())
        one.ask(step=-2)
        wait_until(lambda: playback.next(threading.Event()).place == 5)
        header = other.header(lambda header: header["playback"]["position"] == 7)
        assert header["playback"] == {"position": 7, "length": 13, "paused": True}
        other.ask(play=True)
        one.header(lambda header: not header["playback"]["paused"])


class Looks(Attention):
    """Remembers what it was asked; `before` is done first."""

    span = 3

    def __init__(self, before=lambda: None):
        self.asked, self.before = [], before

    def __call__(self, frames, x_px, y_px):
        self.asked.append(([frame.index for frame in frames], x_px, y_px))
        self.before()
        return Attended(np.float32([[0, 1], [0.5, 0]]), (0.0, 0.0, 83.0, 61.0), (x_px, y_px))


def test_attention_of_the_frame_that_is_shown():
    attend = Looks()
    with watched(attend=attend) as (viewer, deliver), page_of(viewer) as page:
        ready(viewer)
        for index in range(5):
            deliver(result(index))
            page.frame(index)
        page.ask(attend=[30.5, 7])
        header, picture = page.message(lambda header: "attended" in header)
        assert attend.asked == [([2, 3, 4], 30.5, 7.0)]
        assert (header["frame"], header["frozen"], header["attention"]) == (4, True, True)
        assert header["attended"]["levels"] == [[0, 255], [128, 0]]
        assert picture[:2] == b"\xff\xd8"
        deliver(result(5))  # what is asked next is still asked of what is shown
        page.ask(attend=[1, 2])
        page.header(lambda header: header.get("attended", {}).get("point_px") == [1, 2])
        assert attend.asked[1] == ([2, 3, 4], 1.0, 2.0)
        page.ask(play=True)
        page.frame(5)


def test_attention_pauses_a_recording_and_knows_where_it_was_moved():
    attend, playback = Looks(), Playback(np.arange(130) / 10)
    with watched(attend=attend, playback=playback) as (viewer, deliver), page_of(viewer) as page:
        ready(viewer)
        for index in (0, 1, 60, 61, 20):
            deliver(result(index))
            page.frame(index)
        page.ask(attend=[1, 1])
        assert page.header(lambda header: "attended" in header)["frame"] == 20
        assert playback.paused
        assert attend.asked == [([20], 1.0, 1.0)]


def test_attention_that_cannot_be_told():
    def fail():
        raise InputError("the model has no encoder layers")

    with watched(attend=Looks(fail)) as (viewer, deliver), page_of(viewer) as page:
        ready(viewer)
        page.ask(attend=[1, 1])  # nothing is shown yet
        deliver(result(0))
        page.ask(play=True)
        page.frame(0)
        page.ask(attend=[1, 1])
        header = page.header(lambda header: "problem" in header)
        assert header["problem"] == "the model has no encoder layers"
    with watched() as (viewer, deliver), page_of(viewer) as page:
        ready(viewer)
        deliver(result(0))
        page.frame(0)
        page.ask(attend=[1, 1])
        page.header(lambda header: header["frozen"])


def test_attention_that_fails_is_told(caplog):
    attend = Looks(lambda: 1 / 0)
    with watched(attend=attend) as (viewer, deliver), page_of(viewer) as page:
        ready(viewer)
        deliver(result(0))
        page.frame(0)
        for count in (1, 2):  # and one may ask again
            page.ask(attend=[1, 1])
            wait_until(lambda: len(caplog.records) == count)  # noqa: B023
    assert {record.message for record in caplog.records} == {"a viewer's attention failed"}
    assert len(attend.asked) == 2


def test_an_answer_that_comes_too_late_is_not_shown():
    go_on = threading.Event()
    attend = Looks(lambda: go_on.wait(10))
    with watched(attend=attend) as (viewer, deliver), page_of(viewer) as page:
        ready(viewer)
        deliver(result(0))
        page.frame(0)
        page.ask(attend=[1, 1])
        wait_until(lambda: attend.asked)
        page.ask(play=True)
        page.header(lambda header: "frame" not in header and not header["frozen"])
        go_on.set()
        (server_side,) = viewer._pages
        wait_until(server_side.attending.done)
        deliver(result(1))
        header = page.header(lambda header: "attended" in header or header.get("frame") == 1)
        assert "attended" not in header


def test_one_wish_at_a_time():
    go_on = threading.Event()
    attend = Looks(lambda: go_on.wait(10))
    with watched(attend=attend) as (viewer, deliver), page_of(viewer) as page:
        ready(viewer)
        deliver(result(0))
        page.frame(0)
        for index in range(9):
            page.ask(attend=[index, 0])
        wait_until(lambda: attend.asked)
        page.header(lambda header: header["frozen"])
        go_on.set()
        page.header(lambda header: "attended" in header)
    assert len(attend.asked) < 9


def test_closing_does_not_wait_for_pages(caplog):
    with ExitStack() as stack:
        with watched() as (viewer, deliver):
            silent = stack.enter_context(raw_page(viewer))
            page = stack.enter_context(page_of(viewer))
            idle = socket.create_connection(("127.0.0.1", port_of(viewer)))
            stack.enter_context(idle)  # says nothing
            ready(viewer, 2)
            for index in range(20):
                deliver(result(index, size=(480, 640)))
            started_s = time.monotonic()
        assert time.monotonic() - started_s < 3
        with pytest.raises(ConnectionClosed):
            page.header(lambda header: False)
        read_to_the_end(silent)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(viewer.url)
    assert not caplog.records


def test_a_server_that_fails_ends_the_sink(monkeypatch):
    def fail(*words):
        raise RuntimeError("no server today")

    monkeypatch.setattr(module, "serve_pages", fail)
    with pytest.raises(RuntimeError, match="no server today"), watched():
        pass


def test_a_server_that_fails_later_ends_the_sink(monkeypatch):
    with watched() as (viewer, deliver):
        deliver(result(0))
        monkeypatch.setattr(viewer, "_tell_all", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            wait_until(lambda: deliver(result(1)))


def test_a_frame_of_another_size():
    with watched() as (viewer, deliver), page_of(viewer) as page:
        ready(viewer)
        for index, size in enumerate([(61, 83), (29, 31), (61, 83)]):
            deliver(result(index, size=size))
            header, _ = page.frame(index)
            assert (header["height"], header["width"]) == size


def test_a_bug_in_one_page_is_told_and_closes_it(caplog):
    def counters():
        if threading.current_thread().name == "sonodetr-viewer":
            raise ZeroDivisionError
        return {}

    with watched(counters=counters) as (viewer, _), page_of(viewer) as page:
        assert closing(page) is None
    assert caplog.records[0].message == "a viewer's page failed"


def test_tokens_are_in_no_log(caplog):
    caplog.set_level(logging.DEBUG)
    with watched(address=("0.0.0.0", 0)) as (viewer, _):
        token = viewer.url.partition("token=")[2]
        with page_of(viewer) as page:
            page.header(lambda header: True)
        ours = [record for record in caplog.records if record.name != "websockets.client"]
    assert len(token) == 32
    assert not any(token in record.getMessage() for record in ours)


def test_addresses_that_cannot_be_listened_on():
    named = {"model": "nano", "source": "made up", "threshold": 0.5, "counters": dict}
    first = Viewer(("127.0.0.1", 0), **named)
    port = port_of(first)
    for address in (("127.0.0.1", port), ("203.0.113.7", 0), ("no such host.invalid", 0)):
        with pytest.raises(InputError, match=r"the viewer cannot listen on .*; give an address"):
            Viewer(address, **named)
    first.close()
    Viewer(("127.0.0.1", port), **named).close()
