"""One file per benchmark; each prints a table and, with --out, writes JSON. Run as `python -m bench.NAME`."""
