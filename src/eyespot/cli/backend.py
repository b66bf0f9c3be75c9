"""Where `eyespot classify` gets its answers: the model on this machine, or a server."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Self

import eyespot
from eyespot import cpus
from eyespot.cli.formats import FileProblem, Finding
from eyespot.cli.terminal import err, load_settings, shown_waiting
from eyespot.errors import InvalidParameter, Refusal, SidecarUnreadable
from eyespot.images import to_bytes
from eyespot.types import ImageInfo, ModelCard, ModelInfo
from eyespot.vision import weights

if TYPE_CHECKING:
    from eyespot.client.calls import Options
    from eyespot.vision.classifier import Classifier

DEFAULT_TOP_K = 3


@dataclass(frozen=True, slots=True)
class Backend:
    """`recognise` answers for the image at a path, in `threads` threads at once; `keep` stores the answer beside it."""

    recognise: Callable[[str], Finding]
    model: ModelInfo
    threads: int
    url: str | None = None  # of the server
    close: Callable[[], None] = lambda: None
    keep: Callable[[Finding], None] = lambda _: None

    @classmethod
    def of(
        cls, classifier: "Classifier", options: "Options", threads: int, read: Callable[[str], bytes] = to_bytes
    ) -> Self:
        """The classifier's answers; `read` returns the encoded bytes at a path. Raises `InvalidParameter`."""
        options = _within(options, classifier.card)

        def recognise(path: str) -> Finding:
            data = read(path)
            scores = classifier.scores(data)
            image = ImageInfo(sha256(data).hexdigest(), scores.format, scores.width, scores.height)
            answer = classifier.answer(scores, options["top_k"], options["min_confidence"], options["lang"])
            return Finding(path, **answer, image=image, model=classifier.info)

        return cls(recognise, classifier.info, threads)

    def find(self, path: str | OSError) -> Finding:
        """Classify a file; errors of one file or folder become a problem. Raises errors that concern all files."""
        if isinstance(path, OSError):
            return Finding(str(path.filename), problem=FileProblem.of(path))
        finding = Finding(path)
        try:
            finding = self.recognise(path)
            self.keep(finding)
        except (Refusal, SidecarUnreadable, OSError) as error:
            if isinstance(error, Refusal) and not error.per_image:
                raise
            return replace(finding, problem=FileProblem.of(error))
        return finding


def local(options: "Options", workers: int | None) -> Backend:
    """The model on this machine. Raises `StartError` if it cannot be loaded."""
    from eyespot import assembly

    config = load_settings(quiet=True)
    plan = cpus.plan(workers or config.workers, config.threads)
    with err.status("loading the model (about 15 s the first time)"):
        classifier = assembly.open_classifier(config, plan)
    if classifier.card.stand_in and err.is_terminal:
        first = next(iter(weights.read_manifest(config.manifest, config.data_dir)))
        remedy = f"for {first}, run `eyespot weights fetch {first}`"
        err.print(f"Using the stand-in {classifier.card.name}; {remedy}", style="dim", markup=False)
    return Backend.of(classifier, options, plan.workers)


def remote(url: str, options: "Options", workers: int | None, wait: float) -> Backend:
    """The server at `url`, retried for `wait` seconds. Raises `EyespotError` if `/model` fails."""
    load_settings()
    client = eyespot.Client(url, retry_seconds=wait)
    shown = str(client.public_url)
    with shown_waiting(shown):
        card = client.model()
    options = _within(options, card)

    model = ModelInfo(card.name, card.digest, card.engine, card.precision)

    def recognise(path: str) -> Finding:
        found = client.predict(path, **options)
        return Finding(path, found.says, found.groups, found.predictions, found.image, model)

    return Backend(recognise, model, workers or 8, shown, client.close)


def _within(options: "Options", card: ModelCard) -> "Options":
    """The options for a model that may have fewer classes than the default top-k."""
    top_k, most = options["top_k"], card.limits.max_top_k
    if top_k > max(most, DEFAULT_TOP_K):
        raise InvalidParameter(f"--top-k must be from 1 to {most:,}, the number of classes; it is {top_k:,}.")
    return {**options, "top_k": min(top_k, most)}
