"""Checks of a prediction that no metric makes."""
