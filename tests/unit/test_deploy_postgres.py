"""The Postgres image's entry point, run against real server binaries: what it hands on to the official image's."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from replicator.runtime.binaries import output_of
from tests.servers import binaries_by_version
from tests.unit.dockerfile import copied, instructions, last

POSTGRES = Path(__file__).parents[2] / "deploy" / "postgres"
KNOWS_THE_PLUGIN_LIST = {14: 24, 15: 19, 16: 15, 17: 11, 18: 6}  # the first minor that does


def test_the_postgres_image_copies_what_is_there() -> None:
    assert [path for path in copied(POSTGRES / "Dockerfile") if not (POSTGRES / path).exists()] == []
    modes = [arguments for name, arguments in instructions(POSTGRES / "Dockerfile") if name == "COPY"]
    assert any(arguments.startswith("--chmod=0755 entrypoint.sh") for arguments in modes)


def test_the_postgres_image_starts_its_own_entry_point_with_the_base_images_command() -> None:
    [entrypoint] = json.loads(last(POSTGRES / "Dockerfile", "ENTRYPOINT"))
    assert any(
        arguments.endswith(f"entrypoint.sh /usr/local/bin/{entrypoint}")
        for name, arguments in instructions(POSTGRES / "Dockerfile")
        if name == "COPY"
    )
    assert json.loads(last(POSTGRES / "Dockerfile", "CMD")) == ["postgres"]


def server_binaries() -> list[Path]:
    return list(binaries_by_version().values())


def handed_on(folder: Path, path: str, *arguments: str) -> list[str]:
    """What the entry point hands to the official image's."""
    stub = folder / "docker-entrypoint.sh"
    stub.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    stub.chmod(0o755)
    command = [str(POSTGRES / "entrypoint.sh"), *arguments]
    env = {"PATH": f"{folder}:{path}:{os.environ['PATH']}"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout.splitlines()


@pytest.mark.parametrize(
    "binaries", server_binaries(), ids=lambda folder: output_of([folder / "postgres", "-V"]).split()[2]
)
def test_wal2json_is_allowed_where_the_server_knows_how(binaries: Path, tmp_path: Path) -> None:
    match = re.search(r"(\d+)\.(\d+)", output_of([binaries / "postgres", "--version"]))
    assert match
    major, minor = int(match[1]), int(match[2])
    options = handed_on(tmp_path, str(binaries), "postgres")
    listed = [option for option in options if option.startswith("output_plugin_libraries=")]
    known = minor >= KNOWS_THE_PLUGIN_LIST.get(major, 0)
    assert listed == (["output_plugin_libraries=pgoutput, test_decoding, wal2json"] if known else [])


@pytest.mark.parametrize(
    "default, expected", [("pgoutput, test_decoding", "pgoutput, test_decoding, wal2json"), ("", "wal2json")]
)
def test_the_plugins_that_the_server_allows_stay_allowed(tmp_path: Path, default: str, expected: str) -> None:
    postgres = tmp_path / "postgres"
    lines = ["wal_level\tpostmaster\t\tENUM\treplica", f"output_plugin_libraries\tsuperuser\t\tSTRING\t{default}\t\t"]
    postgres.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    postgres.chmod(0o755)
    assert f"output_plugin_libraries={expected}" in handed_on(tmp_path, "", "postgres")


@pytest.mark.parametrize(
    "given, first, final",
    [
        ([], ["postgres", "-c"], []),
        (["postgres"], ["postgres", "-c"], []),
        (["postgres", "-c", "fsync=off"], ["postgres", "-c"], ["-c", "fsync=off"]),
        (["-c", "fsync=off"], ["postgres", "-c"], ["-c", "fsync=off"]),
        (["postgres", "--version"], ["postgres", "--version"], ["--version"]),
        (["psql", "-l"], ["psql", "-l"], ["psql", "-l"]),
    ],
)
def test_the_command_line_comes_through(tmp_path: Path, given: list[str], first: list[str], final: list[str]) -> None:
    options = handed_on(tmp_path, str(server_binaries()[0]), *given)
    assert options[: len(first)] == first
    assert options[len(options) - len(final) :] == final
    assert ("wal_level=logical" in options) == ("-c" in first)
