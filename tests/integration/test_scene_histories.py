"""Random histories of schemas in which the order of writing matters, through a whole daemon, there and back again."""

import os
from pathlib import Path
from typing import Final

import pytest

from tests.fix_postgres import Database
from tests.scene_play import ScenePlayer, history

GIVEN: Final = os.environ.get("REPLICATOR_TEST_HISTORIES")
"""How many to play; hundreds take an hour."""

pytestmark = [pytest.mark.two_servers if GIVEN else pytest.mark.one_server, pytest.mark.timeout(600)]


@pytest.mark.parametrize("number", range(int(GIVEN or 4)))
async def test_what_the_application_did_is_there_and_back(database: Database, tmp_path: Path, number: int) -> None:
    assert await ScenePlayer(database, history(number), tmp_path).play() == []
