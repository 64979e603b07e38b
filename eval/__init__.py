"""Scores and result tables; run from a checkout (`python -m eval.<name>`), not installed."""
