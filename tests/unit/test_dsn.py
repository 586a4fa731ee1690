"""What is shown of a connection string, and that its password never is."""

import pytest

from replicator.errors import UsageError
from replicator.postgres.session.dsn import describe

SECRET = "geheim"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "dsn, shown",
    [
        (f"postgresql://app:{SECRET}@db:5433/party", "db:5433/party"),
        (f"postgres://app:{SECRET}@db/party", "db:5432/party"),
        (f"postgresql://db/party?password={SECRET}", "db:5432/party"),
        (f"postgresql://app:{SECRET}%40%2F@db/party", "db:5432/party"),
        (f"host=db dbname=party password={SECRET}", "db:5432/party"),
        ("postgresql://app@db", "db:5432/app"),
        ("postgresql://[::1]:5433/party", "[::1]:5433/party"),
        ("postgresql://one:1,two:2/party", "one:1,two:2/party"),
        ("host=one,two dbname=party", "one:5432,two:5432/party"),
        ("host=one,two port=7 dbname=party", "one:7,two:7/party"),
        ("postgresql:///party?host=/run/postgresql", "/run/postgresql:5432/party"),
        ("dbname=party", "localhost:5432/party"),
        (f"service=prod password={SECRET}", "service prod"),
    ],
)
def test_host_port_and_database_are_shown(dsn: str, shown: str) -> None:
    assert describe(dsn) == shown


def test_what_the_environment_gives_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db")
    monkeypatch.setenv("PGPORT", "7")
    monkeypatch.setenv("PGPASSWORD", SECRET)
    assert describe("dbname=party") == "db:7/party"


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://app:{SECRET}@{SECRET}@db/party",
        f"postgresql://app:{SECRET}/{SECRET}@db/party",
        f"postgresql://app:12/{SECRET}@db/party",
        f"postgresql://app:%zz{SECRET}@db/party",
        f"dbname=postgresql://app:{SECRET}@db/party",
        f"dbname='password={SECRET}'",
        f"password={SECRET} {SECRET}",
        SECRET,
    ],
)
def test_a_string_in_which_the_password_ran_over_is_refused_and_not_quoted(dsn: str) -> None:
    with pytest.raises(UsageError) as caught:
        describe(dsn)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
