"""Selection against scikit-learn and slow readings of its formulas; no test row and no order changes it."""

from itertools import combinations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, kruskal, spearmanr
from sklearn.base import clone
from sklearn.feature_selection import chi2, f_classif, mutual_info_classif, r_regression
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, cross_validate
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator

import seqbook.data.selection as selection
from seqbook.data.datasets import simulate_shop
from seqbook.data.events import LogError
from seqbook.data.features import FeatureBuilder
from seqbook.data.selection import (
    METHODS,
    FeatureFilter,
    FeatureSelector,
    plot_ranks,
    plot_stability,
    rank_features,
    score_features,
    stability,
    stability_index,
)
from seqbook.data.tasks import Purchase, RollingSplit

QUICK = ["pearson", "spearman", "mutual-information", "chi-square", "mrmr", "jmi"]
quick = settings(max_examples=25, deadline=None, derandomize=True)


@pytest.fixture
def few_trees(monkeypatch):
    """Forests and boosting of a few trees, where only their manners are tested."""
    monkeypatch.setattr(selection, "TREES", 10)


def make_table(n=600, seed=0, kind="two"):
    """Two useful columns, two of noise; labels of two classes, of three, or numbers."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 4)), columns=["strong", "weak", "noise", "other"])
    value = 2 * X["strong"] + X["weak"] + rng.normal(size=n)
    if kind == "numbers":
        return X, value
    return X, (value > 0).astype(int) if kind == "two" else pd.cut(value, 3, labels=["a", "b", "c"]).astype(
        str
    )


# --- Manners of a scikit-learn estimator ----------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_scikit_learn_checks_the_selector(method, few_trees):
    """All checks of scikit-learn for a transformer that needs y and takes NaN pass, whatever the method."""
    results = check_estimator(FeatureSelector(method, k=1), on_skip=None)
    passed = {result["check_name"] for result in results if result["status"] == "passed"}
    assert len(passed) > 40
    assert passed >= {
        "check_estimator_cloneable",
        "check_requires_y_none",
        "check_fit_idempotent",
        "check_dont_overwrite_parameters",
        "check_estimators_pickle",
        "check_transformer_data_not_an_array",
        "check_transformer_general",
    }


@pytest.mark.filterwarnings("ignore:X .*feature names")
@pytest.mark.parametrize("estimator", [FeatureSelector("chi-square", k=1), FeatureFilter()])
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_set_output_transform,
        estimator_checks.check_set_output_transform_pandas,
        estimator_checks.check_set_output_transform_polars,
        estimator_checks.check_global_output_transform_pandas,
        estimator_checks.check_global_set_output_transform_polars,
        estimator_checks.check_transformer_get_feature_names_out,
        estimator_checks.check_transformer_get_feature_names_out_pandas,
        estimator_checks.check_dataframe_column_names_consistency,
    ],
)
def test_scikit_learn_checks_names_and_output(check, estimator):
    """So do its checks of names and of the kind of frame that comes out."""
    check(type(estimator).__name__, clone(estimator))


def test_scikit_learn_checks_the_filter():
    """The filter passes the checks of a transformer without y."""
    assert len(check_estimator(FeatureFilter(), on_skip=None)) > 40


def test_pipeline_search_and_clone():
    """It works in a pipeline, under a search, and a clone is unfitted and alike."""
    X, y = make_table()
    pipe = make_pipeline(FeatureFilter(), FeatureSelector("pearson"), LogisticRegression())
    search = GridSearchCV(pipe, {"featureselector__k": [1, 2, 4]}, scoring="roc_auc").fit(X, y)
    assert search.best_params_["featureselector__k"] >= 2
    fresh = clone(search.best_estimator_[1])
    assert fresh.get_params() == search.best_estimator_[1].get_params()
    assert not hasattr(fresh, "support_")


def test_frames_in_frames_out():
    """pandas and Polars frames keep their kind, names, gaps and order; arrays work too."""
    X, y = make_table()
    X["strong"] = X["strong"].mask(np.arange(len(X)) % 3 == 0)
    chosen = FeatureSelector("spearman", k=2).set_output(transform="pandas").fit(X, y)
    pd.testing.assert_frame_equal(chosen.transform(X), X[["strong", "weak"]])
    polars = pl.from_pandas(X)
    out = FeatureSelector("spearman", k=2).set_output(transform="polars").fit(polars, y).transform(polars)
    assert isinstance(out, pl.DataFrame) and out.columns == ["strong", "weak"]
    assert FeatureSelector("spearman", k=2).fit(X.to_numpy(), y).get_support(indices=True).tolist() == [0, 1]


@pytest.mark.parametrize("method", ["jmi", "forest"])
def test_saved_without_pickle(method, few_trees):
    """A fitted selector goes through skops; the only types to trust are our own."""
    X, y = make_table()
    fitted = FeatureSelector(method, k=2).fit(X, y)
    data = skops.io.dumps(make_pipeline(FeatureFilter().fit(X), fitted))
    trusted = skops.io.get_untrusted_types(data=data)
    assert all(name.startswith("seqbook.data.selection.") for name in trusted)
    again = skops.io.loads(data, trusted=trusted)[-1]
    np.testing.assert_array_equal(again.scores_, fitted.scores_)
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))


# --- Agreement ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["two", "three"])
def test_pearson_is_f_classif(kind):
    """The correlation ratio orders as F does, and gives F back."""
    X, y = make_table(kind=kind)
    F, (n, c) = f_classif(X, y)[0], (len(y), len(set(y)))
    squared = score_features(X, y, "pearson")["pearson"] ** 2
    np.testing.assert_allclose(squared / (1 - squared) * (n - c) / (c - 1), F, rtol=1e-9)


def test_two_classes_are_zero_and_one():
    """For two classes both correlations are the usual ones with 0 and 1."""
    X, y = make_table()
    scores = score_features(X, y, ["pearson", "spearman"])
    np.testing.assert_allclose(scores["pearson"], np.abs(r_regression(X, y)), rtol=1e-9)
    np.testing.assert_allclose(scores["spearman"], [abs(spearmanr(X[c], y).statistic) for c in X], rtol=1e-9)


def test_numbers():
    """For numbers they are scikit-learn's and SciPy's."""
    X, y = make_table(kind="numbers")
    scores = score_features(X, y, ["pearson", "spearman"])
    np.testing.assert_allclose(scores["pearson"], np.abs(r_regression(X, y)), rtol=1e-9)
    np.testing.assert_allclose(scores["spearman"], [abs(spearmanr(X[c], y).statistic) for c in X], rtol=1e-9)


def test_spearman_of_classes_is_kruskal():
    """With three classes the squared score is the statistic of Kruskal and Wallis over n - 1."""
    X, y = make_table(kind="three")
    H = [kruskal(*[X.loc[y == c, name] for c in "abc"]).statistic for name in X]
    np.testing.assert_allclose(score_features(X, y, "spearman")["spearman"] ** 2, np.array(H) / (len(X) - 1))


counts = st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=12, max_size=60)


@quick
@given(counts)
def test_information_is_that_of_scikit_learn(rows):
    """Columns of few values: scikit-learn's counted information, less the correction for chance."""
    X = np.array(rows, "float64")
    y = np.arange(len(X)) % 3
    score = score_features(X, y, "mutual-information").iloc[:, 0]
    bins = np.column_stack([selection._binned(x) for x in X.T])
    levels = np.array([len(np.unique(x)) for x in bins.T])
    expected = mutual_info_classif(bins, y, discrete_features=True) - (levels - 1) * 2 / (2 * len(X))
    varies = np.ptp(X, axis=0) > 0
    # scikit-learn cuts what is below zero, and so nothing here, before the correction
    np.testing.assert_allclose(score[varies], expected[varies], atol=1e-9)
    assert score[~varies].isna().all()


