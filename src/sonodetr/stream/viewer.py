"""The browser viewer: a sink, and a server of one page in a thread of its own. No torch.

Frames are encoded once, in the sink's thread, and only while somebody watches. Every page has a
slot for the newest frame alone, so that a slow one costs the others nothing (docs/viewer.md).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any, NamedTuple

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from sonodetr.files import InputError
from sonodetr.stream.attention import Attention
from sonodetr.stream.flow import Deliver, Result
from sonodetr.stream.playback import Playback
from sonodetr.stream.viewer_messages import (
    Command,
    Malformed,
    frame_message,
    pack,
    parse_command,
)
from sonodetr.stream.viewer_server import Pace, listen, serve_pages
from sonodetr.types import Frame

MOST_MESSAGES_A_SECOND = 20
# A page that has not taken a message for so long is closed.
LONGEST_SILENCE_S = 10.0
# Messages on their way to a page that it has not confirmed; more would only arrive late.
IN_FLIGHT = 2
# Pages are told the state so often, also while no frame comes.
STATE_PERIOD_S = 1.0
COUNTERS_PERIOD_S = 0.25
# Frames further apart are not of one clip: the recording was moved, or the source was away.
LARGEST_GAP_S = 1.0

_log = logging.getLogger(__name__)


class _Shown(NamedTuple):
    """A frame as pages get it, and the last ones up to it, which attention is asked of."""

    result: Result
    frames: tuple[Frame, ...]
    message: bytes


class _Page:
    """One browser that watches, and what waits to be sent to it. Server's thread alone."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.news = asyncio.Event()
        self.next: _Shown | None = None  # the newest frame, until it is sent
        self.shown: _Shown | None = None  # the frame sent last
        self.answer: bytes | None = None  # to a wish to attend
        self.attending: asyncio.Task[None] | None = None
        self.untold = True  # of the state
        self.frozen = False  # gets no frames


