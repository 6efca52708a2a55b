"""The data room holds the names that a model knows, and what a step is given as tensors."""