@quick
@given(counts)
def test_chi_square_is_that_of_scipy_and_scikit_learn(rows):
    """The statistic under the score is the one of the table of bins by classes."""
    X = np.array(rows, "float64")
    X = X[:, np.ptp(X, axis=0) > 0]
    y = np.arange(len(X)) % 2
    if not X.shape[1]:
        return
    bins = np.column_stack([selection._binned(x) for x in X.T])
    tables = [pd.crosstab(x, y) for x in bins.T]
    tests = [chi2_contingency(table, correction=False) for table in tables]
    expected = [np.sqrt(2 * test.statistic) - np.sqrt(2 * test.dof - 1) for test in tests]
    np.testing.assert_allclose(score_features(X, y, "chi-square")["chi-square"], expected, atol=1e-9)
    each = [chi2(OneHotEncoder().fit_transform(x[:, None]), y)[0].sum() for x in bins.T]
    np.testing.assert_allclose([test.statistic for test in tests], each, atol=1e-9)


def mrmr_slowly(bins, y, k, about_label):
    """Greedy choice by the textbook formulas, one pair at a time."""

    def information(a, b):
        counted = mutual_info_classif(a[:, None], b, discrete_features=True)[0]
        return counted - (len(set(a)) - 1) * (len(set(b)) - 1) / (2 * len(a))

    def shared(j, s):
        if not about_label:
            return information(bins[:, j], bins[:, s])
        both = np.unique(np.c_[bins[:, s], y], axis=0, return_inverse=True)[1].ravel()
        given = information(bins[:, j], both) - information(bins[:, j], bins[:, s])
        return information(bins[:, j], y) - given

    order = []
    for _ in range(k):
        left = [j for j in range(bins.shape[1]) if j not in order]
        value = [
            information(bins[:, j], y) - (np.mean([shared(j, s) for s in order]) if order else 0)
            for j in left
        ]
        order.append(left[int(np.argmax(value))])
    return order


