"""Megatron's layers stand here as this model uses them, with every form that is chosen for a device's speed.

A form that is not the plain one stays only where ``bionemo-bench kernels`` shows that without it a training step or a
prediction takes at least a tenth longer.
"""
