"""Labelling: all paths by brute force, hmmlearn, python-crfsuite, what must not matter, bad input, saving."""

import json
from itertools import permutations, product

import numpy as np
import pandas as pd
import pycrfsuite
import pytest
from hmmlearn.hmm import CategoricalHMM
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from seqbook.data.datasets import load_taobao, simulate_shop
from seqbook.data.events import BUY, CART, REMOVE, LogError
from seqbook.data.sequences import SequenceEncoder, Sequences, Vocabulary
from seqbook.data.tasks import Purchase, TagPurchased, TimeSplit
from seqbook.models import labelling
from seqbook.models.labelling import (
    EVENT_FEATURES,
    CRFTagger,
    HiddenMarkovModel,
    asked_lengths,
    best_paths,
    crf_loss,
    event_features,
    forward_backward,
    looking_ahead,
    match_states,
    segment_f1,
    segments,
    symbol_sequences,
    token_f1,
    token_report,
)

PAST = ("behavior", "behavior_before", "place", "item_views", "carts", "in_cart", "pause")


@pytest.fixture(scope="module")
def visits():
    """The visits of a small shop, tagged with what was bought."""
    shop = simulate_shop(n_users=400, n_items=60, n_categories=5, seed=3)
    return TagPurchased().examples(shop.events.assign(intent=shop.truth.hidden["state"]))


@pytest.fixture(scope="module")
def tagger(visits):
    return CRFTagger().fit(visits[:1500])


# Sums over paths


@st.composite
def chains(draw, largest=3.0):
    """Logarithms of any weights, some impossible, and lengths."""
    k = draw(st.integers(1, 3))
    lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    start, step = rng.normal(0, largest, k), rng.normal(0, largest, (k, k))
    events = rng.normal(0, largest, (sum(lengths), k))
    if draw(st.booleans()) and k > 1:
        step[0, 1] = start[0] = -np.inf
    return start, step, events, np.array(lengths)


def path_weights(start, step, events):
    """All paths of one sequence and the logarithm of the weight of each, by the definition."""
    paths = [np.array(p, int) for p in product(range(len(start)), repeat=len(events))]
    weights = [
        (start[p[0]] if len(p) else 0) + events[range(len(p)), p].sum() + step[p[:-1], p[1:]].sum()
        for p in paths
    ]
    return paths, np.array(weights)


def parts_of(lengths):
    """A slice for each sequence."""
    stops = np.cumsum(lengths)
    return [slice(stop - n, stop) for stop, n in zip(stops, lengths, strict=True)]


@given(chains())
@settings(max_examples=120, deadline=None)
def test_forward_backward_is_the_sum_over_all_paths(chain):
    start, step, events, lengths = chain
    found, pairs = forward_backward(*chain), np.zeros_like(step)
    for i, part in enumerate(parts_of(lengths)):
        paths, weights = path_weights(start, step, events[part])
        total = np.logaddexp.reduce(weights)
        assert found.log_z[i] == pytest.approx(total, abs=1e-9)
        share = np.exp(weights - total)
        for t in range(lengths[i]):
            states = [share[[p[t] == k for p in paths]].sum() for k in range(len(start))]
            np.testing.assert_allclose(found.states[part][t], states, atol=1e-9)
            some, so_far = path_weights(start, step, events[part][: t + 1])
            so_far = np.exp(so_far - np.logaddexp.reduce(so_far))
            states = [so_far[[p[t] == k for p in some]].sum() for k in range(len(start))]
            np.testing.assert_allclose(found.filtered[part][t], states, atol=1e-9)
        for p, weight in zip(paths, share, strict=True):
            np.add.at(pairs, (p[:-1], p[1:]), weight)
    np.testing.assert_allclose(found.pairs, pairs, atol=1e-9)


@given(chains())
@settings(max_examples=120, deadline=None)
def test_viterbi_is_the_best_of_all_paths(chain):
    start, step, events, lengths = chain
    states, scores = best_paths(*chain)
    for i, part in enumerate(parts_of(lengths)):
        paths, weights = path_weights(start, step, events[part])
        assert scores[i] == pytest.approx(weights.max(), abs=1e-9)
        found = [np.array_equal(p, states[part]) for p in paths].index(True)
        assert weights[found] == pytest.approx(weights.max(), abs=1e-9)


@given(chains(largest=200.0))
@settings(max_examples=40, deadline=None)
def test_huge_weights_do_not_overflow(chain):
    start, step, events, lengths = chain
    found = forward_backward(start, np.clip(step, -300, 300), events, lengths)
    np.testing.assert_allclose(found.states.sum(axis=1), 1, atol=1e-6)
    assert np.isfinite(found.log_z).all() and np.isfinite(found.pairs).all()


@given(chains(largest=500.0))
@settings(max_examples=60, deadline=None)
def test_what_vanishes_when_scaled_is_as_by_hand(chain):
    start, step, events, lengths = chain
    found = forward_backward(*chain)
    pairs, stops = np.zeros_like(step), np.cumsum(lengths)
    for i, stop in enumerate(stops):
        rows = slice(stop - lengths[i], stop)
        paths, weights = path_weights(start, step, events[rows])
        total = np.logaddexp.reduce(weights)
        assert found.log_z[i] == pytest.approx(total, rel=1e-9, abs=1e-9)
        share = np.exp(weights - total)
        for path, part in zip(paths, share, strict=True):
            np.add.at(pairs, (path[:-1], path[1:]), part)
        for place, row in enumerate(found.states[rows]):
            own = [
                sum(s for p, s in zip(paths, share, strict=True) if p[place] == k) for k in range(len(row))
            ]
            np.testing.assert_allclose(row, own, atol=1e-6)
    np.testing.assert_allclose(found.pairs, pairs, atol=1e-6)


