"""The scenes: shapes of schemas in which the order of writing matters, or what a target row is called."""

from collections.abc import Callable
from typing import Any, Final

from hypothesis import strategies as st

from replicator import Lookup, Migration, Query, Row, as_array
from tests.scenes import (
    DEFERRABILITY,
    MANY,
    Kept,
    Scene,
    actions,
    as_it_is,
    carried,
    equal,
    few,
    many,
    of_both,
    same,
    same_work,
    work,
)

Draw = st.DrawFn


@st.composite
def trees(draw: Draw) -> Scene:
    """A table that refers to itself."""
    old, new = draw(of_both(actions()))
    null = draw(st.sampled_from(["", "", " NOT NULL"]))
    table = f"CREATE TABLE @nodes (id integer PRIMARY KEY, parent integer{null}, note text DEFAULT 'none');"
    refers = "ALTER TABLE @nodes ADD FOREIGN KEY (parent) REFERENCES @nodes (id) {};"
    grown = f"INSERT INTO @nodes SELECT g, greatest({MANY}, {MANY} + (g - {MANY}) / 2)"
    return Scene(
        name="trees",
        old=table + refers.format(old),
        new=table,
        constraints=refers.format(new),
        declare=carried("nodes"),
        forward=equal("nodes"),
        reverse=equal("nodes"),
        filled=same(few("INSERT INTO @nodes SELECT g, 1 + g / 2 FROM @nodes")),
        work=same_work(
            "INSERT INTO @nodes VALUES (:k, :n, :w)",
            "INSERT INTO @nodes VALUES (:k, :k), (:k2, :k3), (:k3, :k)",
            "INSERT INTO @nodes VALUES (:k1, :k2), (:k2, :k3), (:k3, NULL)",
            "UPDATE @nodes SET parent = :n WHERE id = :k",
            "UPDATE @nodes SET parent = :k2 WHERE parent = :k1; DELETE FROM @nodes WHERE id = :k1",
            "UPDATE @nodes SET parent = :k2, note = :w WHERE id > :k1",
            "UPDATE @nodes SET id = :k2 WHERE id = :k1",
            "UPDATE @nodes SET id = 99 WHERE id = :k1; UPDATE @nodes SET id = :k1 WHERE id = :k2; "
            "UPDATE @nodes SET id = :k2 WHERE id = 99",
            "UPDATE @nodes SET id = id + :o, parent = parent + :o",
            "UPDATE @nodes SET parent = :n WHERE id <> :k; DELETE FROM @nodes WHERE id > :k",
            "DELETE FROM @nodes WHERE id = :k",
            "DELETE FROM @nodes",
            "DELETE FROM @nodes WHERE id = :k; INSERT INTO @nodes VALUES (:k, :n)",
            "TRUNCATE @nodes",
            f"UPDATE @nodes SET parent = :n WHERE id >= {MANY}",
            *many(grown, "nodes"),
        ),
    )


