"""The page at ``/``: three files that a browser loads from the daemon, and nothing from elsewhere.

It only shows: it asks for ``/status``, ``/history`` and ``/journal``, and sends nothing.
"""

from importlib.resources import files
from typing import Final

FILES: Final = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
"""By path, the file and its type."""

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Content-Security-Policy: what is shown comes from databases; none of it may become code, or be sent anywhere."""


def read(path: str) -> tuple[str, bytes]:
    """The type and the content of one of ``FILES``."""
    name, content_type = FILES[path]
    return content_type, (files(__name__) / name).read_bytes()