def test_a_state_that_cannot_begin_and_an_event_that_speaks_for_it_alone():
    start, step, events = np.array([-np.inf, -35.0]), np.zeros((2, 2)), np.array([[540.0, -257.0]])
    found = forward_backward(start, step, events, np.array([1]))
    assert found.log_z[0] == pytest.approx(-292) and found.states.tolist() == [[0, 1]]
    many = forward_backward(start, step, np.repeat(events, 3, axis=0), np.array([1, 2]))
    assert np.isfinite(many.log_z).all() and many.pairs.sum() == pytest.approx(1)


def test_a_long_sequence_does_not_underflow():
    n = 20_000
    found = forward_backward(np.log([0.5, 0.5]), np.log([[0.9, 0.1], [0.1, 0.9]]), np.full((n, 2), -7.0), [n])
    assert found.log_z[0] == pytest.approx(-7 * n)
    np.testing.assert_allclose(found.states, 0.5)


def test_order_and_empty_sequences_do_not_matter():
    rng = np.random.default_rng(0)
    start, step, lengths = rng.normal(size=3), rng.normal(size=(3, 3)), rng.integers(0, 9, 50)
    events = rng.normal(size=(lengths.sum(), 3))
    whole, (path, score) = (
        forward_backward(start, step, events, lengths),
        best_paths(start, step, events, lengths),
    )
    parts, order = parts_of(lengths), rng.permutation(50)
    shuffled = np.concatenate([events[parts[i]] for i in order])
    turned = forward_backward(start, step, shuffled, lengths[order])
    np.testing.assert_allclose(turned.log_z, whole.log_z[order], atol=1e-12)
    np.testing.assert_allclose(
        turned.states, np.concatenate([whole.states[parts[i]] for i in order]), atol=1e-12
    )
    np.testing.assert_allclose(turned.pairs, whole.pairs, atol=1e-10)
    again, scores = best_paths(start, step, shuffled, lengths[order])
    assert np.array_equal(again, np.concatenate([path[parts[i]] for i in order]))
    np.testing.assert_allclose(scores, score[order])
    for i in range(50):
        alone = forward_backward(start, step, events[parts[i]], lengths[i : i + 1])
        assert alone.log_z[0] == pytest.approx(whole.log_z[i], abs=1e-10)
    none = forward_backward(start, step, np.zeros((0, 3)), [0, 0])
    assert none.log_z.tolist() == [0, 0] and none.pairs.sum() == 0
    assert forward_backward(start, step, np.zeros((0, 3)), []).log_z.shape == (0,)


def test_what_does_not_fit_is_refused():
    with pytest.raises(LogError, match="do not fit 3 events"):
        forward_backward(np.zeros(2), np.zeros((2, 2)), np.zeros((4, 2)), [3])
    with pytest.raises(LogError, match="do not fit"):
        best_paths(np.zeros(2), np.zeros((3, 3)), np.zeros((3, 2)), [3])
    with pytest.raises(LogError, match="not a number"):
        forward_backward(np.zeros(2), np.zeros((2, 2)), np.full((3, 2), np.nan), [3])


# Hidden Markov models


def random_model(k=3, v=5, seed=0, fields=("code",), **params):
    """A model with random probabilities."""
    rng = np.random.default_rng(seed)
    emissions = {name: rng.dirichlet(np.ones(v), k) for name in fields}
    return HiddenMarkovModel.from_parameters(
        rng.dirichlet(np.ones(k)), rng.dirichlet(np.ones(k), k), emissions, **params
    )


def sampled(n=200, longest=12, seed=1, **model):
    """A random model, and sequences from it, some of them empty."""
    made = random_model(**model)
    lengths = np.random.default_rng(seed).integers(0, longest, n)
    return made, *made.sample(lengths, seed=seed)


def by_hmmlearn(model, n_iter=0):
    """The same model in hmmlearn."""
    peer = CategoricalHMM(
        model.n_states,
        n_iter=n_iter,
        tol=-np.inf,
        init_params="",
        n_features=model.emissions_["code"].shape[1],
    )
    peer.startprob_, peer.transmat_ = model.start_.copy(), model.transitions_.copy()
    peer.emissionprob_ = model.emissions_["code"].copy()
    return peer


@pytest.mark.parametrize("k, v", [(1, 2), (2, 3), (4, 7), (6, 2)])
def test_agrees_with_hmmlearn(k, v):
    model, X, _ = sampled(k=k, v=v, smoothing=0)
    X = X[X.lengths > 0]  # hmmlearn has no empty sequences
    flat, peer = X.fields["code"][:, None] - 2, by_hmmlearn(model)
    total, proba = peer.score_samples(flat, X.lengths)
    assert model.score(X) == pytest.approx(total, abs=1e-6)
    np.testing.assert_allclose(model.predict_proba(X), proba, atol=1e-6)
    best, path = peer.decode(flat, X.lengths)
    assert best_paths(*model._chain(X)[1])[1].sum() == pytest.approx(best, abs=1e-6)
    for i in np.unique(np.repeat(np.arange(len(X)), X.lengths)[model.predict(X) != path]):
        part, chain = parts_of(X.lengths)[i], model._chain(X[int(i)])[1]
        paths, weights = (path[part], model.predict(X)[part]), []
        for states in paths:
            weights.append(chain[0][states[0]] + chain[1][states[:-1], states[1:]].sum())
            weights[-1] += chain[2][range(len(states)), states].sum()
        assert weights[0] == pytest.approx(weights[1], abs=1e-9)  # equally good


