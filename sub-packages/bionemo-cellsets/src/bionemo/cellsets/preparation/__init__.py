"""Bring cells on disk to a store in two readings: the first checks and counts, the second sorts and writes."""
