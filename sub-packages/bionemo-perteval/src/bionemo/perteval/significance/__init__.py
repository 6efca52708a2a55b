"""Test populations for differential expression against control cells."""
