"""What was measured, as a bar chart in a PNG file."""

from pathlib import Path
from typing import Any

from eyespot.bench.machine import MachineReport
from eyespot.bench.report import Report
from eyespot.bench.server import ServerReport
from eyespot.errors import EngineUnavailable, StartError

_BAR, _OTHER_BAR, _TEXT, _QUIET = "#2a6f97", "#a9c9dc", "#222222", "#777777"


def check(path: Path) -> None:
    """Raise `StartError` when the chart could not be drawn there, before anything is measured."""
    if path.suffix.lower() != ".png":
        raise StartError(f"{path}: a chart is drawn as a PNG file; give it a name that ends in .png")
    if not path.parent.is_dir():
        raise StartError(f"{path}: there is no folder {path.parent}")
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise EngineUnavailable("to draw a chart, `pip install eyespot[plot]` is needed") from error


def draw(report: Report, path: Path) -> None:
    """Write the chart: a bar an engine, or a bar a number of connections beside the bound of the machine."""
    from matplotlib.figure import Figure

    bars = len(report.engines) if isinstance(report, MachineReport) else len(report.loads)
    figure = Figure(figsize=(8, 1.6 + 0.55 * max(bars, 1)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    if isinstance(report, MachineReport):
        title, said = _draw_engines(report, axes)
    else:
        title, said = _draw_loads(report, axes)
    axes.set_title(title, loc="left", fontsize=12, color=_TEXT, pad=10)
    axes.set_xlabel("images a second")
    axes.xaxis.label.set_color(_QUIET)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=11)
    axes.tick_params(axis="x", colors=_QUIET)
    axes.invert_yaxis()
    host = report.host
    footnote = f"{said}\n{host.processor}, {host.cpus} cores, {host.measured_at[:10]}"
    figure.supxlabel(footnote, x=0.01, ha="left", fontsize=8, color=_QUIET)
    figure.savefig(path)


def _draw_engines(report: MachineReport, axes: Any) -> tuple[str, str]:
    rows = sorted(report.engines, key=lambda row: -row.bound.images_per_second)
    names = [f"{row.engine} {row.precision}" for row in rows]
    rates = [row.bound.images_per_second for row in rows]
    bars = axes.barh(names, rates, height=0.62, color=_BAR)
    labels = [f"{row.bound.images_per_second:.1f}   {row.bound.resident_mb:.0f} MB" for row in rows]
    axes.bar_label(bars, labels, padding=5, fontsize=10, color=_TEXT)
    axes.set_xlim(0, max(rates, default=1) * 1.22)
    return (
        f"{report.model}: decode, crop and inference on all cores",
        "Behind each bar the images a second, and the resident memory of the process.",
    )


def _draw_loads(report: ServerReport, axes: Any) -> tuple[str, str]:
    names = [f"{row.connections} connection{'s' * (row.connections > 1)}" for row in report.loads]
    rates = [row.images_per_second for row in report.loads]
    limit = max([*rates, report.bound or 0, 1])
    if report.bound:
        axes.axvline(report.bound, color=_TEXT, linewidth=1, linestyle="--", zorder=3)
        axes.barh(names, [report.bound] * len(names), height=0.62, color=_OTHER_BAR)
    bars = axes.barh(names, rates, height=0.62, color=_BAR)
    fractions = [f", {row.of_bound:.0%} of the bound" if row.of_bound is not None else "" for row in report.loads]
    labels = [f"{rate:.1f}{fraction}" for rate, fraction in zip(rates, fractions, strict=True)]
    axes.bar_label(bars, labels, label_type="center", fontsize=10, color="white")
    axes.set_xlim(0, limit * 1.05)
    model = report.model
    said = (
        f"The bound, dashed: {report.bound:.1f}, decode, crop and inference in a loop on all cores."
        if report.bound
        else ""
    )
    return f"{model.name}, {model.engine} {model.precision}, over HTTP", said
