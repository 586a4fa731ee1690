"""Whether a SELECT of an SQL transform follows from the source row alone: no clock, no chance, no other table."""

from collections import Counter
from typing import Final

from replicator.errors import MigrationError
from replicator.postgres.ddl.statements import TOKEN, after_block
from replicator.postgres.session.connect import Connection
from replicator.postgres.session.server import fetch

CLOCK_WORDS: Final = ("now", "today", "tomorrow", "yesterday")
"""What the input of dates and times takes for the present."""

# What a constant names is in pg_depend, what FROM names is not if it is a catalogue.
OTHER_RELATIONS: Final = """
    SELECT DISTINCT format('%%s.%%s', n.nspname, c.relname) AS name
    FROM pg_rewrite r CROSS JOIN LATERAL (
        SELECT m[1]::oid FROM regexp_matches(r.ev_action::text, ':relid (\\d+)', 'g') AS m
        UNION ALL
        SELECT d.refobjid FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_class'::regclass
    ) AS read(oid) JOIN pg_class c ON c.oid = read.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE r.ev_class = %(view)s::regclass AND c.oid <> r.ev_class AND c.oid <> %(old)s::regclass ORDER BY name
"""

# Functions, and those of operators, casts, aggregates and windows. What parses as a keyword has a node of its own.
CALLS: Final = """
    WITH RECURSIVE called(oid) AS (
        SELECT m[1]::oid FROM pg_rewrite r
        CROSS JOIN regexp_matches(r.ev_action::text, ':(?:opfuncid|funcid|aggfnoid|winfnoid) (\\d+)', 'g') AS m
        WHERE r.ev_class = %(view)s::regclass
        UNION
        SELECT n.oid FROM called c JOIN pg_proc p ON p.oid = c.oid CROSS JOIN LATERAL (
            SELECT m[1]::oid FROM regexp_matches(
                p.prosqlbody::text, ':(?:opfuncid|funcid|aggfnoid|winfnoid) (\\d+)', 'g') AS m
            UNION ALL
            -- The body as a text: every name before a bracket, whichever function of that name it is; without a
            -- schema, one of Postgres' own goes first.
            SELECT q.oid FROM regexp_matches(p.prosrc, '(?:(\\w+)"?\\s*\\.\\s*)?"?(\\w+)"?\\s*\\(', 'g') AS m
            JOIN pg_proc q ON q.proname = lower(m[2])
            JOIN pg_namespace s ON s.oid = q.pronamespace AND s.nspname = coalesce(
                lower(m[1]),
                (SELECT 'pg_catalog' FROM pg_proc o WHERE o.proname = q.proname
                    AND o.pronamespace = 'pg_catalog'::regnamespace LIMIT 1),
                s.nspname
            )
            WHERE p.prolang IN (SELECT oid FROM pg_language WHERE lanname IN ('sql', 'plpgsql'))
                AND p.pronamespace <> 'pg_catalog'::regnamespace
                AND (s.nspname <> 'pg_catalog' OR q.proname <> ALL ('{count,values,varchar,numeric,char,bit}'))
        ) AS n(oid)
    )
    SELECT p.pronamespace = 'pg_catalog'::regnamespace AS built_in, p.proname::text AS name,
        p.oid::regprocedure::text AS called, p.provolatile = 'v' OR p.pronamespace = 'pg_catalog'::regnamespace AND (
            p.proname = ANY ('{now,transaction_timestamp,statement_timestamp,version,getdatabaseencoding}')
            OR p.proname = 'age' AND p.pronargs = 1
            OR p.proname ~ '^(txid_|inet_(client|server)|has_|row_security|to_reg|current_|session_)'
            OR p.proname ~ '^(table|schema|database|query|cursor)_to_xml'
            OR p.proname ~ '^pg_' AND p.proname !~ '^pg_(typeof|column_size|size_|input_|collation_for|lsn)'
        ) AS varies,
        p.provolatile <> 'i' AND p.pronamespace <> 'pg_catalog'::regnamespace AS undeclared,
        p.prosrc ~* '\\m(current_(timestamp|time|date|user|role|catalog|schema)|localtime(stamp)?|session_user)\\M'
            AND p.pronamespace <> 'pg_catalog'::regnamespace AS reads_clock
    FROM called c JOIN pg_proc p ON p.oid = c.oid ORDER BY called
"""

KEYWORDS: Final = """
    SELECT EXISTS (SELECT FROM pg_rewrite WHERE ev_class = %(view)s::regclass
        AND ev_action::text ~ '\\{(SQLVALUEFUNCTION|NEXTVALUEEXPR)') AS found,
        pg_get_viewdef(%(view)s::regclass) AS shown
"""


async def impurities(connection: Connection, view: str, old: str, text: str) -> MigrationError | None:
    """Why what a view selects may be another thing tomorrow for the same rows of ``old``; None where it cannot.

    What a function reads that is declared IMMUTABLE and is not, is not seen, nor the body of one in another language.

    :param view: the name of a view over the table ``old``, made of ``text``.
    """
    if others := await fetch(connection, OTHER_RELATIONS, view=view, old=old):
        listed = ", ".join(each["name"] for each in others)
        return MigrationError(
            f"it reads {listed}, whose changes would not be followed",
            "Let it read old alone; what joins tables is the source: Query(..., depends_on=...).",
        )
    called = await fetch(connection, CALLS, view=view)
    (word,) = await fetch(connection, KEYWORDS, view=view)
    varying = [f"{each['name']}()" for each in called if each["built_in"] and each["varies"]]
    varying += [each["called"] for each in called if each["reads_clock"]]
    if word["found"]:
        varying.append("CURRENT_TIMESTAMP or the like")
    varying += _clock_words(text, word["shown"])
    if varying:
        return MigrationError(
            f"it calls {', '.join(dict.fromkeys(varying))}, which returns another value at another time",
            "Take clocks, random values, sequences and settings out; make new ids from the old key.",
        )
    if undeclared := [each["called"] for each in called if each["undeclared"]]:
        statements = " ".join(f"`ALTER FUNCTION {each} IMMUTABLE;`" for each in undeclared)
        return MigrationError(
            f"it calls {', '.join(undeclared)}, which is not declared IMMUTABLE",
            f"If what it returns follows from its arguments alone, say so: {statements}",
        )
    return None


def _clock_words(text: str, shown: str) -> list[str]:
    """The constants that Postgres has turned into a date: as texts, it would show them as they were written."""
    written, kept = _constants(text), _constants(shown)
    return [f"'{word}'" for word in CLOCK_WORDS if written[word] > kept[word]]


def _constants(text: str) -> Counter[str]:
    found: Counter[str] = Counter()
    at = 0
    while token := TOKEN.match(text, at):
        at = after_block(text, token.end()) if token["block"] else token.end()
        if token["quoted"] and token["quoted"].endswith("'"):
            found[token["quoted"].partition("'")[2][:-1].strip().lower()] += 1
    return found
