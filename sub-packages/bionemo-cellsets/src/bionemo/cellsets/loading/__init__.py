"""Sets of the store become batches of tensors, read ahead of the training step."""
