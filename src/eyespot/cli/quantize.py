"""`eyespot quantize`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from eyespot import pool
from eyespot.cli.terminal import bar, err, load_settings, out
from eyespot.errors import EngineUnavailable
from eyespot.vision import weights


def quantize(
    images: Annotated[Path, typer.Option(help="Folder of images like those that will be asked about.")],
    limit: Annotated[int, typer.Option(min=1, help="Take no more than so many; 150 kB each.")] = 1000,
    force: Annotated[bool, typer.Option("--force", help="Keep it although it agrees on less than 90 %.")] = False,
) -> None:
    """Make the network's int8 form, several times as fast on processors with VNNI or AMX, from images of yours.

    Two of three images calibrate it; on the others its answers are measured beside those in float32. The report is
    printed, and `/model` shows it. A few hundred images are enough. `EYESPOT_PRECISION=int8 eyespot serve` uses it.

    Example: `eyespot quantize --images photos/`
    """
    from eyespot.vision import quantize as int8
    from eyespot.vision.classifier import labels_of

    config = load_settings()
    if config.engine not in ("auto", "openvino"):
        raise EngineUnavailable(f"int8 is OpenVINO's; EYESPOT_ENGINE={config.engine} computes in f32")
    int8.check_installed()
    entry = weights.choose(weights.read_manifest(config.manifest), config.model)
    weights.verify(entry)
    classes = len(labels_of(entry, config.labels_dir))
    with bar() as progress:
        found = int8.read_images(images, entry.recipe, limit, progress, config.max_pixels, config.formats)
    for path in found.skipped:
        err.print(f"{path}: no image that can be read", markup=False, soft_wrap=True)
    threads = pool.plan(config.workers, config.threads).latency_threads
    with bar() as progress:
        place, report = int8.quantize(
            entry, classes, found, config.data_dir, threads=threads, force=force, progress=progress
        )
    table = Table("int8 beside float32", entry.name)
    table.add_row("the best way", report.preset)
    table.add_row("images calibrated on, measured on", f"{report.calibrated_on}, {report.measured_on}")
    table.add_row("same likeliest class", f"{report.agreement:.1%}")
    table.add_row("confidence apart, mean and worst", f"{report.mean_difference:.3f}, {report.worst_difference:.3f}")
    speeds = report.images_per_second_before, report.images_per_second
    table.add_row("images a second, before and after", f"{speeds[0]:.1f}, {speeds[1]:.1f}")
    out.print(table)
    out.print(f"{place} is used with EYESPOT_PRECISION=int8", markup=False, soft_wrap=True)
