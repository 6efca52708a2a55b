"""Callbacks do what happens beside the training step: progress, checkpoints, selection, preemption, watches."""
