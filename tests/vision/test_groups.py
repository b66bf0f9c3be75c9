"""The groups of an answer, and what it says."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyespot.types import Answer, Calibration, Lang, Says
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import softmax
from eyespot.vision.groups import Groups
from eyespot.vision.labels import ClassRow, GroupRow, Labels, load_labels, upwards
from eyespot.vision.scores import Scores
from tests import makers
from tests.serving import ROOT, FakeEngine, fake_classifier

IMAGENET = load_labels("imagenet1k", [ROOT / "labels"])
GROUPS = Groups(IMAGENET)
CATS = Labels(
    (
        ClassRow(0, "n0", "tabby", "虎斑猫", group="animal/mammal/cat"),
        ClassRow(1, "n1", "Persian cat", "波斯猫", group="animal/mammal/cat"),
        ClassRow(2, "n2", "sloth", "树懒", group="animal/mammal"),
        ClassRow(3, "n3", "robin", "旅鸫", group="animal"),
        ClassRow(4, "n4", "cup", "杯子", group="object"),
        ClassRow(5, "n5", "web site", "网站"),
    ),
    (
        GroupRow("animal/mammal/cat", "cat", "猫"),
        GroupRow("animal/mammal", "mammal", "哺乳动物"),
        GroupRow("object", "object", "物品"),
        GroupRow("animal", "animal", "动物"),
    ),
)


def scored(groups: Groups, confidences: npt.NDArray[np.float32]) -> Scores:
    order = np.argsort(-confidences, kind="stable").astype(np.int32)
    ordered = confidences[order]
    return Scores(order, ordered, groups.likeliest(order, ordered), "PNG", 1, 1, 1)


def answered(confidences: list[float], min_says: float = 0.75, lang: Lang = "en", labels: Labels = CATS) -> Answer:
    classifier = fake_classifier(FakeEngine())
    classifier.labels, classifier.groups = labels, Groups(labels)
    classifier.calibration = Calibration(min_says=min_says)
    return classifier.answer(scored(classifier.groups, np.array(confidences, np.float32)), 3, lang=lang)


def test_the_class_that_is_none_of_the_others_is_not_said() -> None:
    classes = (
        ClassRow(0, "", "rose", group="flower"),
        ClassRow(1, "", "tulip", group="flower"),
        ClassRow(2, "", "other", other=True),
    )
    flowers = Labels(classes, (GroupRow("flower", "flower"),))
    found = answered([0.02, 0.08, 0.9], labels=flowers)
    assert found["says"] == Says("unsure", None, "unsure", 0.1)
    assert found["predictions"][0].label == "other"
    assert answered([0.78, 0.02, 0.2], labels=flowers)["says"].label == "rose"
    assert answered([0.4, 0.4, 0.2], labels=flowers)["says"].label == "flower"
    without_groups = Labels(tuple(replace(row, group=None) for row in classes))
    assert answered([0.02, 0.08, 0.9], labels=without_groups)["says"] == Says("unsure", None, "unsure", 0.08)


def summed(scores: Scores, group: str) -> float:
    """The confidences of all classes in a group, added up one by one."""
    inside = [group in upwards(IMAGENET.classes[class_id].group) for class_id in scores.class_ids]
    return float(scores.confidences[inside].sum(dtype=np.float64))


@st.composite
def confidences(draw: st.DrawFn) -> npt.NDArray[np.float32]:
    """Of one image over all classes; from all but certain to all but equal."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return softmax(random.normal(size=1000).astype(np.float32), draw(st.floats(0.02, 10)))


@settings(max_examples=40)  # each sums 98 groups
@given(confidences())
def test_groups_are_sums_over_all_their_classes(confidences: npt.NDArray[np.float32]) -> None:
    scores = scored(GROUPS, confidences)
    sums = GROUPS.confidences(scores.class_ids, scores.confidences)
    for row, total in zip(IMAGENET.groups, sums, strict=True):
        assert abs(total - summed(scores, row.id)) <= 1e-9
    for group in GROUPS.named(scores.groups):
        assert abs(group.confidence - summed(scores, group.id)) <= 1e-6


@given(confidences(), st.floats(0.50001, 1))
def test_groups_are_one_path_upwards_around_what_is_said(confidences: npt.NDArray[np.float32], min_says: float) -> None:
    found = answered(confidences.tolist(), min_says, labels=IMAGENET)
    said, groups = found["says"], found["groups"]
    assert [group.id for group in groups] == list(upwards(groups[0].id))
    assert all(inner.confidence <= outer.confidence <= 2 * inner.confidence + 1e-5 for inner, outer in pairwise(groups))
    assert said.kind == "unsure" or said.confidence >= min_says
    if said.kind == "class":
        own = [row.group for row in IMAGENET.classes if row.wnid == said.id]
        assert {group.id for group in groups} <= set(upwards(*own))
    if said.kind == "group":
        assert said.id in [group.id for group in groups]


