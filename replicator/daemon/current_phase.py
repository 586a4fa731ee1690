"""The phase of the migration, as this session has stored it last."""

from replicator.daemon.hooks import Hooks, Moment
from replicator.postgres.control.control import write_phase
from replicator.postgres.control.ownership import read_ownership
from replicator.postgres.session.connect import connection
from replicator.runtime.failpoints import Failpoint, reach
from replicator.runtime.log import get_logger
from replicator.settings import Settings
from replicator.switchover.phases import Phase, check_transition

log = get_logger("session")


class CurrentPhase:
    """The phase, and the only way from one to the next."""

    def __init__(self, settings: Settings, hooks: Hooks) -> None:
        self.now = Phase.NEW
        self._settings = settings
        self._hooks = hooks

    async def enter(self, phase: Phase, *, rehearsed: bool = False) -> None:
        """Store the next phase, and call the hooks unless it is only rehearsed.

        :raises ReplicatorError: that phase does not follow this one, or the target cannot be reached.
        """
        check_transition(self.now, phase)
        async with connection(self._settings.target, "phase") as target:
            await reach(Failpoint.PHASE_COMING)
            await write_phase(target, phase)
            await reach(Failpoint.PHASE_STORED)
            owner = await read_ownership(target)
        if not rehearsed:
            self._hooks.after(phase, Moment.of(self.now, phase, owner))
        self.now = phase
        log.info("phase", phase=str(phase))