@pytest.mark.parametrize("method", ["mrmr", "jmi"])
def test_mrmr_and_jmi_against_their_formulas(method):
    """The quick order is the one of a loop over pairs."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(500, 3))
    X = hidden[:, [0, 0, 1, 1, 2, 2, 0]] + rng.normal(0, 0.7, (500, 7))
    y = (hidden @ [2, 1, 0.5] + rng.normal(size=500) > 0).astype(int)
    bins = np.column_stack([selection._binned(x) for x in X.T])
    scores = FeatureSelector(method, k=5).fit(X, y).scores_
    assert np.argsort(-scores)[:5].tolist() == mrmr_slowly(bins, y, 5, method == "jmi")


def test_elimination_is_the_plain_one():
    """Eliminating in the triangle gives the ranking that RFE gives on all rows."""
    from sklearn.feature_selection import RFE
    from sklearn.linear_model import Ridge

    X, y = make_table(n=200, kind="numbers")
    X = X.assign(near=X["strong"] + np.random.default_rng(1).normal(0, 0.1, 200), far=X["noise"] ** 2)
    plain = RFE(Ridge(), n_features_to_select=1).fit(StandardScaler().fit_transform(X), y)
    scores = score_features(X, y, "rfe")["rfe"]
    assert np.argsort(-scores.to_numpy()).tolist() == np.argsort(plain.ranking_).tolist()


# --- What a good method finds ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["two", "three", "numbers"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_what_is_there(method, kind):
    """With labels of every kind, the two useful columns come first."""
    X, y = make_table(kind=kind)
    fitted = FeatureSelector(method, k=2).fit(X, y)
    assert fitted.get_feature_names_out().tolist() == ["strong", "weak"]
    assert fitted.classify_ == (kind != "numbers")


def test_labels_can_be_said():
    """Few whole numbers are classes unless told otherwise."""
    X, y = make_table()
    amounts = y * 10
    assert FeatureSelector("pearson", k=1).fit(X, amounts).classify_
    assert not FeatureSelector("pearson", k=1, labels="numbers").fit(X, amounts).classify_
    assert not FeatureSelector("pearson", k=1).fit(X, np.arange(len(X))).classify_
    assert FeatureSelector("pearson", k=1, labels="classes").fit(X, np.arange(len(X)) // 20).classify_


def test_a_column_that_is_mostly_zero_keeps_its_bins():
    """Rare counts and yes/no columns are not put into one bin."""
    rng = np.random.default_rng(0)
    rare = (rng.random(2000) < 0.03) * rng.integers(1, 9, 2000)
    y = ((rare > 0) | (rng.random(2000) < 0.1)).astype(int)
    X = pd.DataFrame({"noise": rng.random(2000), "rare": rare})
    assert len(np.unique(selection._binned(rare))) == 2
    for method in ("mutual-information", "chi-square", "mrmr", "jmi"):
        assert FeatureSelector(method, k=1).fit(X, y).get_feature_names_out().tolist() == ["rare"]


@quick
@given(st.integers(0, 10**6), st.sampled_from([np.exp, lambda x: 3 * x - 1, lambda x: x**3]))
def test_a_copy_is_taken_after_all_that_is_new(seed, bend):
    """mRMR and JMI never take a column and its copy, bent or not, while another column is left."""
    X, y = make_table(n=300, seed=seed)
    X["copy"] = bend(X["strong"])
    for method in ("mrmr", "jmi"):
        ranks = rank_features(score_features(X, y, method))[method]
        assert ranks[["strong", "copy"]].max() == 5


def test_impurity_is_fooled_and_permutation_is_not():
    """A random number ranks high by impurity, and at or below zero on held-out rows."""
    rng = np.random.default_rng(0)
    cart = rng.integers(2, size=1500)
    y = np.where(rng.random(1500) < 0.3, 1 - cart, cart)
    scores = score_features(np.c_[cart, rng.random(1500)], y, ["forest", "permutation"])
    assert scores.loc["x1", "forest"] > 0.3
    assert scores.loc["x1", "permutation"] < 0.005 < 0.05 < scores.loc["x0", "permutation"]


def test_groups_are_held_out_together():
    """A number that only tells users apart has no importance once users are held out whole."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 6)
    habit, y = rng.random(200)[users, None], rng.integers(2, size=200)[users]
    alone, whole = (score_features(habit, y, "permutation", groups=g).iloc[0, 0] for g in (None, users))
    assert alone > 0.1 and whole < 0.02
    for half in selection._halves(y, users):
        assert not set(users[half]) & set(np.delete(users, half))


