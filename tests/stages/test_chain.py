"""`lnl run`: what is up to date is not done again, what changed is, and nothing before it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lnl_core.config import ConfigError, Params, load_preset
from lnl_core.contracts import read_labels
from lnl_core.layout import Layout
from lnl_core.stages.chain import run_chain

QUICK = [
    "pretrain.simclr.epochs=1",
    "pretrain.simclr.warmup_epochs=0",
    "model.width=4",
    "purify.ipc_ensemble.eac_steps=20",
    "train.method=cross_entropy",
    "train.cross_entropy.epochs=1",
    "train.yardstick=false",
]


def params(*overrides: str) -> Params:
    return load_preset("digits", [*QUICK, *overrides])


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    found = Layout(tmp_path_factory.mktemp("run"))
    assert len(run_chain(params(), found)) == 8
    return found


@pytest.mark.slow
def test_second_run_does_nothing(paths: Layout) -> None:
    assert run_chain(params(), paths) == []


def test_a_purify_setting_reruns_purify_and_what_reads_it(paths: Layout) -> None:
    ran = run_chain(params("purify.ipc_ensemble.folds=4"), paths)
    assert ran == ["purify", "train", "evaluate", "report"]


def test_a_noise_setting_leaves_the_encoder_alone(paths: Layout) -> None:
    ran = run_chain(params("inject.symmetric.rate=0.3"), paths, last="purify")
    assert ran == ["inject", "purify"]


@pytest.mark.slow
def test_device_and_threads_change_no_result(paths: Layout) -> None:
    run_chain(params(), paths)
    assert run_chain(params("run.threads=2"), paths) == []


def test_a_lost_or_edited_output_is_made_again(paths: Layout) -> None:
    run_chain(params(), paths)
    paths.purified.unlink()
    assert run_chain(params(), paths, last="purify") == ["purify"]
    labels = paths.labels.read_bytes()
    paths.labels.write_bytes(labels + b" ")
    assert "inject" in run_chain(params(), paths, last="inject")
    assert paths.labels.read_bytes() == labels
    assert len(read_labels(paths.labels)) == 1797


def test_stage_names_are_checked(paths: Layout) -> None:
    with pytest.raises(ConfigError, match="did you mean 'purify'"):
        run_chain(params(), paths, last="purfy")
    with pytest.raises(ConfigError, match="comes after"):
        run_chain(params(), paths, first="train", last="purify")


def test_a_changed_source_is_read_again(tmp_path: Path) -> None:
    from PIL import Image

    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(4):
            Image.new("L", (8, 8), 40 * number).save(tmp_path / "photos" / label / f"{number}.png")
    source = ["prepare.dataset=image_folder", f"prepare.image_folder.path={tmp_path / 'photos'}"]
    given = params(*source, "prepare.trusted.source=none", "prepare.trusted.count=0", "inject.type=none")
    paths = Layout(tmp_path / "run")
    assert run_chain(given, paths, last="inject") == ["prepare", "inject"]
    assert run_chain(given, paths, last="inject") == []
    Image.new("L", (8, 8), 200).save(tmp_path / "photos" / "a" / "new.png")
    assert run_chain(given, paths, last="inject") == ["prepare", "inject"]
    assert len(read_labels(paths.labels)) == 9
