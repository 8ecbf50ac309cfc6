"""Specs of trials: what determines a trial's numbers, the rules of its fields, digests and seeds."""

from trainables.spec.adapter import adapter_settings
from trainables.spec.base import BaseSpec
from trainables.spec.digests import digest_of, stream
from trainables.spec.pair import JSON, PairSpec
from trainables.spec.rules import SEVERAL_TASKS

__all__ = ["JSON", "SEVERAL_TASKS", "BaseSpec", "PairSpec", "adapter_settings", "digest_of", "stream"]
