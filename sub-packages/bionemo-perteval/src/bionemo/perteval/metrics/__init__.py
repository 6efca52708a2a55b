"""Compute the metrics, and say how sure a mean of them is."""