def test_a_class_that_one_half_lacks():
    """A single example of a class is no reason to stop."""
    X, y = make_table()
    y = y.to_numpy().copy()
    y[0] = 2
    assert np.isfinite(FeatureSelector("permutation", k=2).fit(X, y).scores_).all()


# --- Order does not matter ------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_order_of_rows_and_columns_changes_nothing(method, few_trees):
    """The same table in another order gives the same scores, bit by bit, and the same choice."""
    X, y = make_table(n=200, kind="three")
    X["count"], X["gaps"] = (X["weak"] * 2).round(), X["weak"].where(X["other"] > 0)
    rng, fitted = np.random.default_rng(1), FeatureSelector(method, k=3).fit(X, y)
    for _ in range(3):
        rows, columns = rng.permutation(len(X)), rng.permutation(X.columns)
        again = FeatureSelector(method, k=3).fit(X[columns].iloc[rows], y.iloc[rows])
        np.testing.assert_array_equal(pd.Series(again.scores_, columns)[X.columns], fitted.scores_)
        assert set(again.get_feature_names_out()) == set(fitted.get_feature_names_out())


tables = st.lists(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 7.5, np.nan]), min_size=4, max_size=4), min_size=8, max_size=30
)


@quick
@given(tables, st.randoms(use_true_random=False))
def test_order_changes_nothing_on_small_tables(rows, random):
    """The same on tables full of ties, gaps and constants, for the methods without a model."""
    X = np.array(rows)
    y = np.arange(len(X)) % 2
    order = random.sample(range(len(X)), len(X))
    for method in QUICK[:4]:
        a, b = (FeatureSelector(method, k=1).fit(*t).scores_ for t in ((X, y), (X[order][:, ::-1], y[order])))
        np.testing.assert_array_equal(a, b[::-1])


