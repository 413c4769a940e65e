"""Classical models: agreement with their equations and scikit-learn, no leaks, bad input, saving."""

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, root_mean_squared_error
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.naive_bayes import BernoulliNB, ComplementNB
from sklearn.preprocessing import StandardScaler

from seqbook.data.datasets import load_shoppers_intention, simulate_shop
from seqbook.data.events import LogError
from seqbook.data.features import FeatureBuilder, NGrams
from seqbook.data.sequences import Sequences, Vocabulary
from seqbook.data.tasks import Purchase, RollingSplit, Spend, TimeSplit
from seqbook.models.classical import (
    CLASSIFIERS,
    DAY,
    KINDS,
    MODEL_FILE,
    REGRESSORS,
    WINDOWS,
    Calibrated,
    CountsClassifier,
    MajorityClassifier,
    NearestNeighbours,
    Preparation,
    TwoPartRegressor,
    _is_trusted,
    _prepared_folds,
    check_labels,
    feature_importances,
    load_model,
    make_classifier,
    make_regressor,
    plot_importances,
    read_manifest,
    replacing,
    save_model,
    simple_counts,
    tune,
    write_manifest,
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


# ---- the models by name


@pytest.fixture(scope="module")
def shop_examples():
    """A small simulated shop: purchase examples and their split by time."""
    examples = Purchase("7d").examples(simulate_shop(n_users=500, seed=3).events)
    return examples, *next(TimeSplit().split(examples))


@pytest.fixture(scope="module")
def shop_tables(shop_examples):
    """The same as tables of features."""
    examples, train, test = shop_examples
    builder = FeatureBuilder(families=("frequency", "interval"), windows=("7d", "30d", None))
    return builder.fit_transform(examples[train]), builder.transform(examples[test])


@pytest.fixture(scope="module")
def spend_examples():
    """Examples with the amount of the next 30 days."""
    examples = Spend("30d").examples(simulate_shop(n_users=500, seed=3).events)
    return examples, *next(TimeSplit().split(examples))


def mixed_table(n=400, seed=0, colours=("red", "blue", "green")):
    """Numbers with gaps and tails, flags and categories; labels that follow the first and the colour."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "price": rng.lognormal(3, 1, n),
            "gap": np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
            "weekend": rng.random(n) < 0.3,
            "colour": rng.choice(colours, n),
            "source": pd.Categorical(rng.choice(["mail", "shop", None], n)),
        }
    )
    z = np.log(table["price"]) - 3.5 + 2 * (table["colour"] == "red")
    return table, (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int).to_numpy()


def zero_inflated(n=4000, seed=0):
    """Inputs, amounts that are zero or log-normal, and their true expectations."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    chance, mean = 1 / (1 + np.exp(1 - x[:, 0])), 3 + 0.5 * x[:, 1]
    amounts = np.where(rng.random(n) < chance, np.exp(mean + rng.normal(0, 0.7, n)), 0)
    return pd.DataFrame(x, columns=list("abc")), amounts, chance * np.exp(mean + 0.7**2 / 2)


SLIM = FeatureBuilder(families=("frequency",), windows=("7d", None))
SMALL = {"forest": {"n_estimators": 20}, "knn": {"n_neighbors": 20}, "svm": {"most": 400}}


def answer(model, X):
    """What a classifier or a regressor says."""
    return model.predict_proba(X) if hasattr(model, "predict_proba") else model.predict(X)


@pytest.mark.parametrize("inputs", [SLIM, "ngrams"], ids=["features", "ngrams"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_take_examples_and_come_back_from_a_file(tmp_path, shop_examples, name, inputs):
    examples, train, test = shop_examples
    rows, asked = train[::3], examples[test[::3]]
    model = make_classifier(name, inputs, seed=1, **SMALL.get(name, {})).fit(examples[rows])
    proba = model.predict_proba(asked)
    assert proba.shape == (len(asked), 2) and model.classes_.tolist() == [0, 1]
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    again = load_model(save_model(model, tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(asked), proba)


@pytest.mark.parametrize("inputs", [SLIM, "ngrams"], ids=["features", "ngrams"])
@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors_take_examples_and_come_back_from_a_file(tmp_path, spend_examples, name, inputs):
    examples, train, test = spend_examples
    model = make_regressor(name, inputs, seed=1, **({"n_estimators": 20} if name == "forest" else {}))
    amounts = model.fit(examples[train]).predict(examples[test])
    assert amounts.shape == (len(test),) and amounts.min() >= 0
    assert amounts.max() <= examples.label[train].max()
    again = load_model(save_model(model, tmp_path / "model"))
    np.testing.assert_array_equal(again.predict(examples[test]), amounts)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_beats_the_majority(shop_examples, shop_tables, name):
    examples, train, test = shop_examples
    table, later = shop_tables
    model = make_classifier(name, **SMALL.get(name, {}))
    model.fit(table, examples.label[train], groups=examples.ids[train])
    assert roc_auc_score(examples.label[test], model.predict_proba(later)[:, 1]) > 0.65


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_are_deterministic_and_take_unseen_categories(name):
    (table, y), (other, _) = mixed_table(), mixed_table(50, 1, colours=("violet", "red"))
    once, twice = (make_classifier(name, seed=5).fit(table, y).predict_proba(other) for _ in range(2))
    np.testing.assert_array_equal(once, twice)
    assert np.isfinite(once).all()


@pytest.mark.parametrize("name", sorted(set(REGRESSORS) - {"rfm"}))
def test_regressors_are_deterministic_and_take_unseen_categories(name):
    (table, _), (other, _) = mixed_table(), mixed_table(50, 1, colours=("violet", "red"))
    amounts = table["price"].to_numpy() * (table["colour"] == "red")
    once, twice = (make_regressor(name, seed=5).fit(table, amounts).predict(other) for _ in range(2))
    np.testing.assert_array_equal(once, twice)
    assert np.isfinite(once).all() and once.min() >= 0


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_three_classes_with_text(name):
    table, y = mixed_table()
    labels = np.array(["buy", "cart", "end"])[y + (table["gap"] > 1).to_numpy()]
    model = make_classifier(name).fit(table, labels)
    assert model.classes_.tolist() == ["buy", "cart", "end"]
    assert model.predict_proba(table).shape == (len(table), 3)
    assert np.mean(model.predict(table) == labels) > 0.5


def naive_bayes_by_hand(x, y, alpha=1.0):
    """Multinomial naive Bayes from its equation."""
    counts = np.array([x[y == k].sum(axis=0) for k in (0, 1)]) + alpha
    logs = np.log(counts / counts.sum(axis=1, keepdims=True))
    z = x @ logs.T + np.log(np.bincount(y) / len(y))
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def test_naive_bayes_is_its_equation():
    rng = np.random.default_rng(0)
    x, y = rng.poisson(2, (200, 6)), rng.integers(0, 2, 200)
    for table in (x, pd.DataFrame(x).rename(columns=str), sparse.csr_matrix(x)):
        model = make_classifier("naive-bayes", kind="multinomial", calibrated=False).fit(table, y)
        np.testing.assert_allclose(model.predict_proba(table), naive_bayes_by_hand(x, y), atol=1e-8)


@pytest.mark.parametrize("kind, peer", [("bernoulli", BernoulliNB), ("complement", ComplementNB)])
def test_naive_bayes_kinds_are_those_of_scikit_learn(kind, peer):
    rng = np.random.default_rng(0)
    x, y = rng.poisson(1, (200, 6)), rng.integers(0, 2, 200)
    model = make_classifier("naive-bayes", kind=kind, calibrated=False).fit(x, y)
    np.testing.assert_allclose(model.predict_proba(x), peer().fit(x, y).predict_proba(x), atol=1e-8)


def test_ridge_is_its_closed_form():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4))
    y = x @ [1, -2, 0, 3] + rng.normal(size=200)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    w = np.linalg.solve(z.T @ z + 7 * np.eye(4), z.T @ (y - y.mean()))
    model = make_regressor("ridge", alpha=7).fit(x, y)
    np.testing.assert_allclose(model.predict(x), z @ w + y.mean(), atol=1e-8)


def test_class_weights_move_probabilities_and_not_the_order(shop_examples, shop_tables):
    examples, train, _ = shop_examples
    table, later = shop_tables
    for name in ("logistic", "forest", "lightgbm"):
        plain, weighted = (
            make_classifier(name, class_weight=w, **SMALL.get(name, {}))
            .fit(table, examples.label[train])
            .predict_proba(later)[:, 1]
            for w in (None, "balanced")
        )
        assert weighted.mean() > 2 * plain.mean()
        assert pd.Series(plain).corr(pd.Series(weighted), method="spearman") > 0.7


def test_calibrated_probabilities_are_right_on_average(shop_examples, shop_tables):
    examples, train, _ = shop_examples
    share = examples.label[train].mean()
    for name in ("svm", "linear-svm", "naive-bayes"):
        model = make_classifier(name, **SMALL.get(name, {}))
        model.fit(shop_tables[0], examples.label[train], groups=examples.ids[train])
        assert model.predict_proba(shop_tables[0])[:, 1].mean() == pytest.approx(share, rel=0.35)


def test_calibration_keeps_users_whole(monkeypatch):
    seen = []

    class Spy(LogisticRegression):
        def fit(self, X, y):
            seen.append(set(X[:, 0].astype(int)))
            return super().fit(X, y)

    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(60), 5)
    X, y = np.column_stack([users, rng.normal(size=300)]), rng.integers(0, 2, 300)
    Calibrated(Spy(), folds=3).fit(X, y, groups=users)
    assert len(seen) == 4 and len(seen[-1]) == 60
    left_out = [set(range(60)) - fold for fold in seen[:3]]
    assert sum(map(len, left_out)) == 60 and set.union(*left_out) == set(range(60))


def test_pipeline_hands_the_users_of_examples_to_the_calibration(shop_examples):
    examples, train, test = shop_examples
    model = make_classifier("linear-svm", SLIM).fit(examples[train])
    table = clone(SLIM).fit_transform(examples[train], examples.label[train])
    peer = make_classifier("linear-svm").fit(table, examples.label[train], groups=examples.ids[train])
    late = model["inputs"].transform(examples[test])
    np.testing.assert_array_equal(model.predict_proba(examples[test]), peer.predict_proba(late))


def test_rare_class_is_named():
    X, y = np.random.default_rng(0).normal(size=(50, 2)), np.array(["a"] * 25 + ["b"] * 24 + ["c"])
    with pytest.raises(LogError, match="'c'.*too rare"):
        make_classifier("linear-svm").fit(X, y)


@pytest.mark.parametrize("model", ["logistic", "svm", "forest", "lightgbm"])
def test_what_comes_after_the_cutoff_changes_nothing(shop_examples, model):
    examples, train, test = shop_examples
    log = examples.log.copy()
    late = log["timestamp"] >= examples.cutoff[train].max()
    log.loc[late, ["behavior", "price", "item_id"]] = ["buy", 1e6, 1]
    other = replace(examples, log=log)
    once, twice = (
        make_classifier(model, SLIM, **SMALL.get(model, {})).fit(e[train]) for e in (examples, other)
    )
    proba, again = (model.predict_proba(examples[test]) for model in (once, twice))
    np.testing.assert_array_equal(proba, again)


def test_preparation_learns_from_the_training_rows_alone():
    (table, y), (other, _) = mixed_table(), mixed_table(30, 2)
    for kind in KINDS:
        prepared = Preparation(kind).fit(table, y)
        alone = np.asarray(prepared.transform(other[:1]), "float64")
        changed = other.assign(price=1e9, gap=np.nan)
        changed.iloc[0] = other.iloc[0]
        np.testing.assert_array_equal(np.asarray(prepared.transform(changed), "float64")[:1], alone)


@given(
    st.integers(1, 30).flatmap(
        lambda n: st.tuples(
            st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(np.nan)), min_size=n, max_size=n),
            st.lists(st.sampled_from(["a", "b", None, "c"]), min_size=n, max_size=n),
            st.sampled_from(KINDS),
            st.sampled_from(["log", "power"]),
        )
    )
)
@settings(max_examples=40, deadline=None)
def test_preparation_keeps_rows_and_names_its_columns(drawn):
    numbers, texts, kind, skew = drawn
    table = pd.DataFrame({"n": np.array(numbers, float), "t": pd.Series(texts, dtype=object)})
    prepared = Preparation(kind, skew).fit(table)
    made = np.asarray(prepared.transform(table), "float64")
    assert made.shape == (len(table), len(prepared.get_feature_names_out()))
    assert np.isfinite(made).all() or kind in ("codes", "native")