@st.composite
def chains(draw: Draw) -> Scene:
    """Parents, children and toys; children name their parents by the key, or by another column that is unique."""
    old, new = draw(of_both(actions()))
    old_toys, new_toys = draw(of_both(actions()))
    null = draw(st.sampled_from(["", " NOT NULL", " DEFAULT 1", " NOT NULL DEFAULT 1"]))
    by = draw(st.sampled_from(["id", "id", "number"]))
    unique = draw(st.sampled_from(["", "DEFERRABLE"])) if by == "id" else ""
    tables = (
        "CREATE TABLE @parents (id integer PRIMARY KEY, number integer NOT NULL, name text);"
        f"CREATE TABLE @children (id integer PRIMARY KEY, parent integer{null}, name text);"
        "CREATE TABLE @toys (id integer PRIMARY KEY, child integer, name text);"
    )
    constraints = (
        "ALTER TABLE @parents ADD UNIQUE (number) {};"
        f"ALTER TABLE @children ADD FOREIGN KEY (parent) REFERENCES @parents ({by}) {{}};"
        "ALTER TABLE @toys ADD FOREIGN KEY (child) REFERENCES @children (id) {};"
    )
    names = ("parents", "children", "toys")
    return Scene(
        name="chains",
        old=tables + constraints.format(unique, old, old_toys),
        new=tables,
        constraints=constraints.format("", new, new_toys),
        declare=carried(*names),
        forward=equal(*names),
        reverse=equal(*names),
        filled=same(
            few(
                "INSERT INTO @parents SELECT g, g FROM @parents",
                "INSERT INTO @children SELECT g, g FROM @children",
                "INSERT INTO @toys SELECT g, g FROM @toys",
            )
        ),
        work=same_work(
            "INSERT INTO @parents VALUES (:k, :k2, :w)",
            "INSERT INTO @parents VALUES (:k1, :k1), (:k2, :k2), (:k3, :k3)",
            "INSERT INTO @children VALUES (:k1, :n, :w)",
            "INSERT INTO @children VALUES (:k1, :k2), (:k2, :k3); INSERT INTO @toys VALUES (:k2, :k1), (:k1, :k2)",
            "INSERT INTO @toys VALUES (:k, :n, :w)",
            "UPDATE @children SET parent = :k2 WHERE parent = :k1; DELETE FROM @parents WHERE id = :k1",
            "UPDATE @children SET parent = :n; DELETE FROM @parents WHERE id <> :k",
            "UPDATE @parents SET id = :k2 WHERE id = :k1",
            "UPDATE @parents SET id = id + :o",
            "UPDATE @parents SET number = number + :o",
            "UPDATE @parents SET id = id + :o, number = number + 100; UPDATE @parents SET number = number - 100",
            "UPDATE @parents SET number = 99 WHERE id = :k1; UPDATE @parents SET number = :k2 WHERE number = :k1; "
            "UPDATE @parents SET number = :k1 WHERE number = 99",
            "UPDATE @parents SET id = 99 WHERE id = :k1; UPDATE @parents SET id = :k1 WHERE id = :k2; "
            "UPDATE @parents SET id = :k2 WHERE id = 99",
            "UPDATE @children SET id = :k2 WHERE id = :k1",
            "UPDATE @children SET id = id + :o WHERE id < 50; UPDATE @toys SET child = child + 0",
            "UPDATE @toys SET child = :n; DELETE FROM @children",
            "DELETE FROM @parents WHERE id = :k",
            "DELETE FROM @children WHERE id = :k; INSERT INTO @children VALUES (:k, :n)",
            "DELETE FROM @parents WHERE id = :k1; INSERT INTO @parents VALUES (:k2, :k1)",
            "DELETE FROM @toys; DELETE FROM @children; DELETE FROM @parents",
            "TRUNCATE @parents, @children, @toys",
            "TRUNCATE @toys",
            "TRUNCATE @children, @toys; INSERT INTO @children VALUES (:k1, :k2)",
            *many("INSERT INTO @parents SELECT g, g, 'p' || g", "parents"),
            f"INSERT INTO @children SELECT g, g FROM generate_series({MANY}, {MANY} - 1 + :m) AS g",
            f"INSERT INTO @toys SELECT g, g FROM generate_series({MANY}, {MANY} - 1 + :m) AS g",
            f"UPDATE @children SET parent = :k WHERE id >= {MANY}",
        ),
    )


@st.composite
def circles(draw: Draw) -> Scene:
    """Two tables that refer to each other."""
    old, new = draw(of_both(actions()))
    old_team, new_team = draw(of_both(actions()))
    tables = (
        "CREATE TABLE @teams (id integer PRIMARY KEY, captain integer, name text);"
        "CREATE TABLE @players (id integer PRIMARY KEY, team integer NOT NULL);"
    )
    constraints = (
        "ALTER TABLE @teams ADD FOREIGN KEY (captain) REFERENCES @players (id) {};"
        "ALTER TABLE @players ADD FOREIGN KEY (team) REFERENCES @teams (id) {};"
    )
    return Scene(
        name="circles",
        old=tables + constraints.format(old, old_team),
        new=tables,
        constraints=constraints.format(new, new_team),
        declare=carried("teams", "players"),
        forward=equal("teams", "players"),
        reverse=equal("teams", "players"),
        filled=same(
            few("INSERT INTO @teams SELECT g FROM @teams", "INSERT INTO @players SELECT g, g FROM @players")
            + "; UPDATE @teams SET captain = id"
        ),
        work=same_work(
            "INSERT INTO @teams VALUES (:k)",
            "INSERT INTO @players VALUES (:k1, :k2)",
            "INSERT INTO @teams VALUES (:k1); INSERT INTO @players VALUES (:k1, :k1); "
            "UPDATE @teams SET captain = :k1 WHERE id = :k1",
            "UPDATE @teams SET captain = :n WHERE id = :k",
            "UPDATE @teams SET captain = id, name = :w",
            "UPDATE @players SET team = :k2 WHERE team = :k1; DELETE FROM @teams WHERE id = :k1",
            "UPDATE @players SET team = :k2 WHERE id = :k1",
            "UPDATE @teams SET captain = NULL WHERE captain = :k; DELETE FROM @players WHERE id = :k",
            "UPDATE @teams SET captain = NULL; DELETE FROM @players; DELETE FROM @teams",
            "UPDATE @teams SET id = :k2 WHERE id = :k1",
            "UPDATE @teams SET id = id + :o; UPDATE @players SET id = id + :o",
            "UPDATE @players SET id = :k2 WHERE id = :k1",
            "DELETE FROM @teams WHERE id = :k",
            "DELETE FROM @players WHERE id = :k",
            "TRUNCATE @teams, @players",
            "TRUNCATE @teams, @players; INSERT INTO @teams VALUES (:k); INSERT INTO @players VALUES (:k2, :k)",
            *many("INSERT INTO @teams SELECT g", "teams"),
            f"INSERT INTO @players SELECT g, g FROM generate_series({MANY}, {MANY} - 1 + :m) AS g",
            f"UPDATE @teams SET captain = :n WHERE id >= {MANY}",
        ),
    )


