"""Grids of runs: methods x noises x seeds, resumed where they were stopped, with a table beside published numbers."""
