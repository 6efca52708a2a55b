"""What `nemo scale ...` finds: recipes, executors and command-line overrides for nemo-run."""
