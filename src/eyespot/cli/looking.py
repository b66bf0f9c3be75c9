"""Who looks at the image in a file: this machine, or a server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, TypeAlias

from eyespot import pool
from eyespot.cli.findings import FileProblem, Finding
from eyespot.cli.terminal import load_settings
from eyespot.images import to_bytes
from eyespot.errors import EyespotError, NoAnswer, OutputUnusable, Refusal
from eyespot.types import ImageInfo, ModelInfo, Prediction

Look: TypeAlias = Callable[[str], tuple[list[Prediction], ImageInfo]]
"""What is in the image in a file. Raises `EyespotError`, `OSError`."""

_CALLERS = 8


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about every image."""

    top_k: int
    min_confidence: float
    lang: Literal["en", "zh"]


@dataclass(frozen=True, slots=True)
class Looker:
    """How images are looked at, with what network, by how many threads at once.

    `stop` makes those give up that wait for a server; `keep` keeps the classes beside the image.
    """

    look: Look
    model: ModelInfo
    threads: int
    stop: Callable[[], None] = lambda: None
    keep: Callable[[str, list[Prediction]], None] = lambda *_: None


@contextmanager
def here(question: Question, workers: int | None) -> Iterator[Looker]:
    """By this machine, without a server.

    Raises:
        StartError: the network cannot be had.
    """
    from eyespot import assembly

    config = load_settings()
    planned = pool.plan(workers or config.workers, config.threads)
    classifier = assembly.open_classifier(config, planned)

    def look(path: str) -> tuple[list[Prediction], ImageInfo]:
        data = to_bytes(path)
        seen = classifier.scores(data)
        image = ImageInfo(sha256(data).hexdigest(), seen.format, seen.width, seen.height)
        return classifier.top(seen, question.top_k, question.min_confidence), image

    yield Looker(look, classifier.info, planned.workers)


@contextmanager
def there(url: str, question: Question, workers: int | None) -> Iterator[Looker]:
    """By the server at that address.

    Raises:
        EyespotError: it does not say which network it has.
    """
    from eyespot.client import Client

    load_settings()
    with Client(url) as client:
        card = client.model()

        def look(path: str) -> tuple[list[Prediction], ImageInfo]:
            found = client.predict(path, **asdict(question))
            return found.predictions, found.image

        model = ModelInfo(card.name, card.digest, card.engine, card.precision)
        yield Looker(look, model, workers or _CALLERS, client.close)


def with_keywords(looker: Looker) -> Looker:
    """One that also adds the classes to the XMP file beside the image.

    Raises:
        OutputUnusable: what that needs is not installed.
    """
    try:
        from eyespot.cli import xmp
    except ModuleNotFoundError as error:
        raise OutputUnusable("to write keywords, `pip install eyespot[xmp]` is needed") from error

    def keep(path: str, predictions: list[Prediction]) -> None:
        xmp.add_keywords(Path(path), [found.label for found in predictions])

    return replace(looker, keep=keep)


def find(looker: Looker, path: str) -> Finding:
    """What is in a file, or what is wrong with it. Raises `EyespotError` of what is wrong with the server."""
    predictions = image = None
    try:
        predictions, image = looker.look(path)
        looker.keep(path, predictions)
    except (EyespotError, OSError) as error:
        if isinstance(error, NoAnswer) or (isinstance(error, Refusal) and not error.per_image):
            raise
        return Finding(path, predictions, image, looker.model if image else None, FileProblem.of(error))
    return Finding(path, predictions, image, looker.model)
