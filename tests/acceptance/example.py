"""The documentation's example, as its reader follows it."""

from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import psycopg

from replicator.demo.embedded import HOST, Cluster, free_port
from tests.acceptance.terminal import Done, Terminal
from tests.pages import block, files, section


class Shop:
    """The example: its folder, and connections as the application and as a superuser."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.http = f"{HOST}:{free_port()}"
        self.terminal = Terminal(folder, {"http_listen": self.http, "ready_for": "0.5"})
        for name, text in files().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text.replace("localhost:5432", f"{HOST}:{cluster.port}"))

    def connect(self, user: str, database: str = "app") -> "psycopg.Connection[tuple[object, ...]]":
        return psycopg.connect(self.cluster.dsn(database, user=user), autocommit=True)

    def superuser(self, statements: str, database: str = "app") -> None:
        with self.connect("postgres", database) as connected:
            connected.execute(statements.encode())

    def one(self, query: str) -> object:
        with self.connect("app") as connected:
            row = connected.execute(query.encode()).fetchone()
        return row[0] if row else None

    def set_up(self) -> None:
        """An old application, and the manual's roles."""
        self.superuser("CREATE DATABASE app", "postgres")
        self.superuser("CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app;")
        with self.connect("app") as app:
            app.execute(files()["old.sql"].encode())
            app.execute(
                """
                INSERT INTO customers (email, full_name)
                SELECT format('%s@example.org', g), CASE WHEN g % 7 > 0 THEN 'Customer ' || g END
                FROM generate_series(1, 500) g;
                INSERT INTO addresses SELECT id, kind, 'Street ' || id, 'City'
                FROM customers, unnest(ARRAY['billing', 'delivery']) kind WHERE id % 3 > 0;
                INSERT INTO carts (customer_id) SELECT id FROM customers WHERE id % 5 = 0;
                """
            )
        self.superuser(block(section("Roles")))

    def apart(self) -> object:
        """How many customers, e-mail addresses and postal addresses are not the same in both schemas."""
        return self.one(
            """
            SELECT (
                SELECT count(*) FROM customers o FULL JOIN shop.customers n ON n.id = o.id
                WHERE (o.id, o.full_name, o.created_at) IS DISTINCT FROM (n.id, n.name, n.created_at AT TIME ZONE 'UTC')
            ) + (
                SELECT count(*) FROM customers o FULL JOIN shop.emails n ON n.email = o.email
                WHERE o.id IS DISTINCT FROM n.customer_id
            ) + (
                SELECT count(*) FROM addresses o FULL JOIN (
                    SELECT id, kind, address FROM shop.customers, jsonb_each(addresses) AS each (kind, address)
                ) n ON n.id = o.customer_id AND n.kind = o.kind
                WHERE (o.customer_id, jsonb_build_object('street', o.street, 'city', o.city))
                    IS DISTINCT FROM (n.id, n.address)
            )
            """
        )

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://{self.http}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except URLError as error:  # it does not listen yet
            return 0, str(error)


def succeeds(done: Done) -> Done:
    assert done.code == 0, done.said
    return done
