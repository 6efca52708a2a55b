"""Turn sets of the store into batches of tensors, read ahead of the training step."""
