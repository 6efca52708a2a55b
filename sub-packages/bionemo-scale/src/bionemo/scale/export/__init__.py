"""Models outside Megatron: written as safetensors and JSON, run by one file of plain torch, read back into a run."""
