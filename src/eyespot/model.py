"""The model that serves, and its replacement by another while requests run."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeAlias

from eyespot.errors import ModelUnavailable
from eyespot.telemetry import Metrics, event
from eyespot.types import ModelCard
from eyespot.vision.classifier import Classifier

OpenModel: TypeAlias = Callable[[str], Classifier]
"""Opens the manifest's model of that name, and checks the golden image. Raises `StartError`."""


class ServedModel:
    """The present model.

    A request reads `classifier` once and passes it on, so that its whole answer comes from one model. Its memory is
    freed when the last request that has it ends.
    """

    def __init__(self, classifier: Classifier, name: str, open_model: OpenModel, metrics: Metrics) -> None:
        """`name` is what `classifier` was opened by; it may be `auto`."""
        self._name = name
        self._open = open_model
        self._metrics = metrics
        self._switching = asyncio.Lock()
        self._serve(classifier)

    @property
    def is_switching(self) -> bool:
        """Whether another model is being opened."""
        return self._switching.locked()

    async def switch(self, name: str | None = None) -> ModelCard:
        """Open a model beside the present one, by default the same anew, and serve it once it is warm.

        A second switch waits for the first, because each open model takes memory.

        Raises:
            ModelUnavailable: it cannot be opened. The present one keeps serving.
        """
        async with self._switching:
            name = self._name if name is None else name
            try:
                classifier = await asyncio.to_thread(self._open, name)
            except Exception as error:  # an engine without memory raises RuntimeError
                event("model_switch_failed", logging.ERROR, model=name, reason=str(error))
                raise ModelUnavailable(f"The model was not switched: {error}.") from error
            self._name = name
            self._serve(classifier)
        event("model_switched", **asdict(classifier.info))
        return classifier.card

    def _serve(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self._metrics.model_info.clear()
        self._metrics.model_info.labels(**asdict(classifier.info)).set(1)
