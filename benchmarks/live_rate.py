"""How fast a stream `sonodetr live` keeps up with, and how late what it finds is.

    python benchmarks/live_rate.py --seconds 600 --rate 60 --model exported/nano
    python benchmarks/live_rate.py --seconds 20 --rate 60 --model exported/nano --find-limit
    python benchmarks/live_rate.py --seconds 60 --rate 60 --model exported/nano --browser

Four processes: `sonodetr live` with its viewer, as a user starts it; a sender that pushes a loop of
simulated pictures, drawn beforehand, over OpenIGTLink at the rate; a client that reads all that the
viewer sends, or with --browser a headless Chromium that shows its page; and this one, which watches
memory. With --find-limit the rate rises by a tenth until frames are dropped. Nothing else should
run meanwhile. The last line is JSON:

- dropped: frames that were captured and not looked at; sent and captured are the same when nothing
  was lost on the way.
- p50_ms, p99_ms: from the last byte read to the frame's delivery to the viewer, encoded, of the
  last 10,000 frames. found_p99_ms ends when the detections are handed to all sinks.
- seen_p50_ms, seen_p99_ms: from before the first byte is sent to the last byte of the viewer's
  message in the client, of all frames. With --browser instead shown_hz: pictures a second that the
  page drew, median of what it says each second.
- limit_hz, drops_at_hz: the highest rate tried without a drop, and the next one.
- memory_mb: of `sonodetr live` (resident) after a tenth of the time, and at the end.
"""

import argparse
import json
import multiprocessing
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

FRAMES = 64
# A sender that is behind by so many periods could not hold the rate.
MOST_PERIODS_BEHIND = 3
STEP = 1.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="to send at each rate")
    parser.add_argument("--rate", type=float, default=60.0, help="pictures a second")
    parser.add_argument("--size", default="640x480", help="width x height of the pictures")
    parser.add_argument("--model", help="exported folder  [default: an untrained small one]")
    parser.add_argument("--threads", type=int, default=0, help="as for sonodetr live")
    parser.add_argument("--browser", action="store_true", help="headless Chromium as the client")
    parser.add_argument("--find-limit", action="store_true", help="raise the rate until it drops")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _ended_well(_started(draw, folder, width, height))
        model = options.model
        if model is None:
            model = str(folder / "untrained")
            _ended_well(_started(export, folder, Path(model)))
        words = (model, options.threads, options.seconds, options.browser)
        result = measure(folder, options.rate, *words)
        if options.find_limit:
            result |= find_limit(result, lambda rate_hz: measure(folder, rate_hz, *words))
    print(json.dumps(result | {"model": options.model or "untrained", "size": options.size}))


def find_limit(
    first: dict[str, Any], measure_at: Callable[[float], dict[str, Any]]
) -> dict[str, float | None]:
    """The highest rate tried at which nothing was dropped, and the next, at which something was.

    The second is None where it was the sender that could not hold the rate.
    """
    limit_hz, result = None, first
    while not result["dropped"] and result["held"]:
        limit_hz = result["rate_hz"]
        result = measure_at(limit_hz * STEP)
    return {"limit_hz": limit_hz, "drops_at_hz": result["rate_hz"] if result["dropped"] else None}


def measure(
    folder: Path, rate_hz: float, model: str, threads: int, seconds: float, browser: bool
) -> dict[str, Any]:
    """One stream of so many seconds through a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free again when this ends
    source = f"igtl-listen://127.0.0.1:{port}"
    words = ["live", model, source, "--port=0", "--json=-", f"--threads={threads}"]
    live = subprocess.Popen(
        [sys.executable, "-m", "sonodetr", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs this in the background has Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert live.stderr is not None
    said = live.stderr.readline()
    address = re.search(r"http://\S+", said)
    if address is None:
        sys.exit(said + live.communicate()[1])
    if browser:
        client = _started(browse, folder, address[0], seconds)
    else:
        client = _started(watch, folder, address[0].replace("http", "ws"))
    time.sleep(5.0 if browser else 1.0)  # it starts
    sender = _started(send, folder, port, rate_hz, seconds)
    memory_mb = _memory_mb(live, sender, seconds)
    time.sleep(0.5)
    live.send_signal(signal.SIGINT)
    out, errors = live.communicate(timeout=60)
    if live.returncode != 130:
        sys.exit(f"sonodetr live failed: {errors}")
    _ended_well(client)
    _ended_well(sender)
    sent = np.load(folder / "sent.npy")
    result = _result(json.loads(out), sent, rate_hz) | {"memory_mb": memory_mb}
    if browser:
        result["shown_hz"] = float(np.median(np.load(folder / "shown.npy")))
    else:
        result |= _seen(sent, np.load(folder / "seen.npy"))
    _print_row(result)
    return result


def _memory_mb(live: subprocess.Popen, sender: BaseProcess, seconds: float) -> list[float]:
    """Resident memory of a process a tenth of the time after the sender began, and at its end."""
    time.sleep(0.1 * seconds)
    after = _resident_mb(live.pid)
    last = after
    while sender.is_alive():
        last = _resident_mb(live.pid)
        time.sleep(0.2)
    return [after, last]


def _resident_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match is not None
    return round(int(match[1]) / 1024, 1)


def _result(counts: dict[str, Any], sent: np.ndarray, rate_hz: float) -> dict[str, Any]:
    """What the counters of the live process and the sender say together."""
    viewer = counts["sinks"]["viewer"]
    periods_behind = (sent[:, 0] - sent[:, 1]) * rate_hz
    return {
        "rate_hz": round(rate_hz, 2),
        "sent": len(sent),
        "captured": counts["captured"],
        "dropped": counts["dropped"],
        "late": counts["late"],
        "viewer_dropped": viewer["dropped"],
        "p50_ms": viewer["latency_ms"]["p50"],
        "p99_ms": viewer["latency_ms"]["p99"],
        "found_p50_ms": counts["latency_ms"]["p50"],
        "found_p99_ms": counts["latency_ms"]["p99"],
        "held": bool(np.percentile(periods_behind, 99) < MOST_PERIODS_BEHIND),
    }


def _seen(sent: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    """What the client saw of it, which counts frames as the live process does: from the first."""
    delays_ms = (seen[:, 1] - sent[seen[:, 0].astype(int), 0]) * 1000
    p50_ms, p99_ms = np.percentile(delays_ms, (50, 99)).round(3).tolist()
    return {"seen": len(seen), "seen_p50_ms": p50_ms, "seen_p99_ms": p99_ms}


def _print_row(result: dict[str, Any]) -> None:
    for name, value in result.items():
        print(f"{name:>16}  {value}")
    print(flush=True)


def _started(work: Callable[..., None], *words: object) -> BaseProcess:
    """A process of its own, which inherits nothing."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=words, daemon=True)
    process.start()
    return process


