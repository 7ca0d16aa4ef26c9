"""From losses to the gradients of each task: the rows of J."""
