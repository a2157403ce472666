"""Trains and measures one trial. Knows nothing of sweeps."""
