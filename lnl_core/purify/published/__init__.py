"""DMLP as published: the paper's procedure and the released program's."""
