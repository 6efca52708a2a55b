"""Other releases of cell-eval, each in an environment of its own."""
