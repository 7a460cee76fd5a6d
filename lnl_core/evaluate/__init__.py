"""Scores and tables; with inject, the only reader of true labels."""
