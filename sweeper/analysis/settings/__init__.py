"""Recommended settings: every searched knob, optimised by the surrogate, as values and as text."""