def test_training_agrees_with_hmmlearn():
    model, X, _ = sampled(k=3, v=5, smoothing=0, warm_start=True, n_iter=15, tol=0)
    X = X[X.lengths > 0]
    peer = by_hmmlearn(model, n_iter=15).fit(X.fields["code"][:, None] - 2, X.lengths)
    model.fit(X)
    np.testing.assert_allclose(model.start_, peer.startprob_, atol=1e-6)
    np.testing.assert_allclose(model.transitions_, peer.transmat_, atol=1e-6)
    np.testing.assert_allclose(model.emissions_["code"], peer.emissionprob_, atol=1e-6)
    np.testing.assert_allclose(model.history_["objective"], peer.monitor_.history, rtol=1e-10)


@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0, 0.05, 1.0]))
@settings(max_examples=25, deadline=None)
def test_no_round_lowers_the_objective(seed, k, smoothing):
    _, X, _ = sampled(n=30, seed=seed, fields=("code", "other"))
    X.fields["other"][::3] = 1  # missing
    model = HiddenMarkovModel(
        k, ("code", "other"), n_init=2, n_iter=12, tol=0, smoothing=smoothing, seed=seed
    )
    model.fit(X)
    for _, path in model.history_.groupby("start"):
        assert path["objective"].diff().min() > -1e-8 or len(path) == 1


def test_objective_is_the_penalised_likelihood():
    model, X, _ = sampled(smoothing=0.5, warm_start=True, n_iter=1)
    tables = [model.start_, model.transitions_, *model.emissions_.values()]
    expected = model.score(X) + 0.5 * sum(np.log(table).sum() for table in tables)
    assert model.fit(X).history_["objective"][0] == pytest.approx(expected)


def test_fields_multiply_and_what_is_missing_has_no_factor():
    model, X, _ = sampled(k=2, v=3, fields=("a", "b"))
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        X.fields[name][rng.random(len(X.fields[name])) < 0.3] = rng.choice([0, 1])
    events = np.zeros((len(X.fields["a"]), 2))
    for name, table in model.emissions_.items():
        for i, code in enumerate(X.fields[name]):
            events[i] += np.log(table[:, code - 2]) if code > 1 else 0
    expected = forward_backward(np.log(model.start_), np.log(model.transitions_), events, X.lengths)
    np.testing.assert_allclose(model.log_likelihood(X), expected.log_z, atol=1e-10)
    np.testing.assert_allclose(model.predict_proba(X), expected.states, atol=1e-10)
    np.testing.assert_allclose(model.predict_proba(X, look_ahead=False), expected.filtered, atol=1e-10)
    nothing = Sequences({"a": np.ones(3, int), "b": np.zeros(3, int)}, [0, 3], [0], {})
    assert model.score(nothing) == pytest.approx(0)


def test_learns_the_numbers_that_made_the_sample():
    made = HiddenMarkovModel.from_parameters(
        [0.7, 0.3], [[0.9, 0.1], [0.2, 0.8]], {"code": [[0.8, 0.15, 0.05], [0.1, 0.2, 0.7]]}
    )
    X, states = made.sample(np.full(800, 15), seed=2)
    found = HiddenMarkovModel(2, ("code",), n_init=3).fit(X)
    np.testing.assert_allclose(found.transitions_, made.transitions_, atol=0.03)
    np.testing.assert_allclose(found.emissions_["code"], made.emissions_["code"], atol=0.03)
    assert found.score(X) >= made.score(X) - 1
    best = (made.predict_proba(X).argmax(axis=1) == states).mean()
    assert (found.predict_proba(X).argmax(axis=1) == states).mean() > best - 0.01


def test_the_order_of_sequences_does_not_matter_for_training():
    _, X, _ = sampled(n=150)
    settings_ = dict(n_states=3, fields=("code",), n_init=2, n_iter=20, tol=0)
    order = np.random.default_rng(0).permutation(len(X))
    one, other = (HiddenMarkovModel(**settings_).fit(part) for part in (X, X[order]))
    np.testing.assert_allclose(one.transitions_, other.transitions_, atol=1e-8)
    np.testing.assert_allclose(one.emissions_["code"], other.emissions_["code"], atol=1e-8)
    same = HiddenMarkovModel(**settings_).fit(X)
    assert np.array_equal(one.transitions_, same.transitions_)  # one seed, one model


def test_more_starts_are_never_worse():
    _, X, _ = sampled(n=100, k=3)
    ends = [HiddenMarkovModel(3, ("code",), n_init=n, n_iter=30).fit(X).history_ for n in (1, 4)]
    assert ends[0].equals(ends[1][ends[1]["start"] == 0].reset_index(drop=True))
    best = ends[1].groupby("start")["objective"].last()
    model = HiddenMarkovModel(3, ("code",), n_init=4, n_iter=30).fit(X)
    assert model.set_params(warm_start=True, n_iter=1).fit(X).history_["objective"][0] >= best.max() - 1e-9


