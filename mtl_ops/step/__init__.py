"""The ways to take a step: one a file."""
