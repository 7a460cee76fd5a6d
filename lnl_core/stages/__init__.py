"""The stages: `prepare -> inject -> pretrain -> features -> purify -> train -> evaluate -> report`.

A stage is a plain function of its settings, the shared settings and the paths; files in, files out.
"""
