"""Share among all benchmarks the runs, environments, worker processes, machine facts and reports."""
