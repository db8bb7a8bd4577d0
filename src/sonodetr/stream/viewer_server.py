"""How the viewer is reached, by whom, and how much of it they get. No torch."""

import asyncio
import ipaddress
import logging
import re
import secrets
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from importlib import resources
from typing import Any, NamedTuple

from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from sonodetr.files import InputError

MOST_PAGES = 64
MOST_SOCKETS = 4 * MOST_PAGES
MOST_FRAMES_A_SECOND = 500
MOST_BYTES = 4096

PAGE, FRAMES = "/", "/frames"


class Refusal(NamedTuple):
    """Why a request is answered with an error; the text is shown to whoever asked."""

    status: HTTPStatus
    text: str


class Access(NamedTuple):
    """How the viewer is reached.

    Attributes:
        host, port: where it listens.
        names: what its address may be called; a page elsewhere that makes its own name point here
            (DNS rebinding) calls it something else.
        token: secret that every request must carry, None on loopback.
    """

    host: str
    port: int
    names: frozenset[str]
    token: str | None

    @property
    def url(self) -> str:
        """What to open in a browser, with the token."""
        host = _reachable(self.host)
        text = f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"
        return text if self.token is None else f"{text}?token={self.token}"

    def refusal(self, request: Request) -> Refusal | None:
        """Why this request may not be answered, None if it may."""
        hosts = request.headers.get_all("Host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return Refusal(HTTPStatus.FORBIDDEN, "This address is not the viewer's own.\n")
        # A browser names the page that opens a WebSocket; it must be the viewer's own.
        origins = request.headers.get_all("Origin")
        allowed = {f"http://{hosts[0]}".lower(), f"https://{hosts[0]}".lower()}
        if len(origins) > 1 or any(origin.lower() not in allowed for origin in origins):
            return Refusal(HTTPStatus.FORBIDDEN, "Only the viewer's own page may connect.\n")
        path, _, query = request.path.partition("?")
        if self.token is not None and not secrets.compare_digest(query, f"token={self.token}"):
            return Refusal(
                HTTPStatus.FORBIDDEN, "Open the whole address that was printed, with its token.\n"
            )
        if request.method != "GET":
            return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET is answered.\n")
        if path not in (PAGE, FRAMES):
            return Refusal(HTTPStatus.NOT_FOUND, "There is no such page.\n")
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names this machine; its port may be that of a tunnel."""
        match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+)(:[0-9]{1,5})?", host)
        if match is None:
            return False
        name = match[1].strip("[]").lower().rstrip(".")
        if name in self.names:
            return True
        address = _address(name)
        # Nobody can make somebody else's number point here, but on loopback only its own serve.
        return address is not None and (self.token is not None or address.is_loopback)


def listen(host: str, port: int) -> tuple[socket.socket, Access]:
    """A listening socket, and who may use it: anybody on loopback, else who knows a new token.

    Args:
        host: name or number; "127.0.0.1" is loopback, "0.0.0.0" every network of this machine.
        port: 0 takes any free one.

    Raises:
        InputError: the address is not one of this machine, or already in use.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        server = socket.create_server(_pair(place), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"the viewer cannot listen on {host}:{port} ({reason}); give an address of this "
            "machine and a free port (0 takes any)"
        ) from None
    number, bound = _pair(server.getsockname())
    address = _address(number)
    loopback = address is not None and address.is_loopback
    own = socket.gethostname().lower()
    names = {"localhost"} if loopback else {"localhost", host.lower(), own, f"{own}.local"}
    token = None if loopback else secrets.token_urlsafe(24)
    return server, Access(number, bound, frozenset(names), token)


def _pair(place: Sequence[object]) -> tuple[str, int]:
    """Host and port of a socket's address, of either family."""
    return str(place[0]), int(str(place[1]))


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return None


def _reachable(host: str) -> str:
    """`host`, or if it means every network, the number by which others reach this machine."""
    address = _address(host)
    if address is None or not address.is_unspecified:
        return host
    if address.version == 6:
        return socket.gethostname()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))  # sends nothing; asks for the way out
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


class Pace:
    """Tells when something happens more often than so many times a second."""

    def __init__(self, most: int) -> None:
        self._times: deque[float] = deque(maxlen=most)

    def exceeded(self) -> bool:
        """Counts one more; whether it is too many."""
        now = time.monotonic()
        exceeded = len(self._times) == self._times.maxlen and now - self._times[0] < 1
        self._times.append(now)
        return exceeded


class _Connection(ServerConnection):
    """Drops what no browser does, before anything is done about it: too many sockets, or floods of
    frames, pings among them. `sockets` tells of each whether it belongs to a page."""

    def __init__(self, *words: Any, sockets: dict[ServerConnection, bool], **named: Any) -> None:
        super().__init__(*words, **named)
        self._sockets, self._pace = sockets, Pace(MOST_FRAMES_A_SECOND)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._sockets[self] = False
        if len(self._sockets) > MOST_SOCKETS:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._sockets.pop(self, None)

    def process_event(self, event: Any) -> None:
        if self._pace.exceeded():
            self.transport.abort()
        else:
            super().process_event(event)


@asynccontextmanager
async def serve_pages(
    watch: Callable[[ServerConnection], Awaitable[None]], listening: socket.socket, access: Access
) -> AsyncIterator[None]:
    """Serves the page at `/`, and its frames at `/frames`, which `watch` takes, until it is left.

    At most 64 pages, and of each no message above 4 KiB.
    """
    sockets: dict[ServerConnection, bool] = {}
    page = resources.files(__package__).joinpath("viewer.html").read_text("utf-8")

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        refusal = access.refusal(request)
        if refusal is None and sum(sockets.values()) >= MOST_PAGES:
            text = f"{MOST_PAGES} pages are open already; close one, then load this page again.\n"
            refusal = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, text)
        if refusal is not None:
            return _secured(connection.respond(*refusal), "default-src 'none'")
        if request.path.partition("?")[0] == FRAMES:
            sockets[connection] = True
            return None
        return _page(connection, page, request.headers["Host"])

    async with serve(
        watch,
        sock=listening,
        process_request=answer,
        create_connection=partial(_Connection, sockets=sockets),  # type: ignore[arg-type]
        compression=None,  # JPEG is compressed, and nobody can send a bomb
        server_header=None,
        open_timeout=5,
        ping_interval=None,  # every message is followed by a ping
        close_timeout=1,
        max_size=MOST_BYTES,
        max_queue=4,
        logger=_quiet(),
    ) as server:
        yield
        server.close()
        await asyncio.sleep(0)  # nobody comes any more
        for connection, is_page in list(sockets.items()):
            if not is_page:  # browsers open sockets in advance
                connection.transport.abort()


def _page(connection: ServerConnection, page: str, host: str) -> Response:
    nonce = secrets.token_urlsafe(16)
    response = connection.respond(HTTPStatus.OK, page.replace("{{nonce}}", nonce))
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "text/html; charset=utf-8"
    # Some browsers do not take 'self' for WebSockets.
    connect = f"connect-src 'self' ws://{host} wss://{host}"
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        f"img-src data: blob:; {connect}; require-trusted-types-for 'script'"
    )
    return _secured(response, policy)


def _secured(response: Response, policy: str) -> Response:
    """With the headers that keep other pages, caches and referrers out."""
    response.headers.update(
        {
            "Content-Security-Policy": f"{policy}; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
        }
    )
    return response


def _quiet() -> logging.Logger:
    """A logger that says nothing: requests hold tokens, and strangers' mistakes are no errors."""
    logger = logging.getLogger(f"{__name__}.websockets")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    logger.setLevel(logging.CRITICAL)
    return logger
