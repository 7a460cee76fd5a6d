"""The label ledger: every change of a label as a row that is appended and never rewritten."""
