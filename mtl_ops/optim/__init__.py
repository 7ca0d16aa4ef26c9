"""What a user holds: the optimizer, its options, and what it remembers."""
