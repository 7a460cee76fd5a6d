"""CIFAR-100 with the human labels of CIFAR-100N: see `cifar.py` for the layout and the sources."""

from __future__ import annotations

from typing import Literal

from lnl_core.datasets import DATASETS
from lnl_core.datasets.cifar import CIFAR, Archive, CIFARConfig


class CIFAR100Config(CIFARConfig):
    """Where the archive was unpacked, which labels, and whether to observe the human ones."""

    granularity: Literal["fine", "coarse"] = "fine"  # 100 classes or 20
    human_label: Literal["none", "noisy"] = "none"


@DATASETS.register(
    "cifar100",
    config=CIFAR100Config,
    summary="CIFAR-100 as unpacked (cifar-100-python), fine or coarse, with CIFAR-100N human labels where wanted",
    source="Krizhevsky 2009; Wei et al., ICLR 2022",
)
class CIFAR100(CIFAR):
    """60,000 photographs of 100 classes in 20 groups; see `CIFAR`."""

    def __init__(self, config: CIFAR100Config) -> None:
        fine = config.granularity == "fine"
        archive = Archive(
            dataset="cifar100",
            folder="cifar-100-python",
            train=["train"],
            test=["test"],
            meta="meta",
            label=f"{config.granularity}_labels",
            class_names=f"{config.granularity}_label_names",
            human="noisy_label" if fine else "noisy_coarse_label",
            clean="clean_label" if fine else "clean_coarse_label",
        )
        super().__init__(config, archive)
