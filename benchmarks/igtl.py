"""What OpenIGTLink costs: the checksum alone, a stream from another process, a result to send.

    python benchmarks/igtl.py [--seconds 10] [--rate 120] [--size 480 640]

The sender is a process of its own. `read_core_share` is the CPU time of the thread that reads
(receiving, checksum, picture) as a share of one core; the delay is from when the sender begins to
send to the last byte read, on the clock that both processes share. The last line is JSON.
"""

import argparse
import json
import multiprocessing
import socket
import struct
import time
from collections.abc import Callable
from threading import Event

import crcmod
import numpy as np
from fastcrc.crc64 import ecma_182

from sonodetr.formats.openigtlink import image_content, pack
from sonodetr.stream.flow import Result
from sonodetr.stream.igtl_result import messages_of
from sonodetr.stream.openigtlink import IgtlServerSource
from sonodetr.types import Detections, Frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=120.0, help="pictures a second")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="rows and columns")
    options = parser.parse_args()
    pixels = np.random.default_rng(7).integers(0, 255, options.size, np.uint8)
    body = pixels.tobytes()
    slow = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, rev=False, initCrc=0, xorOut=0)  # pyigtl's
    report = {
        "picture_bytes": len(body),
        "rate_hz": options.rate,
        "checksum_ms": best_ms(lambda: ecma_182(body)),
        "checksum_crcmod_ms": best_ms(lambda: slow(body)),
        **receive(pixels, options.rate, options.seconds),
        "result_messages_ms": best_ms(lambda: messages_of(result_of(pixels))),
    }
    print(json.dumps({key: round(value, 4) for key, value in report.items()}))


def best_ms(call: Callable[[], object]) -> float:
    """The least of 30 runs."""
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1000 * min(times)


def send(port: int, pixels: np.ndarray, rate_hz: float, seconds: float) -> None:
    """Push the picture at the rate; its first 8 bytes are the time when sending it began."""
    time.sleep(0.5)  # until the other side listens
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin = time.monotonic()
        for number in range(round(rate_hz * seconds)):
            time.sleep(max(0.0, begin + number / rate_hz - time.monotonic()))
            pixels.data.cast("B")[:8] = struct.pack("d", time.monotonic())
            peer.sendall(pack("IMAGE", "Image", *image_content(pixels, np.eye(4))))


def receive(pixels: np.ndarray, rate_hz: float, seconds: float) -> dict[str, float]:
    """Read what a process sends for so long."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free again when this ends
    stop, delays_s = Event(), []
    spawning = multiprocessing.get_context("spawn")
    sender = spawning.Process(target=send, args=(port, pixels, rate_hz, seconds))
    sender.start()
    begin_s = busy_s = 0.0
    for captured in IgtlServerSource("127.0.0.1", port).frames(stop):
        if not delays_s:
            begin_s, busy_s = time.monotonic(), time.thread_time()
        sent_s = struct.unpack("d", captured.frame.pixels.data.cast("B")[:8])[0]
        delays_s.append(captured.captured_s - sent_s)
        if len(delays_s) == round(rate_hz * seconds):
            stop.set()
    busy_s, took_s = time.thread_time() - busy_s, time.monotonic() - begin_s
    sender.join()
    p50, p99 = np.quantile(delays_s, [0.5, 0.99]) * 1000
    return {
        "received": len(delays_s),
        "received_hz": len(delays_s) / took_s,
        "read_core_share": busy_s / took_s,
        "read_ms": 1000 * busy_s / len(delays_s),
        "delay_p50_ms": p50,
        "delay_p99_ms": p99,
    }


def result_of(pixels: np.ndarray) -> Result:
    """One needle found."""
    one = Detections(
        np.float32([[100, 80, 300, 220]]),
        np.float32([0.9]),
        np.int64([0]),
        ("needle",),
        points_px=np.float32([[[300, 220], [100, 80]]]),
    )
    return Result(Frame(pixels), one, one, time.monotonic(), time.monotonic())


if __name__ == "__main__":
    main()
