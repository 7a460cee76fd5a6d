"""The command `lnl`: one file a group of sub-commands, each a few lines over the library.

Exit codes: 0 done; 2 wrong usage or settings; 3 data that break a contract; 130 interrupted (run it again to resume);
1 anything unforeseen, with its traceback.
"""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.markup import escape

from lnl_core.cli.bench import bench
from lnl_core.cli.check import check
from lnl_core.cli.check_plugin import check_plugin
from lnl_core.cli.choices import datasets, methods, presets
from lnl_core.cli.crawl import app as crawl_app
from lnl_core.cli.labels import app as labels_app
from lnl_core.cli.predict import predict
from lnl_core.cli.purify import purify
from lnl_core.cli.reclean import reclean
from lnl_core.cli.run import demo, report, run, stage
from lnl_core.cli.show import show
from lnl_core.cli.versions import app as versions_app
from lnl_core.cli.versions import promote, rollback
from lnl_core.config import ConfigError

USAGE_ERROR, DATA_ERROR, INTERRUPTED = 2, 3, 130
app = typer.Typer(
    name="lnl",
    help="Learning with noisy labels: purified labels, a robust model and a report from partly wrong labels.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for command in (
    demo,
    check,
    run,
    stage,
    purify,
    predict,
    report,
    show,
    bench,
    reclean,
    promote,
    rollback,
    methods,
    datasets,
    presets,
    check_plugin,
):
    app.command()(command)
app.add_typer(crawl_app, name="crawl")
app.add_typer(labels_app, name="labels")
app.add_typer(versions_app, name="versions")


def main() -> None:
    """Entry point: errors of the user become one message and an exit code."""
    try:
        app()
    except ConfigError as error:
        _fail(error, USAGE_ERROR)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on where it stopped", INTERRUPTED)
    except Exception as error:
        from lnl_core.contracts import ContractError  # here, because pyarrow comes with it

        if not isinstance(error, ContractError):
            raise
        _fail(error, DATA_ERROR)


def _fail(error: object, code: int) -> None:
    Console(stderr=True, soft_wrap=True).print(f"[red]error[/red] {escape(str(error))}", highlight=False)
    sys.exit(code)
