"""Training of FindTrack: synthetic data, losses, loops. Run from a checkout, never installed."""
