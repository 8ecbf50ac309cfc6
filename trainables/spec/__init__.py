"""Specs of trials: what determines a trial's numbers, the rules of its fields, digests and seeds."""

from trainables.spec.base import BaseSpec
from trainables.spec.digests import digest_of, stream
from trainables.spec.pair import JSON, PairSpec

__all__ = ["JSON", "BaseSpec", "PairSpec", "digest_of", "stream"]
