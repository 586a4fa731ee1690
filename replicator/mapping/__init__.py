"""The migration resolved against the catalogues: plans, and the derivation of target rows."""
