"""Events become examples: interactions, splits."""
