"""Cells on disk are brought to a store in two passes: the first checks and counts, the second sorts and writes."""
