"""Measure side by side: several arms, each in a process and an environment of its own, in turn in one run."""
