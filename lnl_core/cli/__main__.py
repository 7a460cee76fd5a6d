"""`python -m lnl_core.cli` is the command `lnl`."""

from lnl_core.cli.app import main

main()
