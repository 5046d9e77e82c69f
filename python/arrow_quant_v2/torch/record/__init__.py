"""A float model that runs, and what it was given at each step."""
