"""Training and prediction beside STATE at matched settings."""