def test_neighbours_never_say_never():
    X, y = np.arange(40.0)[:, None], np.repeat([0, 1], [36, 4])
    proba = NearestNeighbours(n_neighbors=5).fit(X, y).predict_proba([[0.0], [39.0]])
    np.testing.assert_allclose(proba[:, 1], [0.1 / 6, (4 + 0.1) / 6])


def test_quantiles_and_powers_are_choices():
    table, y = mixed_table()
    for skew in ("quantile", "power"):
        model = make_classifier("logistic").set_params(prepare__skew=skew).fit(table, y)
        assert roc_auc_score(y, model.predict_proba(table)[:, 1]) > 0.7


def test_frames_arrays_and_sparse_matrices_are_one():
    table, y = mixed_table()
    numbers = table[["price", "gap", "weekend"]].astype("float64")
    proba = make_classifier("boosting").fit(numbers, y).predict_proba(numbers)
    for other in (pl.from_pandas(numbers), numbers.to_numpy()):
        np.testing.assert_array_equal(make_classifier("boosting").fit(other, y).predict_proba(other), proba)


@pytest.mark.parametrize(
    "table, message",
    [
        (pd.DataFrame({"when": pd.to_datetime(["2024-01-01"] * 4)}), "'when' holds times"),
        (pd.DataFrame({"much": [1, 2, np.inf, 3]}), "'much' has 1 infinite"),
    ],
)
def test_columns_that_no_model_can_read(table, message):
    with pytest.raises(LogError, match=message):
        make_classifier("tree").fit(table, [0, 1, 0, 1])


