"""Tests that every method passes: the package's in `make test`, those of others by `lnl check-plugin`."""
