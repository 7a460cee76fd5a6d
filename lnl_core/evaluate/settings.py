"""Section `evaluate` of params.yaml."""

from __future__ import annotations

from pydantic import Field

from lnl_core.config import Settings


class EvaluateSettings(Settings):
    """What is counted, listed and drawn; none of it changes a label or a model."""

    batch_size: int = Field(default=512, ge=1)  # test images a forward pass; no result depends on it
    bins: int = Field(default=15, ge=2, le=100)  # of the reliability diagram; Guo et al. 2017 use 15
    suspicious: int = Field(default=60, ge=0, le=10_000)  # rows listed in suspicious.csv and in uncertain.csv
    embedding_rows: int = Field(default=1000, ge=0, le=10_000)  # test rows on the t-SNE map, 3 s for 1,000; 0: no map
    probe_shrinkage: float = Field(default=0.01, gt=0, le=100)  # of the held-out probe; see statistics/discriminant
