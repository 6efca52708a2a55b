"""Measure what each form that was written for speed takes off a training step."""
