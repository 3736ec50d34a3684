"""Parts two papers share, under the papers' names."""
