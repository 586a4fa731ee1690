"""The daemon's HTTP endpoints and its page, served by a thread of their own."""

import ipaddress
import json
import math
import socket
import socketserver
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from replicator.errors import UsageError, unexpected
from replicator.observe import web_page
from replicator.runtime.log import get_logger

_Answer = tuple[HTTPStatus, str, bytes]  # status, content type, body
_Page = Callable[[], _Answer]

log = get_logger("http")

CLIENT_TIMEOUT = 10.0  # seconds that a client may be silent
SETTING = "REPLICATOR_HTTP_LISTEN"
HOSTS_SETTING = "REPLICATOR_HTTP_HOSTS"


class HttpServer:
    """Serves what the callables say. `health` and `ready` return None when all is well, else the reason why not.

    :param documents: by path, what is served as JSON besides.
    :param hosts: names under which clients may ask, beside loopback names, addresses and the host in ``listen``.
    """

    def __init__(
        self,
        listen: str,
        registry: CollectorRegistry,
        status: Callable[[], dict[str, object]],
        health: Callable[[], str | None],
        ready: Callable[[], str | None],
        hosts: Iterable[str] = (),
        documents: Mapping[str, Callable[[], object]] | None = None,
    ) -> None:
        self._host, self._port = parse_listen(listen)
        self._listen = listen
        self._server: _Server | None = None
        self._app = _Application(
            {
                "/metrics": partial(_metrics_page, registry),
                "/healthz": partial(_reason_page, health),
                "/readyz": partial(_reason_page, ready),
                "/status": partial(_json_page, status),
                **{path: partial(_json_page, facts) for path, facts in (documents or {}).items()},
                **{path: partial(_file_page, path) for path in web_page.FILES},
            },
            frozenset(each.lower() for each in ("localhost", self._host, *hosts) if each),
        )

    @property
    def address(self) -> str:
        """Where the server listens, as `host:port`; the real port when port 0 was asked for."""
        if self._server is None:
            raise RuntimeError("the HTTP server is not running")
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if self._server.address_family == socket.AF_INET6 else f"{host!s}:{port}"

    def start(self) -> None:
        """Bind and serve. An address that cannot be had is an OSError that names the setting."""
        if self._server is not None:
            raise RuntimeError("the HTTP server is running already")
        try:
            self._server = _Server(self._host, self._port, self._app)
        except OSError as error:
            raise OSError(
                f"Cannot listen on {self._listen}: {error.strerror or error}. "
                f"Stop the process that uses this address, or set {SETTING} to a free one."
            ) from error
        Thread(target=self._server.serve_forever, args=(0.1,), name="http", daemon=True).start()

    def stop(self) -> None:
        """Stop serving and free the port; may be called again."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def parse_listen(listen: str) -> tuple[str, int]:
    """Split `host:port`, `[ipv6]:port` or `:port` (every address)."""
    host, colon, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in host and not bracketed):
        raise UsageError(f"{SETTING} is {listen!r}.", "It must be like 127.0.0.1:9177 or [::1]:9177.")
    return (host[1:-1] if bracketed else host), int(port)


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_TIMEOUT

    def log_message(self, *_: Any) -> None:
        """Print no request lines: a scrape every few seconds says nothing."""


class _Application:
    def __init__(self, pages: dict[str, _Page], hosts: frozenset[str]) -> None:
        self._pages = pages
        self._hosts = hosts

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # A page of a stranger's can let its own name resolve to this address (DNS rebinding) and then read what is
        # served here from the browser of somebody who may connect; the name is all that tells such a request apart.
        if _may_ask(host := environ.get("HTTP_HOST"), self._hosts):
            status, content_type, body = self._answer(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        else:
            status, content_type, body = _text(HTTPStatus.MISDIRECTED_REQUEST, _stranger(host))
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        headers += [("Content-Security-Policy", web_page.POLICY), ("X-Content-Type-Options", "nosniff")]
        if status == 405:
            headers.append(("Allow", "GET, HEAD"))
        start_response(f"{status.value} {status.phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, method: str, path: str) -> _Answer:
        if method not in ("GET", "HEAD"):
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET and HEAD are served.")
        if path not in self._pages:
            return _text(HTTPStatus.NOT_FOUND, f"There is: {' '.join(self._pages)}")
        try:
            return self._pages[path]()
        except Exception as error:  # noqa: BLE001  # a page that fails must not end the server
            log.warning("http_page_failed", path=path, error=unexpected(error))
            return _text(HTTPStatus.INTERNAL_SERVER_ERROR, f"{path} failed: the log of the daemon says why.")


def _may_ask(host: str | None, allowed: frozenset[str]) -> bool:
    """Whether a request for this ``Host`` is answered. No browser leaves it out, and none rebinds an address."""
    if host is None:
        return True
    name = (host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]).lower().rstrip(".")
    if name in allowed or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _stranger(host: str | None) -> str:
    name = "".join(each for each in host or "" if each.isprintable())[:100]
    return f"This server does not answer for the host {name}. Ask for localhost, or name the host in {HOSTS_SETTING}."


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_port = False  # else a second server could take the same port unseen

    def __init__(self, host: str, port: int, app: _Application) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)
        self.set_app(app)

    def server_bind(self) -> None:
        """Bind without the reverse name look-up that the standard library makes."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, *_: Any) -> None:
        """Log what went wrong with a request, save that its client went away or fell silent."""
        error = sys.exception()
        if error is not None and not isinstance(error, (ConnectionError, TimeoutError)):
            log.warning("http_request_failed", error=unexpected(error))


def _metrics_page(registry: CollectorRegistry) -> _Answer:
    return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry)


def _reason_page(reason: Callable[[], str | None]) -> _Answer:
    why_not = reason()
    return _text(HTTPStatus.OK, "ok") if why_not is None else _text(HTTPStatus.SERVICE_UNAVAILABLE, why_not)


def _file_page(path: str) -> _Answer:
    content_type, content = web_page.read(path)
    return HTTPStatus.OK, content_type, content


def _json_page(facts: Callable[[], object]) -> _Answer:
    text = json.dumps(_finite(facts()), default=str, indent=2)
    return HTTPStatus.OK, "application/json", f"{text}\n".encode()


def _finite(value: object) -> object:
    """NaN and infinity are no JSON: null stands for them."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(status: HTTPStatus, text: str) -> _Answer:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()
