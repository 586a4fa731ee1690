"""Sets the sequences of tables that others have written to."""

from collections.abc import Iterable

from psycopg import sql

from replicator.core.tables import Table
from replicator.postgres.session.connect import Connection, identifier, translated

MARGIN = 1_000
"""Numbers skipped, so that none is given twice whatever was handed out and not yet written."""

# A sequence may go down, by any step, from any start, and have been told where to end. It goes on among its own numbers
# (another one may give those in between), beyond what it has given and what is in the column. In numeric: nothing
# overflows.
SET = """
    WITH known AS (
        SELECT seqrelid, seqstart::numeric AS start, seqincrement::numeric AS step, seqmin::numeric AS lowest,
               seqmax::numeric AS highest, pg_sequence_last_value(seqrelid)::numeric AS given
        FROM pg_sequence WHERE seqrelid = {sequence}::regclass
    ), used AS (
        SELECT *, CASE WHEN step > 0 THEN greatest((SELECT max({column}) FROM {table}), coalesce(given, start - step))
                       ELSE least((SELECT min({column}) FROM {table}), coalesce(given, start - step)) END AS last
        FROM known
    ), beyond AS (
        SELECT *, start + step * (ceil((last - start) / step) + floor(least({margin}, greatest(0, floor(
            CASE WHEN step > 0 THEN highest - last ELSE last - lowest END / 2))) / abs(step))) AS next
        FROM used
    )
    SELECT setval(seqrelid, least(highest, greatest(lowest, next))::bigint,
                  CASE WHEN step > 0 THEN next >= lowest ELSE next <= highest END)
    FROM beyond
"""


async def set_sequences(connection: Connection, tables: Iterable[Table], margin: int = MARGIN) -> int:
    """Set every sequence that a column of numbers of these tables owns beyond what is in use; gives how many.

    :param margin: how many numbers to skip; where the sequence has not so many left, half of those.
    """
    done = 0
    with translated():
        for table in tables:
            name = identifier(table.name.schema, table.name.table)
            for column in table.columns:
                if column.kind not in ("integer", "numeric"):
                    continue
                cursor = await connection.execute(
                    "SELECT pg_get_serial_sequence(%s, %s)", (name.as_string(connection), column.name)
                )
                row = await cursor.fetchone()
                if row is None or row[0] is None:
                    continue
                await connection.execute(
                    sql.SQL(SET).format(
                        sequence=sql.Literal(row[0]), column=identifier(column.name), table=name, margin=margin
                    )
                )
                done += 1
    return done
