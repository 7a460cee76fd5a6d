"""The same seeds give the same results from one commit to the next: digests.json has what they gave at commit a332283.

On the processor and with the versions that wrote the list every digest must be the same; elsewhere, where sums are
rounded in another order, the figures must agree.
"""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.digests import all_digests

CPUS = Path("/proc/cpuinfo")
LIST = Path(__file__).with_name("digests.json")


def made_with() -> dict[str, str]:
    """What decides how sums are rounded."""
    about = CPUS.read_text(encoding="utf-8").partition("\n\n")[0] if CPUS.exists() else ""
    fields = dict(line.split("\t", 1) for line in about.splitlines() if "\t" in line)
    wanted = ("model name", "cpu family", "model", "stepping", "flags")
    processor = hashlib.sha256("\n".join(fields.get(name, "") for name in wanted).encode()).hexdigest()[:16]
    versions = {name: version(name).partition("+")[0] for name in ("torch", "numpy", "scipy", "scikit-learn")}
    kernels = os.environ.get("OPENBLAS_CORETYPE", "")
    return {"processor": processor, "kernels": kernels, "threads": os.environ.get("OMP_NUM_THREADS", ""), **versions}


@pytest.mark.slow
def test_fixed_seeds_give_what_they_gave(tmp_path: Path) -> None:
    found = all_digests(tmp_path)
    if os.environ.get("LNL_WRITE_DIGESTS"):
        LIST.write_text(json.dumps({"made_with": made_with(), "artefacts": found}, indent=1) + "\n", encoding="utf-8")
    listed: dict[str, Any] = json.loads(LIST.read_text(encoding="utf-8"))
    before = listed["artefacts"]
    assert found.keys() == before.keys()
    assert {name: one["values"] for name, one in found.items()} == {name: one["values"] for name, one in before.items()}
    if listed["made_with"] == made_with():
        assert {name for name in found if found[name]["digest"] != before[name]["digest"]} == set()
    for name in found:
        np.testing.assert_allclose(found[name]["figures"], before[name]["figures"], rtol=0.05, atol=0.01, err_msg=name)
