"""A migration without a way back: every command that could lead somebody to count on a rollback says so."""

from pathlib import Path

import pytest

from replicator.migration import NO_WAY_BACK
from tests.acceptance.house import TRANSFORMS, House, house

__all__ = ["house"]

REVERSE = TRANSFORMS[TRANSFORMS.index("@migration.reverse") : TRANSFORMS.index("migration.retire")]
FORWARD_ONLY = TRANSFORMS.replace(REVERSE, "")
NONE = FORWARD_ONLY.replace('new="store")', 'new="store", way_back=False)')


def test_it_must_be_meant(house: House, tmp_path: Path) -> None:
    house.write_transforms(FORWARD_ONLY)
    found = house.terminal.run("check")
    assert found.code == 1
    assert "has no reverse transform" in found.told
    assert "way_back=False" in found.told
    house.write_transforms(TRANSFORMS.replace('new="store")', 'new="store", way_back=False)'))
    found = house.terminal.run("check")
    assert found.code == 1
    assert "says that it has no way back, and has reverse transforms into people" in " ".join(found.told.split())


@pytest.mark.timeout(240)
def test_from_the_first_check_to_the_end(house: House) -> None:
    house.write_transforms(NONE)
    found = house.terminal.run("check")
    assert found.code == 0, found.said
    assert "none: after the cutover there is no rollback" in found.told
    assert NO_WAY_BACK in house.terminal.run("dry-run").told
    with house.terminal.daemon() as daemon:
        daemon.until(lambda: house.phase() == "follow")
        refused = house.terminal.run("cutover", "--wait")
        assert refused.code != 0
        assert "--no-way-back" in refused.told
        rolling = house.terminal.run("cutover", "--wait", "--rolling", "--no-way-back")
        assert rolling.code != 0
        assert "without --rolling" in rolling.told
        rehearsed = house.terminal.run("cutover", "--wait", "--dry-run")
        assert rehearsed.code == 0, rehearsed.said
        assert NO_WAY_BACK in " ".join(rehearsed.told.split())
        done = house.terminal.run("cutover", "--wait", "--no-way-back")
        assert done.code == 0, done.said
        assert NO_WAY_BACK in " ".join(done.told.split())
        house.execute("INSERT INTO store.people VALUES (99, 'New', 'x')")
        # Nobody who asks is told that there is a rollback.
        smoke = house.terminal.run("smoke")
        assert smoke.code == 0, smoke.said
        assert "There is no way back." in " ".join(smoke.told.split())
        shut = {"name": "way back", "ok": False}
        daemon.until(lambda: any(each.items() >= shut.items() for each in house.terminal.json("status")["gates"]))
        for how in (["--dry-run"], [], ["--wait"]):
            back = house.terminal.run("rollback", *how)
            assert back.code != 0
            assert NO_WAY_BACK in " ".join(back.told.split())
        assert house.phase() == "soak"
        assert house.rows("SELECT count(*) FROM people WHERE id = 99") == [(0,)]
        assert house.terminal.run("finalize", "--now", "--yes").code == 0
        assert daemon.process.wait(60) == 0


def test_it_cannot_be_given_up_where_there_is_one(house: House) -> None:
    with house.terminal.daemon() as daemon:
        daemon.until(lambda: house.phase() == "follow")
        refused = house.terminal.run("cutover", "--wait", "--no-way-back")
        assert refused.code != 0
        assert "Leave --no-way-back out" in " ".join(refused.told.split())
        assert house.phase() == "follow"
