"""Check predictions for what no metric sees."""
