"""Time training and prediction beside STATE at matched settings."""
