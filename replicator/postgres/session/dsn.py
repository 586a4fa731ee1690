"""What may be shown of a connection string: host, port and database, never the password."""

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from replicator.errors import UsageError

ENCODE = "In a URL, write the password percent-encoded: @ as %40, / as %2F, : as %3A."


def describe(dsn: str) -> str:
    """Host, port and database, as ``host:port/database``.

    Raises UsageError, without any part of the string, when it cannot be read, or when a password that is not
    percent-encoded has run into the host, the port or the database: libpq's own messages would print it.
    """
    given = _parsed(dsn)
    if given.get("service"):
        return f"service {given['service']}"
    merged = {**_defaults(), **given}
    hosts = merged.get("host") or merged.get("hostaddr") or "localhost"
    ports = merged.get("port") or "5432"
    database = merged.get("dbname") or merged.get("user") or "?"
    if _run_over(dsn, hosts, ports, database):
        raise UsageError("The connection string's password has characters that end it too early.", ENCODE)
    return f"{_addresses(hosts, ports)}/{database}"


def has_password(dsn: str) -> bool:
    """Whether a connection string holds a password itself."""
    return bool(_parsed(dsn).get("password"))


def _parsed(dsn: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in conninfo_to_dict(dsn).items()}
    except psycopg.Error:  # its text quotes the string
        raise UsageError(
            "The connection string cannot be read.", f"Write it as postgresql://user@host/database. {ENCODE}"
        ) from None


def _defaults() -> dict[str, str]:
    """What libpq takes for that which a connection string leaves out: the environment, then what it was built with."""
    options = ((each.keyword.decode(), each.val) for each in pq.Conninfo.get_defaults())
    return {name: value.decode() for name, value in options if value}


def _run_over(dsn: str, hosts: str, ports: str, database: str) -> bool:
    url = dsn.startswith(("postgresql://", "postgres://"))
    numbers = all(not port or port.isdecimal() for port in ports.split(","))
    return not numbers or "@" in hosts or (url and "@" in database) or "://" in database or "=" in database


def _addresses(hosts: str, ports: str) -> str:
    names = hosts.split(",")
    numbers = ports.split(",")
    if len(numbers) != len(names):
        numbers = numbers[:1] * len(names)
    shown = [f"[{name}]" if ":" in name else name for name in names]
    return ",".join(f"{name}:{number or '5432'}" for name, number in zip(shown, numbers, strict=True))
