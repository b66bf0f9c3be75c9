"""What was measured, as tables for people; programs get the same dataclasses as JSON."""

from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from eyespot.bench.decoding import DecodeFigures
from eyespot.bench.figures import EngineFigures
from eyespot.bench.host import Host
from eyespot.bench.machine import MachineReport
from eyespot.bench.server import LoadFigures, ServerReport

Report = MachineReport | ServerReport


def as_json(report: Report) -> str:
    """The report as one JSON document."""
    return TypeAdapter(Report).dump_json(report, indent=1).decode()


def show(report: Report, console: Console) -> None:
    """Print the tables."""
    if isinstance(report, MachineReport):
        _show_machine(report, console)
    else:
        _show_server(report, console)
    if report.interrupted:
        console.print("Interrupted: this is what had been measured by then.")


def _show_machine(report: MachineReport, console: Console) -> None:
    console.print(_heading(report.host), markup=False, soft_wrap=True)
    console.print(f"{report.model}, {report.images} images, {report.seconds:g} s each measurement\n")
    console.print(_engines(report.engines, report.plan.latency_threads))
    workers = report.plan.workers
    console.print(
        f"The bound: decode, crop and inference in a loop, by {workers} threads. No server here exceeds it.\n"
        "|Δp|: how far the confidence of torch's likeliest class is apart, at most.\n"
        "*: what `eyespot serve` takes on this machine, unless told otherwise.\n",
        soft_wrap=True,
    )
    for missing in report.not_measured:
        said = f"{missing.engine} {missing.precision} was not measured: {missing.reason}"
        console.print(said, markup=False, soft_wrap=True)
    console.print(_decoding(report.decoding))


def _heading(host: Host) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in host.versions.items())
    machine = f"{host.processor}, {host.cpus} cores, {host.system}"
    return f"{machine}, {host.measured_at}, load average before {host.load_before}\n{versions}"


def _table(*columns: str, left: int = 0) -> Table:
    table = Table()
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right")
    return table


def _engines(rows: list[EngineFigures], latency_threads: int) -> Table:
    table = _table(
        *("engine", "bound,\nimages/s", "infer,\nimages/s", "1 core,\nms", f"{latency_threads} cores,\nms"),
        *("MB", "torch's\ntop-1", "|Δp|"),
        left=1,
    )
    for row in rows:
        agreed = row.agreement
        table.add_row(
            f"{row.engine}\n{row.precision}{' *' if row.chosen else ''}",
            f"{row.bound.images_per_second:.1f}",
            _number(row.inferences_per_second),
            _number(row.one_thread_ms),
            _number(row.all_threads_ms),
            f"{row.bound.resident_mb:.0f}",
            f"{agreed.same_top1:.1%}" if agreed else "-",
            f"{agreed.worst_difference:.1g}" if agreed else "-",
        )
    return table


def _decoding(rows: list[DecodeFigures]) -> Table:
    table = _table("decode and crop", "pixels", "ms", "whole decode, ms", "gain", left=1)
    for row in rows:
        size = f"{row.width} x {row.height}"
        gain = f"{row.plain_ms / row.ms:.1f} x"
        table.add_row(row.format, size, f"{row.ms:.1f}", f"{row.plain_ms:.1f}", gain)
    return table


def _show_server(report: ServerReport, console: Console) -> None:
    model = report.model
    console.print(_heading(report.host), markup=False, soft_wrap=True)
    console.print(f"{report.url}: {model.name}, {model.engine}, {model.precision}", markup=False, soft_wrap=True)
    console.print(f"{report.images} images, medians of {report.rounds} rounds of {report.seconds:g} s\n")
    console.print(_loads(report.loads))
    if report.bound:
        console.print(
            f"The bound is {report.bound:.1f} images/s: decode, crop and inference in a loop, on all cores of the "
            "machine that this command ran on.\nThe fraction means something only when the server runs there too.",
            soft_wrap=True,
        )
    elif report.no_bound:
        said = f"Without the fraction of what this machine could do: {report.no_bound}."
        console.print(said, markup=False, soft_wrap=True)
    if cached := sum(row.cached for row in report.loads):
        console.print(f"{cached} answers came from the server's cache: they say nothing of recognition.")


def _loads(rows: list[LoadFigures]) -> Table:
    table = _table("connections", "images/s", "of the bound", "p50, ms", "p99, ms", "failures")
    for row in rows:
        fraction = f"{row.of_bound:.2f}" if row.of_bound is not None else "-"
        failures = ", ".join(f"{times} x {what}" for what, times in row.failures.items())
        table.add_row(
            *(str(row.connections), f"{row.images_per_second:.1f}", fraction),
            *(_number(row.p50_ms), _number(row.p99_ms), failures or "0"),
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
