"""Cells on real digits in seconds: what is shared, a stopped cell that goes on, a failed one that stops nobody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lnl_core.bench import cells as cells_module
from lnl_core.bench.cells import cell_state, run_cells
from lnl_core.bench.grid import Cell, grid_cells
from lnl_core.bench.records import append_record, read_records
from lnl_core.stages import stage as stage_module
from lnl_core.stages.chain import run_chain

QUICK = [
    "run.threads=1",
    "run.device=cpu",
    "model.width=4",
    "pretrain.simclr.epochs=1",
    "pretrain.simclr.warmup_epochs=0",
    "train.cross_entropy.epochs=3",
    "purify.ipc_ensemble.folds=2",
    "purify.ipc_ensemble.ridge=[0.01, 1.0]",
    "purify.ipc_ensemble.max_steps=16",
    "purify.ipc_ensemble.eac_steps=20",
]
NO_MAP = "evaluate.embedding_rows=0"  # a second a cell


def grid(*more: str, noises: tuple[str, ...] = ("sym20",), methods: tuple[str, ...] = ("cross_entropy",)) -> list[Cell]:
    return grid_cells("digits", noises, methods, [0], [*QUICK, *more])


def scores(out: Path) -> dict[str, Any]:
    return {key: record["test"] for key, record in read_records(out / "results.jsonl").items()}


@pytest.mark.slow
def test_a_grid_is_run_once_and_shares_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(cells_module, "run_chain", lambda *args, **more: ran.append(run_chain(*args, **more)))
    cells = grid(noises=("sym20", "sym50"), methods=("cross_entropy", "cross_entropy+purified"))
    assert [cell_state(cell, tmp_path) for cell in cells] == ["open"] * 4
    assert run_cells(cells, tmp_path) == 0
    assert ran == [
        ["prepare", "inject", "pretrain", "features", "purify", "train", "evaluate"],
        ["purify", "train", "evaluate"],
        ["inject", "purify", "train", "evaluate"],
        ["purify", "train", "evaluate"],
    ]
    records = [read_records(tmp_path / "results.jsonl")[cell.settings] for cell in cells]
    for cell, record in zip(cells, records, strict=True):
        assert record["cell"]["method"] == cell.method
        assert 0 < record["test"]["last"] <= 1
        assert record["epochs"] == 3
        assert record["model"]["arch"] == "small_cnn"
        assert record["made_with"]["commit"]
        assert (tmp_path / "cells" / f"{cell.spec}-seed0-{cell.settings[:8]}" / "curves.csv").exists()
    assert records[0]["noise_rate"]["true"] == pytest.approx(0.18, abs=0.02)
    assert records[0]["labels"]["before"] == records[0]["labels"]["after"]
    assert records[1]["labels"]["before"] < records[1]["labels"]["after"]
    reported: list[str] = []
    assert run_cells(cells, tmp_path, lambda _cell, what, _record: reported.append(what)) == 0
    assert reported == ["skipped"] * 4
    assert len(ran) == 4


@pytest.mark.slow
def test_a_stopped_cell_goes_on_and_ends_where_it_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lnl_core.train import epochs

    cells = grid(NO_MAP)
    run_cells(cells, tmp_path / "whole")
    save, saved = epochs.save_checkpoint, []

    def interrupt(*arguments: Any) -> None:
        save(*arguments)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(epochs, "save_checkpoint", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_cells(cells, tmp_path / "stopped")
    assert scores(tmp_path / "stopped") == {}
    monkeypatch.setattr(epochs, "save_checkpoint", lambda *arguments: (saved.append(1), save(*arguments)))
    assert run_cells(cells, tmp_path / "stopped") == 0
    assert len(saved) == 3  # two epochs before, one after
    assert scores(tmp_path / "stopped") == scores(tmp_path / "whole")


@pytest.mark.slow
def test_a_failed_cell_is_reported_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = grid(NO_MAP, noises=("sym20", "sym50"))
    run_stage = stage_module.run_stage

    def broken(name: str, params: Any, paths: Any) -> Any:
        if name == "train" and params["inject"]["symmetric"]["rate"] == 0.2:
            raise OSError("disk full")
        return run_stage(name, params, paths)

    with monkeypatch.context() as patch:
        patch.setattr("lnl_core.stages.chain.run_stage", broken)
        assert run_cells(cells, tmp_path) == 1
    assert [cell_state(cell, tmp_path) for cell in cells] == ["failed", "done"]
    record = read_records(tmp_path / "results.jsonl")[cells[0].settings]
    assert record["error"] == "OSError: disk full"
    assert "broken" in record["trace"]
    assert run_cells(cells, tmp_path) == 0
    assert [cell_state(cell, tmp_path) for cell in cells] == ["done", "done"]


def test_half_a_line_costs_that_line_alone(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    append_record(file, {"settings": "a", "value": 1})
    with file.open("a") as handle:
        handle.write('{"settings": "b", "va')
    append_record(file, {"settings": "c", "value": 3})
    append_record(file, {"settings": "a", "value": 2})
    assert {key: record["value"] for key, record in read_records(file).items()} == {"a": 2, "c": 3}
    assert [json.loads(line)["settings"] for line in file.read_text().splitlines() if line.endswith("}")] == [*"aca"]
