"""Metrics as modules of the `evaluate` library."""
