"""Rows that change places while others refer to them: all are deleted and written in one statement."""

from collections.abc import Sequence

from psycopg import sql

from replicator.core.tables import Table
from replicator.mapping.derive import TargetRow
from replicator.postgres.catalog.operators import all_equal
from replicator.postgres.rows.inserting import same_key
from replicator.postgres.rows.refusals import refusing
from replicator.postgres.rows.target import TargetWriter
from replicator.postgres.session.connect import comma, identifier


async def replace_at_once(writer: TargetWriter, table: Table, rows: Sequence[TargetRow]) -> None:
    """Write those of the rows that are there already, so that what is unique may change hands among them.

    A foreign key that does nothing by itself asks only when the statement ends whether the row that is referred to is
    there. So no child may refer to these rows by one that acts, or that restricts.

    :param rows: they give the same columns; the others stay as they are.
    """
    columns = tuple(rows[0].columns)
    stage, every = writer.stage(table), [each.name for each in table.columns if not each.generated]
    given = set(columns)
    with refusing():
        await stage.load(writer.connection, columns, rows)
        # Only the count makes sure that the last row has gone when the first one comes.
        await writer.connection.execute(
            sql.SQL(
                "WITH gone AS (DELETE FROM {} AS t USING {} AS s WHERE {} RETURNING t.*) "
                "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s JOIN gone AS g ON {} "
                "WHERE (SELECT pg_catalog.count(*) FROM gone) > 0"
            ).format(
                identifier(table.name.schema, table.name.table),
                stage.rows,
                same_key(table),
                identifier(table.name.schema, table.name.table),
                comma([identifier(name) for name in every]),
                comma([identifier("s" if name in given else "g", name) for name in every]),
                stage.rows,
                all_equal("g", "s", table.key_columns),
            )
        )