def _ended_well(process: BaseProcess) -> None:
    process.join(60)
    if process.exitcode != 0:
        sys.exit("a process failed")


def draw(folder: Path, width: int, height: int) -> None:
    """Packed IMAGE messages of a simulated loop, all as long, in one file."""
    from sonodetr.formats.openigtlink import image_content, pack
    from sonodetr.simulator.datasets import configure
    from sonodetr.simulator.frames import simulated_video

    config = configure(frames=FRAMES, image_size=(height, width), seed=7, empty=0.0)
    video = simulated_video(config, 0, "loop")
    spacing_mm = np.diag([0.1, 0.1, 1.0, 1.0])
    pictures = [video.frames[index] for index in range(FRAMES)]
    messages = [pack("IMAGE", "Loop", *image_content(picture, spacing_mm)) for picture in pictures]
    np.save(folder / "loop.npy", np.stack([np.frombuffer(each, np.uint8) for each in messages]))


def export(folder: Path, out: Path) -> None:
    """An exported model of the small student's shape; its weights are random."""
    import torch

    from sonodetr.config_file import dump_config, load_config
    from sonodetr.export.convert import export_model
    from sonodetr.files import write_text
    from sonodetr.training.run import (
        RunInfo,
        provenance,
        save_info,
        save_weights,
        untrained_model,
    )

    config = load_config(Path(__file__).parent.parent / "configs" / "needle-student.yaml")
    torch.manual_seed(7)
    run = folder / "run"
    write_text(run / "config.yaml", dump_config(config))
    save_weights(run / "model.safetensors", untrained_model(config, 1).state_dict())
    save_info(
        run,
        RunInfo(
            classes=("needle",), threshold=0.5, step=0, validation={}, provenance=provenance(0)
        ),
    )
    export_model(run, out)


def send(folder: Path, port: int, rate_hz: float, seconds: float) -> None:
    """Push the loop at the rate; when each picture was begun, and when it was due."""
    messages = [each.data for each in np.load(folder / "loop.npy")]
    count = round(rate_hz * seconds)
    times_s = np.zeros((count, 2))
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        begin_s = time.monotonic() + 0.1
        for index in range(count):
            due_s = begin_s + index / rate_hz
            time.sleep(max(0.0, due_s - time.monotonic()))
            times_s[index] = time.monotonic(), due_s
            peer.sendall(messages[index % len(messages)])
        time.sleep(0.3)
    np.save(folder / "sent.npy", times_s)


def watch(folder: Path, address: str) -> None:
    """Read all that the viewer sends until it ends: the number of each frame, and when it came."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    from sonodetr.stream.viewer_messages import unpack

    seen: list[tuple[int, float]] = []
    with connect(f"{address}frames", max_size=2**24) as page:
        try:
            while True:
                message = page.recv()
                now_s = time.monotonic()
                assert isinstance(message, bytes)
                header, picture = unpack(message)
                if picture:
                    seen.append((header["frame"], now_s))
        except ConnectionClosed:
            np.save(folder / "seen.npy", np.array(seen).reshape(-1, 2))


def browse(folder: Path, address: str, seconds: float) -> None:
    """Show the page in a browser for so long; how many pictures a second it says that it drew."""
    from websockets.sync.client import connect

    profile, shown = folder / "browser", []
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    browser = subprocess.Popen(
        ["chromium", *words, f"--user-data-dir={profile}", address], stderr=subprocess.DEVNULL
    )
    port = profile / "DevToolsActivePort"
    while not port.is_file():
        time.sleep(0.1)
    debugger = f"127.0.0.1:{port.read_text().split()[0]}"
    with urllib.request.urlopen(f"http://{debugger}/json/list") as answer:
        page = next(each for each in json.load(answer) if each["type"] == "page")
    asked = "document.getElementById('rate-here').textContent"
    question = {"id": 1, "method": "Runtime.evaluate", "params": {"expression": asked}}
    with connect(page["webSocketDebuggerUrl"], max_size=None, compression=None) as tab:
        until_s = time.monotonic() + seconds + 30.0
        # From when pictures come until the last ones do.
        while len(shown) < seconds - 2 and time.monotonic() < until_s:
            time.sleep(1.0)
            tab.send(json.dumps(question))
            value = json.loads(tab.recv())["result"]["result"]["value"]
            rate_hz = float(value) if value[:1].isdigit() else 0.0
            if shown or rate_hz:
                shown.append(rate_hz)
    browser.terminate()
    browser.wait()
    np.save(folder / "shown.npy", np.array(shown))


if __name__ == "__main__":
    main()
