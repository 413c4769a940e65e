"""The counts baseline: agreement with plain loops and scikit-learn, bad input, saving."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from seqbook.data.events import LogError
from seqbook.data.sequences import Sequences, Vocabulary
from seqbook.models.classical import (
    DAY,
    WINDOWS,
    CountsClassifier,
    MajorityClassifier,
    check_labels,
    read_manifest,
    simple_counts,
)

NAMES = ["view", "cart", "buy"]
VOCABULARY = Vocabulary(np.array(NAMES, object))


def histories(lists, ages=None) -> Sequences:
    """Sequences of behaviour codes; ages are days before the cutoff."""
    lengths = [len(one) for one in lists]
    fields = {"behavior": np.array([code for one in lists for code in one], "int32")}
    if ages is not None:
        fields["log_age"] = np.log1p(np.array([a for one in ages for a in one], "float64") * DAY).astype(
            "float32"
        )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("int64")
    return Sequences(fields, offsets, np.arange(len(lists)), {"behavior": VOCABULARY})


def random_histories(n=400, seed=0):
    """Histories, and labels that carts make likelier."""
    rng = np.random.default_rng(seed)
    lists = [rng.choice([2, 3, 4], rng.integers(0, 15), p=[0.7, 0.2, 0.1]).tolist() for _ in range(n)]
    ages = [np.sort(rng.uniform(0, 60, len(one)))[::-1].tolist() for one in lists]
    carts = np.array([sum(code == 3 for code in one) for one in lists])
    return histories(lists, ages), (rng.random(n) < 1 / (1 + np.exp(2 - carts))).astype(int)


events = st.lists(st.tuples(st.sampled_from([1, 2, 3, 4]), st.floats(0.001, 90)), max_size=12)


@given(st.lists(events, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_a_loop(lists):
    lists = [sorted(one, key=lambda event: -event[1]) for one in lists]
    X = histories([[code for code, _ in one] for one in lists], [[age for _, age in one] for one in lists])
    table, days = simple_counts(X), np.expm1(X.fields["log_age"].astype("float64")) / DAY
    for i, one in enumerate(lists):
        ages = days[X.offsets[i] : X.offsets[i + 1]]
        assert table["events"][i] == len(one)
        for code, name in enumerate(NAMES, 2):
            flags = np.array([c == code for c, _ in one], bool)
            assert table[name][i] == flags.sum()
            for window in WINDOWS:
                assert table[f"{name}_{window}d"][i] == (flags & (ages <= window)).sum()
        assert table["recency"][i] == pytest.approx(1 / (1 + ages[-1]) if len(one) else 0)
        assert table["tenure"][i] == pytest.approx(ages[0] if len(one) else 0)


def test_is_a_logistic_regression_on_log_counts():
    X, y = random_histories()
    inputs = StandardScaler().fit_transform(np.log1p(simple_counts(X)))
    peer = LogisticRegression(max_iter=2000).fit(inputs, y).predict_proba(inputs)
    np.testing.assert_allclose(CountsClassifier().fit(X, y).predict_proba(X), peer, atol=1e-6)


def test_scale_comes_from_the_training_part_alone():
    (X, y), (other, _) = random_histories(seed=1), random_histories(seed=2)
    model = CountsClassifier().fit(X, y)
    one = model.predict_proba(other[:1])
    np.testing.assert_allclose(model.predict_proba(other)[:1], one, rtol=1e-12)


def test_learns_what_can_be_learned_and_is_a_scikit_learn_model():
    (X, y), (other, z) = random_histories(1000), random_histories(1000, seed=3)
    model = clone(CountsClassifier(C=0.5)).fit(X, y)
    assert model.get_params() == {"C": 0.5}
    assert model.score(other, z) > MajorityClassifier().fit(X, y).score(other, z) + 0.02
    assert list(model.weights().index) == list(simple_counts(X))


def test_majority_gives_the_shares():
    X, y = random_histories()
    proba = MajorityClassifier().fit(X, y).predict_proba(X)
    np.testing.assert_allclose(proba, np.tile([1 - y.mean(), y.mean()], (len(X), 1)))


@pytest.mark.parametrize("labels", [[0, 0, 0], [], [0, 1], [0, 1, None]])
def test_labels_of_which_nothing_can_be_learned(labels):
    X = histories([[2], [3], [4]])[: 0 if not labels else None]
    with pytest.raises(LogError):
        check_labels(X, np.array(labels, object if None in labels else None))


@pytest.mark.parametrize("model", [CountsClassifier(), MajorityClassifier()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("classes", [[0, 1], ["no", "yes"], ["buy", "end", "view"]], ids=str)
def test_saved_and_loaded_it_is_the_same(tmp_path, model, classes):
    X, _ = random_histories()
    y = np.array(classes)[np.arange(len(X)) % len(classes)]
    model = clone(model).fit(X, y)
    again = type(model).load(model.save(tmp_path / "model"))
    np.testing.assert_allclose(again.predict_proba(X), model.predict_proba(X), rtol=1e-12)
    assert again.predict(X).tolist() == model.predict(X).tolist()
    assert again.get_params() == model.get_params()


def damage(folder, how):
    """Make a saved model unreadable."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    if how == "none":
        path.unlink()
    elif how == "torn":
        path.write_text(path.read_text()[:40])
    elif how == "newer":
        path.write_text(json.dumps(manifest | {"format_version": 999, "seqbook": "99.0"}))
    else:
        path.write_text(json.dumps(manifest | {"format": "seqbook.Other"}))


@pytest.mark.parametrize(
    "how, message",
    [
        ("none", "not a saved seqbook model"),
        ("torn", "damaged"),
        ("newer", "99.0"),
        ("other", "seqbook.Other"),
    ],
)
def test_a_folder_that_is_no_model(tmp_path, how, message):
    X, y = random_histories()
    folder = CountsClassifier().fit(X, y).save(tmp_path / "model")
    damage(folder, how)
    with pytest.raises(LogError, match=message):
        CountsClassifier.load(folder)


def test_manifest_names_the_version(tmp_path):
    X, y = random_histories()
    assert read_manifest(CountsClassifier().fit(X, y).save(tmp_path))["seqbook"]
    assert isinstance(simple_counts(X), pd.DataFrame)
