"""OpenIGTLink sources and sinks: real pyigtl peers in processes of their own, and broken peers."""

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from live_parts import wait_until

from sonodetr.draw import draw
from sonodetr.files import InputError
from sonodetr.formats.openigtlink import (
    image_content,
    pack,
    read_content,
    read_header,
)
from sonodetr.stream import igtl_reader, openigtlink, outlet
from sonodetr.stream.flow import Captured, Result, Sink
from sonodetr.stream.igtl_result import messages_of
from sonodetr.stream.openigtlink import (
    IgtlClientSink,
    IgtlClientSource,
    IgtlServerSink,
    IgtlServerSource,
    parse_address,
)
from sonodetr.types import Detections, Frame, Spacing

# A plane turned in space: columns go up, rows to the right.
TURNED = np.array([[0, 0.5, 0, 3], [0, 0, 1, 5], [0.25, 0, 0, 7], [0, 0, 0, 1.0]])
PATIENT = "Doe^Jane"


def image(value: int, height: int = 5, width: int = 7, device: str = PATIENT) -> bytes:
    pixels = np.full((height, width), value, np.uint8)
    return pack("IMAGE", device, *image_content(pixels, TURNED))


class Running:
    """A source in a thread; frames as they come."""

    def __init__(self, source: IgtlClientSource | IgtlServerSource) -> None:
        self.source, self.stop = source, threading.Event()
        self.captured: list[Captured] = []
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.captured.extend(self.source.frames(self.stop))
        except InputError as error:
            self.error = error

    @property
    def values(self) -> list[int]:
        return [int(captured.frame.pixels[0, 0]) for captured in self.captured]

    @property
    def port(self) -> int:
        assert isinstance(self.source, IgtlServerSource)
        wait_until(lambda: self.source.port != 0)  # type: ignore[union-attr]
        return self.source.port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 5)


@contextmanager
def running(source: IgtlClientSource | IgtlServerSource) -> Iterator[Running]:
    run = Running(source)
    run.thread.start()
    try:
        yield run
    finally:
        run.stop.set()
        begin = time.monotonic()
        run.thread.join(5)
        assert not run.thread.is_alive()
        run.stop_s = time.monotonic() - begin  # type: ignore[attr-defined]


@contextmanager
def pushed_to() -> Iterator[Running]:
    with running(IgtlServerSource("127.0.0.1", 0)) as run:
        yield run


@contextmanager
def serving() -> Iterator[tuple[Running, socket.socket]]:
    """A client source, and the listening socket of the server it connects to."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        running(IgtlClientSource("127.0.0.1", server.getsockname()[1])) as run,
    ):
        server.settimeout(10)
        yield run, server


@contextmanager
def pyigtl_peer(script: str, *words: object) -> Iterator[subprocess.Popen]:
    """A process with pyigtl; its signal handlers and threads stay out of ours."""
    code = "import sys, time, json, numpy as np, pyigtl\n" + script
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


SEND_IMAGES = """
peer.start()
until = time.time() + 10
while not peer.is_connected() and time.time() < until:
    time.sleep(0.01)
matrix = np.array([[0, 0.5, 0, 3], [0, 0, 1, 5], [0.25, 0, 0, 7], [0, 0, 0, 1]])
for value in range(13):
    peer.send_message(pyigtl.TransformMessage(np.eye(4), device_name="ImageToReference"))
    peer.send_message(pyigtl.ImageMessage(
        np.full((1, 480, 640), value, np.uint8), ijk_to_world_matrix=matrix,
        world_coordinate_system="ras", device_name="Image_Reference"))
