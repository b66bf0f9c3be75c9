"""Figures as tables or a chart."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eyespot.bench.figures import Report
from eyespot.errors import EngineUnavailable, StartError


def show(report: Report, console: Console) -> None:
    """Print the tables, and what one needs to know to read them."""
    about = f"{report.url or report.model}, {report.images} images, {report.rounds} x {report.seconds:g} s"
    host = ", ".join(f"{name} {value}" for name, value in report.host.items())
    console.print(f"{host}\n{about}", markup=False, soft_wrap=True)
    decoding = [{"decode and crop": name, "ms": figure} for name, figure in report.decode_ms.items()]
    for rows in ([*map(asdict, report.engines)], decoding, [*map(asdict, report.loads)]):
        table = Table(*(name.replace("_", "\n") for name in (rows or [{}])[0]), padding=0)
        for row in rows:
            table.add_row(*map(text, row.values()))
        if rows:
            console.print(table)
    notes = [f"{what} was not measured: {why}" for what, why in report.skipped.items()]
    value = f"{report.bound:.1f} " if report.bound else ""
    notes.append(f"bound: {value}images/s of decode, crop and inference in a loop, which no server here exceeds.")
    if report.engines:
        notes.append("same_top1 and max_difference compare with torch; auto marks what `eyespot serve` chooses here.")
    if report.interrupted:
        notes.append("Interrupted: this was measured until then.")
    console.print("\n".join(notes), markup=False, soft_wrap=True)


def text(figure: Any) -> str:
    """A figure as people read it."""
    if isinstance(figure, dict):
        return ", ".join(f"{times:,} x {what}" for what, times in figure.items()) or "0"
    if isinstance(figure, bool) or figure is None or figure != figure:  # the last is NaN
        return "*" if figure is True else ""
    if isinstance(figure, float):
        return f"{figure:,.1f}" if abs(figure) >= 10 else f"{figure:.3g}"
    return f"{figure:,}" if isinstance(figure, int) else str(figure)


def check_chart(path: Path) -> None:
    """Raise `StartError` if no chart can be written there, before anything is measured."""
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise StartError(f"{path}: a chart needs a name that ends in .png, in a folder that exists")
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise EngineUnavailable("a chart needs `pip install eyespot[plot]`") from error


def draw(report: Report, path: Path) -> None:
    """Draw what each engine could do at most on this machine into a PNG file."""
    rows = {f"{row.engine} {row.precision}": (row.bound, f"{row.memory_mb:.0f} MB") for row in report.engines}
    draw_bars(
        "Images per second on all cores, and memory: decode, crop and inference in a loop", rows, report.host, path
    )


def draw_bars(
    title: str, rows: Mapping[str, tuple[float, str]], host: Mapping[str, Any], path: Path, highlight: str = ""
) -> None:
    """Draw a bar for each row into a PNG file: the longest on top, with its number and remark.

    Rows whose names do not start with `highlight` are grey.
    """
    from matplotlib.figure import Figure

    names = sorted(rows, key=lambda name: rows[name][0])
    figure = Figure(figsize=(8, 1.4 + 0.5 * len(rows)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    colors = ["#2a6f97" if name.startswith(highlight) else "#9aa5ad" for name in names]
    bars = axes.barh(names, [rows[name][0] for name in names], color=colors)
    axes.bar_label(bars, [f"{rows[name][0]:.0f}   {rows[name][1]}".rstrip() for name in names], padding=5)
    axes.margins(x=0.2)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    axes.set_xlabel("{processor}, {cores} cores, {measured_at:.10}".format(**host), loc="left", color="#555")
    figure.savefig(path)
