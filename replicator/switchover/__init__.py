"""The planned transfer of ownership: cutover, rollback, rolling deploys, renaming, gates."""
