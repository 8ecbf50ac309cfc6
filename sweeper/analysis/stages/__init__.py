"""Stages of a sweep in the analysis: rows that are evidence, candidates for the confirmation, the confirmed winner."""
