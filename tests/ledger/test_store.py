"""The ledger's parts: appended whole or not at all, never rewritten, two at once one after the other."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lnl_core.config import ConfigError
from lnl_core.contracts import ContractError
from lnl_core.ledger.store import CHANGES, LEDGER, Card, Ledger, Plan

TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CARD = Card(source="purify", method="m", version="1", class_names=("x", "y"), about={"a": 1})


def changes(**to: str) -> pa.Table:
    rows = [{"id": name, "from": "x", "to": label, "confidence": 0.9, "route": "relabel"} for name, label in to.items()]
    return pa.Table.from_pylist(rows, schema=CHANGES)


def plan(**to: str) -> Plan:
    return lambda _: (CARD, changes(**to))


def test_rows_come_back_with_their_run(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.runs() == []
    run = ledger.append(plan(b="y", a="y"), TIME)
    assert run is not None
    assert run.name == "000001-m"
    assert ledger.runs() == [run]
    assert ledger.run("1") == ledger.run("000001-m") == run
    rows = ledger.changes(run)
    assert rows.schema.equals(LEDGER)
    assert rows.to_pylist()[0] == {
        "run": "000001-m",
        "id": "a",
        "from": "x",
        "to": "y",
        "source": "purify",
        "method": "m",
        "version": "1",
        "confidence": pytest.approx(0.9),
        "route": "relabel",
        "time": TIME,
    }
    assert rows["id"].to_pylist() == ["a", "b"]


def test_last_row_of_an_id_is_its_label_and_history_has_them_all(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for labels in ({"a": "y", "b": "y"}, {"a": "z"}, {"c": "y", "a": "w"}):
        ledger.append(plan(**labels), TIME)
    latest = ledger.latest().to_pydict()
    assert latest["id"] == ["a", "b", "c"]
    assert latest["to"] == ["w", "y", "y"]
    assert latest["run"] == ["000003-m", "000001-m", "000003-m"]
    assert ledger.history("a")["to"].to_pylist() == ["y", "z", "w"]
    assert len(ledger.history("nobody")) == 0


def test_parts_are_never_rewritten(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(plan(a="y"), TIME)
    before = (tmp_path / "part-000001.parquet").read_bytes()
    ledger.append(plan(a="z"), TIME)
    assert (tmp_path / "part-000001.parquet").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part-000001.parquet", "part-000002.parquet"]


def test_nothing_to_append_appends_nothing(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "new").append(plan(), TIME) is None
    assert not (tmp_path / "new").exists()


def test_of_two_at_once_the_second_looks_anew(tmp_path: Path) -> None:
    """While the first plans, another one appends: the first sees it, takes the next number, and loses nothing."""
    ledger = Ledger(tmp_path)
    seen: list[int] = []

    def slow(latest: pa.Table) -> tuple[Card, pa.Table]:
        seen.append(len(latest))
        if len(seen) == 1:
            Ledger(tmp_path).append(plan(other="y"), TIME)
        return CARD, changes(mine="y")

    run = ledger.append(slow, TIME)
    assert run is not None
    assert run.number == 2
    assert seen == [0, 1]
    assert ledger.latest()["id"].to_pylist() == ["mine", "other"]


SCRIPT = """
    import sys
    from datetime import UTC, datetime
    from pathlib import Path
    import pyarrow as pa
    from lnl_core.ledger.store import CHANGES, Card, Ledger

    who, count = sys.argv[2], int(sys.argv[3])
    card = Card(source="purify", method=who, version="1")
    for number in range(count):
        row = {"id": f"{who}{number}", "from": "x", "to": "y", "confidence": 1.0, "route": "relabel"}
        rows = pa.Table.from_pylist([row], schema=CHANGES)
        Ledger(Path(sys.argv[1])).append(lambda latest: (card, rows), datetime.now(UTC))
"""


@pytest.mark.slow
def test_processes_that_append_at_once_lose_no_row(tmp_path: Path) -> None:
    script = textwrap.dedent(SCRIPT)
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path), who, "15"]) for who in ("anna", "bert", "carl")
    ]
    assert [process.wait() for process in started] == [0, 0, 0]
    runs = Ledger(tmp_path).runs()
    assert [run.number for run in runs] == list(range(1, 46))
    assert len(Ledger(tmp_path).latest()) == 45
    assert not list(tmp_path.glob(".*"))


KILLED = """
    import os, sys
    from datetime import UTC, datetime
    from pathlib import Path
    import pyarrow as pa
    import pyarrow.parquet as pq
    from lnl_core.ledger.store import CHANGES, Card, Ledger

    whole = pq.write_table

    def half(table, path, **options):
        whole(table, path, **options)
        size = os.path.getsize(path)
        os.truncate(path, size // 2)
        os._exit(9)

    pq.write_table = half
    row = {"id": "b", "from": "x", "to": "y", "confidence": 1.0, "route": "relabel"}
    rows = pa.Table.from_pylist([row], schema=CHANGES)
    card = Card(source="purify", method="killed", version="1")
    Ledger(Path(sys.argv[1])).append(lambda latest: (card, rows), datetime.now(UTC))
"""


def test_killed_in_the_middle_of_an_append_nothing_is_seen(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(plan(a="y"), TIME)
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)], check=False).returncode == 9
    assert len(list(tmp_path.glob(".*"))) == 1  # the half-written part lies there, hidden
    assert [run.name for run in ledger.runs()] == ["000001-m"]
    assert ledger.latest()["id"].to_pylist() == ["a"]
    assert len(ledger.history("b")) == 0
    run = ledger.append(plan(b="y"), TIME)
    assert run is not None
    assert run.number == 2


def test_unknown_runs_and_foreign_files_are_named(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(ConfigError, match="no runs yet"):
        ledger.run("1")
    ledger.append(plan(a="y"), TIME)
    with pytest.raises(ConfigError, match="no run '000001-n'; did you mean '000001-m'"):
        ledger.run("000001-n")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "part-000002.parquet")
    with pytest.raises(ContractError, match=r"part-000002\.parquet: not a part that a ledger wrote"):
        ledger.runs()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        Ledger(tmp_path / "file")
