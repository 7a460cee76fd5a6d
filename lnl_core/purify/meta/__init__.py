"""What EMLC, MLC and MSLC share: bi-level training of a student whose labels a corrector writes."""