@st.composite
def seats(draw: Draw) -> Scene:
    """Values that are unique or exclude each other, and change hands; a column of the old ones is nobody's."""
    unique_old, unique_new = draw(of_both(DEFERRABILITY))
    excluded_old, excluded_new = draw(of_both(DEFERRABILITY))
    chief_old, chief_new = draw(of_both(DEFERRABILITY))
    chiefs = "CREATE TABLE @chiefs (id integer PRIMARY KEY, name text NOT NULL UNIQUE {});"
    seats_table = "CREATE TABLE @seats (id integer PRIMARY KEY, seat integer NOT NULL, during int4range{});"
    constraints = (
        "ALTER TABLE @seats ADD UNIQUE (seat) {};"
        "ALTER TABLE @seats ADD EXCLUDE USING gist (during WITH &&) {};"
    )  # fmt: skip
    more = ", chief integer REFERENCES @chiefs, secret text DEFAULT 'none'"

    def declare(migration: Migration) -> None:
        carried("chiefs")(migration)
        for name in ("chief", "secret"):
            migration.retire("seats", column=name, because="nobody asks for it")

        @migration.transform(source="seats", into="seats", key=lambda old: old["id"])
        def seat(old: Row) -> dict[str, Any]:
            return {name: old[name] for name in ("id", "seat", "during")}

        @migration.reverse(source="seats", into="seats", key=lambda new: new["id"])
        def old_seat(new: Row) -> dict[str, Any]:
            return dict(new)

    shared = [
        "INSERT INTO @seats VALUES (:k1, :k2, int4range(:k2, :k2 + 1))",
        "INSERT INTO @seats VALUES (:k, 90 + :d, NULL)",
        "UPDATE @seats SET seat = 99 WHERE id = :k1; UPDATE @seats SET seat = :k2 WHERE seat = :k1; "
        "UPDATE @seats SET seat = :k1 WHERE seat = 99",
        "UPDATE @seats SET seat = seat + 100; UPDATE @seats SET seat = seat - 100 + :o",
        "UPDATE @seats SET seat = seat + 1",
        "UPDATE @seats SET seat = 100 - seat WHERE seat < 100",
        "UPDATE @seats SET during = int4range(:k1, :k1 + :o) WHERE id = :k2",
        "UPDATE @seats SET during = NULL; UPDATE @seats SET during = int4range(seat * 10, seat * 10 + :o)",
        "UPDATE @seats SET during = NULL WHERE id = :k1; UPDATE @seats SET during = int4range(1, 20) WHERE id = :k2",
        "DELETE FROM @seats WHERE id = :k1; INSERT INTO @seats VALUES (:k2, :k1, int4range(:k1, :k1 + 2))",
        "DELETE FROM @seats WHERE id = :k1; UPDATE @seats SET seat = :k1 WHERE id = :k2",
        "DELETE FROM @seats WHERE id > :k",
        "UPDATE @chiefs SET name = 'x' WHERE id = :k1; UPDATE @chiefs SET name = :w WHERE id = :k2; "
        "UPDATE @chiefs SET name = 'chief' || :k1 WHERE id = :k1",
        "UPDATE @chiefs SET name = name || 'x'; UPDATE @chiefs SET name = 'chief' || (7 - id) WHERE id < 7",
        "INSERT INTO @chiefs SELECT g, 'chief' || g FROM generate_series(1, 6) AS g",
        "TRUNCATE @seats",
        *many("INSERT INTO @seats SELECT g, g + 1000, int4range(g * 10, g * 10 + 5)", "seats"),
    ]
    return Scene(
        name="seats",
        old=chiefs.format(chief_old) + seats_table.format(more) + constraints.format(unique_old, excluded_old),
        new=chiefs.format(chief_new) + seats_table.format(""),
        constraints=constraints.format(unique_new, excluded_new),
        declare=declare,
        forward=[*equal("chiefs"), *equal("seats", columns="id, seat, during")],
        reverse=[*equal("chiefs"), *equal("seats", columns="id, seat, during")],
        filled=same(
            few(
                "INSERT INTO @chiefs SELECT g, 'chief' || g FROM @chiefs",
                "INSERT INTO @seats SELECT g, g, int4range(g * 10, g * 10 + 5) FROM @seats",
            )
        ),
        work={
            "old": work(
                *shared,
                "UPDATE @seats SET secret = :w WHERE id > :k",
                "UPDATE @seats SET chief = :n WHERE id > :k",
            ),
            "new": work(*shared),
        },
        kept=Kept(table="seats", column="secret || coalesce(chief, 0)"),
    )


