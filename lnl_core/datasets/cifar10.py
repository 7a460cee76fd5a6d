"""CIFAR-10 with the human labels of CIFAR-10N: see `cifar.py` for the layout and the sources."""

from __future__ import annotations

from typing import Literal

from lnl_core.datasets import DATASETS
from lnl_core.datasets.cifar import CIFAR, Archive, CIFARConfig


class CIFAR10Config(CIFARConfig):
    """Where the archive was unpacked, and which human labels to observe."""

    human_label: Literal["none", "aggre", "worse", "random1", "random2", "random3"] = "none"


@DATASETS.register(
    "cifar10",
    config=CIFAR10Config,
    summary="CIFAR-10 as unpacked (cifar-10-batches-py), with CIFAR-10N human labels where wanted",
    source="Krizhevsky 2009; Wei et al., ICLR 2022",
)
class CIFAR10(CIFAR):
    """60,000 photographs of 10 classes; see `CIFAR`."""

    def __init__(self, config: CIFAR10Config) -> None:
        kind = config.human_label
        archive = Archive(
            dataset="cifar10",
            folder="cifar-10-batches-py",
            train=[f"data_batch_{number}" for number in range(1, 6)],
            test=["test_batch"],
            meta="batches.meta",
            label="labels",
            class_names="label_names",
            human=f"random_label{kind[-1]}" if kind.startswith("random") else f"{kind}_label",
            clean="clean_label",
        )
        super().__init__(config, archive)
