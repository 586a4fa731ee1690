"""An HTTP server of a user's, that is told things: it answers as the test says, and keeps what it was sent."""

import contextlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


class Listener:
    """What came, and what is answered: ``statuses`` one after the other, the last one from then on."""

    def __init__(self, *statuses: int, said: str = "", location: str = "") -> None:
        self.statuses = list(statuses) or [200]
        self.said = said
        self.location = location
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.asked = Event()
        self.silent = False
        self.let_go = Event()
        self.url = ""

    def answer(self) -> int:
        """The next status."""
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@contextlib.contextmanager
def listening(*statuses: int, said: str = "", location: str = "") -> Iterator[Listener]:
    """A server on this machine, as long as the context is open."""
    listener = Listener(*statuses, said=said, location=location)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            listener.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            listener.headers.append(dict(self.headers))
            listener.paths.append(self.path)
            listener.asked.set()
            if listener.silent:
                listener.let_go.wait()
            self.send_response(listener.answer())
            if listener.location:
                self.send_header("Location", listener.location)
            self.end_headers()
            with contextlib.suppress(OSError):  # a client that has gone
                self.wfile.write(listener.said.encode())

        def log_message(self, *_: object) -> None:
            """Nothing on the test's terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        listener.url = f"http://127.0.0.1:{server.server_address[1]}/a-secret-token"
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield listener
        finally:
            listener.let_go.set()
            server.shutdown()
            thread.join()