@st.composite
def days(draw: Draw) -> Scene:
    """On one side the day is a part of the key: there the key changes, and stays the same on the other."""
    wide, narrow = "PRIMARY KEY (id, day), UNIQUE (id)", "PRIMARY KEY (id)"
    mirrored = draw(st.booleans())
    remembering = draw(st.booleans())
    key: Callable[[Row], Any] = lambda row: row["id"]  # noqa: E731
    shape = "CREATE TABLE @stays (id integer, day integer, place text, {});"

    def declare(migration: Migration) -> None:
        narrowing = None if remembering else key
        there, back = (narrowing, None) if mirrored else (None, narrowing)
        migration.transform(source="stays", into="stays", key=there, name="stay")(as_it_is)
        migration.reverse(source="stays", into="stays", key=back, name="stay")(as_it_is)

    return Scene(
        name="days",
        old=shape.format(wide if mirrored else narrow),
        new=shape.format(narrow if mirrored else "PRIMARY KEY (id, day)"),
        constraints="" if mirrored else "ALTER TABLE @stays ADD UNIQUE (id);",
        declare=declare,
        forward=equal("stays"),
        reverse=equal("stays"),
        filled=same(few("INSERT INTO @stays SELECT g, 0, 'a' FROM @stays")),
        work=same_work(
            "INSERT INTO @stays VALUES (:k, :d, :w)",
            "INSERT INTO @stays SELECT g, 0, :w FROM generate_series(1, 6) AS g",
            "UPDATE @stays SET day = day + 1 WHERE id = :k",
            "UPDATE @stays SET day = :d",
            "UPDATE @stays SET id = :k2 WHERE id = :k1",
            "UPDATE @stays SET id = 99 WHERE id = :k1; UPDATE @stays SET id = :k1 WHERE id = :k2; "
            "UPDATE @stays SET id = :k2, day = :d WHERE id = 99",
            "DELETE FROM @stays WHERE id = :k; INSERT INTO @stays VALUES (:k, :d, :w)",
            "DELETE FROM @stays WHERE id = :k1; UPDATE @stays SET id = :k1 WHERE id = :k2",
            "UPDATE @stays SET id = id + :o",
            "DELETE FROM @stays WHERE id > :k",
            "TRUNCATE @stays",
            f"UPDATE @stays SET day = day + 1 WHERE id >= {MANY}",
            *many("INSERT INTO @stays SELECT g, 0, 'p'", "stays"),
        ),
    )


