"""Pieces of training that two methods or more share, one concept a file."""