@pytest.mark.parametrize(
    ("confidences", "said"),
    [
        ([0.75, 0.25, 0, 0, 0, 0], Says("class", "n0", "tabby", 0.75)),
        ([0.5, 0.25, 0, 0, 0.25, 0], Says("group", "animal/mammal/cat", "cat", 0.75)),
        ([0.5, 0, 0.25, 0, 0.25, 0], Says("group", "animal/mammal", "mammal", 0.75)),
        ([0.5, 0, 0, 0.25, 0.25, 0], Says("group", "animal", "animal", 0.75)),
        ([0.5, 0, 0.125, 0, 0.375, 0], Says("unsure", None, "unsure", 0.625)),
        ([0.74, 0, 0, 0, 0.26, 0], Says("unsure", None, "unsure", 0.74)),
        ([0, 0, 0, 0, 0.25, 0.75], Says("class", "n5", "web site", 0.75)),  # which is in no group
        ([0.2, 0, 0, 0, 0.1, 0.7], Says("unsure", None, "unsure", 0.7)),
    ],
)
def test_a_group_is_said_where_no_class_is_certain_enough(confidences: list[float], said: Says) -> None:
    assert answered(confidences)["says"] == said
    if said.kind != "unsure":
        assert answered(confidences, said.confidence + 1e-6)["says"] != said


def test_the_path_ends_where_no_group_has_most_of_it() -> None:
    half, more = (answered([cats, 0, 0.5 - cats, 0.375, 0.125, 0])["groups"] for cats in (0.25, 0.26))
    assert [(group.id, group.confidence) for group in half] == [("animal/mammal", 0.5), ("animal", 0.875)]
    assert [group.id for group in more] == ["animal/mammal/cat", "animal/mammal", "animal"]


def test_what_is_said_has_a_language() -> None:
    assert answered([0.5, 0.25, 0, 0, 0.25, 0], lang="zh")["says"].label == "猫"
    assert answered([1, 0, 0, 0, 0, 0], lang="zh")["says"].label == "虎斑猫"
    assert answered([0.5, 0, 0, 0, 0.5, 0], lang="zh")["says"].label == "不确定"


def test_a_model_without_groups_says_a_class_or_nothing() -> None:
    labels = Labels(tuple(replace(row, group=None) for row in CATS.classes))
    certain, uncertain = (answered([top, 1 - top, 0, 0, 0, 0], labels=labels) for top in (0.8, 0.7))
    assert (certain["groups"], uncertain["groups"]) == ([], [])
    assert (certain["says"].kind, uncertain["says"]) == ("class", Says("unsure", None, "unsure", 0.7))


def test_a_minimum_confidence_does_not_change_what_is_said() -> None:
    classifier = fake_classifier(FakeEngine())
    scores = classifier.scores(makers.encode(makers.flat((300, 200)), "PNG"))
    everything, nothing = classifier.answer(scores, 3), classifier.answer(scores, 3, min_confidence=1)
    assert nothing == {**everything, "predictions": []}


@pytest.fixture(scope="module")
def classifier(data_dir: Path) -> Classifier:
    manifest = ROOT / "weights" / "manifest.toml"
    return Classifier.open(manifest, "efficientnet-lite0", precision="f32", data_dir=data_dir)


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "astronaut"])
def test_the_groups_of_a_photograph_are_exact(classifier: Classifier, name: str) -> None:
    scores = classifier.scores(makers.jpeg(name))
    groups = classifier.answer(scores, 3)["groups"]
    assert groups
    for group in groups:
        assert abs(group.confidence - summed(scores, group.id)) <= 1e-6


def test_a_photograph_is_called_by_its_group_where_breeds_are_uncertain(classifier: Classifier) -> None:
    found = classifier.answer(classifier.scores(makers.jpeg("chelsea")), 1)
    assert (found["says"].kind, found["says"].label) == ("group", "cat")
    assert found["predictions"][0].confidence < classifier.calibration.min_says


def test_min_says_decides_what_is_enough(data_dir: Path) -> None:
    manifest = ROOT / "weights" / "manifest.toml"
    said = {}
    for least in (0.5, 1):
        strict = Classifier.open(manifest, "efficientnet-lite0", precision="f32", data_dir=data_dir, min_says=least)
        said[least] = strict.answer(strict.scores(makers.jpeg("coffee")), 1)["says"]
    assert (said[0.5].kind, said[0.5].label, said[1].kind) == ("class", "espresso", "unsure")


def test_a_group_of_nothing_is_not_likely() -> None:
    labels = Labels((ClassRow(0, "n0", "a"),), (GroupRow("empty", "empty"),))
    assert Groups(labels).likeliest(np.array([0], np.int32), np.array([1], np.float32)) == ()
