"""The settings say what a model is, how it is computed, and how it is trained."""
