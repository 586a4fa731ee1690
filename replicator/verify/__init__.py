"""Proves that the target is what the transforms give: derives all again, compares, and re-checks what differs."""

from replicator.verify.comparison import Divergence
from replicator.verify.result import PassResult, summary
from replicator.verify.standing import Standing, advice, sentence
from replicator.verify.verifier import Verifier, rounds

__all__ = ["Divergence", "PassResult", "Standing", "Verifier", "advice", "rounds", "sentence", "summary"]
