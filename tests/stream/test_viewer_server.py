"""Who gets the page, and with what headers."""

import http.client
import re
from urllib.parse import urlsplit

import pytest
from viewing import page_of, watched
from websockets.exceptions import InvalidStatus

from sonodetr.stream.viewer_server import Access, Pace, listen


def ask(url, method="GET", path=None, **headers):
    """Status, headers and text of an answer."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=5)
    try:
        full = path or f"{address.path}?{address.query}"
        connection.putrequest(method, full, skip_host=True)
        for name, value in ({"Host": address.netloc} | headers).items():
            for each in value if isinstance(value, list) else [value]:
                connection.putheader(name, each)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def url():
    with watched() as (viewer, _):
        yield viewer.url


@pytest.fixture(scope="module")
def open_url():
    """Of a viewer that every network can reach."""
    with watched(address=("0.0.0.0", 0)) as (viewer, _):
        yield viewer.url


def test_the_page(url):
    status, headers, page = ask(url)
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    (nonce,) = set(re.findall(r"'nonce-([\w-]{22})'", policy))
    assert page.count(f'nonce="{nonce}"') == 2
    assert "{{" not in page
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for part in ("frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"):
        assert part in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Server" not in headers
    assert ask(url)[1]["Content-Security-Policy"] != policy  # another nonce


def test_the_page_needs_nobody_else(url):
    _, _, page = ask(url)
    assert not re.search(r"https?://|//[a-z]+\.|@import|\bsrc=", page)
    assert re.findall(r"href=\"([^\"]*)\"", page) == ["data:,"]
    assert "innerHTML" not in page


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9", "127.0.0.1", "127.0.0.2:1", "[::1]:80"]
)
def test_names_of_loopback(url, host):
    assert ask(url, Host=host)[0] == 200


STRANGE_HOSTS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example:8800",
    "evil.example:80@localhost",
    "localhost, evil.example",
    "10.0.0.7",
    "",
    "[::1",
    [],
    ["localhost", "evil.example"],
    ["localhost", "localhost"],
]


@pytest.mark.parametrize("host", STRANGE_HOSTS, ids=str)
def test_other_names_are_refused(url, host):
    status, headers, text = ask(url, Host=host)
    assert (status, text) == (403, "This address is not the viewer's own.\n")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "file://", "http://localhost"]
)
def test_pages_of_others_are_refused(origin):
    with watched() as (viewer, _), pytest.raises(InvalidStatus) as refused:
        page_of(viewer, origin=origin).__enter__()
    assert refused.value.response.status_code == 403


def test_the_own_page_is_let_in():
    with watched() as (viewer, _), page_of(viewer, origin=viewer.url.strip("/")) as page:
        page.header(lambda header: True)


def test_other_requests(url):
    assert ask(url, path="/favicon.ico")[0] == 404
    assert ask(url, path="/frames/1")[0] == 404
    assert ask(url, path="//[")[0] == 404
    assert ask(url, path="/frames")[0] == 426  # not a WebSocket
    for method in ("POST", "HEAD", "OPTIONS", "PUT"):
        status, _, text = ask(url, method)
        assert status == 405
        assert text == ("" if method == "HEAD" else "Only GET is answered.\n")


def test_a_token_is_needed_on_other_addresses(open_url):
    base, _, query = open_url.partition("?")
    assert re.fullmatch(r"token=[\w-]{32}", query)
    assert ask(open_url)[0] == 200
    assert ask(open_url, Host="192.0.2.7:8800")[0] == 200
    assert ask(open_url, Host="evil.example")[0] == 403
    for wrong in (
        "",
        "?token=",
        f"?{query[:-1]}",
        f"?{query}x",
        "?token=%C3%A9",
        f"?a=1&{query}",
    ):
        for path in ("/", "/frames"):
            status, headers, text = ask(base, path=f"{path}{wrong}")
            assert status == 403, wrong
            assert "token" in text
            assert query[6:] not in text + str(headers)


def test_frames_need_the_token_too():
    with watched(address=("0.0.0.0", 0)) as (viewer, _):
        with page_of(viewer) as page:
            page.header(lambda header: True)
        viewer.url = viewer.url.partition("?")[0]
        with pytest.raises(InvalidStatus) as refused:
            page_of(viewer).__enter__()
        assert refused.value.response.status_code == 403


def test_what_is_loopback():
    for host in ("127.0.0.1", "localhost", "127.0.0.9"):
        server, access = listen(host, 0)
        server.close()
        assert access.token is None
        assert access.url == f"http://{access.host}:{access.port}/"
    server, access = listen("0.0.0.0", 0)
    server.close()
    assert access.token is not None
    assert "0.0.0.0" not in access.url  # which nobody can open
    assert "[" not in Access("::", 8800, frozenset(), "secret").url
    assert Access("::1", 8800, frozenset(), None).url == "http://[::1]:8800/"


def test_pace():
    pace = Pace(3)
    assert [pace.exceeded() for _ in range(5)] == [False, False, False, True, True]
