"""Servers for development and tests; not part of the installed package."""
