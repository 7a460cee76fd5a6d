"""CIFAR-10 with the human labels of CIFAR-10N: see `cifar.py` for the layout and the sources."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lnl_core.config import Settings
from lnl_core.datasets import DATASETS
from lnl_core.datasets.cifar import CIFAR, check_root, human_file
from lnl_core.labels.index import Index


class CIFAR10Config(Settings):
    """Where the archive was unpacked, and which human labels to observe."""

    root: str = ""  # the folder that holds cifar-10-batches-py
    human_file: str = ""  # CIFAR-10_human.pt
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
        folder = Path(config.root) / "cifar-10-batches-py"
        super().__init__(folder, [f"data_batch_{number}" for number in range(1, 6)], ["test_batch"], "batches.meta")
        self._config = config

    def index(self) -> Index:
        config = self._config
        check_root(self._folder, config.root, "cifar10")
        kind = config.human_label
        key = f"random_label{kind[-1]}" if kind.startswith("random") else f"{kind}_label"
        file = human_file(config.human_file, kind, "cifar10")
        return self.read("labels", "label_names", (file, key, "clean_label"))
