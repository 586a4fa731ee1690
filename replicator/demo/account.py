"""The account that a private Postgres runs as, since Postgres does not run as root."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from replicator.runtime.binaries import WHEEL, EmbeddedError


@dataclass(frozen=True)
class Account:
    """Whom the server runs as; None stands for: as ourselves."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def find(cls) -> Self:
        """The account to use: our own, or for root an unprivileged one."""
        if os.geteuid() != 0:
            return cls()
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return cls(entry.pw_uid, entry.pw_gid)
        raise EmbeddedError(
            "Postgres does not run as root, and there is no user `postgres` or `nobody` to run it as.",
            "Create one (useradd --system postgres), or run this as another user than root.",
        )

    def options(self) -> dict[str, Any]:
        """Arguments that make `subprocess` run a command as this account."""
        return {} if self.uid is None else {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Give it a file or a folder."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def reaches(self, command: Sequence[str | Path]) -> bool:
        """Whether this account can run the command: not so below a closed home folder such as /root."""
        with contextlib.suppress(OSError):
            subprocess.run(command, capture_output=True, check=True, cwd="/", **self.options())
            return True
        return False

    def temporary_folder(self, prefix: str) -> Path:
        """A new folder that this account owns and reaches."""
        for parent in dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp"]):  # noqa: S108
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            self.own(folder)
            if self.reaches(["ls", folder]):
                return folder
            folder.rmdir()
        raise EmbeddedError(
            "No folder for temporary files is open to the user that Postgres runs as.", "Set TMPDIR to one that is."
        )


def copy_install(binaries: Path, into: Path, account: Account) -> Path:
    """Copy the install that the binaries belong to, with the libraries beside it; the copy's folder of binaries."""
    prefix = binaries.parent
    copy = into / prefix.parent.name / prefix.name
    skip = shutil.ignore_patterns("include", "*.a", "__pycache__")
    shutil.copytree(prefix, copy, symlinks=True, ignore=skip)
    libraries = prefix.parent.parent / f"{WHEEL}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, into / libraries.name, symlinks=True)
    for folder, _, files in os.walk(into):
        for path in (Path(folder), *(Path(folder, file) for file in files)):
            account.own(path)
    return copy / binaries.name
