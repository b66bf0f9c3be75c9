"""`eyespot quantize`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from eyespot import cpus
from eyespot.cli.terminal import bar, err, load_settings, out, say
from eyespot.errors import EngineUnavailable
from eyespot.types import Quantization
from eyespot.vision import weights


def quantize(
    images: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, metavar="FOLDER", help="Images like the ones you will recognise."),
    ],
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="Maximum number of images; each takes 150 kB of memory.")
    ] = 1000,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Keep the result even if it agrees with float32 on fewer than 90 % of the images."
        ),
    ] = False,
) -> None:
    """Quantize the model to int8 with your own images: several times as fast on processors with VNNI or AMX.

    Two thirds of the images calibrate it, the rest compare it with float32. A few hundred are enough. The report is
    printed, and `/model` shows it. `EYESPOT_PRECISION=int8 eyespot serve` uses the result.

    Example: `eyespot quantize --images photos/`
    """
    from eyespot.vision import quantize as int8
    from eyespot.vision.classifier import labels_of

    config = load_settings(quiet=True)
    if config.engine not in ("auto", "openvino"):
        raise EngineUnavailable(f"int8 needs openvino, and EYESPOT_ENGINE is {config.engine}")
    int8.check_installed()
    entry = weights.verify(weights.choose(weights.read_manifest(config.manifest, config.data_dir), config.model))
    classes = len(labels_of(entry, config.labels_dir))
    with bar() as progress:
        found = int8.read_images(images, entry.recipe, limit, progress, config.max_pixels, config.formats)
    for path in found.skipped:
        say(f"{path}: not a readable image", err)
    threads = cpus.plan(config.workers, config.threads).latency_threads
    with bar() as progress:
        place, report = int8.quantize(
            entry, classes, found, config.data_dir, threads=threads, force=force, progress=progress
        )
    _show(entry.name, report)
    say(f"EYESPOT_PRECISION=int8 uses {place}")


def _show(name: str, report: Quantization) -> None:
    table = Table("int8 compared with float32", name)
    table.add_row("best preset", report.preset)
    table.add_row("images to calibrate, to compare", f"{report.calibrated_on}, {report.measured_on}")
    table.add_row("same likeliest class", f"{report.agreement:.1%}")
    table.add_row("confidence difference, mean", f"{report.mean_difference:.3f}")
    table.add_row("confidence difference, worst", f"{report.worst_difference:.3f}")
    table.add_row("images/s in float32", f"{report.images_per_second_before:.1f}")
    table.add_row("images/s in int8", f"{report.images_per_second:.1f}")
    out.print(table)
