"""The report of an evaluation: one HTML page with everything inside it, and its charts."""

import io
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from eyespot._version import __version__
from eyespot.cli import charts
from eyespot.cli.labelled import percent
from eyespot.cli.replacing import replacing
from eyespot.errors import OutputUnusable, Refusal
from eyespot.types import ModelCard
from eyespot.vision import preprocess
from eyespot.vision.confusion import classes, confusions
from eyespot.vision.evaluation import Evaluation, share

FILES = "report.html", "confusion.png", "reliability.png"
_OURS = b'<meta name="generator" content="eyespot'  # near the start of a report
_MISTAKES = 24
_PAIRS = 20


def check(folder: Path) -> None:
    """Make the folder. Raises `OutputUnusable` if nothing can be written to it, or would replace other files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        there = [folder / name for name in FILES if (folder / name).exists()]
        if there and _OURS not in there[0].read_bytes()[:1000]:
            raise OutputUnusable(f"{there[0]} is not from an earlier report; choose another folder")
    except OSError as error:
        raise OutputUnusable(f"cannot write to {folder}: {error.strerror}") from error


def write(folder: Path, source: Path, found: Sequence[Evaluation], rows: list[list[str]]) -> None:
    """Write the report and the charts, in place of an earlier report's. `rows` are the figures, with their titles."""
    pictures = charts.confusion_matrix(found[0].reading.samples), charts.reliability(found[0])
    page = html(source, found, rows, pictures).encode("utf-8", "replace")  # file names need not be UTF-8
    for name, data in zip(FILES, (page, *pictures), strict=True):
        with replacing(folder / name, name) as file:
            file.write(data)


def html(source: Path, found: Sequence[Evaluation], rows: list[list[str]], pictures: Sequence[bytes]) -> str:
    """The page."""
    first = found[0]
    samples, root = first.reading.samples, source if source.is_dir() else source.parent
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eyespot", "cli"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        version=__version__,
        date=datetime.now(UTC),
        source=source,
        evaluations=found,
        first=first,
        rows=rows,
        pictures=[b64encode(png).decode() for png in pictures],
        names=samples.labels.names["en"],
        mistakes=list(islice(_mistakes(first), _MISTAKES)),
        confusions=confusions(samples)[:_PAIRS],
        classes=classes(samples),
        short=lambda path: path.relative_to(root) if path.is_relative_to(root) else path,
        accuracy=lambda row: percent(share(np.arange(row.images) < row.right)),
    )


def _mistakes(found: Evaluation) -> Iterator[dict[str, Any]]:
    """The images whose likeliest class is wrong, most confident first, as the model saw them."""
    samples, confidences = found.reading.samples, found.candidates.confidences[:, 0]
    for number in np.argsort(-confidences, kind="stable").tolist():
        if found.candidates.right[number, 0]:
            continue
        path = found.reading.paths[number]
        try:
            jpeg = _thumbnail(path, found.card)
        except (Refusal, OSError):  # it was readable a moment ago
            continue
        yield {
            "jpeg": jpeg,
            "path": path,
            "true": int(samples.truth[number]),
            "found": int(samples.found[number]),
            "confidence": confidences[number],
        }


def _thumbnail(path: Path, card: ModelCard) -> str:
    limits, file = card.limits, io.BytesIO()
    image = preprocess.preprocess(path.read_bytes(), card.recipe, max_pixels=limits.max_pixels, formats=limits.formats)
    Image.fromarray(image.pixels).save(file, "JPEG", quality=80)
    return b64encode(file.getvalue()).decode()
