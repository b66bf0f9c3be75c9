"""What a model makes of one image, and its packed form for the cache."""

import builtins
import struct
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from eyespot.vision.activation import Activation
from eyespot.vision.engines import Confidences, Embedding
from eyespot.vision.groups import Likeliest

_PACKED = b"eye3"
_HEAD = struct.Struct("<4s8sIIII")  # _PACKED, format, width, height, bytes, number of groups
_GROUP = struct.Struct("<id")


@dataclass(frozen=True, slots=True)
class Scores:
    """The confidences for one image, over all classes, highest first, and its likeliest groups.

    `class_ids` is int32 and `confidences` float32, both of shape (classes,); confidences are in [0, 1] and sum to 1.
    `width` and `height` are pixels of the upright image, `bytes` the size of the encoded one. `activation` is set by
    `Classifier.explain` only, `embedding` where it was asked for. The groups are kept because adding them up takes a
    tenth of a cached answer's time.
    """

    class_ids: npt.NDArray[np.int32]
    confidences: Confidences
    groups: Likeliest
    format: str
    width: int
    height: int
    bytes: int
    activation: Activation | None = None
    embedding: Embedding | None = None

    def pack(self) -> builtins.bytes:
        """As bytes for `unpack`, without activation and embedding: a header, 8 for each class and 12 for each group."""
        head = _HEAD.pack(_PACKED, self.format.encode(), self.width, self.height, self.bytes, len(self.groups))
        groups = (_GROUP.pack(*group) for group in self.groups)
        return b"".join((head, self.class_ids.tobytes(), self.confidences.tobytes(), *groups))

    @classmethod
    def unpack(cls, packed: builtins.bytes, classes: int) -> Self:
        """Raises `ValueError` if these are not packed `Scores` over that number of classes."""
        arrays_end = _HEAD.size + 8 * classes
        if len(packed) < arrays_end or not packed.startswith(_PACKED):
            raise ValueError(f"not packed scores over {classes} classes")
        _, kind, width, height, size, groups = _HEAD.unpack_from(packed)
        if len(packed) != arrays_end + _GROUP.size * groups:
            raise ValueError(f"not packed scores over {classes} classes")
        class_ids = np.frombuffer(packed, np.int32, classes, _HEAD.size)
        confidences = np.frombuffer(packed, np.float32, classes, _HEAD.size + 4 * classes)
        likeliest = tuple(_GROUP.iter_unpack(packed[arrays_end:]))
        return cls(class_ids, confidences, likeliest, kind.rstrip(b"\0").decode(), width, height, size)
