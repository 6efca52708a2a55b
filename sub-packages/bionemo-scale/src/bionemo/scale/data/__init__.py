"""The names that a model knows, and the conditions of a batch as tensors."""