@st.composite
def regions(draw: Draw) -> Scene:
    """The old table has partitions, between which rows move; in the new one the region is no part of the key."""
    parted = draw(st.booleans())
    old = (
        "CREATE TABLE @visits (id integer, region text, note text, PRIMARY KEY (id, region)) "
        "PARTITION BY LIST (region);"
        "CREATE TABLE @visits_n PARTITION OF @visits FOR VALUES IN ('n');"
        "CREATE TABLE @visits_s PARTITION OF @visits FOR VALUES IN ('s');"
        "CREATE TABLE @visits_w PARTITION OF @visits DEFAULT;"
    )
    new = "CREATE TABLE @visits (id integer PRIMARY KEY, region text, note text)"
    new += (
        " PARTITION BY RANGE (id); CREATE TABLE @visits_1 PARTITION OF @visits FOR VALUES FROM (MINVALUE) TO (4);"
        "CREATE TABLE @visits_2 PARTITION OF @visits FOR VALUES FROM (4) TO (MAXVALUE);"
        if parted
        else ";"
    )

    def declare(migration: Migration) -> None:
        migration.transform(source="visits", into="visits", key=lambda old: old["id"], name="visit")(as_it_is)
        migration.reverse(source="visits", into="visits", name="visit")(as_it_is)

    free = "WHERE NOT EXISTS (SELECT FROM @visits WHERE id = :k)"
    shared = [
        f"INSERT INTO @visits SELECT :k, :p, :w {free}",
        f"INSERT INTO @visits SELECT :k, :p, :w {free}",
        "UPDATE @visits SET region = :p WHERE id = :k",
        "UPDATE @visits SET region = CASE region WHEN 'n' THEN 's' ELSE 'n' END",
        "UPDATE @visits SET region = :p, note = :w WHERE id <> :k",
        "UPDATE @visits SET id = :k WHERE id = :k2 AND NOT EXISTS (SELECT FROM @visits WHERE id = :k)",
        "UPDATE @visits SET id = id + 100 WHERE id < 50; UPDATE @visits SET id = 107 - id WHERE id BETWEEN 100 AND 200",
        "DELETE FROM @visits WHERE id = :k; INSERT INTO @visits VALUES (:k, :p, :w)",
        "DELETE FROM @visits WHERE id = :k",
        "TRUNCATE @visits",
        "TRUNCATE @visits; INSERT INTO @visits VALUES (:k, :p, :w)",
        f"UPDATE @visits SET region = :p WHERE id >= {MANY}",
        f"DELETE FROM @visits WHERE id >= {MANY}; "
        f"INSERT INTO @visits SELECT g, :p, 'many' FROM generate_series({MANY}, {MANY} - 1 + :m) AS g",
    ]
    # Root first, as readers do: else they would lock each other out.
    emptied = [
        "LOCK TABLE @visits; TRUNCATE @visits_n",
        "LOCK TABLE @visits; TRUNCATE @visits_s; INSERT INTO @visits SELECT 9, 's', 'alone' " + free.replace(":k", "9"),
    ]
    return Scene(
        name="regions",
        old=old,
        new=new,
        constraints="",
        declare=declare,
        forward=equal("visits"),
        reverse=equal("visits"),
        filled=same(few("INSERT INTO @visits SELECT g, 'n', 'a' FROM @visits")),
        work={
            "old": work(*shared, *emptied),
            "new": work(*shared, *(["LOCK TABLE @visits; TRUNCATE @visits_1"] if parted else [])),
        },
    )


@st.composite
def homes(draw: Draw) -> Scene:
    """Children that are found by a query, of parents whose keys change."""
    old_key, new_key = draw(of_both(actions()))
    tables = "CREATE TABLE @houses (id integer, day integer, PRIMARY KEY (id, day){});"
    dwellers = "CREATE TABLE @dwellers (id integer PRIMARY KEY, house integer{}{});"
    null = draw(st.sampled_from(["", " NOT NULL"]))
    query = Query(
        "SELECT d.id, d.house, h.day FROM public.dwellers d LEFT JOIN public.houses h ON h.id = d.house",
        key=["id"],
        depends_on={
            "dwellers": ["id"],
            "houses": Lookup("SELECT id FROM public.dwellers WHERE house = %(id)s::integer"),
        },
    )

    def declare(migration: Migration) -> None:
        pair: Callable[[Row], Any] = lambda row: (row["id"], row["day"])  # noqa: E731
        migration.transform(source="houses", into="houses", key=pair, name="house")(as_it_is)
        migration.reverse(source="houses", into="houses", key=pair, name="house")(as_it_is)
        migration.transform(source=query, into="dwellers", key=lambda old: old["id"], name="dweller")(as_it_is)
        migration.retire("dwellers", column="day", because="the house has it")

        @migration.reverse(source="dwellers", into="dwellers", key=lambda new: new["id"])
        def old_dweller(new: Row) -> dict[str, Any]:
            return {"id": new["id"], "house": new["house"]}

    shared = [
        "INSERT INTO @houses VALUES (:k, :d)",
        "INSERT INTO @houses SELECT g, 0 FROM generate_series(1, 4) AS g",
        "UPDATE @houses SET day = day + 1 WHERE id = :k",
        "UPDATE @houses SET day = :d",
        "DELETE FROM @dwellers WHERE id = :k",
        "DELETE FROM @dwellers WHERE house = :k; DELETE FROM @houses WHERE id = :k",
        "DELETE FROM @houses WHERE id = :k",
        "TRUNCATE @houses, @dwellers",
        "UPDATE @houses SET id = :k2 WHERE id = :k1",
        "UPDATE @dwellers SET id = :k2 WHERE id = :k1",
    ]
    return Scene(
        name="homes",
        old=tables.format(", UNIQUE (id)")
        + dwellers.format(null, f", FOREIGN KEY (house) REFERENCES @houses (id) {old_key}"),
        new=tables.format("") + dwellers.format(null, ", day integer"),
        constraints=(
            "ALTER TABLE @houses ADD UNIQUE (id);"
            f"ALTER TABLE @dwellers ADD FOREIGN KEY (house, day) REFERENCES @houses (id, day) {new_key};"
        ),
        declare=declare,
        forward=[
            *equal("houses"),
            (
                "SELECT d.id, d.house, h.day FROM @dwellers d LEFT JOIN @houses h ON h.id = d.house",
                "SELECT id, house, day FROM @dwellers",
            ),
        ],
        reverse=[*equal("houses"), *equal("dwellers", columns="id, house")],
        filled={
            "old": few(
                "INSERT INTO @houses SELECT g, 0 FROM @houses", "INSERT INTO @dwellers SELECT g, g FROM @dwellers"
            ),
            "new": few("INSERT INTO @houses SELECT g, 0 FROM @houses")
            + "; INSERT INTO @dwellers SELECT * FROM (SELECT 1, id, day FROM @houses) AS h (id, house, day) "
            "WHERE NOT EXISTS (SELECT FROM @dwellers WHERE id = 1) LIMIT 1",
        },
        work={
            "old": work(
                *shared,
                "INSERT INTO @dwellers VALUES (:k, :n)",
                "INSERT INTO @dwellers VALUES (:k, :k2)",
                "UPDATE @dwellers SET house = :n WHERE id = :k",
                "UPDATE @dwellers SET house = :k2 WHERE house = :k1; DELETE FROM @houses WHERE id = :k1",
                "INSERT INTO @houses VALUES (:k, 0); "
                f"INSERT INTO @dwellers SELECT g, :k FROM generate_series({MANY}, {MANY} - 1 + :m) AS g",
                f"UPDATE @dwellers SET house = :k WHERE id >= {MANY}",
                f"DELETE FROM @dwellers WHERE id >= {MANY}",
            ),
            "new": work(
                *shared,
                "INSERT INTO @dwellers SELECT :k, id, day FROM @houses WHERE id = :k2",
                "UPDATE @dwellers d SET house = h.id, day = h.day FROM @houses h WHERE h.id = :k2 AND d.id = :k",
                "UPDATE @dwellers d SET house = h.id, day = h.day FROM @houses h WHERE h.id = :k2 AND d.house = :k1; "
                "DELETE FROM @houses WHERE id = :k1",
                "DELETE FROM @dwellers d WHERE NOT EXISTS (SELECT FROM @houses WHERE id = d.house)",
            ),
        },
        rereads=("house", "dweller", "old_dweller"),
    )


