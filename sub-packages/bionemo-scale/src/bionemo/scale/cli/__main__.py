"""Start the command as ``python -m bionemo.scale.cli``, which is what torchrun does."""

from bionemo.scale.cli import main

if __name__ == "__main__":
    main()
