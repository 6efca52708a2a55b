"""Scoring beside cell-eval itself."""
