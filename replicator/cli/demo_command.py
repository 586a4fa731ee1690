"""The demo's command."""

from typing import Annotated

import typer

from replicator.cli.base import Json, app
from replicator.cli.help import Command


@app.command(cls=Command)
def demo(
    rows: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Song requests to begin with.")] = 50_000,
    rate: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="Transactions a second.")] = 300,
    json: Json = False,
) -> None:
    """Show a whole migration under load.

    In a private Postgres that is gone afterwards: backfill, cutover and verification while writers go on writing. It
    needs no settings and no server.
    """
    from replicator.demo.run import run_demo  # noqa: PLC0415  # an optional extra

    raise typer.Exit(run_demo(rows=rows, rate=rate, json=json))