def test_another_table_than_in_training():
    table, y = mixed_table()
    model = make_classifier("forest", **SMALL["forest"]).fit(table, y)
    with pytest.raises(LogError, match="'gap'.*missing"):
        model.predict(table.drop(columns="gap"))
    with pytest.raises(LogError, match="'price'.*held numbers"):
        model.predict(table.assign(price="much"))
    with pytest.raises(LogError, match="sparse"):
        model.predict(sparse.csr_matrix(np.ones((2, 5))))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: make_classifier("perceptron"), "choose one of logistic"),
        (lambda: make_regressor("huber"), "choose one of mean"),
        (lambda: make_classifier("tree", depth=3), "depth"),
        (lambda: make_regressor("ridge", depth=3), "depth"),
        (lambda: make_classifier("knn", class_weight="balanced"), "no class weights"),
        (lambda: make_classifier("naive-bayes", kind="poisson"), "choose one of gaussian"),
        (lambda: make_classifier("tree", inputs="counts"), "choose one of features"),
        (lambda: make_classifier("knn").fit(np.ones((3, 1)), [0, 1, 0]), "n_neighbors"),
        (lambda: make_classifier("tree").fit(np.ones((3, 1)), [1, 1, 1]), "every label is 1"),
        (lambda: make_classifier("tree").fit(np.ones((3, 1)), [1, np.nan, 0]), "1 of 3 labels are missing"),
        (lambda: make_regressor("ridge").fit(np.ones((3, 1)), [1, np.nan, 0]), "1 of 3 amounts are missing"),
        (lambda: make_regressor("ridge").fit(np.ones((3, 1)), list("abc")), "not amounts"),
        (lambda: make_regressor("ridge").fit(np.ones((3, 1)), [1, 2]), "3 examples and 2 amounts"),
        (lambda: make_regressor("tweedie").fit(np.ones((3, 1)), [0, 0, 0]), "every amount is 0"),
        (lambda: tune(make_classifier, "tree", np.ones((3, 1)), [0, 1, 0]), "pass cv="),
        (lambda: tune(make_regressor, "mean", np.ones((3, 1)), [0, 1, 0]), "'mean' is unknown"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(LogError, match=message):
        make()


@pytest.mark.parametrize("name", ["two-part", "gamma", "tweedie"])
def test_negative_amounts_are_named(name):
    with pytest.raises(LogError, match="1 of 3 amounts are below 0, the lowest is -2"):
        make_regressor(name).fit(np.ones((3, 1)), [1, -2, 3])


@pytest.mark.parametrize("amount", ["log", "gamma"])
def test_two_part_expectations_are_unbiased(amount):
    (x, y, _), (other, _, truth) = zero_inflated(8000), zero_inflated(8000, seed=1)
    model = TwoPartRegressor(amount, C=1, alpha=1).fit(x.to_numpy(), y)
    expected = model.predict(other.to_numpy())
    assert expected.mean() == pytest.approx(truth.mean(), rel=0.04)
    assert np.corrcoef(expected, truth)[0, 1] > 0.98
    for part in np.array_split(np.argsort(truth), 4):  # also for those who spend little, and much
        assert expected[part].mean() == pytest.approx(truth[part].mean(), rel=0.12)


def test_two_part_without_zeros_is_one_part():
    x, y, _ = zero_inflated()
    model = TwoPartRegressor(alpha=1).fit(x.to_numpy()[y > 0], y[y > 0])
    np.testing.assert_array_equal(model.predict_parts(x.to_numpy())[0], 1)


@pytest.mark.parametrize("name", sorted(set(REGRESSORS) - {"rfm", "mean"}))
def test_spend_models_beat_the_mean(name):
    (x, y, _), (other, late, _) = zero_inflated(3000), zero_inflated(3000, seed=1)
    guess = make_regressor(name).fit(x, y).predict(other)
    assert root_mean_squared_error(late, guess) < 0.97 * root_mean_squared_error(
        late, np.full(3000, y.mean())
    )


def test_rfm_beats_the_mean(spend_examples):
    examples, train, test = spend_examples
    error = {
        name: root_mean_squared_error(
            examples.label[test], make_regressor(name).fit(examples[train]).predict(examples[test])
        )
        for name in ("rfm", "mean")
    }
    assert error["rfm"] < error["mean"]


@pytest.mark.parametrize("name", sorted(set(REGRESSORS) - {"rfm"}))
def test_amounts_do_not_depend_on_the_currency(name):
    x, y, _ = zero_inflated(800)
    euros = make_regressor(name).fit(x, y).predict(x)
    np.testing.assert_allclose(make_regressor(name).fit(x, 100 * y).predict(x), 100 * euros, rtol=1e-3)


@pytest.mark.parametrize("name", ["linear", "ridge", "lasso", "forest", "boosting", "lightgbm"])
def test_labels_below_zero_are_not_held(name):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2))
    y = 3 * x[:, 0] + rng.normal(size=500)
    assert make_regressor(name).fit(x, y).predict(x).min() < -1


