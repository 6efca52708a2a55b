"""The cli room is the ``bionemo-scale`` command."""

from bionemo.scale.ending import told_to_end


def main() -> None:
    """Run the command, whose imports take a moment in which it may be interrupted."""
    with told_to_end(at_once=True):
        from bionemo.scale.cli.app import main as run
    run()


__all__ = ["main"]
