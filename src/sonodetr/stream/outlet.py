"""Sends messages to peers that may be slow, dead or absent, without ever making the sender wait."""

import logging
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Lock, Thread

from sonodetr.stream.channel import Channel
from sonodetr.stream.sockets import POLL_S, Warner, accept, connect

MAX_PEERS = 64
OUTBOX = 8  # results a peer may lag behind
STUCK_S = 5.0  # a peer that takes nothing for this long loses its connection
_CLOSING_S = 1.0  # what was handed over may still leave within this time
_LONGEST_PAUSE_S = 2.0
_SEND_BUFFER_BYTES = 1 << 20  # or the system would hold back seconds of old results
_log = logging.getLogger(__name__)


class _Peer:
    """One connection and the results that wait to be sent to it."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(STUCK_S)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self.connection = connection
        self.results = Channel[Sequence[bytes]](OUTBOX, newest_wins=True)
        self.gone = Event()

    def send(self, message: bytes) -> None:
        """Send all of it; unlike `sendall`, the time runs anew with every part that is taken."""
        rest = memoryview(message)
        while rest:
            rest = rest[self.connection.send(rest) :]

    def hang_up(self) -> None:
        """End whatever waits for the connection."""
        with suppress(OSError):  # the peer was quicker
            self.connection.shutdown(socket.SHUT_RDWR)


class Outlet:
    """Sends to every peer what `send` is given; newer results displace older ones.

    Give either `listener` (peers come) or `dial` (one peer is connected to, again and again). What
    peers send is read and thrown away. Every peer has one thread for each direction.

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
        self._lock = Lock()  # held for peers and counts, never while waiting
        self._closing = Event()
        self._failure: Exception | None = None
        self._warn = Warner(_log, name)
        self._thread = self._started(self._run)

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
            self.dropped += sum(peer.results.put(messages) for peer in self._peers)

    def close(self) -> None:
        """Give what is queued one more second to leave, then hang up and end the threads.

        Raises:
            RuntimeError: the thread died, which is a defect.
        """
        self._closing.set()
        with self._lock:
            peers = list(self._peers)
        for peer in peers:
            peer.results.close()
        end_s = time.monotonic() + _CLOSING_S
        for peer in peers:
            if not peer.gone.wait(max(0.0, end_s - time.monotonic())):
                peer.hang_up()
        self._thread.join()
        for peer in list(self._peers):
            peer.gone.wait()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise RuntimeError(f"{self._name}: sending stopped") from self._failure

    def _started(self, work: Callable[..., None], *words: object) -> Thread:
        thread = Thread(target=work, args=words, name=f"send {self._name}", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        try:
            if self._listener is None:
                self._call()
            else:
                self._admit(self._listener)
        except Exception as error:
            self._failure = error  # raised by the next `send`, or by `close`

    def _call(self) -> None:
        """Connect whenever there is no connection, after pauses that grow until one lasts."""
        pause_s, waiting = 0.0, False
        while not self._closing.wait(pause_s):
            pause_s = min(max(2 * pause_s, 0.1), _LONGEST_PAUSE_S)
            try:
                connection = connect(self._dial, self._closing)
            except OSError as error:
                if not waiting and not self._closing.is_set():
                    self._warn(f"no connection yet ({error.strerror or error}); trying on")
                waiting = True
                continue
            waiting, since_s = False, time.monotonic()
            self._serve(self._added(connection))
            if time.monotonic() - since_s > _LONGEST_PAUSE_S:
                pause_s = 0.0

    def _admit(self, listener: socket.socket) -> None:
        """Let clients in that come."""
        while not self._closing.is_set():
            try:
                client = accept(listener, self._allowed)
            except PermissionError as error:
                self._refuse(str(error))
                continue
            if client is None:
                self._closing.wait(POLL_S)
            elif len(self._peers) < MAX_PEERS:
                self._started(self._serve, self._added(client))
            else:
                client.close()
                self._refuse(f"{MAX_PEERS} are connected")

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self._warn(f"refused a client ({why}), {self.refused} so far")

    def _added(self, connection: socket.socket) -> _Peer:
        peer = _Peer(connection)
        with self._lock:
            self._peers.append(peer)
            if self._closing.is_set():  # too late for `close` to see it
                peer.results.close()
        _log.info("%s: connected", self._name)
        return peer

    def _serve(self, peer: _Peer) -> None:
        """Send to one peer until it leaves, takes nothing, or all is to end."""
        listening = self._started(self._throw_away, peer)
        begun, why = 0, "it left"
        try:
            for messages in peer.results:
                begun = 1
                for message in messages:
                    peer.send(message)
                begun = 0
        except TimeoutError:
            why = f"it read nothing for {STUCK_S:.0f} s"
        except OSError as error:
            why = error.strerror or str(error)
        finally:
            peer.hang_up()
            listening.join()
            peer.connection.close()
            with self._lock:
                self._peers.remove(peer)
                self.dropped += begun + peer.results.abandon()
                self.lost += not self._closing.is_set()
            peer.gone.set()
        if not self._closing.is_set():
            self._warn(f"lost a connection ({why}), {self.lost} so far")

    def _throw_away(self, peer: _Peer) -> None:
        """Read what a peer says until it leaves, which also ends the sending."""
        with suppress(OSError):
            while True:
                with suppress(TimeoutError):  # it need not say anything
                    if not peer.connection.recv(1 << 16):
                        break
        with self._lock:
            self.dropped += peer.results.abandon()
