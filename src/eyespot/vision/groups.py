"""The confidences of groups, and the most specific thing that they justify saying.

Backing off from a class to a group until one is certain enough is from Deng et al., "Hedging Your Bets", CVPR 2012.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from eyespot.types import GroupScore, Lang, Prediction, Says
from eyespot.vision.engines import Confidences
from eyespot.vision.labels import Labels, upwards

Likeliest: TypeAlias = tuple[tuple[int, float], ...]
"""Some groups by their places in the label file, with their confidences; most specific first."""

UNSURE: dict[Lang, str] = {"en": "unsure", "zh": "不确定"}


class Groups:
    """The tree of groups over the classes of a model."""

    def __init__(self, labels: Labels) -> None:
        """Without groups in the label file, answers have none."""
        self._names = labels.group_names
        self._ids = [row.id for row in labels.groups]
        index = {group: number for number, group in enumerate(self._ids)}
        none = len(index)  # of the classes that are in no group
        self._of_class = np.array([index[row.group] if row.group else none for row in labels.classes])
        # [a, b] is 1 where group b is a or below it, so that one product adds up all groups.
        self._covers = np.zeros((none, none + 1))
        self._below: dict[int, list[int]] = {}
        for number, group in enumerate(self._ids):
            above = [index[name] for name in upwards(group)]
            self._covers[above, number] = 1
            self._below.setdefault(above[1] if len(above) > 1 else none, []).append(number)

    def confidences(self, class_ids: npt.NDArray[np.int32], confidences: Confidences) -> npt.NDArray[np.float64]:
        """The sum over all classes of each group, from the confidences of all classes in the order of `class_ids`."""
        own = np.bincount(self._of_class[class_ids], weights=confidences, minlength=len(self._ids) + 1)
        return self._covers @ own

    def likeliest(self, class_ids: npt.NDArray[np.int32], confidences: Confidences) -> Likeliest:
        """The likeliest top group, and on from it each subgroup with more than half of its parent's confidence."""
        sums = self.confidences(class_ids, confidences).tolist()
        return tuple((number, round(min(sums[number], 1), 6)) for number in self._path(sums))[::-1]

    def named(self, likeliest: Likeliest, lang: Lang = "en") -> list[GroupScore]:
        """The groups with their ids and names."""
        ids, names = self._ids, self._names[lang]
        return [GroupScore(ids[number], names[number], confidence) for number, confidence in likeliest]

    def _path(self, sums: list[float]) -> Iterator[int]:
        half = 0.0
        group = len(self._ids)
        while group in self._below:
            group = max(self._below[group], key=sums.__getitem__)
            if sums[group] <= half:
                break
            yield group
            half = sums[group] / 2


def says(
    classes: list[Prediction], groups: list[GroupScore], min_says: float, lang: Lang = "en", other: int | None = None
) -> Says:
    """The likeliest class, if its confidence is at least `min_says`, or else the first group with as much; or unsure.

    `classes` are at least the two likeliest; `other` is never said. `min_says` is at least 0.5, so a class that is said
    belongs to all the likeliest groups.
    """
    top = classes[0]
    if top.class_id != other and top.confidence >= min_says:
        return Says("class", top.wnid or str(top.class_id), top.label, top.confidence)
    for group in groups:
        if group.confidence >= min_says:
            return Says("group", group.id, group.label, group.confidence)
    rest = [found.confidence for found in classes if found.class_id != other]
    return Says("unsure", None, UNSURE[lang], max(rest + [group.confidence for group in groups], default=0))