def test_states_are_sorted_by_size():
    _, X, _ = sampled(n=300)
    model = HiddenMarkovModel(3, ("code",), n_init=1, n_iter=20).fit(X)
    assert (np.diff(model.predict_proba(X).sum(axis=0)) <= 1e-6).all()


def test_symbols_of_another_vocabulary_are_translated():
    names = np.array(["view", "cart", "buy"], object)
    model = random_model(k=2, v=3, fields=("behavior",))
    model.vocabularies_ = {"behavior": Vocabulary(names)}
    ours = Sequences({"behavior": np.array([2, 3, 4, 1])}, [0, 4], [0], {"behavior": Vocabulary(names)})
    other = Vocabulary(np.array(["wish", "buy", "view", "cart"], object))
    theirs = Sequences({"behavior": np.array([4, 5, 3, 2])}, [0, 4], [0], {"behavior": other})
    np.testing.assert_allclose(model.predict_proba(theirs), model.predict_proba(ours))  # 'wish' is unknown
    beyond = Sequences({"behavior": np.array([2, 3, 4, 99])}, [0, 4], [0], {"behavior": Vocabulary(names)})
    np.testing.assert_allclose(model.predict_proba(beyond), model.predict_proba(ours))


def test_takes_the_sequences_of_the_encoder(visits):
    encoder = SequenceEncoder(("behavior",)).fit(visits.fit_log())
    options = dict(n_init=1, n_iter=5)
    by_encoder = HiddenMarkovModel(2, ("behavior",), **options).fit(encoder.encode(visits))
    by_examples = HiddenMarkovModel(2, ("behavior",), **options).fit(visits)
    np.testing.assert_allclose(
        by_encoder.predict_proba(encoder.encode(visits)), by_examples.predict_proba(visits)
    )
    assert by_encoder.emissions().columns.tolist() == by_examples.emissions().columns.tolist()


def test_finds_the_intents_of_the_shop():
    shop = simulate_shop(n_users=700, seed=5)
    visits = TagPurchased().examples(shop.events.assign(intent=shop.truth.hidden["state"]))
    intent = visits.histories()["intent"].to_numpy()
    found = (
        HiddenMarkovModel(3, ("behavior", "dwell"), n_init=2).fit(visits).predict_proba(visits).argmax(axis=1)
    )
    names = match_states(intent, found)
    accuracy = np.mean([names[k] == z for k, z in zip(found, intent, strict=True)])
    assert accuracy > np.bincount(intent).max() / len(intent) + 0.1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_matching_is_the_best_of_all(pairs):
    truth, found = (np.array(column) for column in zip(*pairs, strict=True))
    names = match_states(truth, found)
    best = max(np.mean(np.array(order)[found] == truth) for order in permutations(range(3)))
    assert np.mean([names[k] for k in found] == truth) == pytest.approx(best) or len(set(found)) > len(
        set(truth)
    )


def test_impossible_sequences():
    model = HiddenMarkovModel.from_parameters([1.0, 0.0], np.eye(2), {"code": [[1.0, 0.0], [0.0, 1.0]]})
    X = Sequences({"code": np.array([2, 2, 3])}, [0, 1, 3], ["fine", "never"], {})
    assert model.log_likelihood(X).tolist() == [0, -np.inf] and model.score(X) == -np.inf
    for ask in (model.predict, model.predict_proba):
        with pytest.raises(LogError, match="1 of 2 sequences are impossible .* 'never'"):
            ask(X)
    with pytest.raises(LogError, match="smoothing"):
        model.set_params(warm_start=True, smoothing=0).fit(X)


def test_bad_input_of_a_markov_model(visits):
    X = Sequences({"code": np.array([2, 3]), "gap": np.array([0.5, 1])}, [0, 2], [0], {})
    for params, message in (
        ({"n_states": 0}, "n_states is 0"),
        ({"n_init": 0}, "n_init is 0"),
        ({"smoothing": -1}, "smoothing is -1"),
        ({"fields": ("item",)}, "field 'item' is missing"),
        ({"fields": ("gap",)}, "is a measurement"),
        ({"fields": ()}, "no event"),
        ({"warm_start": True}, "warm_start needs"),
    ):
        with pytest.raises(LogError, match=message):
            HiddenMarkovModel(**{"fields": ("code",), **params}).fit(X)
    with pytest.raises(LogError, match="no event"):
        HiddenMarkovModel(fields=("code",)).fit(X[:0])
    with pytest.raises(NotFittedError):
        HiddenMarkovModel(fields=("code",)).predict(X)
    with pytest.raises(LogError, match="field 'code' is missing"):
        random_model().predict(X.select(["gap"]))
    with pytest.raises(LogError, match="'price' is a measurement"):
        HiddenMarkovModel(fields=("price",)).fit(visits)
    with pytest.raises(LogError, match="each row with the sum 1"):
        HiddenMarkovModel.from_parameters([0.5, 0.4], np.eye(2), {"code": np.eye(2)})
    with pytest.raises(LogError, match="the shape \\(2, 2\\)"):
        HiddenMarkovModel.from_parameters([0.5, 0.5], np.eye(3), {"code": np.eye(2)})
    with pytest.raises(LogError, match=r"\['dwell'\] use later events"):
        HiddenMarkovModel(fields=("behavior", "dwell"), n_iter=1, n_init=1).fit(visits).predict_proba(
            visits, look_ahead=False
        )
    with pytest.raises(LogError, match="no field 'x'"):
        random_model().emissions("x")


