"""The HTTP endpoints, asked over real sockets."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from http.client import HTTPConnection, HTTPResponse

import pytest
from prometheus_client import CollectorRegistry, Gauge
from structlog.testing import capture_logs

from replicator.errors import UsageError
from replicator.observe import http
from replicator.observe.http import HttpServer, parse_listen
from tests.waiting import wait_until


@dataclass
class Facts:
    status: dict[str, object] = field(default_factory=dict)
    health: str | None = None
    ready: str | None = None


@pytest.fixture
def facts() -> Facts:
    return Facts()


def serve(facts: Facts, listen: str = "127.0.0.1:0", registry: CollectorRegistry | None = None) -> HttpServer:
    return HttpServer(
        listen, registry or CollectorRegistry(), lambda: facts.status, lambda: facts.health, lambda: facts.ready
    )


@pytest.fixture
def http_server(facts: Facts) -> Iterator[HttpServer]:
    server = serve(facts)
    server.start()
    yield server
    server.stop()


def ask(server: HttpServer, path: str, method: str = "GET") -> tuple[HTTPResponse, str]:
    connection = HTTPConnection(server.address, timeout=5)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


def test_metrics_shows_the_registry() -> None:
    registry = CollectorRegistry()
    Gauge("lag", "Lag.", registry=registry).set(7)
    server = serve(Facts(), registry=registry)
    server.start()
    try:
        response, body = ask(server, "/metrics")
    finally:
        server.stop()
    assert response.status == 200
    assert str(response.headers["Content-Type"]).startswith("text/plain; version=")
    assert "lag 7.0\n" in body


@pytest.mark.parametrize("path, name", [("/healthz", "health"), ("/readyz", "ready")])
def test_a_probe_answers_200_or_503_with_the_reason(
    http_server: HttpServer, facts: Facts, path: str, name: str
) -> None:
    response, body = ask(http_server, path)
    assert (response.status, body) == (200, "ok\n")
    setattr(facts, name, "The slot is lost: ä.")
    response, body = ask(http_server, path)
    assert (response.status, body) == (503, "The slot is lost: ä.\n")
    assert response.headers["Cache-Control"] == "no-store"


def test_the_probes_are_independent(http_server: HttpServer, facts: Facts) -> None:
    facts.ready = "The gate backfill is closed."
    assert ask(http_server, "/healthz")[0].status == 200
    assert ask(http_server, "/readyz")[0].status == 503


def test_status_is_json(http_server: HttpServer, facts: Facts) -> None:
    facts.status = {
        "phase": "follow",
        "lag_bytes": 12,
        "lag_seconds": float("nan"),
        "eta": Decimal("1.5"),
        "gates": [{"name": "lag", "ok": True, "limits": (float("inf"), 1.0)}],
    }
    response, body = ask(http_server, "/status")
    assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body, parse_constant=pytest.fail) == {
        "phase": "follow",
        "lag_bytes": 12,
        "lag_seconds": None,
        "eta": "1.5",
        "gates": [{"name": "lag", "ok": True, "limits": [None, 1.0]}],
    }


def test_a_query_string_does_not_matter(http_server: HttpServer) -> None:
    assert ask(http_server, "/healthz?probe=1")[0].status == 200


@pytest.mark.parametrize("path", ["/page", "/metric", "/healthz/", "/metrics/../status"])
def test_an_unknown_path_is_404_and_lists_the_known_ones(http_server: HttpServer, path: str) -> None:
    response, body = ask(http_server, path)
    assert response.status == 404
    assert body == "There is: /metrics /healthz /readyz /status / /page.css /page.js\n"


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/status", "/nowhere"])
def test_head_has_the_headers_of_get_and_no_body(http_server: HttpServer, facts: Facts, path: str) -> None:
    facts.ready = "Not yet."
    get, text = ask(http_server, path)
    head, nothing = ask(http_server, path, "HEAD")
    assert nothing == ""
    assert head.status == get.status
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert int(head.headers["Content-Length"]) == len(text.encode())


def test_head_sends_no_byte_after_the_headers(http_server: HttpServer) -> None:
    host, port = parse_listen(http_server.address)
    with socket.create_connection((host, port), timeout=5) as client:
        client.sendall(b"HEAD /healthz HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_any_other_method_is_405(http_server: HttpServer, method: str) -> None:
    response, body = ask(http_server, "/status", method)
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    assert body == "Only GET and HEAD are served.\n"


def ask_as(server: HttpServer, host: str | None) -> tuple[int, str]:
    address, port = parse_listen(server.address)
    with socket.create_connection((address, port), timeout=5) as client:
        named = "" if host is None else f"Host: {host}\r\n"
        client.sendall(f"GET /status HTTP/1.0\r\n{named}\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:9177",
        "localhost.",
        "a.localhost:1",
        "127.0.0.1:9177",
        "[::1]:9177",
        "10.1.2.3",
        "db7",
        None,
    ],
)
def test_loopback_names_addresses_and_configured_names_are_answered(facts: Facts, host: str | None) -> None:
    server = HttpServer("127.0.0.1:0", CollectorRegistry(), dict, lambda: None, lambda: None, ["DB7", ""])
    server.start()
    try:
        assert ask_as(server, host)[0] == 200
    finally:
        server.stop()


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9177",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "notlocalhost",
        "",
        "[::1",
        "@localhost",
    ],
)
def test_a_name_that_may_have_been_rebound_is_refused(http_server: HttpServer, facts: Facts, host: str) -> None:
    facts.status = {"phase": "follow"}
    status, body = ask_as(http_server, host)
    assert status == 421
    assert "phase" not in body
    assert "REPLICATOR_HTTP_HOSTS" in body


def raises() -> str | None:
    raise RuntimeError("no such table")


def test_a_page_that_fails_is_500_and_logged_and_the_server_lives_on() -> None:
    server = HttpServer("127.0.0.1:0", CollectorRegistry(), dict, raises, lambda: None)
    server.start()
    try:
        with capture_logs() as logged:
            response, body = ask(server, "/healthz")
        assert (response.status, body) == (500, "/healthz failed: the log of the daemon says why.\n")
        [entry] = logged
        assert (entry["event"], entry["path"]) == ("http_page_failed", "/healthz")
        assert re.fullmatch(r"unexpected RuntimeError in test_http\.py, line \d+", entry["error"])
        assert ask(server, "/readyz")[0].status == 200
    finally:
        server.stop()


def test_a_port_in_use_is_a_sentence_that_names_the_setting(http_server: HttpServer, facts: Facts) -> None:
    second = serve(facts, http_server.address)
    with pytest.raises(OSError, match="REPLICATOR_HTTP_LISTEN") as caught:
        second.start()
    assert str(caught.value) == (
        f"Cannot listen on {http_server.address}: Address already in use. "
        "Stop the process that uses this address, or set REPLICATOR_HTTP_LISTEN to a free one."
    )
    second.stop()  # never started: nothing to do


def test_an_address_that_does_not_exist_is_such_a_sentence(facts: Facts) -> None:
    with pytest.raises(OSError, match=r"^Cannot listen on no-such-host\.invalid:80: .*REPLICATOR_HTTP_LISTEN"):
        serve(facts, "no-such-host.invalid:80").start()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_ipv6(facts: Facts) -> None:
    server = serve(facts, "[::1]:0")
    server.start()
    try:
        assert server.address.startswith("[::1]:")
        assert ask(server, "/healthz")[0].status == 200
    finally:
        server.stop()


@pytest.mark.parametrize(
    "listen, expected",
    [("127.0.0.1:9177", ("127.0.0.1", 9177)), ("[::1]:0", ("::1", 0)), (":9177", ("", 9177)), ("db1:80", ("db1", 80))],
)
def test_parse_listen(listen: str, expected: tuple[str, int]) -> None:
    assert parse_listen(listen) == expected


@pytest.mark.parametrize(
    "listen", ["", "9177", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "::1:9177", "a:-1", "a:²"]
)
def test_a_malformed_address_names_the_setting(facts: Facts, listen: str) -> None:
    with pytest.raises(UsageError, match=r"REPLICATOR_HTTP_LISTEN is '.*'\. It must be like"):
        serve(facts, listen)


def test_stop_frees_the_port_and_start_takes_it_again(facts: Facts) -> None:
    first = serve(facts)
    first.start()
    address = first.address
    first.stop()
    first.stop()
    with pytest.raises(RuntimeError, match="not running"):
        _ = first.address
    again = serve(facts, address)
    again.start()
    assert ask(again, "/healthz")[0].status == 200
    again.stop()


def test_a_started_server_cannot_be_started_again(http_server: HttpServer) -> None:
    with pytest.raises(RuntimeError, match="running already"):
        http_server.start()


def test_stop_leaves_no_thread(facts: Facts) -> None:
    server = serve(facts)
    server.start()
    ask(server, "/healthz")
    server.stop()
    wait_until(lambda: not any(thread.name == "http" for thread in threading.enumerate()))


def test_a_silent_client_holds_up_nobody_and_is_dropped(
    http_server: HttpServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert 1 <= http._Handler.timeout <= 60
    monkeypatch.setattr(http._Handler, "timeout", 0.2)
    host, port = parse_listen(http_server.address)
    with socket.create_connection((host, port), timeout=5) as silent:
        assert ask(http_server, "/healthz")[0].status == 200
        assert silent.recv(1) == b""  # dropped by the server
    assert capfd.readouterr() == ("", "")


def test_nothing_is_printed_for_a_request(http_server: HttpServer, capfd: pytest.CaptureFixture[str]) -> None:
    for path in ("/metrics", "/healthz", "/nowhere"):
        ask(http_server, path)
    host, port = parse_listen(http_server.address)
    with socket.create_connection((host, port), timeout=5) as client:
        client.sendall(b"nonsense\r\n\r\n")
        client.recv(4096)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("path", "begins"), [("/", "<!doctype html>"), ("/page.css", ":root"), ("/page.js", '"use strict"')]
)
def test_the_page_is_served_and_may_load_nothing_from_elsewhere(
    http_server: HttpServer, path: str, begins: str
) -> None:
    response, body = ask(http_server, path)
    assert response.status == 200
    assert body.startswith(begins)
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_other_documents_are_served_as_json() -> None:
    server = HttpServer(
        "127.0.0.1:0", CollectorRegistry(), dict, lambda: None, lambda: None, (), {"/journal": lambda: [1]}
    )
    server.start()
    try:
        assert json.loads(ask(server, "/journal")[1]) == [1]
    finally:
        server.stop()
