"""The charts of an evaluation, as PNG."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.figure import Figure

from eyespot.vision.confusion import classes, confusions
from eyespot.vision.evaluation import Evaluation, bins
from eyespot.vision.samples import Samples

_MOST = 30  # classes in the matrix
_LONGEST = 26  # characters of a class's name
_BLUE, _GREY = "#2a6f97", "#9aa5ad"
# Those after the first draw what it lacks, such as Chinese, where they are installed.
_FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"]
_FONTS += ["PingFang SC", "Hiragino Sans GB", "Microsoft YaHei"]


def confusion_matrix(samples: Samples) -> bytes:
    """What the images of each class were recognised as; of more than 30 classes, those that are confused most often."""
    every = sorted(row.class_id for row in classes(samples))
    confused = dict.fromkeys(class_id for pair in confusions(samples) for class_id in (pair.true, pair.found))
    chosen = every if len(every) <= _MOST else sorted([*dict.fromkeys([*confused, *every])][:_MOST])
    counts, images = _counts(samples, chosen)
    with _style():
        figure = Figure(figsize=(3.5 + 0.32 * len(chosen), 3.5 + 0.32 * len(chosen)), dpi=120, layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(counts / np.maximum(images, 1)[:, None], cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(counts):
            color = "white" if counts[row, column] > images[row] / 2 else "black"
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=8, color=color)
        names = _names(samples, chosen)
        axes.set_xticks(range(len(chosen)), names, rotation=90)
        axes.set_yticks(range(len(chosen)), names)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(np.arange(len(chosen) - 1) + 0.5, minor=True)
            axis.grid(which="minor", color="white")
        axes.tick_params(which="minor", length=0)
        axes.set(xlabel="recognised as", ylabel="true class")
        part = f"the {_MOST} most confused of {len(every)} classes" if len(every) > _MOST else "number of images"
        figure.suptitle(f"Confusion matrix: {part}", x=0.01, ha="left")
        return _png(figure)


def reliability(found: Evaluation) -> bytes:
    """How often the likeliest class is right by its confidence, with 95 % intervals, over the number of images."""
    parts = bins(found.candidates.confidences[:, 0], found.candidates.right[:, 0])
    confidences = [part.confidence for part in parts]
    value, low, high = np.array([part.right for part in parts]).T
    with _style():
        figure = Figure(figsize=(6, 6.5), dpi=120, layout="constrained")
        upper, lower = figure.subplots(2, sharex=True, height_ratios=[4, 1])
        upper.plot([0, 1], [0, 1], color=_GREY, linestyle="--", label="perfectly calibrated")
        bounds = np.maximum([value - low, high - value], 0)
        upper.errorbar(confidences, value, bounds, color=_BLUE, marker="o", capsize=3, label="this model")
        upper.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="accuracy")
        upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
        lower.bar(confidences, [part.images for part in parts], width=0.03, color=_BLUE)
        lower.set(xlabel="confidence of the likeliest class", ylabel="images")
        figure.suptitle("Reliability: accuracy by confidence", x=0.01, ha="left")
        return _png(figure)


def _counts(samples: Samples, chosen: list[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Images by true and found class, among those chosen, and all images of each."""
    place = np.full(len(samples.labels), len(chosen))
    place[chosen] = range(len(chosen))
    counts = np.zeros((len(chosen) + 1, len(chosen) + 1), np.int64)
    np.add.at(counts, (place[samples.truth], place[samples.found]), 1)
    return counts[:-1, :-1], counts[:-1].sum(1)


def _names(samples: Samples, chosen: list[int]) -> list[str]:
    """The names of classes, or their class_ids where no font has the characters."""
    fonts = font_manager.fontManager
    known = {char for family in _installed() for char in font_manager.get_font(fonts.findfont(family)).get_charmap()}
    names = {class_id: samples.labels.names["en"][class_id] for class_id in chosen}
    short = {key: name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for key, name in names.items()}
    return [name if known.issuperset(map(ord, name)) else f"class {key}" for key, name in short.items()]


@contextmanager
def _style() -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcParams["font.family"] = _installed()
        mpl.rcParams["text.parse_math"] = False  # for names with dollar signs
        mpl.rcParams["figure.titlesize"] = 11
        mpl.rcParams["axes.spines.top"] = mpl.rcParams["axes.spines.right"] = False
        yield


def _installed() -> list[str]:
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in _FONTS if name in installed]


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
