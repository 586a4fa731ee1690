"""The settings, read from the environment (prefix ``REPLICATOR_``) and ``.env``; and the migration that they name."""

import importlib
import os
import sys
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import AfterValidator, Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from replicator.errors import MigrationError, UsageError
from replicator.migration import Direction, Migration


def _http_only(url: SecretStr) -> SecretStr:
    if url.get_secret_value() and not url.get_secret_value().startswith(("http://", "https://")):
        raise ValueError("it must begin with http:// or https://")
    return url


SlotName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,50}$")]
HttpUrl = Annotated[SecretStr, AfterValidator(_http_only)]
"""A secret: the path often holds a token."""


ALMOST = 0.93
"""How alike two names are, of 1, when one is taken for the other mistyped."""


class Settings(BaseSettings):
    """Few on purpose: what has one good answer is decided in the code."""

    model_config = SettingsConfigDict(
        env_prefix="REPLICATOR_",
        env_file=".env",
        env_parse_none_str="none",
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
    )

    source_dsn: SecretStr = Field(description="Connection string of the database with the old schema.")
    target_dsn: SecretStr | None = Field(
        default=None, description="Connection string of the database with the new schema; default: the source."
    )
    migration: str = Field(default="transforms:migration", description="The migration, as module:attribute.")
    plugin: Literal["auto", "wal2json", "pgoutput"] = Field(
        default="auto", description="Output plugin; auto: wal2json where the server has and allows it, else pgoutput."
    )
    slot: SlotName = Field(default="replicator", description="Replication slot; the reverse one gets _reverse added.")
    publication: SlotName = Field(default="replicator", description="Publication, likewise (pgoutput only).")
    http_listen: str = Field(default="127.0.0.1:9177", description="Address of /metrics, /status, /healthz, /readyz.")
    http_hosts: str | None = Field(
        default=None, description="Names under which clients may ask for these, comma-separated, beside localhost."
    )
    batch_rows: int = Field(default=5_000, ge=1, description="Most changes applied in one piece.")
    chunk_rows: int = Field(default=5_000, ge=1, description="Rows of one backfill or verification chunk.")
    workers: int = Field(default=2, ge=1, le=64, description="Chunks copied at the same time.")
    max_write_pause: float = Field(
        default=5.0, gt=0, description="Longest time in seconds that a cutover may hold the writers."
    )
    ready_for: float = Field(
        default=5.0, ge=0, description="For how many seconds the lag must have been below half of that pause."
    )
    soak: float = Field(default=48.0, ge=0, description="Hours from the cutover until it may be finalized.")
    on_error: Literal["quarantine", "halt"] = Field(
        default="quarantine", description="What to do with a row that a transform or the target refuses."
    )
    hook_command: SecretStr | None = Field(default=None, description="Shell command, run at each phase change.")
    hook_url: HttpUrl | None = Field(default=None, description="URL that gets a POST at each phase change.")

    @cached_property
    def source(self) -> str:
        """The old schema's connection string, in clear."""
        return self.source_dsn.get_secret_value()

    @cached_property
    def target(self) -> str:
        """The new schema's connection string, in clear."""
        return (self.target_dsn or self.source_dsn).get_secret_value()

    def slot_of(self, direction: Direction) -> str:
        """The name of one direction's slot."""
        return self.slot if direction == "forward" else f"{self.slot}_reverse"

    def publication_of(self, direction: Direction) -> str:
        """The name of one direction's publication."""
        return self.publication if direction == "forward" else f"{self.publication}_reverse"


def load_settings() -> Settings:
    """Read the settings. Raises UsageError with one line for each that is missing or wrong; no value is printed."""
    if mistyped := _mistyped():
        raise UsageError(" ".join(mistyped), "Correct its name, or take it out.")
    try:
        return Settings()
    except ValidationError as error:
        lines = [
            f"REPLICATOR_{str(each['loc'][0] if each['loc'] else '?').upper()}: {each['msg']}"
            for each in error.errors(include_input=False, include_url=False)
        ]
        raise UsageError("; ".join(lines) + ".", "Set it in the environment or in .env.") from None


def _mistyped() -> list[str]:
    """Names that are almost a setting's: it would have its default, and nobody would know. Others may be anybody's."""
    settings = [name for name, _, _ in describe_settings()]
    given = {name.upper() for name in (*os.environ, *dotenv_values(".env"))}
    unknown = sorted(name for name in given.difference(settings) if name.startswith("REPLICATOR_"))
    near = {name: get_close_matches(name, settings, 1, ALMOST) for name in unknown}
    return [f"There is no setting {name}; there is {found[0]}." for name, found in near.items() if found]


def describe_settings() -> list[tuple[str, str, str]]:
    """Name, default and meaning of each setting, for the help."""
    return [
        (
            f"REPLICATOR_{name.upper()}",
            "required" if each.is_required() else "-" if each.default is None else str(each.default),
            each.description or "",
        )
        for name, each in Settings.model_fields.items()
    ]


def load_migration(where: str) -> Migration:
    """Import the migration, ``module:attribute``, from the working directory.

    Raises MigrationError when it cannot be imported, naming the file and line where the author's code failed.
    """
    module_name, _, attribute = where.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except MigrationError:
        raise
    except Exception as error:
        raise MigrationError(
            f"The migration module {module_name} cannot be imported: {type(error).__name__}: {error}.",
            "REPLICATOR_MIGRATION is module:attribute, looked up from the working directory.",
        ) from error
    migration = getattr(module, attribute or "migration", None)
    if not isinstance(migration, Migration):
        raise MigrationError(f"{where} is not a Migration.", "REPLICATOR_MIGRATION is module:attribute.")
    if migration.sql is None and module.__file__ is not None:
        path = Path(module.__file__)
        folder = path.parent if path.name != "__init__.py" else path.parent.parent
        migration.sql = folder / "sql"
    return migration
