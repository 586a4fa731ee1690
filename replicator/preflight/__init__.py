"""What must hold before the daemon may start; each check says why it matters and what to do.

The checks are small functions over facts: ``server_checks``, ``database_checks``, ``table_checks``, ``write_checks``
and ``migration_checks``. ``checks`` gathers the facts and runs them in order; what cannot be looked at because
something else has failed is left out.
"""

from replicator.preflight.checks import preflight, whole_preflight
from replicator.preflight.finding import Finding, Outcome

__all__ = ["Finding", "Outcome", "preflight", "whole_preflight"]
