"""What a full pass has found, and how it is told."""

from dataclasses import dataclass, field
from datetime import datetime

from replicator.verify.comparison import Divergence


@dataclass(kw_only=True)
class PassResult:
    """What a full pass has found."""

    started_at: datetime
    finished_at: datetime
    rows: dict[str, int] = field(default_factory=dict)
    """Derived rows compared, by target."""
    divergences: list[Divergence] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """No divergence."""
        return not self.divergences


def summary(divergences: list[Divergence], targets: list[str], examples: int = 5) -> list[dict[str, object]]:
    """Per target: counts by kind, and a few keys, first of rows that several source rows give."""
    return [
        {
            "table": target,
            **{
                kind: sum(each.target == target and each.kind == kind for each in divergences)
                for kind in ("missing", "extra", "different")
            },
            "examples": [
                {"kind": each.kind, "key": list(each.key), "columns": list(each.columns), "note": each.note}
                for each in sorted(divergences, key=lambda each: not each.owners)
                if each.target == target
            ][:examples],
        }
        for target in targets
    ]
