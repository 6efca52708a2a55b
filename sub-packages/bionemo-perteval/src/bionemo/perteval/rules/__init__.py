"""Hold an evaluation to a protocol, a split, and a training that has not seen what is scored."""
