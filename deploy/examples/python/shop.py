"""A shop that goes on writing while its schema changes: psycopg 3, with a pool.

It knows both schemas, and writes to the one in use. When that changes in the middle of a transaction, Postgres refuses
its next statement with RP002; the transaction is rolled back and run again in the other schema. Nobody sees an error.

    OLD_DATABASE_URL=postgresql://app@localhost/app python shop.py

writes until it is told to stop (Ctrl-C or SIGTERM), and prints a line of JSON for each write that it has done.
"""

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal, Protocol, TypeVar

import psycopg
from psycopg.types.json import Jsonb
from psycopg_pool import ConnectionPool

Connection = psycopg.Connection[Any]
Side = Literal["old", "new"]
Result = TypeVar("Result")

NOT_OPEN = "RP002"
PATIENCE = 60.0
"""For how many seconds a transaction is tried again, before its user sees the error."""
PAUSE = 0.02
WRITERS = 3


# ---- the statements, once for each schema


class Shop(Protocol):
    """What the application does. Each of these is run in one transaction, and may be run again from its beginning."""

    def register(self, db: Connection, email: str, name: str, address: dict[str, str]) -> int:
        """A new customer, with an address to send the bill to; gives his number."""

    def move(self, db: Connection, customer: int, address: dict[str, str]) -> None:
        """A customer's bills go to another address."""

    def change_email(self, db: Connection, customer: int, email: str) -> None:
        """A customer has another e-mail address."""

    def forget(self, db: Connection, customer: int) -> None:
        """A customer wants to be forgotten."""


class OldShop:
    """The schema ``public``: addresses in a table of their own."""

    def register(self, db: Connection, email: str, name: str, address: dict[str, str]) -> int:
        made = "INSERT INTO public.customers (email, full_name) VALUES (%s, %s) RETURNING id"
        customer = number_of(db.execute(made, (email, name)))
        db.execute(
            "INSERT INTO public.addresses (customer_id, kind, street, city) VALUES (%s, 'billing', %s, %s)",
            (customer, address["street"], address["city"]),
        )
        return customer

    def move(self, db: Connection, customer: int, address: dict[str, str]) -> None:
        db.execute(
            "UPDATE public.addresses SET street = %s, city = %s WHERE customer_id = %s AND kind = 'billing'",
            (address["street"], address["city"], customer),
        )

    def change_email(self, db: Connection, customer: int, email: str) -> None:
        db.execute("UPDATE public.customers SET email = %s WHERE id = %s", (email, customer))

    def forget(self, db: Connection, customer: int) -> None:
        db.execute("DELETE FROM public.addresses WHERE customer_id = %s", (customer,))
        db.execute("DELETE FROM public.customers WHERE id = %s", (customer,))


class NewShop:
    """The schema ``shop``: addresses in a document, e-mail addresses in a table of their own."""

    def register(self, db: Connection, email: str, name: str, address: dict[str, str]) -> int:
        made = "INSERT INTO shop.customers (name, addresses) VALUES (%s, %s) RETURNING id"
        customer = number_of(db.execute(made, (name, Jsonb({"billing": address}))))
        db.execute("INSERT INTO shop.emails (email, customer_id) VALUES (%s, %s)", (email, customer))
        return customer

    def move(self, db: Connection, customer: int, address: dict[str, str]) -> None:
        db.execute(
            "UPDATE shop.customers SET addresses = addresses || %s WHERE id = %s",
            (Jsonb({"billing": address}), customer),
        )

    def change_email(self, db: Connection, customer: int, email: str) -> None:
        db.execute("UPDATE shop.emails SET email = %s WHERE customer_id = %s", (email, customer))

    def forget(self, db: Connection, customer: int) -> None:
        db.execute("DELETE FROM shop.emails WHERE customer_id = %s", (customer,))
        db.execute("DELETE FROM shop.customers WHERE id = %s", (customer,))


def number_of(made: psycopg.Cursor[Any]) -> int:
    """The number that a row has been given."""
    return int(made.fetchall()[0][0])


# ---- which of them is in use


