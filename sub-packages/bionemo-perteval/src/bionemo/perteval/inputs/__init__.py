"""Predicted and observed cells are read, checked, and brought to one gene panel and one scale."""
