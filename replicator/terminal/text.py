"""Numbers and times as people read them."""

from datetime import UTC, datetime

UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """``1 row``, ``35,500 rows``."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def sized(size: int | None) -> str:
    """``12.3 kB``; ``not measured`` when it is not known."""
    if size is None:
        return "not measured"
    if size < 1000:
        return counted(size, "byte")
    scaled = float(size)
    for unit in ("kB", "MB", "GB"):
        scaled /= 1000
        if scaled < 999.95:
            return f"{scaled:.1f} {unit}"
    return f"{scaled / 1000:,.1f} TB"


def lasting(seconds: float | None) -> str:
    """``0.4 s``, ``3 min 5 s``, ``2 h 10 min``; ``not measured`` when it is not known."""
    if seconds is None:
        return "not measured"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    parts = []
    for size, unit in UNITS:
        count, whole = divmod(whole, size)
        parts.append((count, unit))
    first = next(index for index, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)


def pause(seconds: float) -> str:
    """A write pause: ``12 ms``, ``1.3 s``."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else lasting(seconds)


def since(moment: str | None, now: datetime | None = None) -> str | None:
    """How long ago an ISO time was; None when there is none, or when it cannot be read."""
    at = parsed(moment)
    return None if at is None else lasting(((now or datetime.now(UTC)) - at).total_seconds())


def clock(moment: str | None) -> str:
    """An ISO time as the local time of day, with the date when that is another day."""
    at = parsed(moment)
    if at is None:
        return moment or "-"
    local = at.astimezone()
    return local.strftime("%H:%M:%S" if local.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M:%S")


def parsed(moment: str | None) -> datetime | None:
    """An ISO time; UTC when it names no zone."""
    try:
        at = datetime.fromisoformat(moment or "")
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)
