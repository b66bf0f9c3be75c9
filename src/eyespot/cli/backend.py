"""Where `eyespot classify` gets its answers: the model on this machine, or a server."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias

import eyespot
from eyespot import cpus
from eyespot.cli.formats import FileProblem, Finding
from eyespot.cli.terminal import load_settings
from eyespot.errors import Refusal, SidecarUnreadable
from eyespot.images import to_bytes
from eyespot.types import ImageInfo, ModelInfo, Prediction

if TYPE_CHECKING:
    from eyespot.client.calls import Options

Answer: TypeAlias = tuple[list[Prediction], ImageInfo]


@dataclass(frozen=True, slots=True)
class Backend:
    """`recognise` answers for the image at a path, in `threads` threads at once; `keep` stores the answer beside it."""

    recognise: Callable[[str], Answer]
    model: ModelInfo
    threads: int
    close: Callable[[], None] = lambda: None
    keep: Callable[[str, list[Prediction]], None] = lambda *_: None

    def find(self, path: str) -> Finding:
        """What is in a file, or why that is unknown. Raises errors that concern all files."""
        predictions = image = problem = None
        try:
            predictions, image = self.recognise(path)
            self.keep(path, predictions)
        except (Refusal, SidecarUnreadable, OSError) as error:
            if isinstance(error, Refusal) and not error.per_image:
                raise
            problem = FileProblem.of(error)
        return Finding(path, predictions, image, self.model if image else None, problem)


def local(options: "Options", workers: int | None) -> Backend:
    """The model on this machine. Raises `StartError` if it cannot be loaded."""
    from eyespot import assembly

    config = load_settings()
    plan = cpus.plan(workers or config.workers, config.threads)
    classifier = assembly.open_classifier(config, plan)

    def recognise(path: str) -> Answer:
        data = to_bytes(path)
        scores = classifier.scores(data)
        image = ImageInfo(sha256(data).hexdigest(), scores.format, scores.width, scores.height)
        return classifier.top(scores, options["top_k"], options["min_confidence"]), image

    return Backend(recognise, classifier.info, plan.workers)


def remote(url: str, options: "Options", workers: int | None) -> Backend:
    """The server at `url`. Raises `EyespotError` if it does not say which model it has."""
    load_settings()
    client = eyespot.Client(url)
    card = client.model()

    def recognise(path: str) -> Answer:
        found = client.predict(path, **options)
        return found.predictions, found.image

    model = ModelInfo(card.name, card.digest, card.engine, card.precision)
    return Backend(recognise, model, workers or 8, client.close)