def test_a_markov_model_comes_back_from_its_folder(visits, tmp_path):
    model = HiddenMarkovModel(2, ("behavior", "dwell"), n_init=1, n_iter=5).fit(visits)
    model.state_names_ = ["looks", "buys"]
    again = HiddenMarkovModel.load(model.save(tmp_path / "hmm"))
    assert again.get_params() == model.get_params() and again.state_names_ == model.state_names_
    assert np.array_equal(again.predict_proba(visits), model.predict_proba(visits))
    assert (
        json.loads((tmp_path / "hmm" / "manifest.json").read_text())["format"] == "seqbook.HiddenMarkovModel"
    )
    with pytest.raises(LogError, match="not a seqbook.CRFTagger"):
        CRFTagger.load(tmp_path / "hmm")
    manifest = tmp_path / "hmm" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"transitions"', '"gone"'))
    with pytest.raises(LogError, match="damaged"):
        HiddenMarkovModel.load(tmp_path / "hmm")


def weekend(events):
    """A feature of one's own."""
    return events["timestamp"].dt.dayofweek >= 5


def test_functions_of_ones_own_are_asked_for_when_a_model_is_loaded(visits, tmp_path):
    hmm = HiddenMarkovModel(2, ("behavior", weekend), n_init=1, n_iter=3).fit(visits)
    crf = CRFTagger(("place", weekend, EVENT_FEATURES["pause"]), max_iterations=5).fit(visits)
    for model in (hmm, crf):
        folder = model.save(tmp_path / type(model).__name__)
        with pytest.raises(LogError, match=r"\['weekend'\]; pass functions"):
            type(model).load(folder)
        again = type(model).load(folder, functions=[weekend])
        assert np.array_equal(again.predict_proba(visits), model.predict_proba(visits))


def test_clone_and_params():
    for model in (
        HiddenMarkovModel(4, ("a",), smoothing=1.0),
        CRFTagger(("place",), c1=0.5, look_ahead=True),
    ):
        assert clone(model).get_params() == model.get_params()
        assert not hasattr(clone(model), "start_")


# Features


def small_visits(rows):
    """Examples from rows of (user, seconds, behavior, item)."""
    log = pd.DataFrame(rows, columns=["user_id", "timestamp", "behavior", "item_id"])
    log["timestamp"] = pd.to_datetime("2024-01-01") + pd.to_timedelta(log["timestamp"], unit="s")
    return TagPurchased().examples(log.astype({"timestamp": "datetime64[us]"}), log_end="2024-02-01")


events = st.lists(
    st.tuples(
        st.sampled_from([1, 2]),
        st.integers(0, 900),
        st.sampled_from(["view", CART, BUY, REMOVE]),
        st.sampled_from([7, 8]),
    ),
    min_size=2,
    max_size=14,
    unique_by=lambda row: row[:2],
)


@given(events)
@settings(max_examples=60, deadline=None)
def test_features_are_those_of_a_loop(rows):
    X = small_visits(rows)
    table, history = event_features(X, EVENT_FEATURES), X.histories()
    for _, visit in history.groupby("example"):
        cart, carts, views = set(), 0, []
        for nth, (i, event) in enumerate(visit.iterrows()):
            views.append(event["item_id"])
            carts += event["behavior"] == CART
            cart = cart | {event["item_id"]} if event["behavior"] == CART else cart
            cart = cart - {event["item_id"]} if event["behavior"] in (BUY, REMOVE) else cart
            row = table.loc[i]
            assert row["in_cart"] == (event["item_id"] in cart)
            assert row["carts"][0] == str(min(carts, 3)) and row["place"][0] == str(min(nth + 1, 8))
            assert row["item_views"][0] == str(min(views.count(event["item_id"]), 3))
            assert row["behavior_before"] == (visit["behavior"].iloc[nth - 1] if nth else "start")
            last = nth == len(visit) - 1
            assert (
                pd.isna(row["behavior_next"])
                if last
                else row["behavior_next"] == visit["behavior"].iloc[nth + 1]
            )
            assert pd.isna(row["dwell"]) == last and pd.isna(row["pause"]) == (nth == 0)
            if nth:
                assert row["pause"] == table["dwell"][i - 1]


def test_durations_fall_into_their_buckets():
    X = small_visits([(1, s, "view", 7) for s in (0, 19, 39, 79, 139, 289, 1000)])
    assert event_features(X, ["pause"])["pause"].tolist()[1:] == [
        "under 20 s",
        "20 to 40 s",
        "40 to 60 s",
        "60 to 90 s",
        "150 s or more",
        "150 s or more",
    ]


def test_which_features_look_ahead(visits):
    assert looking_ahead(visits, EVENT_FEATURES) == ["behavior_next", "dwell"]
    whole = lambda events: events.groupby("example")["behavior"].transform("size")  # noqa: E731
    whole.__name__ = "visit_length"
    assert looking_ahead(visits, [whole, "place", "category"]) == ["visit_length"]
    assert looking_ahead(visits[visits.lengths == 1], ["dwell"]) == []  # there is nothing to look at


