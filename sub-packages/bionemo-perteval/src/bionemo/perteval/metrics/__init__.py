"""The metrics, and how sure a mean of them is."""
