"""Hard tests of `seqbook.models.fusion`: properties, scikit-learn as a peer, leaks, bad input, saving."""

import os
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone, is_classifier
from sklearn.ensemble import StackingClassifier, StackingRegressor, VotingClassifier, VotingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold, RepeatedKFold, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier

from seqbook.data.datasets import simulate_shop
from seqbook.data.events import LogError
from seqbook.data.features import FeatureBuilder
from seqbook.data.sequences import SequenceEncoder
from seqbook.data.tasks import Purchase, RollingSplit, Spend, TimeSplit, UserSplit
from seqbook.models.classical import CountsClassifier, load_model, make_classifier, make_regressor, save_model
from seqbook.models.fusion import (
    AverageClassifier,
    AverageRegressor,
    DistilledClassifier,
    OnSequences,
    PretrainedClassifier,
    ReciprocalRankFusion,
    SnapshotClassifier,
    SoftClassifier,
    StackedClassifier,
    StackedRegressor,
    StateFeatures,
    _train_cycle,
    arithmetic_mean,
    error_diversity,
    geometric_mean,
    last_states,
    load_fused,
    log_odds_of,
    longest_histories,
    mask_events,
    out_of_fold,
    place_among,
    reciprocal_rank_fusion,
    simplex_weights,
    transfer_weights,
)
from seqbook.models.networks import NextEventModel, SequenceClassifier, SequenceRegressor
from seqbook.models.next_item import MarkovChain, Popularity, SessionKNN

TINY = {"units": 8, "epochs": 2, "batch_size": 64, "progress": False}


@pytest.fixture(scope="module")
def shop():
    return simulate_shop(n_users=250, days=90, seed=5)


@pytest.fixture(scope="module")
def examples(shop):
    return Purchase("7d").examples(shop.events)


@pytest.fixture(scope="module")
def parts(examples):
    past, test = next(TimeSplit().split(examples))
    return examples[past], examples[test]


def counts():
    return OnSequences(CountsClassifier())


def ngrams():
    return make_classifier("logistic", inputs="ngrams")


def pair():
    return [("counts", counts()), ("n-grams", ngrams())]


def table(n=240, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    score = X[:, 0] + 0.5 * X[:, 1] + rng.normal(size=n)
    return X, np.digitize(score, np.quantile(score, np.linspace(0, 1, classes + 1)[1:-1]))


def members(seed=0):
    return [
        ("logistic", LogisticRegression()),
        ("bayes", GaussianNB()),
        ("tree", DecisionTreeClassifier(max_depth=3, random_state=seed)),
    ]


def probabilities(rng, m, n, k):
    return rng.dirichlet(np.ones(k), size=(m, n))


class TestMeans:
    @settings(max_examples=50, deadline=None)
    @given(st.integers(1, 5), st.integers(2, 4), st.integers(0, 10_000))
    def test_both_means_are_probabilities_between_the_members(self, m, k, seed):
        rng = np.random.default_rng(seed)
        said, weights = probabilities(rng, m, 20, k), rng.dirichlet(np.ones(m))
        for mean in (arithmetic_mean, geometric_mean):
            p = mean(said, weights)
            assert np.allclose(p.sum(axis=1), 1) and (p >= 0).all()
        p = arithmetic_mean(said, weights)
        assert (p >= said.min(axis=0) - 1e-12).all() and (p <= said.max(axis=0) + 1e-12).all()

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 5), st.integers(0, 10_000))
    def test_copies_of_one_member_change_nothing(self, m, seed):
        rng = np.random.default_rng(seed)
        one = probabilities(rng, 1, 20, 3)
        for mean in (arithmetic_mean, geometric_mean):
            assert np.allclose(mean(np.repeat(one, m, axis=0), rng.dirichlet(np.ones(m))), one[0], atol=1e-6)

    def test_a_member_that_says_zero_has_no_veto(self):
        said = np.array([[[0.0, 1.0]], [[1.0, 0.0]]])
        p = geometric_mean(said, np.array([0.5, 0.5]))
        assert np.allclose(p, 0.5)


class TestWeights:
    @settings(max_examples=30, deadline=None)
    @given(st.integers(2, 5), st.integers(0, 10_000))
    def test_they_are_convex_and_no_vertex_or_equal_weights_do_better(self, m, seed):
        rng = np.random.default_rng(seed)
        said, y = probabilities(rng, m, 80, 2), rng.integers(0, 2, 80)

        def loss(w):
            return -np.log(np.maximum(arithmetic_mean(said, w)[np.arange(80), y], 1e-6)).mean()

        w = simplex_weights(loss, m)
        assert (w >= 0).all() and np.isclose(w.sum(), 1)
        rivals = [*np.eye(m), np.full(m, 1 / m), *rng.dirichlet(np.ones(m), 20)]
        assert loss(w) <= min(map(loss, rivals)) + 1e-5

    def test_least_squares_on_the_simplex_as_brute_force_finds_it(self):
        rng = np.random.default_rng(1)
        said, y = rng.normal(size=(2, 200)), rng.normal(size=200)

        def loss(w):
            return ((w @ said - y) ** 2).mean()

        grid = np.linspace(0, 1, 2001)
        best = grid[np.argmin([loss(np.array([v, 1 - v])) for v in grid])]
        assert abs(simplex_weights(loss, 2)[0] - best) < 1e-3

    @pytest.mark.parametrize("kind", ["arithmetic", "geometric"])
    def test_a_copy_shares_the_weight_and_leaves_the_answer(self, kind):
        X, y = table()
        cv = KFold(4, shuffle=True, random_state=0)
        plain = AverageClassifier(members()[:2], "fitted", kind, cv).fit(X, y)
        copied = AverageClassifier([*members()[:2], ("again", GaussianNB())], "fitted", kind, cv).fit(X, y)
        assert np.isclose(plain.weights_[1], copied.weights_[1:].sum(), atol=0.02)
        assert np.allclose(plain.predict_proba(X), copied.predict_proba(X), atol=0.01)

    def test_a_member_of_noise_gets_next_to_nothing(self):
        X, y = table(n=600)

        class Noise(ClassifierMixin, BaseEstimator):
            def fit(self, X, y):
                self.classes_ = np.unique(y)
                return self

            def predict_proba(self, X):
                p = np.random.default_rng(len(X)).uniform(0.05, 0.95, len(X))
                return np.column_stack([1 - p, p])

        cv = KFold(4, shuffle=True, random_state=0)
        for kind in ("arithmetic", "geometric", "rank"):
            fused = AverageClassifier(
                [("good", LogisticRegression()), ("noise", Noise())], "fitted", kind, cv
            )
            assert fused.fit(X, y).weights_[1] < 0.15, kind

    @pytest.mark.parametrize("weights", ["best", [1], [1, -1, 1], [0, 0, 0], [np.nan, 1, 1]])
    def test_impossible_weights(self, weights):
        with pytest.raises(LogError, match="weights"):
            AverageClassifier(members(), weights).fit(*table())

    @pytest.mark.filterwarnings("ignore:invalid value")
    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_predictions_that_are_not_finite_give_no_weights(self, bad):
        class Broken(RegressorMixin, BaseEstimator):
            def fit(self, X, y):
                self.fitted_ = True
                return self

            def predict(self, X):
                return np.where(np.arange(len(X)) == 1, bad, 1.0)

        X, _ = table()
        fused = AverageRegressor([("ridge", Ridge()), ("broken", Broken())], "fitted", KFold(3))
        with pytest.raises(LogError, match="not finite"):
            fused.fit(X, X[:, 0])

    def test_given_weights_are_brought_to_the_sum_one(self):
        X, y = table()
        a = AverageClassifier(members(), [1, 1, 2]).fit(X, y)
        b = VotingClassifier(members(), voting="soft", weights=[1, 1, 2]).fit(X, y)
        assert np.isclose(a.weights_.sum(), 1)
        assert np.allclose(a.predict_proba(X), b.predict_proba(X))


