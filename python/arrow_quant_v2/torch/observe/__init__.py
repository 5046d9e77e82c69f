"""Watching a network at work: which weights are used, on what, in which order."""
