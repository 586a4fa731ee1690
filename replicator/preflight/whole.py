"""The report of ``replicator check``: findings, and what the cutover would do."""

from replicator.preflight.consequences import Consequences
from replicator.preflight.finding import Report


class WholeReport(Report):
    """The findings of one run, in order, and the consequences of the cutover."""

    def __init__(self) -> None:
        super().__init__()
        self.consequences: Consequences | None = None
        """None until they are known; they stay unknown where a check before them fails."""
