"""Prediction in four steps: read control cells, choose populations, predict them, write them as AnnData."""
