"""The replication protocol, slots, origins and snapshots."""