@st.composite
def archives(draw: Draw) -> Scene:
    """Two old tables into one new one: rows pass from one to the other, and keep their key."""
    old = "".join(
        f"CREATE TABLE @{name} (id integer PRIMARY KEY, what text, number integer);" for name in ("orders", "archive")
    )
    new = "CREATE TABLE @orders (id integer PRIMARY KEY, what text, number integer, archived boolean NOT NULL);"
    computed = draw(st.booleans())
    key: Callable[[Row], Any] | None = (lambda row: row["id"]) if computed else None

    def declare(migration: Migration) -> None:
        for name, archived in (("orders", False), ("archive", True)):

            def there(old: Row, archived: bool = archived) -> dict[str, Any]:
                return {**old, "archived": archived}

            def back(new: Row, archived: bool = archived) -> dict[str, Any] | None:
                row = dict(new)
                return row if row.pop("archived") is archived else None

            migration.transform(source=name, into="orders", key=key, name=name)(there)
            migration.reverse(source="orders", into=name, key=key, name=name)(back)

    both = (
        "SELECT *, false FROM @orders UNION ALL SELECT *, true FROM @archive",
        "SELECT id, what, number, archived FROM @orders",
    )
    free = "WHERE NOT EXISTS (SELECT FROM @{} WHERE id = :k)"
    return Scene(
        name="archives",
        old=old,
        new=new,
        constraints="",
        declare=declare,
        forward=[both],
        reverse=[both[::-1]],
        filled={
            "old": few("INSERT INTO @orders SELECT g, 'a', g FROM @orders")
            + " AND NOT EXISTS (SELECT FROM @archive WHERE id = g)",
            "new": few("INSERT INTO @orders SELECT g, 'a', g, false FROM @orders"),
        },
        work={
            "old": work(
                "INSERT INTO @orders SELECT :k, :w, :d " + free.format("archive"),
                "INSERT INTO @archive SELECT :k, :w, :d " + free.format("orders"),
                "INSERT INTO @archive SELECT * FROM @orders WHERE id = :k; DELETE FROM @orders WHERE id = :k",
                "WITH gone AS (DELETE FROM @orders WHERE id > :k RETURNING *) INSERT INTO @archive SELECT * FROM gone",
                "WITH gone AS (DELETE FROM @archive WHERE id < :k RETURNING *) INSERT INTO @orders SELECT * FROM gone",
                "UPDATE @orders SET what = :w WHERE id = :k",
                "UPDATE @orders SET id = :k WHERE id = :k2 AND NOT EXISTS (SELECT FROM @archive WHERE id = :k)",
                "DELETE FROM @orders WHERE id = :k",
                "DELETE FROM @archive",
                "TRUNCATE @orders",
                "TRUNCATE @archive; INSERT INTO @archive SELECT * FROM @orders; TRUNCATE @orders",
                f"INSERT INTO @orders SELECT g, 'many', g FROM generate_series({MANY}, {MANY} - 1 + :m) AS g "
                "WHERE NOT EXISTS (SELECT FROM @archive WHERE id = g)",
                f"DELETE FROM @orders WHERE id >= {MANY} + :m - 1",
            ),
            "new": work(
                "INSERT INTO @orders VALUES (:k, :w, :d, :k2 > 3)",
                "UPDATE @orders SET archived = NOT archived WHERE id > :k",
                "UPDATE @orders SET archived = NOT archived",
                "UPDATE @orders SET id = :k2 WHERE id = :k1",
                "UPDATE @orders SET what = :w WHERE id = :k",
                "DELETE FROM @orders WHERE id = :k",
                "DELETE FROM @orders WHERE archived",
                "TRUNCATE @orders",
                *many("INSERT INTO @orders SELECT g, 'many', g, g % 2 = 0", "orders"),
            ),
        },
    )


