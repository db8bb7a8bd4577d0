"""The viewer's page in a real browser."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from chromium import Tab, chromium
from viewing import port_of, result, watched

from sonodetr.stream.attention import Attention
from sonodetr.stream.playback import Playback
from sonodetr.stream.viewer_messages import Attended

COUNTERS = {
    "captured": 113,
    "dropped": 7,
    "late": 3,
    "frames_per_second": 59.7,
    "latency_ms": {"p50": 2.0, "p95": 3.0, "p99": 4.4},
}
# How many pixels of the picture, and of what is drawn over it, are of a colour, within 40.
SHOWS = """(([r, g, b]) => {
  let count = 0;
  for (const sheet of [document.getElementById("picture"), document.getElementById("overlay")]) {
    const copy = document.createElement("canvas");
    [copy.width, copy.height] = [sheet.width, sheet.height];
    const paper = copy.getContext("2d", { willReadFrequently: true });
    paper.drawImage(sheet, 0, 0);
    const { data } = paper.getImageData(0, 0, sheet.width, sheet.height);
    for (let i = 0; i < data.length; i += 4)
      if (data[i + 3] > 128 && Math.abs(data[i] - r) < 40 && Math.abs(data[i + 1] - g) < 40
          && Math.abs(data[i + 2] - b) < 40) count++;
  }
  return count;
})"""
# Of a needle, of a nerve, and of what is looked at most, on a picture that is darker than that.
ORANGE, BLUE, PINK = [230, 159, 0], [86, 180, 233], [255, 210, 200]


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    with chromium() as tab:
        yield tab


class Looks(Attention):
    """Everything is looked at."""

    span = 1

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def __call__(self, frames, x_px, y_px):
        self.asked.append((x_px, y_px))
        return Attended(np.ones((4, 6), np.float32), (0.0, 0.0, 83.0, 61.0), (x_px, y_px))


@contextmanager
def playing(tab: Tab, width: int = 900, height: int = 600, **options) -> Iterator[Callable]:
    """The page of a viewer that is given 30 frames a second, or what its playback says."""
    playback, stop = options.get("playback"), threading.Event()

    def play(deliver) -> None:
        index = 0
        while not stop.is_set():
            if playback is None:
                stop.wait(1 / 30)
                index = (index + 1) % 20
            else:
                cue = playback.next(stop)
                if cue is None or not playback.due(cue, stop):
                    continue
                index = cue.place
            deliver(result(index))

    with watched(counters=lambda: COUNTERS, **options) as (viewer, deliver):
        thread = threading.Thread(target=play, args=(deliver,))
        thread.start()
        try:
            tab.problems.clear()
            tab.open(viewer.url, width, height)
            tab.until('document.getElementById("captured")?.textContent === "113"')
            tab.until(f"{SHOWS}({ORANGE}) > 0")
            yield lambda name: tab.value(f"document.getElementById({name!r}).textContent.trim()")
            tab.call("Page.navigate", url="about:blank")
            assert tab.problems == []
        finally:
            stop.set()
            thread.join()


def test_picture_boxes_and_numbers(tab):
    with playing(tab) as text:
        tab.until(f"{SHOWS}([60, 60, 60]) > 4000")  # the picture's grey
        assert tab.value(f"{SHOWS}({BLUE})") == 0  # 40 % is below the threshold of 50 %
        tab.until("document.getElementById('link').textContent === 'Live'")
        assert text("names") == "made up \u00b7 nano"
        assert float(text("latency")) == pytest.approx(2, abs=0.1)
        assert text("latency-99") == "4.4"
        assert text("rate") == "59.7"
        assert (text("captured"), text("dropped"), text("late")) == ("113", "7", "3")
        assert text("found") == "#3 needle56.3\u00b090 %"
        tab.until("document.getElementById('said').textContent === '1 object: needle'")
        assert "export" in text("attention-note")
        assert tab.value("document.getElementById('scrub-row').hidden")
        tab.until("Number(document.getElementById('rate-here').textContent) > 10")


def test_the_threshold_hides_and_shows(tab):
    with playing(tab) as text:
        tab.value(
            "(() => { const slider = document.getElementById('threshold'); slider.value = 0.3;"
            "slider.dispatchEvent(new Event('input')); })()"
        )
        tab.until(f"{SHOWS}({BLUE}) > 100")
        assert text("threshold-value") == "30 %"
        for _ in range(13):
            tab.press("+", 187)
        assert text("threshold-value") == "95 %"
        tab.until(f"{SHOWS}({ORANGE}) === 0")
        assert text("found") == "Nothing"
        tab.press("-", 189)
        tab.until(f"{SHOWS}({ORANGE}) > 0")
        tab.until("document.getElementById('said').textContent === '1 object: needle'")


def test_a_live_page_freezes(tab):
    with playing(tab) as text:
        tab.press(" ", 32)
        tab.until("document.getElementById('link').textContent === 'Frozen'")
        assert text("toggle") == "Live"
        time.sleep(2.5)  # longer than frames may stay away unremarked
        assert text("link") == "Frozen"
        assert tab.value("document.getElementById('notice').hidden")
        tab.value("document.getElementById('toggle').click()")
        tab.until("document.getElementById('link').textContent === 'Live'")


def test_a_recording_is_paused_stepped_and_moved(tab):
    playback = Playback(np.arange(131) / 10, hold=True)
    with playing(tab, playback=playback) as text:
        tab.value("document.getElementById('toggle').click()")
        tab.until("document.getElementById('link').textContent === 'Paused'")
        assert playback.paused
        start = playback.position
        tab.press("ArrowRight", 39)
        tab.until(
            f"document.getElementById('place').textContent.startsWith('{start + 2} / 131 \u00b7 ')"
        )
        tab.value("document.getElementById('back').click()")
        tab.until(f"document.getElementById('place').textContent.startsWith('{start + 1} / ')")
        tab.value(
            "(() => { const slider = document.getElementById('scrub'); slider.value = 100;"
            "slider.dispatchEvent(new Event('input')); slider.dispatchEvent(new Event('change'));"
            "})()"
        )
        tab.until("document.getElementById('place').textContent === '101 / 131 \u00b7 10.00 s'")
        for _ in range(40):  # far more than a page may ask in a second
            tab.press("ArrowLeft", 37)
        tab.until("document.getElementById('place').textContent.startsWith('61 / ')")
        assert text("link") == "Paused"
        tab.press(" ", 32)
        tab.until("document.getElementById('link').textContent === 'Playing'")


def test_attention_at_a_click(tab):
    attend = Looks()
    with playing(tab, attend=attend) as text:
        assert "Tap the picture" in text("attention-note")
        assert tab.value(f"{SHOWS}({PINK})") == 0
        x, y, width, height = tab.value(
            "(() => { const r = document.getElementById('overlay').getBoundingClientRect();"
            "return [r.x, r.y, r.width, r.height]; })()"
        )
        tab.click(x + width / 2, y + height / 2)
        tab.until("document.getElementById('held').textContent === 'Attention'")
        tab.until(f"{SHOWS}({PINK}) > 10000")
        assert attend.asked[0] == pytest.approx((41.5, 30.5), abs=0.2)
        tab.press("a", 65)  # at the tip of the best object
        tab.until("document.getElementById('hint').hidden")
        tab.press("Escape", 27)
        tab.until(f"{SHOWS}({PINK}) === 0")
        assert attend.asked[1:] == [(10.0, 50.0)]
        tab.press(" ", 32)
        tab.until("document.getElementById('link').textContent === 'Live'")


def test_a_saved_picture(tab, tmp_path):
    tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    with playing(tab):
        tab.press("s", 83)
        tab.until(
            "document.getElementById('hint').textContent.startsWith('Saved sonodetr-made_up-')"
        )
        until_s = time.monotonic() + 10
        while not list(tmp_path.glob("*.png")) and time.monotonic() < until_s:
            time.sleep(0.05)
    (saved,) = tmp_path.glob("sonodetr-made_up-*.png")
    cv2 = pytest.importorskip("cv2")
    picture = cv2.imread(str(saved))
    assert picture.shape == (61 * 13 + 34, 83 * 13, 3)
    assert (abs(picture.astype(int) - ORANGE[::-1]).max(-1) < 3).sum() > 500


def test_a_page_comes_back_by_itself(tab):
    with watched() as (viewer, deliver):
        tab.open(viewer.url, 900, 600)
        tab.until("document.getElementById('link')?.textContent === 'Waiting'")
        deliver(result(1))
        tab.until("document.getElementById('link').textContent === 'Live'")
        tab.until("document.getElementById('link').textContent === 'No frames'")
        address = ("127.0.0.1", port_of(viewer))
    tab.until("document.getElementById('link').textContent === 'Reconnecting'")
    assert "old" in tab.value("document.getElementById('notice').textContent")
    with watched(address=address) as (_, deliver):
        deliver(result(2))
        tab.until("document.getElementById('link').textContent === 'Live'")
        tab.call("Page.navigate", url="about:blank")


@pytest.mark.parametrize("size", [(360, 740), (768, 1024), (1024, 768), (1280, 800)], ids=str)
def test_nothing_overflows(tab, size):
    playback = Playback(np.arange(12345) / 10)
    with playing(tab, *size, playback=playback):
        assert tab.value("document.documentElement.scrollWidth") <= size[0]
        small = tab.value(
            "[...document.querySelectorAll('button, input, summary')].filter((each) =>"
            "each.offsetParent && each.getBoundingClientRect().height < 44).length"
        )
        assert small == 0
        outside = tab.value(
            "[...document.querySelectorAll('body *')].filter((each) => each.offsetParent &&"
            "!each.closest('.unseen') && each.getBoundingClientRect().right > innerWidth + 1)"
            ".map((each) => each.outerHTML.slice(0, 80))"
        )
        assert outside == []


def test_everything_has_a_name(tab):
    with playing(tab, playback=Playback(np.arange(131) / 10)):
        tree = tab.call("Accessibility.getFullAXTree")["nodes"]
        named = {"button", "slider", "image", "complementary"}
        bare = [
            node
            for node in tree
            if not node["ignored"]
            and node["role"]["value"] in named
            and not node.get("name", {}).get("value")
        ]
        assert bare == []
        names = {node.get("name", {}).get("value") for node in tree if not node["ignored"]}
        assert {"Pause", "One frame back", "Frame", "Least confidence shown"} <= names
