"""What an evaluation is held to: a protocol, a split, and a training that has not seen what is scored."""
