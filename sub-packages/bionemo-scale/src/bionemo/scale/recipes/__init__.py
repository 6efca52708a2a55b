"""Recipes: everything a run needs but its data, as nemo-run configurations that the command line can override."""