def test_ties_share_their_place():
    """Equal scores have equal ranks, whatever stands first; a constant column is last."""
    scores = pd.DataFrame({"a": [0.2, 0.7, 0.2, np.nan], "b": [1.0, 0, 0, 0]}, index=list("wxyz"))
    for order in (list("wxyz"), list("zyxw")):
        ranks = rank_features(scores.loc[order])
        assert ranks["a"].to_dict() == {"x": 1, "w": 2.5, "y": 2.5, "z": 4}
        assert ranks.index.tolist() == ["w", "x", "y", "z"]


# --- Selection never sees the test ----------------------------------------------------------------


@pytest.mark.parametrize("method", ["pearson", "jmi", "permutation"])
def test_the_test_fold_changes_nothing(method, few_trees):
    """Other values and other labels in a fold's test rows leave that fold's selection as it is."""
    X, y = make_table(n=300)
    cv = list(KFold(3).split(X))
    pipe = make_pipeline(FeatureFilter(), FeatureSelector(method, k=2), GaussianNB())

    def selected(X, y):
        fits = cross_validate(pipe, X, y, cv=cv, return_estimator=True)["estimator"]
        return [(fit[1].scores_, fit[1].support_) for fit in fits]

    before = selected(X, y)
    for fold, (_, test) in enumerate(cv):
        X_other, y_other = X.copy(), y.copy()
        X_other.iloc[test] = 1e6 * np.random.default_rng(2).normal(size=(len(test), 4))
        y_other.iloc[test] = 1 - y_other.iloc[test]
        after = selected(X_other, y_other)
        np.testing.assert_array_equal(before[fold], after[fold])
        changed = [not np.array_equal(a[0], b[0]) for a, b in zip(before, after, strict=True)]
        assert any(changed) and not changed[fold]


def test_noise_has_no_skill_inside_the_cross_validation():
    """Selection on all rows invents skill from noise; inside the folds there is none."""
    outside, inside = [], []
    for seed in range(8):
        X, y = np.random.default_rng(seed).normal(size=(80, 500)), np.arange(80) % 2
        selector, model = FeatureSelector("pearson", k=10), GaussianNB()
        outside.append(cross_val_score(model, selector.fit_transform(X, y), y, scoring="roc_auc").mean())
        inside.append(cross_val_score(make_pipeline(selector, model), X, y, scoring="roc_auc").mean())
    assert np.mean(outside) > 0.75
    assert abs(np.mean(inside) - 0.5) < 3 * np.std(inside, ddof=1) / np.sqrt(8)


def test_the_median_is_that_of_the_training():
    """Gaps are filled by what is in `fit`: rows that are only transformed change no score."""
    X, y = make_table(n=100)
    X["gaps"] = X["strong"].mask(np.arange(100) % 2 == 0)
    first = FeatureSelector("pearson", k=1).fit(X[:60], y[:60])
    filled = X[:60].fillna(X[:60].median())
    again = FeatureSelector("pearson", k=1).fit(filled, y[:60])
    np.testing.assert_allclose(first.scores_, again.scores_)


def test_examples_features_selection_and_model():
    """One pipeline from examples to a model, cross-validated by time."""
    examples = Purchase(horizon="7d").examples(simulate_shop(n_users=500, days=90, seed=0).events)
    features = FeatureBuilder(families=("frequency",))
    pipe = make_pipeline(
        features, FeatureFilter(), FeatureSelector("chi-square", k=5), SimpleImputer(), LogisticRegression()
    )
    cv = list(RollingSplit(n_splits=2).split(examples))
    found = cross_validate(pipe, examples, examples.label, cv=cv, scoring="roc_auc", return_estimator=True)
    assert found["test_score"].min() > 0.55
    names = found["estimator"][0][:3].get_feature_names_out()
    assert len(names) == 5 and set(names) <= set(found["estimator"][0][0].get_feature_names_out())


# --- Bad input ------------------------------------------------------------------------------------


