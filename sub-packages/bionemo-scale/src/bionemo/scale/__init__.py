"""SCALE: set-aware endpoint transport of cell populations, a Megatron model trained by NeMo.

Rooms: ``model`` (Megatron-Core, no NeMo), ``flow`` (the transport's equations, plain torch), ``training`` (the NeMo
glue), ``recipes`` (nemo-run factories), ``inference`` and ``cli``.
"""
