"""CIFAR-100 with the human labels of CIFAR-100N: see `cifar.py` for the layout and the sources."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lnl_core.config import Settings
from lnl_core.datasets import DATASETS
from lnl_core.datasets.cifar import CIFAR, check_root, human_file
from lnl_core.labels.index import Index


class CIFAR100Config(Settings):
    """Where the archive was unpacked, which labels, and whether to observe the human ones."""

    root: str = ""  # the folder that holds cifar-100-python
    granularity: Literal["fine", "coarse"] = "fine"  # 100 classes or 20
    human_file: str = ""  # CIFAR-100_human.pt
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
        super().__init__(Path(config.root) / "cifar-100-python", ["train"], ["test"], "meta")
        self._config = config

    def index(self) -> Index:
        config = self._config
        check_root(self._folder, config.root, "cifar100")
        fine = config.granularity == "fine"
        keys = ("noisy_label", "clean_label") if fine else ("noisy_coarse_label", "clean_coarse_label")
        labels, names = f"{config.granularity}_labels", f"{config.granularity}_label_names"
        return self.read(labels, names, (human_file(config.human_file, config.human_label, "cifar100"), *keys))
