"""Operators on packed weights: torch's library of them, and the engine behind it."""
