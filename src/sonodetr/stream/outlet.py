"""Sends messages to peers that may be slow, dead or absent, without ever making the sender wait."""

import logging
import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from threading import Event, Lock, Thread

from sonodetr.stream.sockets import POLL_S, Warner, accept, connect

MAX_PEERS = 64
OUTBOX = 8  # results a peer may lag behind
STUCK_S = 5.0  # a peer that takes nothing for this long loses its connection
_CLOSING_S = 1.0  # what was handed over may still leave within this time
_LONGEST_PAUSE_S = 2.0
_SEND_BUFFER_BYTES = 1 << 20  # or the system would hold back seconds of old results
_log = logging.getLogger(__name__)


class _Peer:
    """One connection and what is still to be sent to it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self.connection = connection
        self.outbox: deque[Sequence[bytes]] = deque()
        self.begun: list[memoryview] = []  # messages of a result of which a part has left
        self.since_s = self.moved_s = time.monotonic()

    @property
    def pending(self) -> int:
        """Results that have not left whole."""
        return len(self.outbox) + bool(self.begun)


class Outlet:
    """A thread that sends to every peer what `send` is given; newer results displace older ones.

    Give either `listener` (peers come) or `dial` (one peer is connected to, again and again). What
    peers send is read and thrown away.

    Args:
        name: to log.
        listener: listens, does not block.
        allowed: IPs that may connect to it; empty: all.
        dial: addresses of `resolve`.

    Attributes:
        dropped: results that a peer did not get whole, summed over peers; without a peer to dial,
            all results.
        lost: peers that left or were sent away.
        refused: peers that were not allowed or too many.
    """

    def __init__(
        self,
        name: str,
        *,
        listener: socket.socket | None = None,
        allowed: Sequence[str] = (),
        dial: Sequence[tuple] = (),
    ) -> None:
        self.dropped = self.lost = self.refused = 0
        self._name, self._listener, self._allowed, self._dial = name, listener, allowed, dial
        self._peers: list[_Peer] = []
        self._lock = Lock()  # held for outboxes, never while waiting
        self._closing = Event()
        self._failure: Exception | None = None
        self._pause_s, self._waiting = 0.0, False
        self._warn = Warner(_log, name)
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._thread = Thread(target=self._run, name=f"send {name}", daemon=True)
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        if listener is not None:
            self._selector.register(listener, selectors.EVENT_READ)
        self._thread.start()

    @property
    def wanted(self) -> bool:
        """Whether anybody would get what is sent."""
        return bool(self._peers)

    def send(self, messages: Sequence[bytes]) -> None:
        """Queue the messages of one result for every peer; never waits.

        Raises:
            RuntimeError: the thread died, which is a defect.
        """
        self._check()
        with self._lock:
            if not self._peers and self._dial:
                self.dropped += 1
            for peer in self._peers:
                if not peer.pending:
                    peer.moved_s = time.monotonic()
                peer.outbox.append(messages)
                if len(peer.outbox) > OUTBOX:
                    peer.outbox.popleft()
                    self.dropped += 1
        self._rouse()

    def close(self) -> None:
        """Give what is queued one more second to leave, then hang up and end the thread.

        Raises:
            RuntimeError: the thread died, which is a defect.
        """
        self._closing.set()
        self._rouse()
        self._thread.join()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise RuntimeError(f"{self._name}: sending stopped") from self._failure

    def _rouse(self) -> None:
        with suppress(OSError):  # it has been called often enough, or has ended
            self._wake.send(b"\0")

    def _run(self) -> None:
        try:
            self._serve()
        except Exception as error:
            self._failure = error  # raised by the next `send`, or by `close`
        finally:
            for peer in list(self._peers):
                self._hang_up(peer, None)
            self._selector.close()
            self._wake.close()
            self._woken.close()

    def _serve(self) -> None:
        end = float("inf")
        while time.monotonic() < end:
            if self._closing.is_set():
                if not any(peer.pending for peer in self._peers):
                    return
                end = min(end, time.monotonic() + _CLOSING_S)
            elif self._dial and not self._peers:
                self._call()
                continue
            self._want_writing()
            for key, events in self._selector.select(2 * POLL_S):
                if key.data is not None:
                    self._exchange(key.data, events)
                elif key.fileobj is self._woken:
                    self._woken.recv(4096)
                else:
                    self._admit()
            now = time.monotonic()
            for peer in list(self._peers):
                if peer.pending and now - peer.moved_s > STUCK_S:
                    self._hang_up(peer, f"it read nothing for {STUCK_S:.0f} s")

    def _want_writing(self) -> None:
        for peer in self._peers:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if peer.pending else 0)
            self._selector.modify(peer.connection, events, peer)

    def _call(self) -> None:
        """Try to connect once, after a pause that grows until a connection lasts."""
        self._closing.wait(self._pause_s)
        self._pause_s = min(max(2 * self._pause_s, 0.1), _LONGEST_PAUSE_S)
        try:
            self._add(connect(self._dial, self._closing))
            self._waiting = False
        except OSError as error:
            if not self._waiting and not self._closing.is_set():
                self._warn(f"no connection yet ({error.strerror or error}); trying on")
            self._waiting = True

    def _admit(self) -> None:
        """Let a client in that waits."""
        assert self._listener is not None
        try:
            client = accept(self._listener, self._allowed)
        except PermissionError as error:
            self._refuse(str(error))
            return
        if client is None:
            return
        if len(self._peers) < MAX_PEERS:
            self._add(client)
        else:
            client.close()
            self._refuse(f"{MAX_PEERS} are connected")

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self._warn(f"refused a client ({why}), {self.refused} so far")

    def _add(self, connection: socket.socket) -> None:
        peer = _Peer(connection)
        self._selector.register(connection, selectors.EVENT_READ, peer)
        with self._lock:
            self._peers.append(peer)
        _log.info("%s: connected", self._name)

    def _exchange(self, peer: _Peer, events: int) -> None:
        """Throw away what the peer says, and send it what it takes."""
        try:
            if events & selectors.EVENT_READ and not peer.connection.recv(1 << 16):
                raise ConnectionError("it left")
            if events & selectors.EVENT_WRITE:
                self._send_some(peer)
        except BlockingIOError:
            pass
        except OSError as error:
            self._hang_up(peer, error.strerror or str(error))

    def _send_some(self, peer: _Peer) -> None:
        while True:
            if not peer.begun:
                with self._lock:
                    if not peer.outbox:
                        return
                    peer.begun = [memoryview(message) for message in peer.outbox.popleft()]
                continue
            count = peer.connection.send(peer.begun[0])
            peer.moved_s = time.monotonic()
            peer.begun[0] = peer.begun[0][count:]
            if not peer.begun[0]:
                peer.begun.pop(0)

    def _hang_up(self, peer: _Peer, why: str | None) -> None:
        """Close a connection; `why` is None where we end it."""
        self._selector.unregister(peer.connection)
        peer.connection.close()
        with self._lock:
            self._peers.remove(peer)
            self.dropped += peer.pending
            if why is not None:
                self.lost += 1
        if time.monotonic() - peer.since_s > _LONGEST_PAUSE_S:
            self._pause_s = 0.0
        if why is not None:
            self._warn(f"lost a connection ({why}), {self.lost} so far")