def test_bad_features(visits):
    with pytest.raises(LogError, match="'nonsense' is neither"):
        event_features(visits, ["nonsense"])
    with pytest.raises(LogError, match="'short' gives 3 values"):

        def short(events):
            return [1, 2, 3]

        event_features(visits, [short])
    bare = small_visits([(1, 0, "view", 7), (1, 9, "view", 7)])
    bare.log.drop(columns="item_id", inplace=True)
    with pytest.raises(LogError, match="column 'item_id' is missing"):
        event_features(bare, ["item_views"])


def test_symbols_of_examples(visits):
    X = symbol_sequences(visits, ("behavior", "in_cart", "dwell"))
    assert np.array_equal(X.lengths, visits.lengths) and np.array_equal(X.ids, visits.ids)
    history = visits.histories()
    assert X.vocabularies["behavior"].decode(X.fields["behavior"]).tolist() == history["behavior"].tolist()
    last = np.cumsum(X.lengths) - 1
    assert (X.fields["dwell"][last] == 1).all() and (np.delete(X.fields["dwell"], last) > 1).all()


# Conditional random fields


@given(chains(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_loss_of_a_crf_is_that_of_all_taggings(chain, seed):
    _, step, events, lengths = chain
    rng, step = np.random.default_rng(seed), np.where(np.isfinite(step), step, 0.0)
    tags = rng.integers(0, len(step), lengths.sum())
    loss = crf_loss(np.eye(len(step)), step, events, tags, lengths)[0]
    expected = 0.0
    for part in parts_of(lengths):
        paths, weights = path_weights(np.zeros(len(step)), step, events[part])
        seen = [np.array_equal(p, tags[part]) for p in paths].index(True)
        expected += np.logaddexp.reduce(weights) - weights[seen]
    assert loss == pytest.approx(expected, abs=1e-8)


@given(st.integers(0, 10_000), st.integers(2, 4), st.sampled_from([0.0, 0.7]))
@settings(max_examples=25, deadline=None)
def test_gradient_is_that_of_finite_differences(seed, k, c2):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, 5) + np.array([1, 0, 0, 0, 0])
    f, tags = rng.normal(size=(lengths.sum(), 3)), rng.integers(0, k, lengths.sum())
    here = rng.normal(size=3 * k + k * k)

    def at(flat):
        return crf_loss(flat[: 3 * k].reshape(3, k), flat[3 * k :].reshape(k, k), f, tags, lengths, c2)

    exact = np.concatenate([part.ravel() for part in at(here)[1:]])
    moves = 1e-5 * np.eye(len(here))
    numeric = np.array([(at(here + m)[0] - at(here - m)[0]) / 2e-5 for m in moves])
    assert np.abs(numeric - exact).max() < 1e-6 * max(np.abs(exact).max(), 1)


def crfsuite_items(model, X):
    """What CRFsuite's own tagger is asked."""
    asked = labelling._asked(X)
    matrix = labelling._matrix(
        labelling._attributes(X, model.features, asked), model.attributes_, int(asked.sum())
    )
    items = labelling._items(matrix)
    return [items[part] for part in parts_of(asked_lengths(X))]


@pytest.mark.parametrize("c1", [0.0, 0.5])
def test_agrees_with_crfsuite(visits, c1):
    X = visits[np.argsort(-visits.lengths, kind="stable")[:150]]
    for look_ahead in (True, False):
        model = CRFTagger(look_ahead=look_ahead, c1=c1, max_iterations=60).fit(X)
        own, proba, tags = pycrfsuite.Tagger(), [], []
        own.open_inmemory(model.model_)
        likelihood = model.log_likelihood(X)
        for i, items in enumerate(crfsuite_items(model, X)):
            truth = [str(tag) for tag in X[i].asked()]
            own.set(items)
            assert likelihood[i] == pytest.approx(np.log(own.probability(truth)) if items else 0, abs=1e-9)
            for t in range(len(items)):
                own.set(items if look_ahead else items[: t + 1])
                proba.append([own.marginal(k, t) for k in ("0", "1")])
            tags += own.tag(items) if items else []
        np.testing.assert_allclose(model.predict_proba(X), proba, atol=1e-9)
        wanted = np.array(tags, int) if look_ahead else np.argmax(proba, axis=1)
        assert np.array_equal(model.predict(X), wanted)


def test_crfsuite_stops_at_the_bottom_of_our_loss(visits):
    X = visits[:400]
    model = CRFTagger(look_ahead=True, c2=0.5).fit(X)
    asked = labelling._asked(X)
    matrix = labelling._matrix(
        labelling._attributes(X, model.features, asked), model.attributes_, asked.sum()
    )
    loss, *slope = crf_loss(model.weights_, model.steps_, matrix, X.asked(), asked_lengths(X), c2=0.5)
    zero = crf_loss(
        np.zeros_like(model.weights_), np.zeros_like(model.steps_), matrix, X.asked(), asked_lengths(X)
    )
    assert max(np.abs(part).max() for part in slope) < 1e-2 * max(np.abs(part).max() for part in zero[1:])
    assert loss < zero[0] and np.abs(model.steps_).max() > 0.1


def test_without_steps_it_is_the_softmax_of_each_event(visits):
    model = CRFTagger(look_ahead=True).fit(visits[:300])
    model.steps_[:] = 0
    scores = np.exp(model._chain(visits)[2])
    np.testing.assert_allclose(
        model.predict_proba(visits), scores / scores.sum(axis=1, keepdims=True), atol=1e-12
    )


def test_live_answers_do_not_depend_on_later_events(tagger, visits):
    X = visits[1500:1800]
    live = X.prefixes()
    # a prefix has no labels of events, so all of its events are asked; keep views as in the visit
    views = live.histories()["behavior"].to_numpy() == "view"
    only = labelling.replace(live, label=np.where(views, 0, -1), each_event=True)
    last = np.cumsum(asked_lengths(only)) - 1
    np.testing.assert_allclose(tagger.predict_proba(only)[last], tagger.predict_proba(X), atol=1e-12)


def test_what_is_after_the_cutoff_is_never_read():
    shop = simulate_shop(n_users=150, days=40, seed=1)
    cutoffs = pd.date_range("2024-01-20", periods=40, freq="3h")
    X = TagPurchased().examples(shop.events, cutoffs)
    model = CRFTagger((*PAST, "behavior_next", "dwell"), look_ahead=True, max_iterations=20)
    model.fit(TagPurchased().examples(shop.events))
    changed = shop.events.copy()
    late = changed["timestamp"] >= cutoffs[0]
    changed.loc[late & (changed["behavior"] == "view"), "item_id"] = 1
    some = np.flatnonzero(X.cutoff == X.cutoff.min())
    other = TagPurchased().examples(changed, cutoffs)
    assert len(some) and np.array_equal(other.cutoff[some], X.cutoff[some])
    assert np.array_equal(model.predict_proba(X[some]), model.predict_proba(other[some]))
    markov = HiddenMarkovModel(2, ("behavior", "dwell"), n_init=1, n_iter=5).fit(X)
    assert np.array_equal(markov.predict_proba(X[some]), markov.predict_proba(other[some]))


def test_only_training_examples_are_learned_from(visits):
    train, test = next(TimeSplit(test_size=0.5).split(visits))
    model = CRFTagger((*PAST, "item_id"), max_iterations=10).fit(visits[train])
    known = set(visits.fit_log(train)["item_id"])
    items = {int(name) for name in model.attributes_ if name.isdigit()}
    assert {name for name in model.attributes_ if name.startswith("item_id")} == {"item_id"}, (
        items
    )  # a number
    as_text = lambda events: events["item_id"].astype(str)  # noqa: E731
    as_text.__name__ = "item"
    model = CRFTagger((as_text,), max_iterations=10).fit(visits[train])
    named = {int(name.split("=")[1]) for name in model.attributes_ if name.startswith("item=")}
    assert named and named <= known and np.isfinite(model.predict_proba(visits[test])).all()
    alone = CRFTagger((as_text,), max_iterations=10).fit(visits[train])
    assert np.array_equal(alone.weights_, model.weights_)


def test_the_order_of_histories_does_not_matter_for_a_crf(visits, tagger):
    order = np.random.default_rng(0).permutation(1500)
    other = CRFTagger().fit(visits[:1500][order])
    np.testing.assert_allclose(
        other.predict_proba(visits[1500:]), tagger.predict_proba(visits[1500:]), atol=5e-3
    )
    parts = parts_of(asked_lengths(visits[:1500]))
    whole = tagger.predict_proba(visits[:1500])
    turned = np.concatenate([whole[parts[i]] for i in order])
    np.testing.assert_allclose(tagger.predict_proba(visits[:1500][order]), turned, atol=1e-12)


def test_answers_have_the_shape_of_what_is_asked(visits, tagger):
    assert tagger.predict_proba(visits).shape == (len(visits.asked()), 2)
    np.testing.assert_allclose(tagger.predict_proba(visits).sum(axis=1), 1)
    assert asked_lengths(visits).sum() == len(visits.asked())
    one = visits[visits.lengths == 1][:5]
    assert len(tagger.predict(one)) == len(one.asked())
    none = labelling.replace(one, label=np.full(5, -1))
    assert tagger.predict(none).shape == (0,) and tagger.log_likelihood(none).tolist() == [0] * 5
    assert tagger.predict_proba(visits[:0]).shape == (0, 2)
    assert 0.9 < tagger.score(visits) <= 1


def test_any_number_of_tags(visits):
    intent = visits.histories()["intent"].to_numpy("int64")
    model = CRFTagger((*PAST, "behavior_next", "dwell"), look_ahead=True).fit(visits, intent)
    assert model.classes_.tolist() == [0, 1, 2] and model.steps_.shape == (3, 3)
    tagged = labelling.replace(visits, label=intent)
    assert model.score(tagged) > 0.7 and model.score(visits, intent) == model.score(tagged)
    some = CRFTagger(look_ahead=True, max_iterations=20).fit(visits, np.where(intent == 2, -1, intent + 5))
    assert some.classes_.tolist() == [5, 6]


def test_unseen_values_have_no_weight(visits, tagger):
    X = visits[:50]
    odd = labelling.replace(X, log=X.log.assign(behavior=X.log["behavior"].replace({"view": "stare"})))
    assert np.isfinite(tagger.predict_proba(odd)).all()


def test_rare_attributes_can_be_left_out(visits):
    many, few = (CRFTagger(min_count=n, max_iterations=5).fit(visits) for n in (1, 500))
    assert set(few.attributes_) < set(many.attributes_) and "always" in few.attributes_


def test_bad_input_of_a_tagger(visits, tagger):
    with pytest.raises(LogError, match=r"\['dwell'\] use later events"):
        CRFTagger(("place", "dwell")).fit(visits)
    with pytest.raises(LogError, match="one label for a whole history; pass y"):
        CRFTagger().fit(Purchase().examples(visits.log))
    with pytest.raises(LogError, match="tags of the type"):
        CRFTagger().fit(visits, np.zeros(3, int))
    with pytest.raises(LogError, match="tags of the type"):
        CRFTagger().fit(visits, np.full(visits.lengths.sum(), "buyer"))
    with pytest.raises(LogError, match=r"the tags are \[0\]"):
        CRFTagger().fit(visits, np.zeros(visits.lengths.sum(), int))
    with pytest.raises(LogError, match=r"the tags \[7\] were not in the training"):
        tagger.log_likelihood(visits, np.full(visits.lengths.sum(), 7))
    with pytest.raises(NotFittedError):
        CRFTagger().predict(visits)


def test_a_tagger_comes_back_from_its_folder(visits, tagger, tmp_path):
    again = CRFTagger.load(tagger.save(tmp_path / "crf"))
    assert again.get_params() == tagger.get_params()
    assert np.array_equal(again.predict_proba(visits), tagger.predict_proba(visits))
    own = pycrfsuite.Tagger()
    own.open(str(tmp_path / "crf" / "model.crfsuite"))  # the file is CRFsuite's own
    path = tmp_path / "crf" / "model.crfsuite"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(LogError, match="model.crfsuite is damaged"):
        CRFTagger.load(tmp_path / "crf")
    path.unlink()
    with pytest.raises(LogError, match="not whole"):
        CRFTagger.load(tmp_path / "crf")


def test_weights_are_factors_of_the_odds(tagger):
    table = tagger.weights()
    np.testing.assert_allclose(table.sum(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(table[1] - table[0], tagger.weights_[:, 1] - tagger.weights_[:, 0])


# How good a tagging is


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=6), min_size=1, max_size=5)
)
@settings(max_examples=80, deadline=None)
def test_scores_of_taggings_are_those_of_a_loop(sequences):
    truth, predicted = (np.array([pair[j] for one in sequences for pair in one], int) for j in (0, 1))
    lengths = [len(one) for one in sequences]

    def loop(tags):
        found, at = set(), 0
        for n in lengths:
            begin = at
            for i in range(at, at + n):
                if i == at + n - 1 or tags[i] != tags[i + 1]:
                    found.add((begin, i + 1, int(tags[i])))
                    begin = i + 1
            at += n
        return found

    assert loop(truth) == {tuple(map(int, row)) for row in segments(truth, lengths).to_numpy()}
    if not len(truth):
        return
    tags = np.unique(truth)
    have, got = ({s for s in loop(t) if s[2] in tags} for t in (truth, predicted))
    assert segment_f1(truth, predicted, lengths) == pytest.approx(
        2 * len(have & got) / (len(have) + len(got))
    )
    report = token_report(truth, predicted, lengths)
    assert token_f1(truth, predicted) == pytest.approx(report["f1"].mean())
    for tag in tags:
        have, got = truth == tag, predicted == tag
        assert report.loc[tag, "f1"] == pytest.approx(2 * (have & got).sum() / (have.sum() + got.sum()))
        assert report.loc[tag, "event count"] == have.sum()