class Database:
    """Runs transactions in the schema in use. ``old`` and ``new`` may be the same database."""

    def __init__(self, old: str, new: str) -> None:
        self._old = old
        pool = ConnectionPool(old, min_size=1, max_size=WRITERS)
        self._pools = {"old": pool, "new": pool if new == old else ConnectionPool(new, min_size=1, max_size=WRITERS)}
        self._shops: dict[Side, Shop] = {"old": OldShop(), "new": NewShop()}
        self.side: Side = "old"
        threading.Thread(target=self._listen, daemon=True).start()

    def transaction(self, work: Callable[[Shop, Connection], Result]) -> Result:
        """Run ``work`` in one transaction, in whichever schema takes it. What it does outside is done twice, maybe."""
        deadline = time.monotonic() + PATIENCE
        while True:
            side = self.side
            try:
                with self._pools[side].connection() as db:  # commits at the end; rolls back when there is an error
                    return work(self._shops[side], db)
            except psycopg.Error as error:
                if error.sqlstate != NOT_OPEN or time.monotonic() > deadline:
                    raise
            # The other one it is. Between two databases neither is open for a moment: then we come back here.
            self.side = "new" if side == "old" else "old"
            time.sleep(PAUSE)

    def close(self) -> None:
        """Give the connections back."""
        for pool in self._pools.values():
            pool.close()

    def _listen(self) -> None:
        """Learn of the change at once. For writing that is not needed; for what only reads, it is."""
        while True:
            try:
                with psycopg.connect(self._old, autocommit=True) as db:
                    db.execute("LISTEN replicator_cutover")
                    self.side = self._ask(db)  # listen first, then ask: so nothing is missed in between
                    for heard in db.notifies():
                        self.side = "new" if heard.payload == "new" else "old"
            except psycopg.OperationalError:
                time.sleep(1)

    def _ask(self, db: Connection) -> Side:
        """The flag. Before the migration begins, and when it has been cleared away, there is none."""
        try:
            [(new,)] = db.execute("SELECT replicator.use_new_schema()").fetchall()
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
            return self.side
        return "new" if new else "old"


# ---- the application


def told(**facts: object) -> None:
    """Tell the user that a write is done: one line, whole, whoever else writes one."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


class Writer:
    """One of several threads, with customers of its own."""

    def __init__(self, database: Database, number: int) -> None:
        self._database = database
        self._chance = random.Random(number)
        self._number = number
        self._customers: list[int] = []
        self._count = 0

    def run(self, stop: threading.Event) -> None:
        """Write until told to stop."""
        while not stop.wait(0.02):
            self._count += 1
            choices = [self._move, self._move, self._change_email, self._change_email, self._register, self._forget]
            self._chance.choice(choices if self._customers else [self._register])()

    def _register(self) -> None:
        email, name, address = self._email(), f"Customer {self._count}", self._address()
        customer = self._database.transaction(lambda shop, db: shop.register(db, email, name, address))
        self._customers.append(customer)
        told(side=self._database.side, customer=customer, email=email, name=name, address=address)

    def _move(self) -> None:
        customer, address = self._chance.choice(self._customers), self._address()
        self._database.transaction(lambda shop, db: shop.move(db, customer, address))
        told(side=self._database.side, customer=customer, address=address)

    def _change_email(self) -> None:
        customer, email = self._chance.choice(self._customers), self._email()
        self._database.transaction(lambda shop, db: shop.change_email(db, customer, email))
        told(side=self._database.side, customer=customer, email=email)

    def _forget(self) -> None:
        customer = self._customers.pop(self._chance.randrange(len(self._customers)))
        self._database.transaction(lambda shop, db: shop.forget(db, customer))
        told(side=self._database.side, customer=customer, forgotten=True)

    def _email(self) -> str:
        return f"python-{os.getpid()}-{self._number}-{self._count}@example.org"

    def _address(self) -> dict[str, str]:
        return {"street": f"{self._count} Main Street", "city": self._chance.choice(["Ulm", "Bonn", "Essen"])}


def main() -> None:
    """Write until a signal comes, or a write fails: then with its error and the exit code 1."""
    old = os.environ["OLD_DATABASE_URL"]
    database = Database(old, os.environ.get("NEW_DATABASE_URL") or old)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with contextlib.closing(database), ThreadPoolExecutor(WRITERS) as threads:
        writers = [threads.submit(Writer(database, number).run, stop) for number in range(WRITERS)]
        for ended in as_completed(writers):
            stop.set()
            ended.result()


if __name__ == "__main__":
    main()