sys.stdin.read()
"""


def check_images(run: Running) -> None:
    wait_until(lambda: len(run.captured) == 13)
    assert run.values == list(range(13))
    last = run.captured[-1]
    assert last.frame.pixels.shape == (480, 640)
    assert last.frame.index == 12
    assert last.frame.spacing_mm == Spacing(y_mm=0.5, x_mm=0.25)
    assert np.allclose(last.frame.ijk_to_ras_mm, TURNED, atol=1e-4)
    assert last.frame.time_s == last.captured_s - run.captured[0].captured_s
    assert {captured.part for captured in run.captured} == {0}
    assert all(
        a.captured_s <= b.captured_s for a, b in zip(run.captured, run.captured[1:], strict=False)
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_pyigtl_server_is_a_source() -> None:
    port = free_port()
    script = "peer = pyigtl.OpenIGTLinkServer(port=int(sys.argv[1]), start_now=False)"
    with (
        pyigtl_peer(script + SEND_IMAGES, port),
        running(IgtlClientSource("localhost", port)) as run,
    ):
        check_images(run)
    assert run.stop_s < 0.3  # type: ignore[attr-defined]


def test_pyigtl_client_pushes() -> None:
    script = "peer = pyigtl.OpenIGTLinkClient('127.0.0.1', int(sys.argv[1]), start_now=False)"
    with pushed_to() as run, pyigtl_peer(script + SEND_IMAGES, run.port):
        check_images(run)


def found(count: int = 2, *, spacing: bool = False, matrix: np.ndarray | None = None) -> Result:
    boxes = np.float32([[2, 1, 6, 4], [0, 0, 7, 5]])[:count]
    points = np.float32([[[3, 2], [0.5, 0.5]], [[6, 1], [1, 1]]])[:count]
    detections = Detections(
        boxes,
        np.float32([0.9, 0.5])[:count],
        np.int64([1, 0])[:count],
        ("vessel", "needle"),
        points_px=points,
        track_ids=np.int64([17, -1])[:count],
        frame_index=11,
    )
    frame = Frame(
        np.full((5, 7), 40, np.uint8),
        11,
        0.5,
        Spacing(0.5, 0.25) if spacing else None,
        None,
        matrix,
    )
    return Result(frame, detections, detections, time.monotonic(), time.monotonic())


RECEIVE = """
peer.start()
print("ready", flush=True)
got = {}
while len(got) < 3:
    for message in peer.get_latest_messages():
        got[message.device_name] = message
    time.sleep(0.01)
