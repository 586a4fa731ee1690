"""Whether the way back is open: status, smoke and rollback say the same in each phase."""

from typing import Any

import pytest

from replicator.switchover.phases import Phase
from replicator.switchover.way_back import way_back
from tests.acceptance.house import House, house

__all__ = ["house"]

SHUT = [{"name": "quarantine", "ok": False, "detail": "x"}]
LAGS = [{"name": "lag", "ok": False, "detail": "x"}, {"name": "ground", "ok": True, "detail": "y"}]
OPENED = [{"name": "lag", "ok": True, "detail": "x"}]


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("declared", [True, False])
def test_each_phase(phase: Phase, *, declared: bool) -> None:
    """One answer for each; before the cutover and at the end, whatever the gates are."""

    def state(gates: list[dict[str, Any]], differing: int = 0) -> str:
        return way_back(phase, declared=declared, gates=gates, differing=differing).state

    found = (state(OPENED), state(LAGS), state(LAGS, 1), state(SHUT), state([]))
    if phase == Phase.FINALIZED:
        assert set(found) == {"over"}
    elif not declared:
        assert set(found) == {"none"}
    elif phase in (Phase.SOAK, Phase.ROLLING, Phase.ROLLBACK):
        assert found == ("open", "waits", "shut", "shut", "waits")
    else:
        assert set(found) == {"not yet"}


@pytest.mark.timeout(240)
def test_the_commands_never_disagree(house: House) -> None:
    """From before the cutover, over a shut gate, to the end: what one calls open, the others do not refuse."""
    terminal = house.terminal

    def agree(state: str, code: int, said: str) -> None:
        assert terminal.json("status")["way_back"]["state"] == state
        smoked = terminal.run("smoke")
        if state in ("open", "waits", "shut", "none"):
            outcome = {"open": "pass", "waits": "warn", "shut": "fail", "none": "warn"}[state]
            assert f"{outcome}  reverse" in smoked.output, smoked.said
        else:
            assert smoked.code == 3, smoked.said
        back = terminal.run("rollback", "--dry-run")
        assert (back.code, said in " ".join(back.said.split())) == (code, True), back.said

    with terminal.daemon() as daemon:
        daemon.until(lambda: terminal.json("status")["ready"])
        agree("not yet", 3, "There is nothing to roll back.")
        assert terminal.run("cutover", "--wait").code == 0
        daemon.until(lambda: terminal.json("status")["way_back"]["state"] == "open")
        agree("open", 0, "The rollback would work")
        daemon.until(lambda: terminal.json("status")["way_back"]["state"] == "open")
        house.execute("ALTER TABLE store.people ADD COLUMN more text")
        daemon.until(lambda: terminal.json("status")["way_back"]["state"] == "shut")
        agree("shut", 3, "definitions")
        assert terminal.run("finalize", "--now", "--yes").code == 0
    assert terminal.json("status")["way_back"]["state"] == "over"
    assert "there is no way back from here" in terminal.run("rollback").told
    assert "The migration is over" in terminal.run("smoke").told


def test_after_it_was_given_up(house: House) -> None:
    """Nobody speaks of a way back, where there is no migration any more."""
    with house.terminal.daemon() as daemon:
        daemon.until(lambda: house.phase() == "follow")
    assert house.terminal.run("abort", "--yes").code == 0
    status = house.terminal.json("status")
    assert (status["phase"], status.get("way_back")) == (None, None)
    for command in ("smoke", "rollback"):
        found = house.terminal.run(command)
        assert found.code == 3, found.said
        assert "open" not in found.said
