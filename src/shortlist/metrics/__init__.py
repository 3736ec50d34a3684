"""Pure functions on arrays: accuracy of lists, what lies beyond accuracy, and intervals."""
