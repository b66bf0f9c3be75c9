"""The last layer, beside scikit-learn's logistic regression."""

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from eyespot.errors import BadDataset
from eyespot.vision.finetune import head

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]


def clusters(classes: int = 8, each: int = 40, channels: int = 64, spread: float = 2.2) -> Arrays:
    """Features that overlap, of very different sizes as those of a network are."""
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(classes), each)
    centers = random.normal(0, 1, (classes, channels))
    sizes = random.uniform(0.1, 3, channels)
    return ((centers[truth] + random.normal(0, spread, (len(truth), channels))) * sizes).astype(np.float32), truth


def test_it_is_as_good_as_a_logistic_regression_of_scikit_learn() -> None:
    features, truth = clusters()
    fold = head.folds(truth, 0)
    logits, _ = head.cross_validate(features, truth, fold)
    other = np.empty_like(truth)
    for number in range(head.FOLDS):
        seen = fold != number
        with threadpool_limits(1):  # several took 20 times as long beside other processes
            fitted = LogisticRegression(max_iter=5000).fit(features[seen], truth[seen])
        other[~seen] = fitted.predict(features[~seen])
    accuracy, reference = (logits.argmax(1) == truth).mean(), (other == truth).mean()
    assert 0.6 < reference < 0.95
    assert reference - 0.01 <= accuracy < reference + 0.05


def test_every_fold_has_its_share_of_every_class() -> None:
    truth = np.repeat([0, 1, 2], [40, 7, 5])
    fold = head.folds(truth, 3)
    assert [np.bincount(fold[truth == class_id]).tolist() for class_id in (0, 2)] == [[8] * 5, [1] * 5]
    assert sorted(np.bincount(fold[truth == 1])) == [1, 1, 1, 2, 2]
    assert max(np.bincount(fold)) - min(np.bincount(fold)) <= 1
    assert np.bincount(head.folds(np.repeat(range(6), 6), 0)).tolist() == [8, 7, 7, 7, 7]
    assert (head.folds(truth, 3) == fold).all()
    assert (head.folds(truth, 4) != fold).any()


def test_images_held_out_are_not_trained_on() -> None:
    features, truth = clusters()
    held_out = head.folds(truth, 0) == 0
    trained = head.train(features, truth, held_out, 5)
    changed = features.copy()
    changed[held_out] += 100
    assert (head.train(changed, truth, held_out, 5).weight == trained.weight).all()
    assert trained.steps == 5


def test_the_final_head_stops_where_the_others_did() -> None:
    features, truth = clusters()
    _, heads = head.cross_validate(features, truth, head.folds(truth, 0))
    final = head.train_on_all(features, truth, heads)
    assert min(one.steps for one in heads) <= final.steps <= max(one.steps for one in heads)
    assert (final.logits(features).argmax(1) == truth).mean() > 0.9


def test_a_small_class_is_not_drowned_by_large_ones() -> None:
    features, truth = clusters(classes=2, each=300, channels=8, spread=1)
    few = np.flatnonzero((truth == 0) | (np.arange(len(truth)) % 20 == 0))
    logits, _ = head.cross_validate(features[few], truth[few], head.folds(truth[few], 0))
    small = truth[few] == 1
    assert small.sum() == 15
    assert (logits.argmax(1)[small] == 1).mean() > 0.7


def test_features_that_are_no_numbers_are_an_error() -> None:
    features, truth = clusters()
    features[3, 3] = np.nan
    with pytest.raises(BadDataset, match="not numbers"):
        head.cross_validate(features, truth, head.folds(truth, 0))