class Viewer:
    """Shows what was found in a browser. Listens at once; answers while it is open, once.

    Args:
        address: host and port to listen on; port 0 takes any free one. Any host but loopback makes
            a token, without which nobody sees anything.
        model, source: names to show; never hold patient text.
        threshold: score that the page's slider starts at.
        counters: gives what the pipeline has counted, from any thread.
        playback: controls of a recording; None for a live source, where pages freeze instead.
        attend: gives the model's attention (`attention.attention_of`); None where it cannot.
        show_outside: show also what lies around the region; scanners print names there.

    Attributes:
        url: what to open in a browser, with the token where there is one.

    Raises:
        InputError: the address is not one of this machine, or already in use.

    Example:
        >>> viewer = Viewer(("127.0.0.1", 0), model="nano", source="needle.mp4", threshold=0.3,
        ...                 counters=lambda: {"captured": 0})
        >>> with viewer.open() as deliver:  # `deliver(result)` shows a frame
        ...     print(viewer.url.startswith("http://127.0.0.1:"))
        True
    """

    name = "viewer"

    def __init__(
        self,
        address: tuple[str, int] = ("127.0.0.1", 8765),
        *,
        model: str,
        source: str,
        threshold: float,
        counters: Callable[[], dict[str, Any]],
        playback: Playback | None = None,
        attend: Attention | None = None,
        show_outside: bool = False,
    ) -> None:
        self._about = {
            "model": model,
            "source": source,
            "threshold": threshold,
            "attention": attend is not None,
        }
        self._count, self._playback, self._attend = counters, playback, attend
        self._show_outside = show_outside
        self._socket, self._access = listen(*address)
        self.url = self._access.url
        self._counted: tuple[float, dict[str, Any]] = (-1.0, {})
        self._recent: deque[Frame] = deque(maxlen=attend.span if attend else 1)
        self._last: tuple[Result, tuple[Frame, ...]] | None = None
        self._newest: _Shown | None = None
        self._pages: set[_Page] = set()
        self._failure: BaseException | None = None
        self._ready = Event()

    def close(self) -> None:
        """Give the address back, of a viewer that was never opened."""
        self._socket.close()

    @contextmanager
    def open(self) -> Iterator[Deliver]:
        """Serves pages until it is left; gives the function that shows a frame."""
        thread = Thread(target=self._run, name="sonodetr-viewer", daemon=True)
        thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        try:
            yield self._deliver
        finally:
            with suppress(RuntimeError):  # the server has failed, and its loop is closed
                self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()

    def _deliver(self, result: Result) -> None:
        """Show a frame. Called by the sink's thread."""
        if self._failure is not None:
            raise self._failure
        if self._recent and not 0 < result.frame.time_s - self._recent[-1].time_s <= LARGEST_GAP_S:
            self._recent.clear()
        self._recent.append(result.frame)
        self._last = result, tuple(self._recent)
        if self._pages:
            shown = self._show(*self._last)
            with suppress(RuntimeError):  # as above
                self._loop.call_soon_threadsafe(self._spread, shown)

    def _show(self, result: Result, frames: tuple[Frame, ...]) -> _Shown:
        message = frame_message(result, self._state(), show_outside=self._show_outside)
        return _Shown(result, frames, message)

    def _state(self, *, frozen: bool = False) -> dict[str, Any]:
        """What a page is told beside the frame."""
        now, counters = time.monotonic(), self._counted[1]
        if now - self._counted[0] > COUNTERS_PERIOD_S:
            counters = self._count()
            self._counted = (now, counters)
        playback = self._playback and {
            "position": self._playback.position,
            "length": self._playback.length,
            "paused": self._playback.paused,
        }
        return {**self._about, "counters": counters, "playback": playback, "frozen": frozen}

    # What follows runs in the server's thread.

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:
            self._failure = failure  # raised by the next `_deliver`
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        # For attention: one wish after the other.
        self._loop.set_default_executor(ThreadPoolExecutor(1, "sonodetr-attention"))
        async with serve_pages(self._watch, self._socket, self._access):
            self._ready.set()
            while not self._stop.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), STATE_PERIOD_S)
                self._tell_all()

    def _spread(self, shown: _Shown) -> None:
        self._newest = shown
        for page in self._pages:
            self._offer(page)

    def _offer(self, page: _Page) -> None:
        """The newest frame, in place of one that was not yet sent."""
        if not page.frozen:
            page.next = self._newest
            page.news.set()

    def _tell_all(self) -> None:
        for page in self._pages:
            page.untold = True
            page.news.set()

    async def _watch(self, connection: ServerConnection) -> None:
        """One page, from its coming to its going."""
        page, pace = _Page(connection), Pace(MOST_MESSAGES_A_SECOND)
        feed = asyncio.create_task(self._feed(page))
        self._pages.add(page)
        try:
            if self._last is not None:  # of when nobody watched
                self._newest = self._show(*self._last)
            self._offer(page)
            async for text in connection:
                if pace.exceeded():
                    await connection.close(CloseCode.POLICY_VIOLATION, "too many messages")
                    break
                self._obey(page, parse_command(text))
        except Malformed as error:
            await connection.close(CloseCode.INVALID_DATA, str(error))
        except ConnectionClosed:
            pass
        except Exception:
            _log.exception("a viewer's page failed")
        finally:
            self._pages.discard(page)
            tasks = [task for task in (feed, page.attending) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _feed(self, page: _Page) -> None:
        """Send whatever is newest, and no more than the page keeps up with."""
        under_way: deque[Any] = deque()
        try:
            while True:
                await page.news.wait()
                page.news.clear()
                for message in self._take(page):
                    async with asyncio.timeout(LONGEST_SILENCE_S):
                        await page.connection.send(message)
                        # The browser answers a ping once it has read what came before.
                        under_way.append(await page.connection.ping())
                        if len(under_way) > IN_FLIGHT:
                            await under_way.popleft()
        except TimeoutError:
            page.connection.transport.abort()
        except ConnectionClosed:
            pass
        except Exception:
            _log.exception("a viewer's page failed")
            page.connection.transport.abort()

    def _take(self, page: _Page) -> Iterator[bytes]:
        """What waits for a page, each looked at only when the one before is sent."""
        if page.next is not None:
            page.shown, page.next = page.next, None
            yield page.shown.message
        if page.answer is not None:
            answer, page.answer = page.answer, None
            yield answer
        if page.untold:
            page.untold = False
            yield pack(self._state(frozen=page.frozen))

    def _obey(self, page: _Page, command: Command) -> None:
        if command.verb == "attend":
            page.frozen = True
            self._look_up(page, command.point_px)
        elif command.verb == "play" or self._playback is not None:
            page.frozen = False
        elif command.verb == "pause":
            page.frozen = True
        if page.frozen:
            page.next = None  # what the page shows stays as it is
        else:
            self._offer(page)
        if self._playback is not None:
            match command.verb:
                case "pause" | "attend":
                    self._playback.pause()
                case "play":
                    self._playback.play()
                case "step":
                    self._playback.step(command.frame)
                case "seek":
                    self._playback.seek(command.frame)
        self._tell_all()

    def _look_up(self, page: _Page, point_px: tuple[float, float]) -> None:
        """Start to ask the model for its attention, unless this page is waiting for it."""
        waiting = page.attending is not None and not page.attending.done()
        if self._attend is not None and page.shown is not None and not waiting:
            page.attending = asyncio.create_task(self._answer(page, page.shown, point_px))

    async def _answer(self, page: _Page, shown: _Shown, point_px: tuple[float, float]) -> None:
        try:
            answer = await asyncio.to_thread(self._attended, shown, point_px)
            if page.frozen:  # else it has gone on meanwhile
                page.answer = answer
                page.news.set()
        except Exception:
            _log.exception("a viewer's attention failed")

    def _attended(self, shown: _Shown, point_px: tuple[float, float]) -> bytes:
        """The frame with the model's attention. Runs in a thread of its own."""
        assert self._attend is not None
        state = self._state(frozen=True)
        try:
            attended = self._attend(shown.frames, *point_px)
        except InputError as error:
            return pack(state | {"problem": str(error)})
        return frame_message(
            shown.result, state, show_outside=self._show_outside, attended=attended
        )
