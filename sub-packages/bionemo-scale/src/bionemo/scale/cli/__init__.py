"""The cli room is the ``bionemo-scale`` command."""

from bionemo.scale.cli.app import main

__all__ = ["main"]
