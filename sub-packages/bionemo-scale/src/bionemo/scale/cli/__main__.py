"""``python -m bionemo.scale.cli``: what torchrun starts."""

from bionemo.scale.cli.app import main

if __name__ == "__main__":
    main()
