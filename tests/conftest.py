"""What all tests share: the servers, and a marker for each kind of test, given by its folder."""

from pathlib import Path

import pytest

pytest_plugins = ["tests.fix_postgres", "tests.fix_types_table"]

KINDS = ("unit", "integration", "faults", "acceptance")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        kind = item.path.relative_to(here).parts[0]
        if kind not in KINDS:
            raise pytest.UsageError(
                f"{item.path} is in none of the folders tests/{{{','.join(KINDS)}}}: move it to one."
            )
        item.add_marker(kind)