@st.composite
def slugs(draw: Draw) -> Scene:
    """The new key is a column that may change: it passes from row to row, within a transaction and across several."""
    old, new = draw(of_both(DEFERRABILITY))
    columns = "(id integer{}, slug text{}, body text)"
    children = draw(st.booleans())
    more = (
        "CREATE TABLE @links (id integer PRIMARY KEY, page integer REFERENCES @pages (id) ON DELETE CASCADE);"
        if children
        else ""
    )

    def declare(migration: Migration) -> None:
        migration.transform(source="pages", into="pages", name="page")(as_it_is)
        migration.reverse(source="pages", into="pages", name="page")(as_it_is)
        if children:
            carried("links")(migration)

    return Scene(
        name="slugs",
        old=f"CREATE TABLE @pages {columns.format(' PRIMARY KEY', f' NOT NULL UNIQUE {old}')};" + more,
        new=f"CREATE TABLE @pages {columns.format(' NOT NULL', ' PRIMARY KEY')};"
        + ("CREATE TABLE @links (id integer PRIMARY KEY, page integer);" if children else ""),
        constraints=f"ALTER TABLE @pages ADD UNIQUE (id) {'' if children else new};"
        + ("ALTER TABLE @links ADD FOREIGN KEY (page) REFERENCES @pages (id) ON DELETE CASCADE;" if children else ""),
        declare=declare,
        forward=equal("pages", *(["links"] if children else [])),
        reverse=equal("pages", *(["links"] if children else [])),
        filled=same(few("INSERT INTO @pages SELECT g, chr(96 + g), 'first' FROM @pages")),
        work=same_work(
            "INSERT INTO @pages VALUES (:k, :w, :w)",
            "INSERT INTO @pages VALUES (:k, :w, :w)",
            "UPDATE @pages SET slug = :w WHERE id = :k",
            "UPDATE @pages SET slug = :w, body = 'new' WHERE id = :k",
            "UPDATE @pages SET slug = slug || 'x' WHERE id = :k",
            "UPDATE @pages SET slug = 'x' WHERE slug = :w1; UPDATE @pages SET slug = :w1 WHERE slug = :w2; "
            "UPDATE @pages SET slug = :w2 WHERE slug = 'x'",
            "UPDATE @pages SET id = :k2 WHERE id = :k1",
            "DELETE FROM @pages WHERE slug = :w; INSERT INTO @pages VALUES (:k, :w, 'again')",
            "DELETE FROM @pages WHERE slug = :w; UPDATE @pages SET slug = :w WHERE id = :k",
            "DELETE FROM @pages WHERE id = :k",
            "UPDATE @pages SET id = id + 50 WHERE id < 50; UPDATE @pages SET id = 57 - id WHERE id BETWEEN 51 AND 56",
            "DELETE FROM @pages WHERE id > :k",
            *(
                [
                    "INSERT INTO @links SELECT :k, id FROM @pages WHERE id = :k2",
                    "UPDATE @links SET page = :k2 WHERE page = :k1",
                    "TRUNCATE @pages, @links",
                ]
                if children
                else ["TRUNCATE @pages"]
            ),
            *many("INSERT INTO @pages SELECT g, 'slug' || g, 'many'", "pages"),
        ),
    )


