"""Tables of every kind that a guard has to close, and a cutover that closes them."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from replicator.settings import Settings
from tests.roles import identity
from tests.sessions import Running, daemon

OLD: Final = """
    CREATE TABLE public.t (id integer, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE public.t_low PARTITION OF public.t FOR VALUES FROM (0) TO (100) PARTITION BY RANGE (id);
    CREATE TABLE public.t_low_leaf PARTITION OF public.t_low FOR VALUES FROM (0) TO (100);
    CREATE TABLE public.t_high PARTITION OF public.t FOR VALUES FROM (100) TO (200);
    CREATE TABLE public.u (id integer PRIMARY KEY, v text);
    CREATE VIEW public.seen AS SELECT id, v FROM public.u;
    CREATE VIEW public.ruled AS SELECT id, v FROM public.u;
    CREATE RULE through AS ON INSERT TO public.ruled DO INSTEAD INSERT INTO public.u VALUES (NEW.id, NEW.v);
    CREATE TABLE public.elsewhere (id integer, v text);
    CREATE FUNCTION public.copied() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.u VALUES (NEW.id, NEW.v); RETURN NULL; END $$;
    CREATE TRIGGER copied AFTER INSERT ON public.elsewhere FOR EACH ROW EXECUTE FUNCTION public.copied();
    INSERT INTO public.t SELECT i, 'v' || i FROM generate_series(1, 20) AS i;
    INSERT INTO public.u SELECT i, 'v' || i FROM generate_series(1, 20) AS i;
"""

NEW: Final = """
    CREATE SCHEMA IF NOT EXISTS shop;
    CREATE TABLE IF NOT EXISTS shop.t (id integer PRIMARY KEY, v text);
    CREATE TABLE IF NOT EXISTS shop.u (id integer PRIMARY KEY, v text);
"""


@contextlib.asynccontextmanager
async def cut_over(settings: Settings, folder: Path) -> AsyncIterator[Running]:
    migration = identity(folder, NEW, ("t", "u"))
    migration.retire("elsewhere", because="it is written to by others")
    async with daemon(settings, migration) as running:
        await running.ready()
        await running.cut_over()
        yield running
