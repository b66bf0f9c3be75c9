"""What computes: a Protocol over numpy, with one engine a module; nothing outside an engine imports its library."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]
Confidences = npt.NDArray[np.float32]
Features = npt.NDArray[np.float32]


class Engine(Protocol):
    """One loaded network.

    `infer` may be called from several threads at once. Its input is uint8 RGB of shape (n, side, side, 3), as it was
    decoded. It returns float32 logits of shape (n, classes) and, when asked, the last feature map, float32 of shape
    (n, channels, height, width). A call that is `exclusive` may use every core that the process has; others share them.
    """

    name: str
    precision: str

    def infer(
        self, pixels: Pixels, *, features: bool = False, exclusive: bool = False
    ) -> tuple[Logits, Features | None]: ...


TEMPERATURE = 1.0  # what logits are divided by; one network's confidences can be calibrated with another


def softmax(logits: Logits) -> Confidences:
    """Confidences, float32 of the same shape (classes,), from logits."""
    powers = np.exp((logits.astype(np.float64) - logits.max()) / TEMPERATURE)
    confidences: Confidences = (powers / powers.sum()).astype(np.float32)
    return confidences
