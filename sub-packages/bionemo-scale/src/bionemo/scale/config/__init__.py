"""What a model is, how it is computed, and how it is trained."""