def test_scikit_learn_cross_validates_and_clones(shop_examples):
    examples, _, _ = shop_examples
    model = clone(make_classifier("lightgbm", SLIM, n_estimators=20))
    folds = list(RollingSplit(n_splits=2).split(examples))
    found = cross_validate(model, examples, examples.label, cv=folds, scoring="roc_auc")
    assert found["test_score"].min() > 0.6


def test_importances_find_what_matters(shop_examples):
    table, y = mixed_table(800)
    model = make_classifier("lightgbm").fit(table[:500], y[:500])
    found = feature_importances(model, table[500:], y[500:])
    assert set(found["feature"][:2]) == {"price", "colour"}
    assert list(found) == ["feature", "importance", "low", "high"] and (found["low"] <= found["high"]).all()
    pd.testing.assert_frame_equal(found, feature_importances(model, table[500:], y[500:]))
    examples, train, test = shop_examples
    for inputs in (clone(SLIM).set_params(windows=("7d",)), NGrams(max_features=20)):
        whole = make_classifier("logistic", inputs).fit(examples[train])
        found = feature_importances(whole, examples[test], n_repeats=2)
        assert set(found["feature"]) == set(whole["inputs"].get_feature_names_out())
        assert found["importance"][0] > 0
    assert plot_importances(found, most=5).get_xlabel()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_importances_are_those_of_shuffled_features(name):
    table, y = mixed_table(
        500, colours=["red", *(f"shade {i}" for i in range(60))]
    )  # the rare share a column
    model = make_classifier(name).fit(table[:300], y[:300])
    held, truth = table[300:].reset_index(drop=True), y[300:]
    auc = lambda X, z: roc_auc_score(z, model.predict_proba(X)[:, 1])  # noqa: E731
    rng = np.random.default_rng([3, 0])
    rows = rng.integers(0, len(truth), len(truth))
    some, z, lost = held.iloc[rows].reset_index(drop=True), truth[rows], {}
    for column in table:
        shuffled = some[column].iloc[rng.permutation(len(z))].array
        lost[column] = auc(some, z) - auc(some.assign(**{column: shuffled}), z)
    found = feature_importances(model, held, truth, n_repeats=1, seed=3).set_index("feature")["importance"]
    assert np.allclose(found[list(lost)], list(lost.values()), atol=1e-12)


