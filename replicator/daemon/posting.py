"""A POST to the URL of a hook, by the standard library: one small document at each phase change is all that is sent.

``urllib`` blocks, so each call has a thread of its own; with it come the proxies of the environment (``HTTPS_PROXY``,
``NO_PROXY``) and the system's certificates.
"""

import asyncio
import base64
import concurrent.futures
from http.client import HTTPException
from threading import Thread
from typing import Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

SILENT_SECONDS: Final = 30.0
"""How long the server may send nothing: longer than a hook may take, whose limit is the one that is reported."""
_HEADERS: Final = {"Content-Type": "application/json", "User-Agent": "replicator"}
_AS_IT_IS: Final = "!#$%&'()*+,/:;=?@[]~"  # a URL that is quoted already stays so


class UnreachableError(Exception):
    """There was no answer. The text holds nothing of the URL."""

    def __init__(self, reason: str, *, transient: bool) -> None:
        super().__init__(reason)
        self.transient = transient


async def post(url: str, body: bytes, *, read: int) -> tuple[int, bytes]:
    """POST a JSON document; follows no redirection, as the answer might come from a server that never got the document.

    A call that is cancelled returns at once. Its thread is left to end with its connection: it keeps no process alive.

    :param read: how many bytes of the answer are wanted, at most.
    :return: the answer's status and how it begins.
    :raises UnreachableError: the URL is none, or the server did not answer.
    """
    future: concurrent.futures.Future[tuple[int, bytes]] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()  # else a result that comes after the cancellation would be an error

    def call() -> None:
        try:
            future.set_result(_post(url, body, read))
        except Exception as error:  # noqa: BLE001  # raised where the result is waited for
            future.set_exception(error)

    Thread(target=call, name="hook", daemon=True).start()
    return await asyncio.wrap_future(future)


def _post(url: str, body: bytes, read: int) -> tuple[int, bytes]:
    opener = OpenerDirector()  # not `build_opener`: that one follows redirections, and raises at a status
    for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    try:
        answer = opener.open(_request(url, body), timeout=SILENT_SECONDS)
        with answer:
            return answer.status, answer.read(read)
    # Their texts may hold the URL, which may hold a token.
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UnreachableError(getattr(reason, "strerror", None) or type(reason).__name__, transient=True) from None
    except ValueError:
        raise UnreachableError("it is not a URL", transient=False) from None


def _request(url: str, body: bytes) -> Request:
    """With what ``urllib`` cannot read in a URL taken out of it: a user with a password, letters outside ASCII."""
    parts = urlsplit(url)
    if not parts.hostname:
        raise ValueError
    host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
    host = f"[{host}]" if ":" in host else host
    place = host if parts.port is None else f"{host}:{parts.port}"
    path, query = quote(parts.path, _AS_IT_IS), quote(parts.query, _AS_IT_IS)
    headers = dict(_HEADERS)
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    return Request(urlunsplit((parts.scheme, place, path, query, "")), data=body, headers=headers)  # noqa: S310  # the settings allow http and https
