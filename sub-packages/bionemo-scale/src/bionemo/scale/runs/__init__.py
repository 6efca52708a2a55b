"""Training runs on disk: written, read without running what they hold, exported and imported."""