def test_importances_of_amounts_and_other_scores():
    x, y, _ = zero_inflated(1000)
    model = make_regressor("tweedie", alpha=0.01).fit(x, y)
    for scoring in (None, "neg_mean_absolute_error", lambda m, X, z: -np.abs(m.predict(X) - z).mean()):
        assert feature_importances(model, x, y, scoring=scoring)["feature"].iloc[-1] == "c"


def test_tuning_goes_on_and_sees_no_test_row(tmp_path, shop_examples):
    examples, train, _ = shop_examples
    storage = f"sqlite:///{tmp_path}/study.db"
    options = {"inputs": SLIM, "cv": RollingSplit(n_splits=2), "storage": storage, "progress": False}
    tune(make_classifier, "tree", examples[train], n_trials=2, **options)
    study = tune(make_classifier, "tree", examples[train], n_trials=4, **options)
    assert len(study.trials) == 4
    make_classifier("tree", SLIM, **study.best_params).fit(examples[train])


def test_folds_of_tuning_learn_from_their_training_part_alone(shop_examples):
    examples, train, _ = shop_examples
    some, y, cv = examples[train], examples.label[train], RollingSplit(n_splits=1)
    (before, after), (table, later, *_) = next(cv.split(some)), next(_prepared_folds(some, y, cv, SLIM))
    alone = clone(SLIM).fit(some[before], y[before])
    pd.testing.assert_frame_equal(later, alone.transform(some[after]))
    assert len(table) == len(before)


