"""Make the populations that are scored: predictions, baselines, oracles and the ceiling."""
