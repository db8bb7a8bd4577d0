"""TCP with bounded waits: addresses, listening and connecting for OpenIGTLink."""

import ipaddress
import logging
import os
import selectors
import socket
import time
from collections.abc import Sequence
from threading import Event
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from sonodetr.files import InputError

DEFAULT_PORT = 18944
POLL_S = 0.05  # how long anything waits before it looks whether it is to stop
_CONNECT_S = 2.0
_CONNECT, _LISTEN = "igtl", "igtl-listen"


class Address(NamedTuple):
    """Where to connect to or to listen.

    Attributes:
        host: name or IP.
        port: 0 lets the system choose (listening only).
        allowed: IPs of clients that may connect; none given: all that can reach `host`.
    """

    host: str
    port: int
    allowed: tuple[str, ...] = ()


def parse_address(text: str) -> Address:
    """`igtl://HOST[:PORT]` or `igtl-listen://IP[:PORT][?from=CLIENT_IP,...]`.

    >>> parse_address("igtl-listen://0.0.0.0:18945?from=192.168.0.7")
    Address(host='0.0.0.0', port=18945, allowed=('192.168.0.7',))

    Raises:
        InputError: it is neither, or listens on an address that is not loopback to everybody.
    """
    try:
        parts = urlsplit(text)
        port = DEFAULT_PORT if parts.port is None else parts.port
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise InputError(f"{text}: {error}; write igtl://HOST:18944") from None
    if parts.scheme not in (_CONNECT, _LISTEN) or not parts.hostname:
        raise InputError(
            f"{text}: not an OpenIGTLink address; write igtl://HOST:18944 to connect to a server, "
            "igtl-listen://127.0.0.1:18944 to wait for clients"
        )
    known = {"from"} if parts.scheme == _LISTEN else set()
    if parts.path.strip("/") or parts.fragment or parts.username or set(query) - known:
        extra = "only ?from=CLIENT_IP,..." if parts.scheme == _LISTEN else "nothing"
        raise InputError(f"{text}: {extra} may follow the port")
    if parts.scheme == _CONNECT:
        if port == 0:
            raise InputError(f"{text}: there is no port 0; PLUS and 3D Slicer listen on 18944")
        return Address(parts.hostname, port)
    allowed = tuple(ip for value in query.get("from", []) for ip in value.split(","))
    return Address(*checked_listener(parts.hostname, port, allowed))


def checked_listener(host: str, port: int, allowed: Sequence[str]) -> Address:
    """An address to listen on that not everybody in the network can reach.

    Raises:
        InputError: not an IP; or not loopback, and no clients are named.
    """
    address = shown(_LISTEN, host, port)
    try:
        here = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        clients = tuple(str(ipaddress.ip_address(ip.strip())) for ip in allowed)
    except ValueError as error:
        raise InputError(f"{address}: {error}; IPs are needed here and after ?from=") from None
    if not here.is_loopback and not clients:
        raise InputError(
            f"{address}: OpenIGTLink knows no passwords, so name who may connect: "
            f"{address}?from=CLIENT_IP"
        )
    return Address(str(here), port, clients)


def shown(scheme: str, host: str, port: int) -> str:
    """The address as text; IPv6 in brackets.

    >>> shown("igtl", "::1", 18944)
    'igtl://[::1]:18944'
    """
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


class Warner:
    """Logs warnings under a name, at most one a second, however many peers come and go."""

    def __init__(self, log: logging.Logger, name: str) -> None:
        self._log, self._name = log, name
        self._said_s = float("-inf")

    def __call__(self, text: str) -> None:
        if time.monotonic() - self._said_s > 1.0:
            self._said_s = time.monotonic()
            self._log.warning("%s: %s", self._name, text)


def listen(address: Address) -> socket.socket:
    """A socket that listens and never blocks.

    Raises:
        InputError: the port is taken or the IP is not of this computer.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.create_server((address.host, address.port), family=family, backlog=128)
    except OSError as error:
        raise InputError(
            f"cannot listen on {shown(_LISTEN, address.host, address.port)} "
            f"({os.strerror(error.errno or 0)}); choose another port or address"
        ) from None
    listener.setblocking(False)
    return listener


def accept(listener: socket.socket, allowed: Sequence[str]) -> socket.socket | None:
    """The next client that waits; None if none does.

    Raises:
        PermissionError: a client came that is not among `allowed`; it was sent away.
    """
    try:
        peer, (host, *_) = listener.accept()
    except (BlockingIOError, ConnectionAbortedError):
        return None
    if allowed and host not in allowed:
        peer.close()
        raise PermissionError(f"{host} is not named in ?from=")
    return _ready(peer)


def resolve(host: str, port: int) -> list[tuple]:
    """What `connect` takes; asks the name server once.

    Raises:
        InputError: no such host.
    """
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        address = shown(_CONNECT, host, port)
        raise InputError(f"{address}: no such host; check the name or give its IP") from None


def connect(addresses: Sequence[tuple], stop: Event) -> socket.socket:
    """A connection to the first address that answers.

    Raises:
        OSError: none does within 2 seconds, or `stop` was set.
    """
    error = OSError("stopped")
    for family, kind, protocol, _, address in addresses:
        peer = socket.socket(family, kind, protocol)
        try:
            peer.setblocking(False)
            peer.connect_ex(address)
            _wait_connected(peer, stop)
            return _ready(peer)
        except OSError as caught:
            peer.close()
            error = caught
    raise error


def _wait_connected(peer: socket.socket, stop: Event) -> None:
    end = time.monotonic() + _CONNECT_S
    with selectors.DefaultSelector() as selector:
        selector.register(peer, selectors.EVENT_WRITE)
        while not selector.select(POLL_S):
            if stop.is_set() or time.monotonic() > end:
                raise TimeoutError("no answer")
    code = peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _ready(peer: socket.socket) -> socket.socket:
    """Small messages leave at once, and a peer whose cable was cut is noticed in half a minute."""
    peer.settimeout(POLL_S)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return peer
