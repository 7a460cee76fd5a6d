"""Versions of a cleaned set: a store that only grows, a gate before promotion, and the way back."""
