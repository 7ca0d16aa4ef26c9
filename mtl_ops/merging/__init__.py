"""From rows to the merged gradient: measure, weigh, merge, clip."""