class TestRanks:
    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(st.integers(-50, 50), min_size=1, max_size=30), st.lists(st.integers(-60, 60), min_size=1)
    )
    def test_places_are_those_of_any_monotone_transform(self, reference, scores):
        reference, scores = np.sort(np.array(reference, float)), np.array(scores, float)
        place = place_among(reference, scores)
        assert ((place > 0) & (place < 1)).all()
        assert (np.diff(place[np.argsort(scores, kind="stable")]) >= 0).all()
        assert np.array_equal(place, place_among(np.exp(reference / 10), np.exp(scores / 10)))

    def test_the_answer_does_not_change_when_a_member_stretches_its_probabilities(self):
        class Stretched(LogisticRegression):
            def predict_proba(self, X):
                p = super().predict_proba(X)[:, 1] ** 3
                return np.column_stack([1 - p, p])

        X, y = table()
        cv = KFold(4, shuffle=True, random_state=0)
        for weights in ("equal", "fitted"):
            plain = AverageClassifier(members(), weights, "rank", cv).fit(X, y)
            bent = AverageClassifier([("logistic", Stretched()), *members()[1:]], weights, "rank", cv).fit(
                X, y
            )
            assert np.allclose(plain.predict_proba(X), bent.predict_proba(X), atol=1e-8)

    def test_one_example_is_answered_as_in_a_crowd(self):
        X, y = table()
        fused = AverageClassifier(members(), "equal", "rank", KFold(4)).fit(X, y)
        alone = np.vstack([fused.predict_proba(X[i : i + 1]) for i in range(20)])
        assert np.allclose(alone, fused.predict_proba(X)[:20])

    def test_two_classes_only(self):
        with pytest.raises(LogError, match="two classes"):
            AverageClassifier(members(), "equal", "rank", KFold(4)).fit(*table(classes=3))


class TestAgreement:
    @pytest.mark.parametrize("classes", [2, 3])
    def test_soft_voting(self, classes):
        X, y = table(classes=classes)
        ours = AverageClassifier(members()).fit(X, y)
        theirs = VotingClassifier(members(), voting="soft").fit(X, y)
        assert np.allclose(ours.predict_proba(X), theirs.predict_proba(X))
        assert np.array_equal(ours.predict(X), theirs.predict(X))

    def test_voting_takes_examples(self, parts):
        train, test = parts
        ours = AverageClassifier(pair()).fit(train)
        theirs = VotingClassifier(pair(), voting="soft").fit(train, train.label)
        assert np.allclose(ours.predict_proba(test), theirs.predict_proba(test))

    def test_stacking_on_the_same_folds(self):
        X, y = table()
        cv = KFold(5)
        to_odds = FunctionTransformer(lambda p: np.log(np.maximum(p, 1e-6) / np.maximum(1 - p, 1e-6)))
        theirs = StackingClassifier(members(), make_pipeline(to_odds, LogisticRegression()), cv=cv).fit(X, y)
        ours = StackedClassifier(members(), cv=cv).fit(X, y)
        assert np.allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)

    def test_stacking_of_three_classes_on_the_same_folds(self):
        def to_logs(p):
            logs = np.log(np.maximum(p, 1e-6)).reshape(len(p), -1, 3)
            return (logs - logs.mean(axis=2, keepdims=True)).reshape(len(p), -1)

        (X, y), cv = table(classes=3), KFold(5)
        final = make_pipeline(FunctionTransformer(to_logs), LogisticRegression())
        theirs = StackingClassifier(members(), final, cv=cv).fit(X, y)
        ours = StackedClassifier(members(), cv=cv).fit(X, y)
        assert ours.predict_proba(X).shape == (len(X), 3)
        assert np.allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
        assert np.array_equal(ours.predict(X), theirs.predict(X))

    @pytest.mark.parametrize("classes", [2, 3])
    def test_log_odds_hold_all_that_the_members_said(self, classes):
        said = np.maximum(probabilities(np.random.default_rng(0), 2, 30, classes), 1e-4)
        said /= said.sum(axis=2, keepdims=True)
        found = log_odds_of(said)
        assert found.shape == (30, 2 if classes == 2 else 6)
        for i, member in enumerate(said):
            if classes == 2:
                back = 1 / (1 + np.exp(-found[:, i]))
                assert np.allclose(back, member[:, 1])
            else:
                mine = found[:, 3 * i : 3 * i + 3]
                assert np.allclose(mine.sum(axis=1), 0)
                assert np.allclose(softmax(mine, axis=1), member)

    def test_regressors(self):
        X, _ = table()
        y = X @ [1, 2, 0, 0, 0] + np.random.default_rng(0).normal(size=len(X))
        models = [("linear", LinearRegression()), ("ridge", Ridge(50))]
        assert np.allclose(
            AverageRegressor(models).fit(X, y).predict(X), VotingRegressor(models).fit(X, y).predict(X)
        )
        ours = StackedRegressor(models, LinearRegression(), KFold(5)).fit(X, y)
        theirs = StackingRegressor(models, LinearRegression(), cv=KFold(5)).fit(X, y)
        assert np.allclose(ours.predict(X), theirs.predict(X))

    @pytest.mark.parametrize("classes", [2, 3])
    def test_out_of_fold_is_cross_val_predict_on_a_partition(self, classes):
        X, y = table(classes=classes)
        rows, said = out_of_fold(members(), X, y, KFold(5))
        for (_, model), found in zip(members(), said, strict=True):
            theirs = cross_val_predict(model, X, y, cv=KFold(5), method="predict_proba")
            assert np.allclose(found, theirs[rows])


