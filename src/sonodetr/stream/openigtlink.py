"""OpenIGTLink as source and sink of a live pipeline, on plain sockets.

Nothing of a peer's text (device names, metadata) is logged or shown; docs/openigtlink.md.
"""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from threading import Event

from sonodetr.files import InputError
from sonodetr.formats.openigtlink import MessageError, UnsupportedImage
from sonodetr.stream.flow import Captured, Deliver, Result
from sonodetr.stream.igtl_reader import Connection, FrameCounter, Stopped
from sonodetr.stream.igtl_result import messages_of
from sonodetr.stream.outlet import Outlet
from sonodetr.stream.sockets import (
    POLL_S,
    Warner,
    accept,
    checked_listener,
    connect,
    listen,
    parse_address,
    resolve,
    shown,
)

__all__ = [
    "IgtlClientSink",
    "IgtlClientSource",
    "IgtlServerSink",
    "IgtlServerSource",
    "parse_address",
]

_SILENT_S = 5.0  # after this long, a pusher makes way for the next
_LONGEST_PAUSE_S = 2.0
_log = logging.getLogger(__name__)


class IgtlClientSource:
    """Pictures of an OpenIGTLink server, such as PLUS; connects again whenever it is lost.

    Attributes:
        lost: connections that ended by themselves or by a message that broke the protocol.
    """

    live = True
    rate_hz: float | None = None

    def __init__(self, host: str, port: int) -> None:
        self.name = shown("igtl", host, port)
        self.lost = 0
        self._where = host, port
        self._warn = Warner(_log, self.name)

    def frames(self, stop: Event) -> Iterator[Captured]:
        """See `Source`; waits for the server for as long as it takes.

        Raises:
            InputError: no such host, or all the server sends is pictures that cannot be read.
        """
        addresses = resolve(*self._where)
        frames, pause_s, waiting = FrameCounter(), 0.1, False
        while not stop.is_set():
            before = frames.count
            try:
                peer = connect(addresses, stop)
            except OSError as error:
                if not waiting and not stop.is_set():
                    self._warn(f"no connection yet ({error.strerror or error}); waiting")
                waiting = True
            else:
                waiting = False
                with closing(peer):
                    yield from self._sent(peer, frames, stop)
            pause_s = 0.1 if frames.count > before else min(2 * pause_s, _LONGEST_PAUSE_S)
            stop.wait(pause_s)

    def _sent(self, peer: socket.socket, frames: FrameCounter, stop: Event) -> Iterator[Captured]:
        """The frames of one connection, until it is lost."""
        _log.info("%s: connected", self.name)
        try:
            yield from frames.of_connection(Connection(peer, stop, lambda: None).images())
        except Stopped:
            return
        except (MessageError, OSError) as error:
            if isinstance(error, UnsupportedImage) and frames.count == 0:
                raise InputError(f"{self.name} sends {error}") from None
            self.lost += 1
            self._warn(f"lost the connection ({error}), {self.lost} so far; connecting again")


class _Displaced(Exception):
    """Another pusher takes the place of one that was silent."""


class IgtlServerSource:
    """Pictures that one client at a time pushes, such as 3D Slicer or a scanner.

    Attributes:
        port: listened on; the one the system chose, once `frames` began, if 0 was given.
        lost: connections that ended by themselves or by a message that broke the protocol.
        refused: clients sent away, because another was pushing or their IP is not allowed.

    Raises:
        InputError: other computers could connect and none is named.
    """

    live = True
    rate_hz: float | None = None

    def __init__(self, host: str, port: int, allowed: tuple[str, ...] = ()) -> None:
        self._address = checked_listener(host, port, allowed)
        self.name = shown("igtl-listen", self._address.host, port)
        self.port, self.lost, self.refused = port, 0, 0
        self._next: socket.socket | None = None
        self._warn = Warner(_log, self.name)

    def frames(self, stop: Event) -> Iterator[Captured]:
        """See `Source`; waits for the next client when one leaves.

        Raises:
            InputError: the port cannot be listened on.
        """
        frames = FrameCounter()
        with closing(listen(self._address)) as listener:
            self.port = listener.getsockname()[1]
            try:
                while not stop.is_set():
                    peer = self._next or self._accept(listener)
                    self._next = None
                    if peer is None:
                        stop.wait(POLL_S)
                        continue
                    with closing(peer):
                        yield from self._pushed(peer, listener, frames, stop)
            finally:
                if self._next is not None:
                    self._next.close()

    def _pushed(
        self, peer: socket.socket, listener: socket.socket, frames: FrameCounter, stop: Event
    ) -> Iterator[Captured]:
        """The frames of one client until it leaves, breaks the protocol or is displaced."""

        def between() -> None:
            while (other := self._accept(listener)) is not None:
                if time.monotonic() - reader.heard_s > _SILENT_S:
                    self._next = other
                    raise _Displaced("silent, and another client waits")
                other.close()
                self._refuse("another client is pushing")

        reader = Connection(peer, stop, between)
        _log.info("%s: a client connected", self.name)
        try:
            yield from frames.of_connection(reader.images())
        except (MessageError, OSError, _Displaced) as error:
            self.lost += 1
            self._warn(f"lost a client ({error}), {self.lost} so far; waiting for the next")
        except Stopped:
            return

    def _accept(self, listener: socket.socket) -> socket.socket | None:
        """The next allowed client, if one waits; refuses all others that stand before it."""
        while True:
            try:
                return accept(listener, self._address.allowed)
            except PermissionError as error:
                self._refuse(str(error))

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self._warn(f"refused a client ({why}), {self.refused} so far")


class _Sink:
    """What both sinks do with a result."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._outlet: Outlet | None = None

    @property
    def dropped(self) -> int:
        """Results that a peer did not get, because it was slow or away; summed over peers."""
        return self._outlet.dropped if self._outlet else 0

    @property
    def lost(self) -> int:
        """Peers that left, or were sent away because they did not read."""
        return self._outlet.lost if self._outlet else 0

    def _deliver(self, result: Result) -> None:
        assert self._outlet is not None
        self._outlet.send(messages_of(result) if self._outlet.wanted else [])


class IgtlClientSink(_Sink):
    """Sends results to an OpenIGTLink server, such as 3D Slicer; connects again when it is lost."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(shown("igtl", host, port))
        self._where = host, port

    @contextmanager
    def open(self) -> Iterator[Deliver]:
        """See `Sink`.

        Raises:
            InputError: no such host.
        """
        with closing(Outlet(self.name, dial=resolve(*self._where))) as self._outlet:
            yield self._deliver


class IgtlServerSink(_Sink):
    """Sends results to every client that connects, such as 3D Slicer.

    Attributes:
        port: listened on; the one the system chose, once open, if 0 was given.

    Raises:
        InputError: other computers could connect and none is named.
    """

    def __init__(self, host: str, port: int, allowed: tuple[str, ...] = ()) -> None:
        self._address = checked_listener(host, port, allowed)
        super().__init__(shown("igtl-listen", self._address.host, port))
        self.port = port

    @contextmanager
    def open(self) -> Iterator[Deliver]:
        """See `Sink`.

        Raises:
            InputError: the port cannot be listened on.
        """
        with closing(listen(self._address)) as listener:
            self.port = listener.getsockname()[1]
            outlet = Outlet(self.name, listener=listener, allowed=self._address.allowed)
            with closing(outlet) as self._outlet:
                yield self._deliver
