"""Time scoring beside cell-eval itself."""