class Recorder(ClassifierMixin, BaseEstimator):
    """Remembers what it was fitted on, and complains when it is asked about it."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.seen_ = set(zip(X.ids, X.cutoff, strict=True))
        self.until_ = X.label_end.max()
        return self

    def predict_proba(self, X):
        assert not self.seen_ & set(zip(X.ids, X.cutoff, strict=True)), "asked about a training example"
        assert self.until_ <= X.cutoff.min(), "trained on labels that were not known yet"
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


class TestTime:
    @pytest.mark.parametrize("cv", [None, RollingSplit(4), TimeSplit(), TimeSplit(validation=True)])
    def test_no_member_sees_its_out_of_fold_examples_or_their_future(self, parts, cv):
        rows, _ = out_of_fold([("recorder", Recorder())], parts[0], cv=cv)
        assert len(rows) == len(np.unique(rows)) > 0

    @pytest.mark.parametrize("cv", [KFold(3), KFold(3, shuffle=True, random_state=0)])
    def test_folds_that_know_the_future_are_refused(self, parts, cv):
        for fused in (AverageClassifier(pair(), "fitted", cv=cv), StackedClassifier(pair(), cv=cv)):
            with pytest.raises(LogError, match="trains on the future"):
                fused.fit(parts[0])

    def test_splits_by_user_are_allowed(self, parts):
        rows, said = out_of_fold([("counts", counts())], parts[0], cv=UserSplit())
        assert said.shape == (1, len(rows), 2)

    def test_a_test_that_comes_twice_is_refused(self):
        with pytest.raises(LogError, match="twice"):
            out_of_fold(members(), *table(), cv=RepeatedKFold(n_splits=3, n_repeats=2, random_state=0))

    def test_a_frozen_member_has_no_out_of_fold_predictions(self, parts):
        frozen = [("counts", FrozenEstimator(counts().fit(parts[0])))]
        with pytest.raises(LogError, match="frozen"):
            StackedClassifier(frozen).fit(parts[0])

    def test_a_table_needs_splits(self):
        X, y = table()
        with pytest.raises(LogError, match="needs splits"):
            AverageClassifier(members(), "fitted").fit(X, y)
        with pytest.raises(LogError, match="pass y"):
            AverageClassifier(members()).fit(X)

    def test_another_future_changes_nothing(self, shop, parts):
        train, _ = parts
        late = shop.events["timestamp"] >= train.label_end.max()
        changed = pd.concat([shop.events[~late], shop.events[late].sample(frac=0.3, random_state=0)])
        again = Purchase("7d").examples(
            changed, np.unique(train.cutoff), log_end=str(shop.events["timestamp"].max())
        )
        again = again[again.label_end <= train.label_end.max()]
        one = AverageClassifier(pair(), "fitted").fit(train)
        two = AverageClassifier(pair(), "fitted").fit(again)
        assert np.allclose(one.weights_, two.weights_)
        assert np.allclose(one.predict_proba(train), two.predict_proba(train))

    def test_stacking_on_known_answers_believes_in_too_much(self, parts):
        train, test = parts
        few = FeatureBuilder(families=("frequency",), windows=("7d", None))
        deep = make_classifier("forest", inputs=few, n_estimators=30, min_samples_leaf=1)
        honest = StackedClassifier([("deep", deep), ("counts", counts())], cv=TimeSplit(test_size=0.3)).fit(
            train
        )
        names = ["deep", "counts"]
        fitted = list(zip(names, map(FrozenEstimator, honest.estimators_), strict=True))
        leaky = StackedClassifier(fitted, cv="prefit").fit(train)
        believed = roc_auc_score(train.label, leaky.predict_proba(train)[:, 1])
        reached = roc_auc_score(test.label, leaky.predict_proba(test)[:, 1])
        assert believed > 0.97 and reached < believed - 0.1
        assert leaky.final_.coef_[0, 0] > 2 * honest.final_.coef_[0, 0]

    def test_prefit_learns_the_weights_from_what_it_is_given(self, parts):
        train, _ = parts
        early, late = next(TimeSplit(test_size=0.3).split(train))
        fitted = [(name, model.fit(train[early])) for name, model in pair()]
        fused = AverageClassifier(fitted, "fitted", cv="prefit").fit(train[late])
        rows, said = out_of_fold(pair(), train, cv=TimeSplit(test_size=0.3))
        assert fused.estimators_[0] is fitted[0][1]
        in_time = AverageClassifier(pair(), "fitted", cv=TimeSplit(test_size=0.3)).fit(train)
        assert np.allclose(fused.weights_, in_time.weights_, atol=1e-6) and len(rows) == len(late)


class TestEstimators:
    @pytest.mark.parametrize("make", [AverageClassifier, StackedClassifier])
    def test_clone_and_parameters(self, make):
        fused = make(pair(), cv=TimeSplit())
        again = clone(fused)
        assert again is not fused and again.estimators[1][1] is not fused.estimators[1][1]
        assert fused.get_params()["n-grams__model__C"] == 1.0
        fused.set_params(**{"n-grams__model__C": 0.1})
        assert fused.estimators[1][1].named_steps["model"].C == 0.1
        assert again.get_params()["n-grams__model__C"] == 1.0
        assert is_classifier(fused) and not is_classifier(AverageRegressor([]))

    def test_classes_of_any_kind_keep_their_names(self, parts):
        train, test = parts
        names = np.where(train.label == 1, "yes", "no")
        for fused in (AverageClassifier(pair(), "fitted"), StackedClassifier(pair())):
            fused.fit(train, names)
            assert fused.classes_.tolist() == ["no", "yes"]
            assert set(fused.predict(test)) <= {"no", "yes"}

    def test_a_class_that_a_fold_never_saw_has_no_chance_there(self):
        X, y = table(n=60)
        y[:40], y[40:] = y[:40], 2
        rows, said = out_of_fold([("bayes", GaussianNB())], X, y, [(np.arange(30), np.arange(30, 60))])
        assert said.shape == (1, 30, 3) and (said[0, :, 2] == 0).all() and np.allclose(said.sum(axis=2), 1)

    @pytest.mark.parametrize("make", [AverageClassifier, StackedClassifier])
    def test_a_fitted_member_that_knows_another_class_is_refused(self, make):
        X, y = table(classes=3)
        fitted, some = [(name, model.fit(X, y)) for name, model in members()], y < 2
        for rows in (some, y > 0, y != 1):
            with pytest.raises(LogError, match="classes that the labels lack"):
                make(fitted, cv="prefit").fit(X[rows], y[rows]).predict_proba(X)

    @pytest.mark.parametrize(
        ("fused", "say"),
        [
            (AverageClassifier([]), "no member"),
            (AverageClassifier(members(), kind="harmonic"), "harmonic"),
            (AverageClassifier([("a", Ridge())]), "no classifier"),
            (AverageRegressor([("a", LogisticRegression())]), "no regressor"),
            (StackedClassifier([]), "no member"),
        ],
    )
    def test_bad_input(self, fused, say):
        with pytest.raises(LogError, match=say):
            fused.fit(*table())

    def test_names_must_differ(self):
        with pytest.raises(ValueError, match="not unique"):
            AverageClassifier([("a", GaussianNB()), ("a", GaussianNB())]).fit(*table())

    def test_labels_of_one_class(self):
        X, y = table()
        with pytest.raises(LogError, match="two classes"):
            StackedClassifier(members(), cv=KFold(3)).fit(X, np.zeros_like(y))

    def test_unfitted_models_say_so(self, parts):
        from sklearn.exceptions import NotFittedError

        for model in (AverageClassifier(pair()), counts(), DistilledClassifier(counts())):
            with pytest.raises(NotFittedError):
                model.predict_proba(parts[1])


class TestAmounts:
    def test_fused_regressors_take_examples_and_stay_in_range(self, shop):
        spend = Spend("14d").examples(shop.events)
        past, test = next(TimeSplit().split(spend))
        few = FeatureBuilder(families=("frequency",), windows=("30d", None))
        models = [("ridge", make_regressor("ridge", inputs=few)), ("mean", make_regressor("mean"))]
        for fused in (AverageRegressor(models, "fitted"), StackedRegressor(models)):
            said = fused.fit(spend[past]).predict(spend[test])
            assert said.shape == (len(test),) and said.min() >= 0 and said.max() <= spend.label[past].max()

    def test_labels_that_are_no_amounts(self):
        X, _ = table()
        with pytest.raises(LogError, match="amounts"):
            AverageRegressor([("a", Ridge())]).fit(X, np.array(["a"] * len(X)))

    def test_fitted_weights_do_not_depend_on_the_currency(self):
        X, _ = table()
        y = X @ [3, 1, 0, 0, 0]
        models = [("linear", LinearRegression()), ("ridge", Ridge(200))]
        one = AverageRegressor(models, "fitted", KFold(4)).fit(X, y).weights_
        cents = AverageRegressor(models, "fitted", KFold(4)).fit(X, 100 * y).weights_
        assert np.allclose(one, cents, atol=1e-3)


class TestLists:
    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.permutations(list("abcdef")), min_size=1, max_size=4), st.floats(0, 100))
    def test_the_sum_of_reciprocal_places(self, lists, constant):
        found = reciprocal_rank_fusion(lists, constant)
        for item in "abcdef":
            by_hand = np.mean([1 / (constant + items.index(item) + 1) for items in lists])
            assert np.isclose(found[item], by_hand)
        assert (np.diff(found.to_numpy()) <= 0).all()

    @given(st.permutations(list(range(8))), st.integers(1, 4))
    def test_copies_of_one_list_keep_its_order(self, items, copies):
        assert list(reciprocal_rank_fusion([items] * copies).index) == list(items)

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=9), min_size=1, max_size=4))
    def test_an_id_twice_in_a_list_counts_once_at_its_first_place(self, lists):
        once = [[item for i, item in enumerate(items) if item not in items[:i]] for items in lists]
        pd.testing.assert_series_equal(reciprocal_rank_fusion(lists), reciprocal_rank_fusion(once))

    def test_the_first_place_counts_by_hand(self):
        found = reciprocal_rank_fusion([["a", "b", "a", "c", "a"]], constant=0)
        assert found.to_dict() == pytest.approx({"a": 1, "b": 1 / 2, "c": 1 / 3})

    def test_nothing_to_fuse(self):
        with pytest.raises(LogError, match="nothing to fuse"):
            reciprocal_rank_fusion([])

    @pytest.mark.parametrize("constant", [-1, -1e-9, np.nan])
    def test_impossible_constants(self, constant, shop):
        with pytest.raises(LogError, match="constant"):
            reciprocal_rank_fusion([["a"]], constant)
        seen = SequenceEncoder(("item_id",)).fit(shop.events).encode(shop.events)
        with pytest.raises(LogError, match="constant"):
            ReciprocalRankFusion((Popularity(),), constant=constant).fit(seen)

    def test_the_model_agrees_with_the_fused_lists(self, shop):
        seen = SequenceEncoder(("item_id",)).fit(shop.events).encode(shop.events)
        fused = ReciprocalRankFusion((MarkovChain(), SessionKNN()), weights=(2, 1)).fit(seen)
        asked = seen[:10]
        scores = fused._scores(fused._read(asked))
        for i in range(len(asked)):
            places = [
                pd.Series(-model._scores(fused._read(asked[i : i + 1]))[0]).rank().to_numpy()
                for model in fused.models_
            ]
            assert np.allclose(scores[i], 2 / 3 / (60 + places[0]) + 1 / 3 / (60 + places[1]), atol=1e-7)

    def test_one_model_keeps_its_order(self, shop):
        seen = SequenceEncoder(("item_id",)).fit(shop.events).encode(shop.events)
        fused = ReciprocalRankFusion((Popularity(),)).fit(seen)
        alone = Popularity().fit(seen)
        ranks = [model.target_ranks(seen[:50], fused.items_.values[:50]) for model in (fused, alone)]
        assert np.allclose(*ranks)

    def test_bad_input(self, shop):
        seen = SequenceEncoder(("item_id",)).fit(shop.events).encode(shop.events)
        with pytest.raises(LogError, match="no model"):
            ReciprocalRankFusion().fit(seen)
        with pytest.raises(LogError, match="weights"):
            ReciprocalRankFusion((MarkovChain(), Popularity()), weights=(1,)).fit(seen)

    def test_clone_keeps_the_parameters(self):
        fused = clone(ReciprocalRankFusion((MarkovChain(), Popularity()), constant=3, weights=(1, 2)))
        assert fused.constant == 3 and fused.weights == (1, 2) and len(fused.models) == 2


class TestDiversity:
    def test_by_hand(self):
        y = np.array([1, 1, 1, 0, 0, 0, 1, 0])
        a = np.array([1, 1, 0, 0, 0, 1, 1, 0])  # right: 1 1 0 1 1 0 1 1
        b = np.array([1, 0, 0, 0, 1, 0, 1, 0])  # right: 1 0 0 1 0 1 1 1
        found = error_diversity(y, {"a": a, "b": b}, threshold=0.5).iloc[0]
        both, none, only_a, only_b = 4, 1, 2, 1
        assert np.isclose(found["q"], (both * none - only_a * only_b) / (both * none + only_a * only_b))
        assert np.isclose(found["double_fault"], none / 8)
        assert np.isclose(found["disagreement"], (only_a + only_b) / 8)
        assert np.isclose(found["error_correlation"], np.corrcoef(y - a, y - b)[0, 1])

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 10_000))
    def test_bounds_symmetry_and_copies(self, seed):
        rng = np.random.default_rng(seed)
        y, a, b = rng.integers(0, 2, 60), rng.random(60), rng.random(60)
        one = error_diversity(y, {"a": a, "b": b}).iloc[0]
        two = error_diversity(y, {"b": b, "a": a}).iloc[0]
        for name in ("q", "disagreement", "double_fault", "error_correlation"):
            assert np.isclose(one[name], two[name], equal_nan=True)
        same = error_diversity(y, {"a": a, "copy": a}).iloc[0]
        assert same["disagreement"] == 0 and np.isclose(same["error_correlation"], 1)
        assert np.isnan(same["q"]) or same["q"] == 1

    def test_amounts_have_a_correlation_only(self):
        y = np.array([0.0, 2.5, 7.0])
        found = error_diversity(y, {"a": y + [1, 0, -1], "b": y + [2, 0, -2]})
        assert np.isclose(found["error_correlation"].item(), 1) and "q" not in found

    @pytest.mark.parametrize(
        ("predictions", "say"), [({"a": [0.1, 0.2]}, "two members"), ({"a": [0.1], "b": [0.1, 0.2]}, "shape")]
    )
    def test_bad_input(self, predictions, say):
        with pytest.raises(LogError, match=say):
            error_diversity([0, 1], predictions)


class TestSaved:
    @pytest.mark.parametrize("kind", ["arithmetic", "geometric", "rank"])
    def test_averages(self, parts, tmp_path, kind):
        fused = AverageClassifier(pair(), "fitted", kind).fit(parts[0])
        back = load_fused(save_model(fused, tmp_path / "model"))
        assert np.allclose(back.predict_proba(parts[1]), fused.predict_proba(parts[1]))
        assert [name for name, _ in back.estimators] == ["counts", "n-grams"]
        assert back.kind == kind and np.allclose(back.weights_, fused.weights_)
        again = load_fused(back.save(tmp_path / "again"))
        assert np.allclose(again.predict_proba(parts[1]), fused.predict_proba(parts[1]))

    def test_fused_models_in_fused_models(self, parts, tmp_path):
        inner = AverageClassifier(pair(), [1, 3])
        fused = StackedClassifier([("inner", inner), ("counts", counts())], cv=TimeSplit()).fit(parts[0])
        back = load_fused(fused.save(tmp_path / "model"))
        assert np.allclose(back.predict_proba(parts[1]), fused.predict_proba(parts[1]))
        assert back.estimators_[0].weights == [1, 3]

    def test_over_an_old_model(self, parts, tmp_path):
        train, test = parts
        folder, few = tmp_path / "model", FeatureBuilder(families=("frequency",), windows=(None,))
        for features in (few, None, few):
            model = OnSequences(SequenceClassifier("bag", **TINY), features=features).fit(train)
            back = load_fused(model.save(folder))
            assert (back.features_ is None) == (features is None)
            assert np.allclose(back.predict_proba(test), model.predict_proba(test), atol=1e-6)

    def test_averages_over_other_averages(self, parts, tmp_path):
        train, test = parts
        for kind in ("rank", "arithmetic", "rank"):
            fused = AverageClassifier(pair(), "fitted", kind).fit(train)
            back = load_fused(fused.save(tmp_path / "model"))
            assert hasattr(back, "final_") == hasattr(back, "reference_") == (kind == "rank")
            assert np.allclose(back.predict_proba(test), fused.predict_proba(test))
        alone = AverageClassifier(pair()[:1]).fit(train)
        back = load_fused(alone.save(tmp_path / "model"))
        assert np.allclose(back.predict_proba(test), alone.predict_proba(test))

    def test_lists_over_other_lists(self, shop, tmp_path):
        seen = SequenceEncoder(("item_id",)).fit(shop.events).encode(shop.events)
        for models in ((MarkovChain(), SessionKNN()), (Popularity(),)):
            fused = ReciprocalRankFusion(models).fit(seen)
            back = load_fused(fused.save(tmp_path / "lists"))
            assert np.array_equal(back.recommend(seen[:20]).items, fused.recommend(seen[:20]).items)

    def test_no_pickle_is_written(self, parts, tmp_path):
        AverageClassifier(pair(), "fitted", "rank").fit(parts[0]).save(tmp_path / "model")
        found = {path.suffix for path in (tmp_path / "model").rglob("*") if path.is_file()}
        assert found <= {".json", ".skops", ".npz", ".parquet", ".keras"}

    def test_a_damaged_file_is_named(self, parts, tmp_path):
        folder = AverageClassifier(pair()).fit(parts[0]).save(tmp_path / "model")
        victim = next(path for path in folder.rglob("*.skops"))
        victim.write_bytes(victim.read_bytes()[:-5])
        with pytest.raises(LogError, match=re.escape(victim.name)):
            load_fused(folder)
        os.remove(victim)
        with pytest.raises(LogError, match="missing"):
            load_fused(folder)

    def test_other_folders_are_refused(self, parts, tmp_path):
        with pytest.raises(LogError, match="not a saved seqbook model"):
            load_fused(tmp_path)
        counts().fit(parts[0]).save(tmp_path / "counts")
        with pytest.raises(LogError, match="load it with that class"):
            AverageClassifier.load(tmp_path / "counts")

    def test_recommenders(self, shop, tmp_path):
        seen = SequenceEncoder(("item_id",)).fit(shop.events).encode(shop.events)
        fused = ReciprocalRankFusion((MarkovChain(), SessionKNN()), constant=7, weights=(1, 2)).fit(seen)
        back = load_fused(fused.save(tmp_path / "lists"))
        for name in ("items", "scores"):
            assert np.array_equal(
                getattr(back.recommend(seen[:20]), name), getattr(fused.recommend(seen[:20]), name)
            )
        assert back.constant == 7


@pytest.fixture(scope="module")
def pretrained(parts):
    encoder = SequenceEncoder(("behavior", "log_gap"), max_length=20).fit(parts[0].fit_log())
    model = NextEventModel("gru", end=False, **TINY).fit(encoder.encode(longest_histories(parts[0])))
    return encoder, model


class TestNetworks:
    def test_a_network_as_a_member(self, parts, tmp_path):
        train, test = parts
        network = OnSequences(SequenceClassifier("bag", **TINY))
        fused = AverageClassifier([("counts", counts()), ("network", network)], "fitted", cv=TimeSplit())
        fused.fit(train)
        back = load_fused(fused.save(tmp_path / "model"))
        assert np.allclose(back.predict_proba(test), fused.predict_proba(test), atol=1e-6)

    def test_what_stops_a_network_is_later_than_what_it_learns_from(self, parts):
        train, valid = OnSequences(SequenceClassifier())._parts(parts[0])
        assert parts[0].label_end[train].max() <= parts[0].cutoff[valid].min()
        one = parts[0][parts[0].cutoff == parts[0].cutoff.max()]
        train, valid = OnSequences(SequenceClassifier())._parts(one)
        assert not set(one.ids[train]) & set(one.ids[valid])
        assert len(OnSequences(CountsClassifier())._parts(one)[1]) == 0

    def test_features_join_late_and_a_given_validation_is_taken(self, parts, tmp_path):
        train, test = parts
        early, late = next(TimeSplit().split(train))
        few = FeatureBuilder(families=("frequency",), windows=(None,))
        model = OnSequences(SequenceClassifier("bag", **TINY), features=few)
        model.fit(train[early], validation=(train[late], train[late].label))
        assert "features" in model.model_.network_.input and "val_log_loss" in model.model_.history_
        back = load_fused(model.save(tmp_path / "model"))
        assert np.allclose(back.predict_proba(test), model.predict_proba(test), atol=1e-6)

    def test_a_validation_part_without_a_class_of_the_training_says_nothing(self, parts):
        early, late = next(TimeSplit().split(parts[0]))
        train, valid = parts[0][early], parts[0][late]
        model = OnSequences(SequenceClassifier("bag", **TINY))
        model.fit(train, validation=(valid, np.full(len(valid), 7)))
        assert "val_log_loss" not in model.model_.history_
        assert len(model.model_.history_) == TINY["epochs"]

    def test_amounts(self, shop):
        spend = Spend("14d").examples(shop.events)
        model = OnSequences(SequenceRegressor("bag", **TINY))
        fused = AverageRegressor([("network", model), ("mean", make_regressor("mean"))])
        past, test = next(TimeSplit().split(spend))
        assert np.isfinite(fused.fit(spend[past]).predict(spend[test])).all()

    def test_snapshots_differ_and_are_averaged(self, parts, tmp_path):
        model = OnSequences(SnapshotClassifier(SequenceClassifier("bag", **TINY), cycles=2)).fit(parts[0])
        X = model.encoder_.encode(parts[1])
        said = [member.predict_proba(X) for member in model.model_.estimators_]
        assert not np.allclose(said[0], said[1])
        assert np.allclose(model.predict_proba(parts[1]), np.mean(said, axis=0))
        back = load_fused(model.save(tmp_path / "model"))
        assert np.allclose(back.predict_proba(parts[1]), model.predict_proba(parts[1]), atol=1e-6)
        with pytest.raises(LogError, match="cycles"):
            SnapshotClassifier(SequenceClassifier("bag", **TINY), 0).fit(X, parts[1].label)

    def test_the_learning_rate_falls_along_a_cosine_in_each_cycle(self, parts):
        rates, X = [], SequenceEncoder(("behavior",)).fit(parts[0].fit_log()).encode(parts[0])
        optimizer = SimpleNamespace(learning_rate=None, built=True)

        def train_on_batch(*batch):
            rates.append(optimizer.learning_rate)
            return 0.5

        network = SimpleNamespace(optimizer=optimizer, train_on_batch=train_on_batch)
        how = {"batch_size": 64, "epochs": 3, "learning_rate": 0.2, "progress": False}
        model = SimpleNamespace(network_=network, seed=0, **how)
        data = X, parts[0].label.astype("float32"), None, None
        for cycle in range(2):
            assert _train_cycle(model, data, cycle) == [0.5] * 3
        steps = len(rates) // 2
        cosine = 0.1 * (1 + np.cos(np.pi * np.arange(steps) / steps))
        assert steps > 6 and np.allclose(rates, np.tile(cosine, 2))

    def test_class_weights_are_refused_where_they_have_no_meaning(self, parts):
        X = SequenceEncoder(("behavior",)).fit(parts[0].fit_log()).encode(parts[0])
        y = parts[0].label
        with pytest.raises(LogError, match="class_weight"):
            SnapshotClassifier(SequenceClassifier("bag", class_weight="balanced", **TINY)).fit(X, y)
        with pytest.raises(LogError, match="class_weight"):
            SoftClassifier("bag", class_weight={0: 1, 1: 9}, **TINY).fit(X, np.eye(2)[y])

    def test_a_student_follows_its_teacher(self, parts, tmp_path):
        train, test = parts
        teacher = counts().fit(train)
        student = SoftClassifier("bag", counts=8, **{**TINY, "epochs": 30, "learning_rate": 1e-2})
        model = DistilledClassifier(FrozenEstimator(teacher), student).fit(train, unlabelled=test)
        said = [one.predict_proba(test)[:, 1] for one in (model, teacher)]
        assert pd.Series(said[0]).corr(pd.Series(said[1]), method="spearman") > 0.6
        back = load_fused(model.save(tmp_path / "model"))
        assert np.allclose(back.predict_proba(test)[:, 1], said[0], atol=1e-6)

    def test_the_labels_of_the_unlabelled_are_never_read(self, parts):
        train, test = parts
        how = FrozenEstimator(counts().fit(train)), SoftClassifier("bag", **TINY)
        lied = replace(test, label=1 - test.label)
        said = [DistilledClassifier(*how).fit(train, unlabelled=p).predict_proba(test) for p in (test, lied)]
        assert np.allclose(*said)

    def test_soft_labels_of_hard_ones_are_hard_labels(self, parts):
        train, test = parts
        X = SequenceEncoder(("behavior",), max_length=20).fit(train.fit_log()).encode(train)
        hard = SequenceClassifier("bag", **TINY).fit(X, train.label).predict_proba(X)
        soft = SoftClassifier("bag", **TINY).fit(X, np.eye(2)[train.label]).predict_proba(X)
        assert np.allclose(hard, soft, atol=1e-5)
        with pytest.raises(LogError, match="probabilities"):
            SoftClassifier("bag", **TINY).fit(X, train.label)


class TestTransfer:
    def test_the_layers_are_carried_over_and_a_frozen_one_stays(self, parts, pretrained):
        encoder, source = pretrained
        X, y = encoder.encode(parts[0]), parts[0].label
        model = PretrainedClassifier("gru", FrozenEstimator(source), freeze=True, **TINY).fit(X, y)
        assert {"behavior_embedding", "gru"} <= set(model.moved_)
        for name in model.moved_:
            for mine, theirs in zip(
                model.network_.get_layer(name).get_weights(),
                source.network_.get_layer(name).get_weights(),
                strict=True,
            ):
                assert np.array_equal(mine, theirs)

    def test_slow_layers_move_less(self, parts, pretrained, tmp_path):
        encoder, source = pretrained
        X, y = encoder.encode(parts[0]), parts[0].label
        start, moves = source.network_.get_layer("gru").get_weights(), {}
        for slow in (1.0, 0.1, 0.0):
            model = PretrainedClassifier("gru", FrozenEstimator(source), slow=slow, **TINY).fit(X, y)
            now = model.network_.get_layer("gru").get_weights()
            moves[slow] = sum(np.abs(a - b).sum() for a, b in zip(now, start, strict=True))
        assert moves[0.0] == 0 and 0 < moves[0.1] < 0.5 * moves[1.0]
        back = load_fused(model.save(tmp_path / "model"))
        assert np.allclose(back.predict_proba(X), model.predict_proba(X), atol=1e-6)
        assert back.moved_ == model.moved_

    def test_skipped_fields_are_left_behind(self, parts, pretrained):
        encoder, source = pretrained
        X, y = encoder.encode(parts[0]), parts[0].label
        model = PretrainedClassifier("gru", FrozenEstimator(source), ("behavior",), **TINY).fit(X, y)
        assert "behavior_embedding" not in model.moved_ and "gru" in model.moved_
        assert transfer_weights(source, source) == ["behavior_embedding", "gru"]

    def test_a_source_that_does_not_fit_is_refused(self, parts, pretrained):
        encoder, source = pretrained
        X, y = encoder.encode(parts[0]), parts[0].label
        with pytest.raises(LogError, match="not fitted"):
            PretrainedClassifier("gru", NextEventModel("gru"), **TINY).fit(X, y)
        with pytest.raises(LogError, match="no layer of the source"):
            PretrainedClassifier("bag", FrozenEstimator(source), ("behavior",), **TINY).fit(X, y)

    def test_without_a_source_it_is_the_classifier_itself(self, parts, pretrained, tmp_path):
        X, y = pretrained[0].encode(parts[0]), parts[0].label
        plain = SequenceClassifier("gru", **TINY).fit(X, y).predict_proba(X)
        model = PretrainedClassifier("gru", **TINY).fit(X, y)
        assert np.allclose(model.predict_proba(X), plain, atol=1e-6)
        back = load_fused(model.save(tmp_path / "model"))
        assert np.allclose(back.predict_proba(X), plain, atol=1e-6)

    def test_a_fit_from_another_source_does_not_go_on(self, parts, pretrained, tmp_path):
        encoder, source = pretrained
        X, y = encoder.encode(parts[0]), parts[0].label
        other = NextEventModel("gru", end=False, **TINY).fit(encoder.encode(longest_histories(parts[0]))[:99])
        assert repr(other) == repr(source)

        def fit(start):
            how = {**TINY, "checkpoint": tmp_path / "checkpoint"}
            return PretrainedClassifier("gru", FrozenEstimator(start), **how).fit(X, y)

        first = fit(source).predict_proba(X)
        assert np.allclose(fit(source).predict_proba(X), first, atol=1e-6)
        with pytest.raises(LogError, match="belongs to another fit"):
            fit(other)

    def test_clone_keeps_a_frozen_source(self, pretrained):
        model = PretrainedClassifier("gru", FrozenEstimator(pretrained[1]), slow=0.1, units=8)
        again = clone(OnSequences(model, FrozenEstimator(pretrained[0])))
        assert again.model.source.estimator is pretrained[1] and again.model.slow == 0.1
        assert again.encoder.estimator is pretrained[0] and again.model.units == 8

    def test_states_are_columns_that_no_label_changes(self, parts, pretrained):
        encoder, source = pretrained
        states = StateFeatures(FrozenEstimator(source), FrozenEstimator(encoder)).fit(parts[0])
        found = states.transform(parts[1])
        assert found.shape == (len(parts[1]), 8) and list(found) == list(states.get_feature_names_out())
        lied = replace(parts[1], label=1 - parts[1].label)
        assert np.allclose(found, states.transform(lied))

    def test_states_read_the_rows_of_the_history_and_no_other(self, parts, pretrained):
        encoder, source = pretrained
        states = StateFeatures(FrozenEstimator(source), FrozenEstimator(encoder)).fit(parts[0])
        test = parts[1]
        found, place = states.transform(test).to_numpy(), np.arange(len(test.log))
        long = np.flatnonzero(test.stop - test.start > 1)
        for i in long[:: len(long) // 5]:
            inside = (place >= test.start[i]) & (place < test.stop[i])
            for hidden, same in ((~inside, True), (inside, False)):
                cut = test.log.assign(behavior=test.log["behavior"].mask(hidden))
                state = states.transform(replace(test[[i]], log=cut)).to_numpy()
                assert np.allclose(state, found[[i]], atol=1e-5) == same

    def test_the_state_is_that_of_the_last_event_and_zero_without_any(self, parts, pretrained):
        encoder, source = pretrained
        X = encoder.encode(parts[1])[:6]
        together = last_states(source, X)
        alone = np.vstack([last_states(source, X[i : i + 1]) for i in range(len(X))])
        assert np.allclose(together, alone, atol=1e-5)
        empty = X._stretches(X.offsets[:1], np.array([0]), X.ids[:1])
        assert (last_states(source, empty) == 0).all()

    def test_a_pipeline_with_states_is_saved(self, parts, pretrained, tmp_path):
        encoder, source = pretrained
        states = StateFeatures(FrozenEstimator(source), FrozenEstimator(encoder))
        model = make_classifier("logistic", inputs=states).fit(parts[0])
        back = load_model(save_model(model, tmp_path / "model"))
        assert np.allclose(back.predict_proba(parts[1]), model.predict_proba(parts[1]), atol=1e-6)

    @settings(max_examples=20, deadline=None)
    @given(st.floats(0.05, 0.95), st.integers(0, 1000))
    def test_masks_hide_what_and_keep_when(self, share, seed):
        shop = simulate_shop(n_users=20, days=30, seed=1)
        X = SequenceEncoder(("behavior", "item_id", "log_gap")).fit(shop.events).encode(shop.events)
        hidden, y = mask_events(X, share, seed)
        asked = y >= 0
        assert (hidden.fields["behavior"][asked] == 1).all() and (hidden.fields["item"][asked] == 1).all()
        assert np.array_equal(y[asked], X.fields["behavior"][asked])
        assert np.array_equal(hidden.fields["behavior"][~asked], X.fields["behavior"][~asked])
        assert np.array_equal(hidden.fields["log_gap"], X.fields["log_gap"])

    @pytest.mark.parametrize("share", [0, 1, -0.1])
    def test_bad_share(self, share, parts, pretrained):
        with pytest.raises(LogError, match="share"):
            mask_events(pretrained[0].encode(parts[1]), share)

    def test_the_longest_history_of_each_user(self, parts):
        longest = longest_histories(parts[0])
        latest = pd.Series(parts[0].cutoff).groupby(parts[0].ids).max()
        assert np.array_equal(np.sort(longest.ids), latest.index)
        assert (pd.Series(longest.cutoff, longest.ids).loc[latest.index] == latest).all()


class TestOnSequences:
    def test_it_is_what_its_model_is(self):
        assert is_classifier(counts()) and not is_classifier(OnSequences(SequenceRegressor()))
        assert not hasattr(OnSequences(SequenceRegressor()), "predict_proba")

    def test_the_encoder_learns_from_the_training_alone(self, parts, shop):
        train, _ = parts
        item = 10**9
        late = shop.events["timestamp"] >= train.label_end.max()
        log = shop.events.assign(item_id=shop.events["item_id"].where(~late, item))
        again = Purchase("7d").examples(log, np.unique(train.cutoff))
        model = OnSequences(
            CountsClassifier(), SequenceEncoder(("behavior", "item_id", "log_gap", "log_age"))
        )
        model.fit(again[again.label_end <= train.label_end.max()])
        assert item not in model.encoder_.vocabularies_["item"].values

    def test_a_frozen_encoder_stays_as_it_is(self, parts, shop):
        train, test = parts
        other = shop.events.assign(behavior=shop.events["behavior"].replace("view", "look"))
        encoder = SequenceEncoder(("behavior", "log_gap", "log_age")).fit(other)
        known = encoder.vocabularies_["behavior"].values.tolist()
        model = OnSequences(CountsClassifier(), FrozenEstimator(encoder)).fit(train)
        assert model.encoder_ is encoder and "look" in known
        assert encoder.vocabularies_["behavior"].values.tolist() == known
        anew = OnSequences(CountsClassifier(), encoder).fit(train)
        assert "view" in anew.encoder_.vocabularies_["behavior"].values
        assert encoder.vocabularies_["behavior"].values.tolist() == known

    def test_a_regressor_mixin_without_labels(self):
        class Mean(RegressorMixin, BaseEstimator):
            def fit(self, X, y):
                self.mean_ = np.mean(y)
                return self

            def predict(self, X):
                return np.full(len(X), self.mean_)

        X, _ = table()
        fused = AverageRegressor([("mean", Mean())], "fitted", KFold(3)).fit(X, X[:, 0])
        assert np.allclose(fused.weights_, 1) and np.allclose(fused.predict(X), X[:, 0].mean())
