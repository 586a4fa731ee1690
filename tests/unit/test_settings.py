"""The settings: what is refused before anything is done."""

from pathlib import Path

import pytest

from replicator.errors import UsageError
from replicator.settings import load_settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPLICATOR_SOURCE_DSN", "postgresql://there/db")
    return tmp_path


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [
        ("REPLICATOR_MAX_WRITE_PAUZE", "REPLICATOR_MAX_WRITE_PAUSE"),
        ("REPLICATOR_WORKER", "REPLICATOR_WORKERS"),
        ("replicator_targetdsn", "REPLICATOR_TARGET_DSN"),
    ],
)
def test_a_name_that_is_almost_a_setting_is_refused(
    mistyped: str, meant: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = f"There is no setting {mistyped.upper()}; there is {meant}."
    monkeypatch.setenv(mistyped, "1")
    with pytest.raises(UsageError, match=sentence):
        load_settings()
    monkeypatch.delenv(mistyped)
    load_settings()
    (folder / ".env").write_text(f"{mistyped}=1\n")
    with pytest.raises(UsageError, match=sentence):
        load_settings()


@pytest.mark.parametrize("name", ["PASSWORD", "PORT", "FAILPOINT", "TEST_DSN", "HOOK_EVENT", "HOOK_MIGRATION"])
def test_other_names_are_somebody_elses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"REPLICATOR_{name}", "1")
    load_settings()
