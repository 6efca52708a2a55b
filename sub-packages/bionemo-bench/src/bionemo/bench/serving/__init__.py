"""Time a loaded model that answers again and again."""
