"""Differential expression of one population against control cells."""
