"""Training and inference beside STATE at matched settings: arms measured in turn, each in a process of its own."""
