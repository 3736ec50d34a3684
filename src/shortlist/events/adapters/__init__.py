"""Public logs by name: one file each, found by `data.adapter`."""
