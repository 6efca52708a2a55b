"""Say which cells form which set, and which control cells stand beside it."""