def test_tuning_takes_splits_of_three_parts_and_those_of_sklearn(shop_examples):
    examples, train, _ = shop_examples
    some, how = examples[train], {"n_trials": 1, "progress": False}
    tune(make_classifier, "tree", some, inputs=SLIM, cv=TimeSplit(validation=True), **how)
    table = SLIM.fit_transform(some, some.label)
    tune(make_classifier, "tree", table, some.label, StratifiedKFold(2), **how)
    with pytest.raises(LogError, match="pass y"):
        tune(make_classifier, "tree", table, cv=StratifiedKFold(2), **how)


def test_tuning_amounts_on_a_table():
    x, y, _ = zero_inflated(600)
    cv = [(np.arange(400), np.arange(400, 600))]
    study = tune(make_regressor, "two-part", x, y, cv, n_trials=3, progress=False)
    assert set(study.best_params) == {"C", "alpha"}


def test_files_with_strange_types_are_refused(tmp_path):
    import skops.io

    table, y = mixed_table()
    folder = save_model(make_classifier("tree").fit(table, y), tmp_path)
    skops.io.dump(Fraction(1, 3), folder / MODEL_FILE)
    with pytest.raises(LogError, match="damaged"):
        load_model(folder)
    write_manifest(folder, "ModelPipeline", {}, [MODEL_FILE])
    with pytest.warns(UserWarning, match="scikit-learn"), pytest.raises(LogError, match="do not load it"):
        load_model(folder)


@pytest.mark.parametrize(
    "name", ["os.system", "sklearn.datasets.fetch_openml", "sklearnish.Tree", "builtins.eval"]
)
def test_functions_and_other_packages_are_not_trusted(name):
    assert not _is_trusted(name)


def test_older_models_are_loaded_too(tmp_path):
    X, y = random_histories()
    for model in (CountsClassifier(), MajorityClassifier()):
        folder = save_model(model.fit(X, y), tmp_path / type(model).__name__)
        np.testing.assert_allclose(load_model(folder).predict_proba(X), model.predict_proba(X))


def test_import_stays_light():
    heavy = ("tensorflow", "keras", "lightgbm", "optuna", "skops", "matplotlib")
    code = f"import sys, seqbook.models.classical; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_published_table_of_visits(real_data):
    table, label = load_shoppers_intention(real_data("online_shoppers_intention.csv.gz"))
    rows = np.random.default_rng(0).permutation(len(table))[:3000]
    train, test = rows[:2000], rows[2000:]
    for name, least in (("lightgbm", 0.89), ("logistic", 0.86)):
        model = make_classifier(name).fit(table.iloc[train], label[train])
        assert roc_auc_score(label[test], model.predict_proba(table.iloc[test])[:, 1]) > least


def test_what_is_not_written_to_the_end_leaves_the_old_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as draft:
        draft.write_text("old")
    with pytest.raises(OSError, match="disk"), replacing(path) as draft:
        draft.write_text("half")
        raise OSError("the disk is full")
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