@st.composite
def lines(draw: Draw) -> Scene:
    """One old row gives several new ones; the way back is a query over them."""
    key = draw(actions())
    old = "CREATE TABLE @baskets (id integer PRIMARY KEY, skus text[]);"
    new = (
        "CREATE TABLE @baskets (id integer PRIMARY KEY);"
        "CREATE TABLE @lines (basket integer, n integer, sku text, PRIMARY KEY (basket, n));"
    )
    query = Query(
        "SELECT b.id, (SELECT array_agg(l.sku ORDER BY l.n) FROM shop.lines l WHERE l.basket = b.id) AS skus "
        "FROM shop.baskets b",
        key=["id"],
        depends_on={"baskets": ["id"], "lines": ["basket"]},
    )

    def declare(migration: Migration) -> None:
        @migration.transform(source="baskets", into="baskets", key=lambda old: old["id"])
        def basket(old: Row) -> dict[str, Any]:
            return {"id": old["id"]}

        @migration.transform(source="baskets", into="lines")
        def line(old: Row) -> list[dict[str, Any]]:
            return [
                {"basket": old["id"], "n": number, "sku": sku}
                for number, sku in enumerate(as_array(old["skus"]) or [], 1)
            ]

        migration.reverse(source=query, into="baskets", key=lambda new: new["id"], name="old_basket")(as_it_is)

    return Scene(
        name="lines",
        old=old,
        new=new,
        constraints=f"ALTER TABLE @lines ADD FOREIGN KEY (basket) REFERENCES @baskets (id) {key};",
        declare=declare,
        forward=[
            ("SELECT id FROM @baskets", "SELECT id FROM @baskets"),
            (
                "SELECT id, n::integer, sku FROM @baskets, unnest(skus) WITH ORDINALITY AS u (sku, n)",
                "SELECT basket, n, sku FROM @lines",
            ),
        ],
        reverse=[
            (
                "SELECT b.id, (SELECT array_agg(l.sku ORDER BY l.n) FROM @lines l WHERE l.basket = b.id) "
                "FROM @baskets b",
                "SELECT id, skus FROM @baskets",
            )
        ],
        filled={
            "old": few("INSERT INTO @baskets SELECT g, ARRAY['a', 'b'] FROM @baskets"),
            "new": few("INSERT INTO @baskets SELECT g FROM @baskets")
            + "; INSERT INTO @lines SELECT id, 1, 'a' FROM @baskets "
            "WHERE NOT EXISTS (SELECT FROM @lines WHERE basket = id)",
        },
        work={
            "old": work(
                "INSERT INTO @baskets VALUES (:k, ARRAY[:w1, :w2])",
                "INSERT INTO @baskets VALUES (:k, NULL)",
                "UPDATE @baskets SET skus = skus || :w::text WHERE id = :k",
                "UPDATE @baskets SET skus = nullif(skus[2:], '{}') WHERE id > :k",
                "UPDATE @baskets SET id = :k2 WHERE id = :k1",
                "UPDATE @baskets SET id = id + :o",
                "DELETE FROM @baskets WHERE id = :k",
                "DELETE FROM @baskets WHERE id = :k; INSERT INTO @baskets VALUES (:k, ARRAY[:w])",
                "TRUNCATE @baskets",
                *many("INSERT INTO @baskets SELECT g, ARRAY['a', 'b']", "baskets"),
            ),
            "new": work(
                "INSERT INTO @baskets VALUES (:k)",
                "INSERT INTO @lines VALUES (:k, :d, :w)",
                "INSERT INTO @lines VALUES (:k, :d, :w)",
                "UPDATE @lines SET basket = :k2 WHERE basket = :k1",
                "UPDATE @lines SET n = n + :o WHERE basket = :k",
                "UPDATE @lines SET sku = :w",
                "UPDATE @baskets SET id = :k2 WHERE id = :k1",
                "DELETE FROM @lines WHERE basket = :k; DELETE FROM @baskets WHERE id = :k",
                "DELETE FROM @baskets WHERE id = :k",
                "TRUNCATE @lines",
                "TRUNCATE @lines, @baskets",
                *many("INSERT INTO @baskets SELECT g", "baskets"),
                f"INSERT INTO @lines SELECT g, 1, 'many' FROM generate_series({MANY}, {MANY} - 1 + :m) AS g",
            ),
        },
    )


ALL_SCENES: Final[dict[str, st.SearchStrategy[Scene]]] = {
    "trees": trees(),
    "chains": chains(),
    "circles": circles(),
    "seats": seats(),
    "days": days(),
    "regions": regions(),
    "homes": homes(),
    "archives": archives(),
    "slugs": slugs(),
    "lines": lines(),
}