def test_gaps_constants_and_copies():
    """Columns with gaps, without any value, constant ones and copies: all methods give a score or NaN."""
    X, y = make_table(n=200)
    X = X.assign(
        gaps=X["strong"].where(X["other"] > 0), empty=np.nan, constant=3, copy=X["strong"], yes=X["noise"] > 0
    )
    scores = score_features(X, y)
    assert list(scores) == list(METHODS)
    assert scores.loc[["empty", "constant"]].isna().all(axis=None)
    assert scores.drop(index=["empty", "constant"]).notna().all(axis=None)
    ranks = rank_features(scores)
    assert set(ranks.index[-2:]) == {"empty", "constant"}
    assert FeatureSelector("pearson", k=9).fit(X, y).get_support().all()


def test_only_constants():
    """A table that says nothing has no score; the filter says so."""
    X = pd.DataFrame({"a": [1.0] * 10, "b": [np.nan] * 10})
    assert np.isnan(FeatureSelector("forest", k=1).fit(X, [0, 1] * 5).scores_).all()
    with pytest.raises(LogError, match="no column is left"):
        FeatureFilter().fit(X)


def test_filter():
    """Missing and constant columns go; limits are kept exactly."""
    X = pd.DataFrame({"half": [1, 2, np.nan, np.nan], "full": [1.0, 2, 3, 4], "flat": [5.0] * 4})
    assert FeatureFilter(max_missing=0.5).fit(X).get_feature_names_out().tolist() == ["half", "full"]
    assert FeatureFilter(max_missing=0.49).fit(X).get_feature_names_out().tolist() == ["full"]
    assert FeatureFilter(min_variance=1.0).fit(X).get_feature_names_out().tolist() == ["full"]
    np.testing.assert_allclose(FeatureFilter().fit(X).missing_, [0.5, 0, 0])


X4, Y4 = make_table(n=40)


@pytest.mark.parametrize(
    ("fit", "says"),
    [
        (lambda: FeatureSelector(k=5).fit(X4, Y4), "k is 5, but the table has 4 columns; pass k=4 or less"),
        (lambda: FeatureSelector(k=0).fit(X4, Y4), "1 or more"),
        (lambda: FeatureSelector(k=1.5).fit(X4, Y4), "1 or more"),
        (lambda: FeatureSelector("gini", k=1).fit(X4, Y4), "method 'gini' is unknown; choose one of"),
        (lambda: score_features(X4, Y4, ["pearson", "gini"]), "method 'gini' is unknown"),
        (lambda: stability(X4, Y4, "gini", k=1), "method 'gini' is unknown"),
        (lambda: FeatureSelector(k=1, labels="text").fit(X4, Y4), "labels is 'text'"),
        (
            lambda: FeatureSelector(k=1).fit(X4.assign(city="Rome"), Y4),
            r"columns \{'city': 'String'\}.*TargetEnc",
        ),
        (lambda: FeatureSelector(k=1).fit(X4.assign(day=pd.Timestamp("2024-01-01")), Y4), "'day'"),
        (lambda: FeatureSelector(k=1).fit(X4.astype({"weak": "category"}), Y4), "'weak'"),
        (lambda: FeatureFilter().fit(X4.assign(city="Rome")), "'city'"),
        (lambda: FeatureSelector(k=1).fit(X4, [1] * 40), "every label is 1"),
        (lambda: FeatureSelector(k=1).fit(X4, ["buy"] * 40), "every label is 'buy'"),
        (lambda: FeatureSelector(k=1).fit(X4, Y4.where(Y4.index > 0)), "1 of 40 labels are missing"),
        (lambda: FeatureSelector(k=1).fit(X4, Y4[:-1]), "39"),
        (lambda: FeatureSelector(k=1).fit(X4.assign(weak=np.inf), Y4), r"columns \['weak'\] hold infinite"),
        (lambda: FeatureSelector(k=1).fit(X4[["weak", "weak"]], Y4), r"\['weak'\] are there more than once"),
        (lambda: FeatureSelector(k=1).fit(X4, Y4, groups=[1, 2]), "40 rows, but there are 2 groups"),
        (lambda: stability(X4, Y4, k=1, draw="all"), "draw is 'all'"),
        (lambda: stability_index([[1, 0]]), "needs two"),
        (lambda: stability_index([[1, 1], [1, 1]]), "not all"),
    ],
)
def test_mistakes_are_named(fit, says):
    """What is wrong, where, and what to do."""
    with pytest.raises(LogError, match=says):
        fit()


