"""Megatron's layers as this model uses them, and every device-specific kernel."""