def test_segments_need_one_tag_for_each_event():
    with pytest.raises(LogError, match="3 tags, and the lengths ask for 4"):
        segments([0, 0, 1], [4])
    assert np.isnan(token_f1(np.zeros(2), np.zeros(2), tags=[1]))


# Plots and real data


def test_plots(visits, tagger):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    model = HiddenMarkovModel(2, ("behavior", "dwell"), n_init=1, n_iter=3).fit(visits)
    figure = model.plot_states()
    assert [ax.get_title() for ax in figure.axes] == [
        "behavior in this state",
        "dwell in this state",
        "state of the next event",
    ]
    ticks = [tick.get_text() for tick in figure.axes[1].get_xticklabels()]
    assert ticks[0] == "under 20 s" and ticks[-1] == "150 s or more"
    bars = tagger.plot_weights({0: "no", 1: "yes"}).axes[1]
    assert bars.get_xlabel() == "added to the log-odds of 'yes'" and len(bars.patches) == 14
    three = CRFTagger(look_ahead=True, max_iterations=5).fit(visits, visits.histories()["intent"].to_numpy())
    assert len(three.plot_weights(most=5).axes[1].get_yticks()) == 5
    plt.close("all")


def test_views_of_taobao(real_data):
    log = load_taobao(real_data("taobao_userbehavior_sample.csv.gz"))
    X = TagPurchased().examples(log)
    train, test = next(TimeSplit(test_size=0.3).split(X))
    model = CRFTagger().fit(X[train])
    assert roc_auc_score(X[test].asked(), model.predict_proba(X[test])[:, 1]) > 0.6
    states = HiddenMarkovModel(2, ("behavior", "pause"), n_init=1, n_iter=20).fit(X[train])
    assert np.isfinite(states.score(X[test]))
