"""Shapes in signatures are checked in every test run."""

from jaxtyping import install_import_hook

install_import_hook("lnl_core", "beartype.beartype")

pytest_plugins = ["dev.pytest_servers"]