points, picture = got["SonoDETR_Points"], got["SonoDETR_Image"]
print(json.dumps({
    "text": json.loads(got["SonoDETR_Detections"].string),
    "names": points.names, "groups": points.groups, "positions": points.positions,
    "owners": points.owners, "shape": picture.image.shape,
    "matrix": picture.ijk_to_world_matrix.tolist(), "system": picture.world_coordinate_system,
    "times": [message.timestamp for message in got.values()],
}), flush=True)
sys.stdin.read()
"""


def check_received(process: subprocess.Popen, sink: IgtlClientSink | IgtlServerSink) -> None:
    assert isinstance(sink, Sink)
    assert process.stdout.readline() == "ready\n"
    result = found(matrix=TURNED)
    answer: list[str] = []
    reader = threading.Thread(target=lambda: answer.append(process.stdout.readline()))
    reader.start()
    with sink.open() as deliver:
        while not answer:
            deliver(result)
            time.sleep(0.02)
    reader.join()
    got = json.loads(answer[0])
    assert got["text"] == result.detections.to_dict()
    assert got["names"] == ["#17 needle tip", "#17 needle entry", "vessel tip", "vessel entry"]
    assert got["groups"] == ["tip", "entry"] * 2
    assert got["positions"] == [
        *([3 + 0.5 * 1.5, 5, 7 + 0.25 * 2.5], [3, 5, 7]),
        *([3 + 0.5 * 0.5, 5, 7 + 0.25 * 5.5], [3 + 0.5 * 0.5, 5, 7 + 0.25 * 0.5]),
    ]
    assert got["owners"] == ["SonoDETR_Image"] * 4
    assert got["shape"] == [1, 5, 7, 3]
    assert got["system"] == "ras"
    assert np.allclose(got["matrix"], TURNED)
    assert max(got["times"]) == min(got["times"])
    assert abs(got["times"][0] - time.time()) < 20


def test_pyigtl_client_receives() -> None:
    port = free_port()
    script = "peer = pyigtl.OpenIGTLinkClient('127.0.0.1', int(sys.argv[1]), start_now=False)"
    with pyigtl_peer(script + RECEIVE, port) as process:
        check_received(process, IgtlServerSink("127.0.0.1", port))


def test_pyigtl_server_receives() -> None:
    port = free_port()
    script = "peer = pyigtl.OpenIGTLinkServer(port=int(sys.argv[1]), start_now=False)"
    with pyigtl_peer(script + RECEIVE, port) as process:
        check_received(process, IgtlClientSink("127.0.0.1", port))


def contents(messages: list[bytes]) -> list[bytes]:
    headers = [read_header(message[:58]) for message in messages]
    assert [header.kind for header in headers] == ["STRING", "POINT", "POLYDATA", "IMAGE"]
    return [
        bytes(read_content(header, message[58:]))
        for header, message in zip(headers, messages, strict=True)
    ]


def test_outlines_lie_on_the_picture() -> None:
    """A box from 2, 1 to 6, 4: its corners are half a pixel from the centres of pixels."""
    outlines = contents(messages_of(found(1, spacing=True)))[2]
    assert struct.unpack(">10I", outlines[:40]) == (4, 0, 0, 1, 24, 0, 0, 0, 0, 0)
    # To the patient's left and back, so that both coordinates are negative.
    corners = np.frombuffer(outlines, ">f4", 12, 40).reshape(4, 3)
    x0, y0, x1, y1 = -0.25 * 1.5, -0.5 * 0.5, -0.25 * 5.5, -0.5 * 3.5
    assert corners.tolist() == [[x0, y0, 0], [x1, y0, 0], [x1, y1, 0], [x0, y1, 0]]


def test_nothing_found_clears_what_is_shown() -> None:
    messages = messages_of(found(0))
    text, points, outlines, _ = contents(messages)
    assert json.loads(text[4:]) == {"frame": 11, "time_s": 0.0, "detections": []}
    assert (points, outlines) == (b"", bytes(40))
    # 3D Slicer reads a POINT without points only if it has metadata.
    assert read_header(messages[1][:58]).version == 2


def test_more_detections_than_a_string_holds() -> None:
    result = found(1)
    many = result.detections.select(np.zeros(1000, int))
    text = contents(messages_of(result._replace(detections=many)))[0]
    assert len(text) <= 65535 + 4
    values = json.loads(text[4:])
    assert len(values["detections"]) + values["left_out"] == 1000
    assert len(values["detections"]) >= 250


def test_picture_is_sent_with_what_was_found_in_it() -> None:
    result = found(2, matrix=TURNED)
    pixels = np.frombuffer(contents(messages_of(result))[3], np.uint8, offset=72)
    drawn = draw(result.frame, result.detections, show_outside=True)
    assert np.array_equal(pixels.reshape(5, 7, 3), drawn)


def test_other_messages_are_skipped_and_status_is_answered() -> None:
    with pushed_to() as run, run.connect() as peer:
        for kind in ("TRANSFORM", "STATUS", "TDATA", "GET_STATUS"):
            peer.sendall(pack(kind, PATIENT, b"" if kind == "GET_STATUS" else bytes(200_000)))
        peer.sendall(image(3))
        wait_until(lambda: run.values == [3])
        answer = peer.recv(1000)
        header = read_header(answer[:58])
        assert header.kind == "STATUS"
        assert bytes(read_content(header, answer[58:]))[:2] == b"\0\1"


def test_frame_of_another_size() -> None:
    with pushed_to() as run, run.connect() as peer:
        for number, (height, width) in enumerate([(5, 7), (11, 13), (3, 2), (480, 640)]):
            peer.sendall(image(number, height, width))
        wait_until(lambda: len(run.captured) == 4)
        shapes = [captured.frame.pixels.shape for captured in run.captured]
        assert shapes == [(5, 7), (11, 13), (3, 2), (480, 640)]


def test_second_device_waits_until_the_first_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(igtl_reader, "_OTHER_DEVICE_S", 0.2)
    with pushed_to() as run, run.connect() as peer:
        for value in range(5):
            peer.sendall(image(value, device="A") + image(100 + value, device="B"))
        wait_until(lambda: run.values == [0, 1, 2, 3, 4])
        time.sleep(0.3)
        peer.sendall(image(107, device="B"))
        wait_until(lambda: run.values == [0, 1, 2, 3, 4, 107])


def corrupt(message: bytes) -> bytes:
    return message[:-1] + bytes([message[-1] ^ 1])


BROKEN = {
    "checksum": corrupt(image(99)),
    "size": struct.pack(">H12s20sIIQQ", 1, b"IMAGE", b"", 0, 0, 2**63, 0),
    "size of another message": struct.pack(">H12s20sIIQQ", 1, b"STRING", b"", 0, 0, 2**27, 0),
    "browser": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Browser\r\nAccept: */*\r\n\r\n",
    "volume": pack("IMAGE", "", struct.pack(">HBBBB3H48s6H", 1, 1, 3, 2, 1, 7, 5, 31, b"",
                                             0, 0, 0, 7, 5, 31), bytes(7 * 5 * 31)),
    "half, then closed": image(99)[:80],
    "closed": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_pusher_loses_its_connection_only(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pushed_to() as run:
        with run.connect() as peer:
            peer.sendall(image(1) + BROKEN[name])
            if "closed" in name:
                peer.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                assert peer.recv(1) == b""
        with run.connect() as peer:
            peer.sendall(image(2))
            wait_until(lambda: run.values == [1, 2])
            assert [captured.part for captured in run.captured] == [0, 1]
            assert run.source.lost == 1
    assert 1 <= len(caplog.messages) <= 2
    assert PATIENT not in caplog.text
    assert "\n" not in caplog.messages[0]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_server_is_connected_to_again(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with serving() as (run, server):
        peer, _ = server.accept()
        peer.sendall(image(1) + BROKEN[name])
        if "closed" in name:
            peer.close()
        again, _ = server.accept()
        with peer, again:
            again.sendall(image(2))
            wait_until(lambda: run.values == [1, 2])
            assert run.captured[1].frame.index == 1
            assert [captured.part for captured in run.captured] == [0, 1]
            assert run.source.lost == 1
    assert PATIENT not in caplog.text


def test_half_a_message_then_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(igtl_reader, "_MESSAGE_S", 0.2)
    with pushed_to() as run:
        for count in (1, 57, 58, 80):
            with run.connect() as peer:
                peer.sendall(image(99)[:count])
                assert peer.recv(1) == b""
        # A byte now and then does not help.
        with run.connect() as peer, suppress(ConnectionError):
            begin = time.monotonic()
            for byte in image(99):
                peer.sendall(bytes([byte]))
                time.sleep(0.03)
        assert time.monotonic() - begin < 2
        wait_until(lambda: run.source.lost == 5)
        with run.connect() as peer:
            time.sleep(0.4)  # silence between messages is allowed
            peer.sendall(image(2))
            wait_until(lambda: run.values == [2])


@pytest.mark.parametrize("scalar", [6, 10])
def test_server_of_pictures_that_cannot_be_read(scalar: int) -> None:
    content = struct.pack(">HBBBB3H48s6H", 1, 1, scalar, 2, 1, 7, 5, 1, b"", 0, 0, 0, 7, 5, 1)
    with serving() as (run, server):
        peer, _ = server.accept()
        with peer:
            peer.sendall(pack("IMAGE", PATIENT, content, bytes(140)))
            run.thread.join(5)
    assert str(run.error) == (
        f"{run.source.name} sends an IMAGE of scalar type {scalar}; 8 and 16 bit integers are read"
    )


def test_server_that_comes_late_vanishes_and_returns(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with running(IgtlClientSource("127.0.0.1", port)) as run:
        wait_until(lambda: len(caplog.messages) == 1)
        for value in (1, 2, 3):
            with socket.create_server(("127.0.0.1", port)) as server:
                server.settimeout(10)
                peer, _ = server.accept()
                with peer:
                    peer.sendall(image(value))
                    wait_until(lambda value=value: run.values[-1:] == [value])
            time.sleep(0.25)
        assert run.values == [1, 2, 3]
        assert [captured.part for captured in run.captured] == [0, 1, 2]
        assert run.source.lost in (2, 3)
    assert len(caplog.messages) < 9  # not a line for every attempt


def test_stops_at_once_wherever_it_is() -> None:
    port = free_port()
    with running(IgtlClientSource("127.0.0.1", port)) as nobody:
        time.sleep(0.7)  # pauses have grown
    with pushed_to() as listening:
        assert listening.port
    with pushed_to() as idle, idle.connect() as peer:
        peer.sendall(image(1))
        wait_until(lambda: idle.values == [1])
    with pushed_to() as amid, amid.connect() as peer:
        peer.sendall(image(1)[:80])
        time.sleep(0.1)
    for run in (nobody, listening, idle, amid):
        assert run.stop_s < 0.2, run.source.name  # type: ignore[attr-defined]


def test_one_pusher_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    with pushed_to() as run, run.connect() as first:
        first.sendall(image(1))
        wait_until(lambda: run.values == [1])
        peers = [run.connect() for _ in range(100)]
        for peer in peers:
            with peer, suppress(ConnectionResetError):
                assert peer.recv(1) == b""
        first.sendall(image(2))
        wait_until(lambda: run.values == [1, 2])
        assert isinstance(run.source, IgtlServerSource)
        assert run.source.refused == 100
        assert run.source.lost == 0
    assert 1 <= len(caplog.messages) <= 5


def test_silent_pusher_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openigtlink, "_SILENT_S", 0.2)
    with pushed_to() as run, run.connect():
        time.sleep(0.4)
        with run.connect() as peer:
            peer.sendall(image(5))
            wait_until(lambda: run.values == [5])


def test_clients_that_are_not_named() -> None:
    source = IgtlServerSource("127.0.0.1", 0, ("192.168.0.7",))
    with running(source) as run, run.connect() as peer:
        assert peer.recv(1) == b""
        wait_until(lambda: source.refused == 1)
    sink = IgtlServerSink("127.0.0.1", 0, ("192.168.0.7",))
    with sink.open(), socket.create_connection(("127.0.0.1", sink.port)) as peer:
        peer.settimeout(5)
        assert peer.recv(1) == b""


def big(value: int = 0) -> Result:
    result = found(0)
    return result._replace(frame=Frame(np.full((480, 640), value, np.uint8)))


@contextmanager
def sink_with_readers(count: int) -> Iterator[tuple]:
    sink = IgtlServerSink("127.0.0.1", 0)
    with sink.open() as deliver:
        peers = [socket.create_connection(("127.0.0.1", sink.port), 5) for _ in range(count)]
        assert sink._outlet is not None
        wait_until(lambda: len(sink._outlet._peers) == min(count, outlet.MAX_PEERS))  # type: ignore
        yield sink, deliver, peers
        for peer in peers:
            peer.close()


def images_read(peer: socket.socket, values: list[int]) -> None:
    """Read messages until the connection ends."""
    stream = peer.makefile("rb")
    with suppress(OSError):
        while len(data := stream.read(58)) == 58:
            header = read_header(data)
            content = read_content(header, stream.read(header.body_bytes))
            if header.kind == "IMAGE":
                values.append(content[72])
    stream.close()


def test_reader_that_never_reads(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outlet, "STUCK_S", 0.5)
    with sink_with_readers(2) as (sink, deliver, (_, good)):
        values: list[int] = []
        reader = threading.Thread(target=images_read, args=(good, values))
        reader.start()
        slowest_s = 0.0
        for value in range(40):
            begin = time.monotonic()
            deliver(big(value))
            slowest_s = max(slowest_s, time.monotonic() - begin)
            time.sleep(0.03)
        wait_until(lambda: sink.lost == 1)
        wait_until(lambda: len(values) == 40)
        assert values == list(range(40))  # the other reader had all of them
        assert sink.dropped > 0
        assert slowest_s < 0.3
        assert [message for message in caplog.messages if "read nothing" in message]
        good.shutdown(socket.SHUT_RDWR)
        reader.join()


def test_slow_reader_gets_the_newest_and_all_is_counted() -> None:
    with sink_with_readers(1) as (sink, deliver, (peer,)):
        for value in range(60):
            deliver(big(value))
        time.sleep(0.1)
        dropped = sink.dropped
        assert dropped > 20
        values: list[int] = []
        reader = threading.Thread(target=images_read, args=(peer, values))
        reader.start()
        wait_until(lambda: values[-1:] == [59])
        assert values == sorted(values)
        assert len(values) + dropped == 60
        peer.shutdown(socket.SHUT_RDWR)
        reader.join()


def test_what_was_delivered_leaves_before_the_end() -> None:
    sink = IgtlServerSink("127.0.0.1", 0)
    values: list[int] = []
    with sink.open() as deliver:
        peer = socket.create_connection(("127.0.0.1", sink.port), 5)
        wait_until(lambda: sink._outlet.wanted)  # type: ignore[union-attr]
        reader = threading.Thread(target=images_read, args=(peer, values))
        for value in range(3):
            deliver(big(value))
        reader.start()
    reader.join()
    peer.close()
    assert (values, sink.dropped) == ([0, 1, 2], 0)


def test_the_end_waits_a_second_for_who_never_reads() -> None:
    sink = IgtlServerSink("127.0.0.1", 0)
    with socket.socket() as peer:
        with sink.open() as deliver:
            peer.connect(("127.0.0.1", sink.port))
            wait_until(lambda: sink._outlet.wanted)  # type: ignore[union-attr]
            for value in range(20):
                deliver(big(value))
            begin = time.monotonic()
        assert 0.9 < time.monotonic() - begin < 2
    assert 8 < sink.dropped <= 20
    assert sink.lost == 0


def test_many_readers() -> None:
    with sink_with_readers(100) as (sink, deliver, peers):
        wait_until(lambda: sink._outlet.refused == 100 - outlet.MAX_PEERS)
        deliver(found())
        size = sum(map(len, messages_of(found())))
        got = 0
        for peer in peers:
            with suppress(ConnectionResetError), peer.makefile("rb") as stream:
                got += len(stream.read(size))
        assert got == size * outlet.MAX_PEERS


def test_reader_that_talks_all_the_time() -> None:
    with sink_with_readers(1) as (sink, deliver, (peer,)):
        for _ in range(50):
            peer.sendall(pack("TRANSFORM", PATIENT, bytes(100_000)))
        deliver(found())
        with peer.makefile("rb") as stream:
            assert read_header(stream.read(58)).kind == "STRING"
        assert sink.lost == 0


def test_server_that_vanishes_from_a_sink(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    sink = IgtlClientSink("127.0.0.1", port)
    with sink.open() as deliver:
        wait_until(lambda: len(caplog.messages) == 1)
        deliver(found())
        assert sink.dropped == 1
        for _ in range(2):
            with socket.create_server(("127.0.0.1", port)) as server:
                server.settimeout(10)
                peer, _ = server.accept()
                wait_until(lambda: sink._outlet.wanted)  # type: ignore[union-attr]
                deliver(found())
                with peer:
                    assert read_header(peer.recv(58, socket.MSG_WAITALL)).kind == "STRING"
            wait_until(lambda: not sink._outlet.wanted)  # type: ignore[union-attr]
        assert sink.lost >= 2
        begin = time.monotonic()
    assert time.monotonic() - begin < 0.5
    assert len(caplog.messages) < 9


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("igtl://scanner", ("scanner", 18944, ())),
        ("igtl://10.1.2.3:18945/", ("10.1.2.3", 18945, ())),
        ("igtl://[::1]:7", ("::1", 7, ())),
        ("igtl-listen://127.0.0.1:0", ("127.0.0.1", 0, ())),
        ("igtl-listen://localhost", ("127.0.0.1", 18944, ())),
        ("igtl-listen://127.0.0.1:5?from=127.0.0.1", ("127.0.0.1", 5, ("127.0.0.1",))),
        (
            "igtl-listen://0.0.0.0:18944?from=192.168.0.7,10.0.0.5",
            ("0.0.0.0", 18944, ("192.168.0.7", "10.0.0.5")),
        ),
    ],
)
def test_addresses(text: str, address: tuple) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("igtl://", "not an OpenIGTLink address"),
        ("igtl://:18944", "not an OpenIGTLink address"),
        ("http://scanner", "not an OpenIGTLink address"),
        ("igtl://scanner:port", "write igtl://HOST:18944"),
        ("igtl://scanner:70000", "write igtl://HOST:18944"),
        ("igtl://[::1", "write igtl://HOST:18944"),
        ("igtl://scanner:0", "no port 0"),
        ("igtl://scanner:5/image", "nothing may follow the port"),
        ("igtl://scanner:5?from=10.0.0.5", "nothing may follow the port"),
        ("igtl-listen://127.0.0.1:5?form=10.0.0.5", r"only \?from=CLIENT_IP"),
        ("igtl-listen://0.0.0.0:5", r"no passwords.*\?from=CLIENT_IP"),
        ("igtl-listen://[::]:5", r"\[::\]:5.*\?from=CLIENT_IP"),
        ("igtl-listen://192.168.0.7:5", r"\?from=CLIENT_IP"),
        ("igtl-listen://0.0.0.0:5?from=scanner", "'scanner' does not appear to be"),
        ("igtl-listen://0.0.0.0:5?from=", "'' does not appear to be"),
        ("igtl-listen://scanner:5", "'scanner' does not appear to be"),
    ],
)
def test_addresses_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_address(text)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened() -> None:
    with pytest.raises(InputError, match="name who may connect"):
        IgtlServerSource("0.0.0.0", 0)
    with pytest.raises(InputError, match="name who may connect"):
        IgtlServerSink("0.0.0.0", 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(InputError, match=rf"cannot listen on igtl-listen://127.0.0.1:{port}"):
            next(IgtlServerSource("127.0.0.1", port).frames(threading.Event()))
        with (
            pytest.raises(InputError, match="cannot listen"),
            IgtlServerSink("127.0.0.1", port).open(),
        ):
            pass
    nowhere = "no.such.host.invalid"
    with pytest.raises(InputError, match="no such host"):
        next(IgtlClientSource(nowhere, 5).frames(threading.Event()))
    with pytest.raises(InputError, match="no such host"), IgtlClientSink(nowhere, 5).open():
        pass
