"""What all benchmarks share: arms in turn, environments, worker processes, machine facts and records."""
