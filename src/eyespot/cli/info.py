"""`eyespot health`, `eyespot model`, `eyespot labels`: facts about a server, or about the model on this machine."""

from typing import Annotated

import typer
from pydantic import TypeAdapter
from rich.table import Column, Table

import eyespot
from eyespot import cpus
from eyespot.cli.options import Language, Url
from eyespot.cli.terminal import err, load_settings, out, say
from eyespot.types import LabelEntry, ModelCard, Readiness
from eyespot.vision import weights

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the server sends it.")]


def health(url: Url = None, as_json: AsJson = False) -> None:
    """Check whether a server is ready; by default the one on this machine, at EYESPOT_PORT or 8000.

    The exit code is 0 if it is ready, 1 if not, and 2 if no server answers.

    Example: `eyespot health --url http://eyespot.example:8000`
    """
    with eyespot.Client(url or f"http://127.0.0.1:{load_settings(quiet=True).port}") as client:
        readiness = client.health()
    if as_json:
        typer.echo(TypeAdapter(Readiness).dump_json(readiness, exclude_none=True))
    else:
        table = Table("check", "", Column("", overflow="fold"))
        for check in readiness.checks or ():
            table.add_row(check.name, "ok" if check.ok else "not ok", check.detail)
        out.print(table)
        say(f"{client.public_url} is {'ready' if readiness.ready else 'not ready'}")
    raise typer.Exit(0 if readiness.ready else 1)


def model(url: Url = None, as_json: AsJson = False) -> None:
    """Show the model: digest, engine, accuracy and limits.

    Without `--url`, it is the model that `serve` and `classify` load on this machine.

    Examples: `eyespot model`, `eyespot model --json | jq .limits`
    """
    if url:
        with eyespot.Client(url, retry_seconds=0) as client:
            card = client.model()
    else:
        from eyespot import assembly

        config = load_settings(quiet=True)
        card = assembly.open_classifier(config, cpus.plan(config.workers, config.threads)).card
    if as_json:
        typer.echo(TypeAdapter(ModelCard).dump_json(card))
        return
    name = card.name + (" (stand-in: the first model's weights are missing)" * card.stand_in)
    table = Table("model", Column(name, overflow="fold"))  # a truncated digest is useless
    table.add_row("digest", card.digest)
    table.add_row("architecture", card.architecture)
    table.add_row("engine, precision", f"{card.engine}, {card.precision}")
    table.add_row("input", f"{card.input_size} x {card.input_size} pixels")
    table.add_row("classes", f"{card.classes:,}")
    if card.accuracy:
        table.add_row("top-1", f"{card.accuracy.top1} % on {card.accuracy.on}")
    calibration = card.calibration
    table.add_row("calibration", f"temperature {calibration.temperature}, min_says {calibration.min_says}")
    table.add_row("licence", card.license)
    table.add_row("formats", ", ".join(card.limits.formats))
    table.add_row("largest image", f"{card.limits.max_bytes:,} bytes, {card.limits.max_pixels:,} pixels")
    out.print(table)


def labels(
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT",
            help="The start of a word in an English name or synonym, or a part of a Chinese name.",
        ),
    ] = "",
    lang: Language = "en",
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """List the model's classes: number, WordNet id, label and groups.

    Classes with a matching name come before those with a matching synonym. `--json` adds synonyms, definitions and both
    languages.

    Examples: `eyespot labels`, `eyespot labels retriever`, `eyespot labels 猫 --lang zh`,
    `eyespot labels --json | jq -r .[].label`
    """
    if url:
        with eyespot.Client(url, retry_seconds=0) as client:
            found = client.labels(q=text, lang=lang)
    else:
        from eyespot.vision.classifier import labels_of

        config = load_settings()
        entry = weights.choose(weights.read_manifest(config.manifest, config.data_dir), config.model)
        found = labels_of(entry, config.labels_dir).find(text, lang)
    if as_json:
        typer.echo(TypeAdapter(list[LabelEntry]).dump_json(found))
        return
    for label in found:
        groups = f" ({', '.join(group.label for group in label.groups)})" * bool(label.groups)
        typer.echo(f"{label.class_id:4} {label.wnid} {label.label}{groups}")
    if not found:
        say(f"no class matches {text!r}", err)
        raise typer.Exit(1)
