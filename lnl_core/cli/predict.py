"""The command `lnl predict`: a trained model labels images. Heavy imports wait until they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lnl_core.cli.options import Verbose, show_log
from lnl_core.cli.tables import print_rows


def predict(
    model: Annotated[Path, typer.Option(help="Folder of a trained model, e.g. run/train/model/best.")],
    images: Annotated[Path, typer.Option(help="An image, a folder of images, or Parquet with ids and images.")],
    out: Annotated[Path, typer.Option(help="Predictions, .parquet or .csv.")],
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 256,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    verbose: Verbose = False,
) -> None:
    """Label images with a trained model.

    [dim]lnl predict --model demo/train/model/best --images photos --out labels.csv[/dim]
    """
    from lnl_core.config import RunSettings, parse
    from lnl_core.runtime import resolve
    from lnl_core.stages.predict import predict as predict_images

    show_log(verbose)
    runtime = resolve(parse(RunSettings, {"device": device, "precision": precision}, "run"))
    counts = predict_images(model, images, out, batch_size=batch_size, runtime=runtime)
    print_rows(f"predictions in {out}", [(name, str(value)) for name, value in counts.items()])
