"""The command `lnl`: one file a group of commands."""
