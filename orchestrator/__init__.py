"""Plans a sweep, runs it through Ray Tune, and keeps account of what is done."""
