"""Where a sweep runs when one machine is not enough."""
