"""Score with another release of cell-eval, in an environment of its own."""