# --- Stability ------------------------------------------------------------------------------------


@quick
@given(st.integers(2, 8), st.integers(3, 12), st.data())
def test_stability_index_is_the_mean_of_pairs(M, d, data):
    """For sets of one size it is Kuncheva's index, a mean over all pairs (Nogueira et al. 2018)."""
    k = data.draw(st.integers(1, d - 1))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    Z = np.array([rng.permutation(d) < k for _ in range(M)])
    pairs = [((a & b).sum() - k * k / d) / (k - k * k / d) for a, b in combinations(Z, 2)]
    assert stability_index(Z)["stability"] == pytest.approx(np.mean(pairs))


def test_the_interval_holds_the_truth():
    """About 95 of 100 intervals hold the value that very many resamples give."""
    rng = np.random.default_rng(0)
    strength = np.linspace(0, 2, 20)

    def draw(M):
        return np.argsort(np.argsort(-(strength + rng.normal(size=(M, 20))), axis=1), axis=1) < 6

    truth = stability_index(draw(50_000))["stability"]
    held = [
        index["low"] <= truth <= index["high"] for index in (stability_index(draw(100)) for _ in range(300))
    ]
    assert 0.9 < np.mean(held) < 0.99


def test_stability_tells_strong_from_lot():
    """What is there is chosen every time; noise is chosen by lot."""
    X, y = make_table(n=400)
    found = stability(X, y, "pearson", k=2, n_resamples=20)
    assert found.shape == (20, 4) and (found.sum(axis=1) == 2).all()
    assert found[["strong", "weak"]].all(axis=None) and stability_index(found)["stability"] == 1
    rng = np.random.default_rng(0)
    noise, half = rng.normal(size=(400, 20)), "half"
    lot = [stability(noise, y, "pearson", k=5, n_resamples=20, draw=d) for d in (half, "bootstrap")]
    assert all(stability_index(chosen)["stability"] < 0.6 for chosen in lot)


def test_resamples_take_groups_whole():
    """All rows of a drawn user come, none of the others; a bootstrap draws users again and again."""
    rng, owners = np.random.default_rng(0), np.random.default_rng(1).integers(30, size=200)
    owners = np.unique(owners, return_inverse=True)[1]
    rows = selection._draw(owners, "half", rng)
    assert len(set(owners[rows])) == (owners.max() + 1) // 2
    assert sorted(rows) == sorted(np.flatnonzero(np.isin(owners, owners[rows])))
    times = np.bincount(selection._draw(owners, "bootstrap", rng), minlength=200)
    assert all(len(set(times[owners == owner])) == 1 for owner in range(owners.max() + 1)) and times.max() > 1


# --- Plots ----------------------------------------------------------------------------------------


def test_plots_show_the_numbers():
    """The plot of ranks holds the ranks; that of stability the frequencies."""
    import matplotlib.pyplot as plt

    X, y = make_table(n=200)
    ranks = rank_features(score_features(X, y, QUICK))
    ax = plot_ranks(ranks, most=3)
    assert [t.get_text() for t in ax.get_yticklabels()] == list(ranks.index[:3])
    assert [text.get_text() for text in ax.texts] == [
        f"{rank:.3g}" for rank in ranks.head(3).to_numpy().ravel()
    ]
    chosen = stability(X, y, "pearson", k=2, n_resamples=10)
    ax = plot_stability(chosen)
    assert [bar.get_width() for bar in ax.patches] == sorted(100 * chosen.mean())
    plt.close("all")


def test_other_models_can_follow():
    """With numbers as labels it stands before a regression."""
    X, y = make_table(kind="numbers")
    pipe = make_pipeline(FeatureSelector("l1", k=2), LinearRegression())
    assert cross_val_score(pipe, X, y).mean() > 0.7
