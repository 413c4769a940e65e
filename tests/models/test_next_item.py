"""Next-item models: ranks, candidates, losses, what each batch teaches, kills, saving, other runtimes."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import seqbook.models.next_item as module
from seqbook.data.events import LogError
from seqbook.data.sequences import Sequences, Vocabulary, import_keras
from seqbook.evaluation.ranking import ranking_metrics
from seqbook.models.next_item import (
    LOSSES,
    BERT4Rec,
    GRU4Rec,
    ItemCooccurrence,
    MarkovChain,
    MatrixFactorization,
    Popularity,
    SASRec,
    SessionKNN,
    build_gru4rec,
    build_sasrec,
    leave_one_out,
)

SMALL = {"units": 8, "epochs": 1, "batch_size": 32, "max_length": 8, "progress": False}
COUNTING = [Popularity(), MarkovChain(), ItemCooccurrence(), SessionKNN(), MatrixFactorization(units=4)]
NETWORKS = [GRU4Rec(**SMALL), SASRec(**SMALL), BERT4Rec(**SMALL)]
MODELS = {type(model).__name__: model for model in COUNTING + NETWORKS}


def make(n=200, items=30, longest=14, seed=0, ids=None):
    """Walks on a ring of items: mostly one step ahead."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    steps = rng.choice([1, 1, 1, 2, 5], offsets[-1])
    steps[offsets[:-1]] = rng.integers(0, items, n)
    walk = np.cumsum(steps)
    codes = (walk - np.repeat(walk[offsets[:-1]] - steps[offsets[:-1]], lengths)) % items
    ids = np.array([f"item {i}" for i in range(items)], object) if ids is None else ids
    return Sequences({"item": (codes + 2).astype("int32")}, offsets, np.arange(n), {"item": Vocabulary(ids)})


def lists(X):
    """Sequences as lists of ids."""
    found = X.vocabularies["item"].decode(X.fields["item"])
    return [found[slice(*X.offsets[i : i + 2])].tolist() for i in range(len(X))]


@pytest.fixture(scope="module")
def shoppers():
    return make()


@pytest.fixture(scope="module", params=list(MODELS))
def model(request, shoppers):
    return clone(MODELS[request.param]).fit(shoppers)


@pytest.fixture(scope="module")
def sasrec(shoppers):
    return SASRec(**SMALL).fit(shoppers)


@contextmanager
def no_graphs():
    """Without graphs: quicker where a fit has a handful of batches."""
    tf = pytest.importorskip("tensorflow")
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture
def eagerly():
    with no_graphs():
        yield


def scores(model, histories):
    return model._scores(model._read(histories))


# --- one interface ---


def test_recommendations_are_the_best_unseen_items_as_original_ids(model, shoppers):
    found, all_scores = model.recommend(shoppers[:40], k=5), scores(model, shoppers[:40])
    for row, history in enumerate(lists(shoppers[:40])):
        table = pd.Series(all_scores[row], model.items_.values).drop(list(set(history)))
        np.testing.assert_allclose(found.scores[row], table.nlargest(5), rtol=1e-6)
        np.testing.assert_allclose(table[found.items[row]], found.scores[row])


def test_seen_items_may_come_again_where_asked_for(model, shoppers):
    found, all_scores = model.recommend(shoppers[:10], 3, exclude_seen=False), scores(model, shoppers[:10])
    np.testing.assert_allclose(found.scores, -np.sort(-all_scores, axis=1)[:, :3])


def test_only_candidates_are_shown(model, shoppers):
    allowed = ["item 3", "item 7", "not an item"]
    found = model.recommend([["item 3"], [], ["item 29", "item 1"]], k=10, candidates=allowed)
    assert found.items.shape == (3, 2)
    assert found.items[0].tolist() == ["item 7", None]  # item 3 was seen
    assert found.scores[0, 1] == -np.inf
    assert set(found.items[2]) == {"item 3", "item 7"}
    assert len(found.to_frame()) == 5
    with pytest.raises(LogError, match="none of the candidates"):
        model.recommend([["item 3"]], candidates=["nothing"])


def test_more_than_there_are_items(model):
    found = model.recommend([["item 3", "item 4"], []], k=1000)
    assert found.items.shape == (2, 30)
    assert len(found.to_frame()) == 28 + 30
    assert found.to_frame(["a", "b"]).groupby("id")["rank"].max().to_dict() == {"a": 28, "b": 30}


def test_new_users_empty_histories_and_unknown_items(model):
    strange, same = model.recommend([["no such item", "item 4"], ["no such item"], []], k=4), None
    same = model.recommend([["item 4"], [], []], k=4)
    np.testing.assert_array_equal(strange.items, same.items)
    popular = pd.Series(model.counts_, model.items_.values)
    assert popular[strange.items[2][0]] == popular.max()


def test_no_history_at_all(model):
    assert model.recommend([], k=3).items.shape == (0, 3)
    assert model.target_ranks([], []).shape == (0,)


def test_lists_and_sequences_with_other_codes_are_the_same_histories(model, shoppers):
    shuffled = np.random.default_rng(0).permutation(shoppers.vocabularies["item"].values)
    other = Vocabulary(np.append(shuffled, "new"))
    ids = shoppers.vocabularies["item"].decode(shoppers.fields["item"])
    recoded = Sequences({"item": other.encode(ids)}, shoppers.offsets, shoppers.ids, {"item": other})
    first = model.recommend(shoppers[:20], 5)
    for same in (recoded[:20], lists(shoppers[:20])):
        np.testing.assert_array_equal(model.recommend(same, 5).items, first.items)


def test_a_history_does_not_know_what_else_is_in_the_batch(model, shoppers):
    """States must not leak between histories, and must be reset for each."""
    together = scores(model, shoppers[:60])
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(scores(model, shoppers[order]), together[order], atol=1e-5)
    alone = np.concatenate([scores(model, shoppers[[i]]) for i in range(5)])
    np.testing.assert_allclose(alone, together[:5], atol=1e-5)


def test_blocks_change_nothing(model, shoppers, monkeypatch):
    histories, targets = leave_one_out(shoppers[:50])
    whole = model.recommend(histories, 5), model.target_ranks(histories, targets, exclude_seen=True)
    monkeypatch.setattr(module, "_BLOCK", 100)
    parts = model.recommend(histories, 5), model.target_ranks(histories, targets, exclude_seen=True)
    np.testing.assert_allclose(parts[0].scores, whole[0].scores, atol=1e-5)
    np.testing.assert_allclose(parts[1], whole[1])


def test_it_comes_back_from_its_folder(model, shoppers, tmp_path):
    again = type(model).load(model.save(tmp_path / "model"))
    with np.load(tmp_path / "model" / "arrays.npz") as arrays:
        assert "vectors_" not in arrays  # they are in the network
    assert again.get_params() == model.get_params()
    assert getattr(again, "best_epoch_", 0) == getattr(model, "best_epoch_", 0)
    np.testing.assert_allclose(scores(again, shoppers[:30]), scores(model, shoppers[:30]), atol=1e-6)
    (tmp_path / "model" / "manifest.json").write_text("{}")
    with pytest.raises(LogError):
        type(model).load(tmp_path / "model")
    other = GRU4Rec if isinstance(model, Popularity) else Popularity
    with pytest.raises(LogError):
        other.load(model.save(tmp_path / "again"))


def test_the_future_of_a_history_is_not_learned(shoppers):
    """What `leave_one_out` asks for is in none of the training histories."""
    changed = Sequences(
        {"item": shoppers.fields["item"].copy()}, shoppers.offsets, shoppers.ids, shoppers.vocabularies
    )
    changed.fields["item"][shoppers.offsets[1:] - 1] = 2
    for one, other in zip(leave_one_out(shoppers), leave_one_out(changed), strict=True):
        if isinstance(one, Sequences):
            np.testing.assert_array_equal(one.fields["item"], other.fields["item"])
        else:
            assert (one != other).any()
    first, second = (MarkovChain().fit(leave_one_out(X)[0]) for X in (shoppers, changed))
    np.testing.assert_array_equal(first.transitions_.toarray(), second.transitions_.toarray())


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_ranks_are_those_of_a_sort(data):
    n_items, n = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    table = rng.integers(0, 4, (n, n_items)).astype("float32")
    X = Sequences({"item": rng.integers(0, n_items, 2 * n).astype("int32")}, np.arange(n + 1) * 2, range(n))
    codes, seen = rng.integers(0, n_items, n), data.draw(st.booleans())
    found = module._rank(table.copy(), X, codes, seen, None)
    for row in range(n):
        rivals = (
            set(range(n_items))
            - {codes[row]}
            - (set(X.fields["item"][2 * row : 2 * row + 2]) if seen else set())
        )
        own = table[row, codes[row]]
        above, beside = (sum(test(table[row, j], own) for j in rivals) for test in (np.greater, np.equal))
        assert found[row] == 1 + above + beside / 2


def test_ranks_among_negatives(sasrec, shoppers):
    histories, targets = leave_one_out(shoppers[:20])
    negatives = np.random.default_rng(0).choice(np.append(sasrec.items_.values[:10], "new"), (20, 6))
    ranks, table = sasrec.target_ranks(histories, targets, negatives=negatives), scores(sasrec, histories)
    for row, target in enumerate(targets):
        named = pd.Series(table[row], sasrec.items_.values)
        rivals = named.reindex(negatives[row]).dropna().drop(target, errors="ignore")
        assert ranks[row] == 1 + (rivals > named[target]).sum()
    with pytest.raises(LogError, match="a row of ids for each of 20"):
        sasrec.target_ranks(histories, targets, negatives=negatives[:3])


def test_an_item_that_was_not_in_training_is_never_found(sasrec):
    ranks = sasrec.target_ranks([["item 1"], ["item 2"]], ["new", "item 3"])
    assert ranks[0] == np.inf and np.isfinite(ranks[1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.recommend("item 3"), "list of lists"),
        (lambda m: m.recommend([["item 3"]], k=0), "at least 1"),
        (lambda m: m.target_ranks([["item 3"]], ["item 4", "item 5"]), "pass one for each"),
        (lambda m: m.recommend([[3, 4]]), "the ids are numbers"),
        (lambda m: m.similar_items(["nothing"]), "no vector"),
        (lambda m: m.export("x", format="pickle"), "choose one of"),
        (lambda m: clone(m).set_params(loss="none").fit(make(20)), "loss 'none' is unknown"),
        (lambda m: clone(m).set_params(windows="first").fit(make(20)), "'all' or 'last'"),
        (lambda m: clone(m).fit(make(20)[:0]), "two known items"),
        (lambda m: leave_one_out(make(20), 9), "no event before"),
    ],
)
def test_bad_input_says_what_to_do(sasrec, call, says):
    with pytest.raises(LogError, match=says):
        call(sasrec)


def test_models_without_vectors_say_so(shoppers):
    with pytest.raises(LogError, match="no item vectors"):
        Popularity().fit(shoppers).similar_items(["item 3"])


# --- counting ---


def test_the_markov_chain_is_a_table_of_counts(shoppers):
    steps = pd.DataFrame([s for items in lists(shoppers) for s in zip(items[:-1], items[1:], strict=True)])
    counts = pd.crosstab(steps[0], steps[1])
    model = MarkovChain(smoothing=0.5).fit(shoppers)
    popular = pd.Series(model.counts_ / model.counts_.sum(), model.items_.values)
    by_hand = counts.reindex(columns=popular.index, fill_value=0).add(0.5 * popular)
    by_hand = by_hand.div(counts.sum(axis=1) + 0.5, axis=0)
    found = scores(model, [[item] for item in by_hand.index])
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)


def test_recent_popularity_counts_half_after_the_half_life():
    day = 86_400_000_000
    fields = {"item": np.array([2, 2, 3, 3], "int32"), "timestamp": np.array([0, 0, 2 * day, 2 * day])}
    X = Sequences(fields, [0, 4], ["a"], {"item": Vocabulary(np.array(["old", "new"], object))})
    np.testing.assert_allclose(Popularity(half_life=2.0).fit(X).popularity_, [1 / 3, 2 / 3], rtol=1e-6)


def test_neighbours_vote_as_in_a_loop(shoppers):
    model, rows = SessionKNN(k=7, sample=25, rarity=0.5).fit(shoppers), lists(shoppers)
    popular = dict(zip(model.items_.values, model._popular(), strict=True))
    holders = {item: [i for i, row in enumerate(rows) if item in row] for item in model.items_.values}
    for history in rows[:15]:
        n, place = len(history), {item: i + 1 for i, item in enumerate(history)}
        near = {i for item in place for i in holders[item][-25:]}
        shared = {i: [p for item, p in place.items() if i in holders[item][-25:]] for i in near}
        likeness = {i: sum((p / n) ** 2 for p in shared[i]) for i in sorted(near)[-25:]}
        chosen = sorted(likeness, key=lambda i: (-likeness[i], i))[:7]
        votes = {item: 1e-6 * popular[item] for item in model.items_.values}
        for i in chosen:
            weight = likeness[i] / (n + 1 - max(shared[i])) ** 2
            for item in set(rows[i]):
                votes[item] += weight * (1 + 0.5 * np.log(len(rows) / len(holders[item])))
        found = pd.Series(scores(model, [history])[0], model.items_.values)
        np.testing.assert_allclose(found, pd.Series(votes)[found.index], rtol=1e-4)


def test_factors_solve_their_ridge_regression(shoppers):
    model = MatrixFactorization(units=4, alpha=3.0, penalty=0.7, epochs=2).fit(shoppers)
    history = lists(shoppers)[0]
    seen = np.isin(model.items_.values, history)
    weight, Q = np.where(seen, 4.0, 1.0), model.factors_
    user = np.linalg.solve(Q.T @ (weight[:, None] * Q) + 0.7 * np.eye(4), Q.T @ (weight * seen))
    np.testing.assert_allclose(scores(model, [history])[0], Q @ user, atol=1e-5)


# --- networks ---

BUILT = {
    "gru4rec": lambda: build_gru4rec(30, 8),
    "sasrec": lambda: build_sasrec(30, 8, 12),
    "consistent": lambda: build_sasrec(30, 8, 12, consistent=True),
    "bert4rec": lambda: build_sasrec(31, 8, 12, causal=False),
}


def run(network, item, mask):
    found = network({"item": item.astype("int32"), "mask": mask}, training=False)
    return import_keras().ops.convert_to_numpy(found)


@pytest.mark.parametrize("name", BUILT)
@pytest.mark.parametrize(("left", "right"), [(0, 3), (4, 0), (2, 5)])
def test_padding_anywhere_changes_nothing(name, left, right):
    import_keras().utils.set_random_seed(0)
    network, rng = BUILT[name](), np.random.default_rng(0)
    item, mask = rng.integers(0, 30, (4, 6)), np.ones((4, 6), bool)
    around = ((0, 0), (left, right))
    rubbish = np.where(np.pad(mask, around), np.pad(item, around), 7)
    padded = run(network, rubbish, np.pad(mask, around))
    np.testing.assert_allclose(padded[:, left : left + 6], run(network, item, mask), atol=1e-5)


@pytest.mark.parametrize("name", BUILT)
def test_only_bert_sees_later_events(name):
    import_keras().utils.set_random_seed(0)
    network, rng = BUILT[name](), np.random.default_rng(0)
    item, mask = rng.integers(0, 30, (4, 6)), np.ones((4, 6), bool)
    changed = item.copy()
    changed[:, 4:] = (item[:, 4:] + 3) % 30
    before = np.abs(run(network, item, mask) - run(network, changed, mask))[:, :4].max()
    assert (before > 1e-4) == (name == "bert4rec")


@pytest.mark.parametrize("name", ["gru4rec", "sasrec"])
def test_one_table_at_the_input_and_the_output(name, shoppers):
    model = {"gru4rec": GRU4Rec, "sasrec": SASRec}[name](**SMALL)
    model.items_, model.n_items_, model.counts_ = shoppers.vocabularies["item"], 30, np.ones(30)
    tables = [v for v in model._compile(10).trainable_variables if 30 in tuple(v.shape)]
    assert len(tables) == 1


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loss_by_hand(name, s, target, drawn, q, model):
    """Losses of the papers in NumPy: s (n, items), target (n,), drawn (K,)."""
    out = []
    for row, right in zip(s, target, strict=True):
        wrong = [j for j in drawn if j != right]
        if name == "softmax":
            out.append(-np.log(np.exp(row[right]) / np.exp(row).sum()))
        if name == "sampled":
            rest = sum(np.exp(row[j]) / (len(drawn) * q[j]) for j in wrong)
            out.append(-np.log(np.exp(row[right]) / (np.exp(row[right]) + rest)))
        if name in ("bce", "gbce"):
            alpha = len(drawn) / (len(row) - 1)
            beta = alpha * (model.calibration * (1 - 1 / alpha) + 1 / alpha) if name == "gbce" else 1.0
            loss = -np.log(sigmoid(row[right]) ** beta) - sum(np.log(1 - sigmoid(row[j])) for j in wrong)
            out.append(loss / (len(drawn) + 1) if name == "gbce" else loss)
        if name == "bpr-max":
            weight = np.exp([row[j] for j in wrong]) / np.exp([row[j] for j in wrong]).sum()
            wins = sum(w * sigmoid(row[right] - row[j]) for w, j in zip(weight, wrong, strict=True))
            penalty = sum(w * row[j] ** 2 for w, j in zip(weight, wrong, strict=True))
            out.append(-np.log(wins + 1e-24) + model.score_penalty * penalty)
    return np.array(out)


@pytest.mark.parametrize("temperature", [None, 0.3])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_the_papers(name, shared, temperature, shoppers):
    model, rng = (
        SASRec(**SMALL, loss=name, negatives=9, temperature=temperature, logq=1.0),
        np.random.default_rng(0),
    )
    model.items_, model.n_items_, model.counts_ = shoppers.vocabularies["item"], 30, rng.integers(1, 50, 30)
    keras = import_keras()
    table = keras.layers.Embedding(
        30, 8, embeddings_initializer=keras.initializers.RandomNormal(stddev=0.7, seed=1)
    )
    table.build()
    layer, state = module._loss_class()(model, table), rng.normal(0, 1, (6, 8)).astype("float32")
    vectors, states = keras.ops.convert_to_numpy(table.embeddings), state
    if temperature is not None:
        vectors, states = module._unit(vectors), module._unit(state) / temperature
    target, drawn = rng.integers(0, 30, 6), rng.integers(0, 30, 9)
    drawn[0] = target[0]  # a draw that hits the right item must not count
    given_ = drawn if shared else np.tile(drawn, (6, 1))
    arguments = [state, target.astype("int32")] + ([] if name == "softmax" else [given_.astype("int32")])
    found = keras.ops.convert_to_numpy(layer(*map(keras.ops.convert_to_tensor, arguments)))
    by_hand = loss_by_hand(name, states.astype("float64") @ vectors.T, target, drawn, model._chances(), model)
    np.testing.assert_allclose(found, by_hand, rtol=2e-5)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss])
@pytest.mark.parametrize("size", [1e-30, 1e3])
def test_losses_and_gradients_are_finite_at_extreme_scores(name, size):
    tf = pytest.importorskip("tensorflow")
    model = SASRec(loss=name, negatives=3, score_penalty=0.0)
    model.n_items_ = 10
    positive, negative = tf.Variable([-size, size]), tf.Variable([[size, 0, -size], [-size, 1, 2]])
    with tf.GradientTape() as tape:
        loss = LOSSES[name](positive, negative, tf.constant(False, shape=(2, 3)), tf.zeros((2, 3)), model)
    gradients = tape.gradient(loss, [positive, negative])
    assert all(np.isfinite(np.asarray(x)).all() for x in (loss, *gradients))


@pytest.mark.parametrize("size", [0.3, 40.0])  # small scores, and such that most chances are 0 in float32
def test_the_gradient_of_the_full_softmax_is_that_of_tensorflow(size):
    """TensorFlow's in float64, to a few roundings of the largest number in float32."""
    tf, rng = pytest.importorskip("tensorflow"), np.random.default_rng(0)
    states, vectors = (rng.normal(0, size, (n, 4)).astype("float32") for n in (50, 9))
    target, weight = rng.integers(0, 9, 50).astype("int32"), rng.random(50).astype("float32")

    def reference(state, vectors, target):
        scores = tf.matmul(state, vectors, transpose_b=True)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(target, scores)

    found = []
    for loss, dtype in ((module.full_softmax, "float32"), (reference, "float64")):
        h, v = (tf.Variable(x.astype(dtype)) for x in (states, vectors))
        with tf.GradientTape() as tape:
            losses = loss(h, tf.convert_to_tensor(v), target)
            total = tf.reduce_sum(weight.astype(dtype) * losses)
        found.append([losses, *tape.gradient(total, [h, v])])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=4e-7 * np.abs(theirs).max())


def test_the_corrected_sample_has_the_gradient_of_the_full_softmax():
    rng, n = np.random.default_rng(0), 12
    s, q = rng.normal(0, 1, n), rng.dirichlet(np.ones(n))
    full = np.exp(s) / np.exp(s).sum()
    full[0] -= 1
    model = SASRec(loss="sampled", negatives=400)
    tf, total = pytest.importorskip("tensorflow"), np.zeros(n)
    scores_ = tf.Variable(s.astype("float32"))
    for _ in range(60):
        drawn = rng.choice(n, 400, p=q)
        with tf.GradientTape() as tape:
            parts = tf.gather(scores_, [0]), tf.gather(scores_, drawn)[None], (drawn == 0)[None]
            loss = LOSSES["sampled"](*parts, tf.constant(np.log(q[drawn]), tf.float32)[None], model)
        total += tf.convert_to_tensor(tape.gradient(loss, scores_)).numpy() / 60
    np.testing.assert_allclose(total, full, atol=0.01)
    model.logq = 0.0
    assert (
        LOSSES["sampled"](*parts, tf.constant(np.log(q[drawn]), tf.float32)[None], model).numpy()
        != loss.numpy()
    )


@pytest.mark.parametrize("cls", [GRU4Rec, SASRec])
@pytest.mark.parametrize("batch_size", [7, 32])
@pytest.mark.parametrize("xla", [False, "auto"])  # whether each new size would be compiled
def test_every_event_but_the_first_is_a_target_once_an_epoch(cls, batch_size, xla, monkeypatch):
    monkeypatch.setattr(module, "jit_choice", lambda recurrent: xla)
    X = make(61, longest=40, seed=3)
    model = cls(**{**SMALL, "batch_size": batch_size})
    model.items_, model.n_items_ = X.vocabularies["item"], 30
    R = model._read(X)
    model.counts_ = np.bincount(R.fields["item"], minlength=30)
    model._compile(10)
    data, found, padded = module._Batches(model, model._windows(R), 0), [], 0
    for i in range(len(data)):
        inputs, weight = data[i]
        real = weight > 0
        padded += not real.all()
        steps = inputs["item"].ravel()[inputs["place"][real]], inputs["target"][real]
        found += [*zip(*(column.tolist() for column in steps), strict=True)]
    expected = [s for row in lists(X) for s in zip(row[:-1], row[1:], strict=True)]
    names = model.items_.values
    assert bool(padded) == bool(xla)
    assert sorted((names[a], names[b]) for a, b in found) == sorted(expected)


@pytest.mark.parametrize("cls", [GRU4Rec, SASRec, BERT4Rec])
def test_every_target_weighs_the_same_in_batches_of_short_and_of_long_histories(cls):
    X = make(64, longest=40, seed=3)
    model = cls(**{**SMALL, "batch_size": 16, "loss": "softmax"})
    model.items_, model.n_items_ = X.vocabularies["item"], 30
    windows = model._windows(model._read(X))
    windows = windows[np.arange(len(windows) // 16 * 16)]  # no batch that is not full
    totals, ones = [], set()
    for epoch in range(200 if cls is BERT4Rec else 1):
        data = module._Batches(model, windows, epoch)
        weights = [data[i][1] for i in range(len(data))]
        ones |= {float(w) for weight in weights for w in weight if w}
        totals.append(np.mean([weight.sum() for weight in weights]))
    counts = {int((weight > 0).sum()) for weight in weights}
    assert len(counts) > 1  # batches of different sizes
    assert len(ones) == 1
    np.testing.assert_allclose(np.mean(totals), 1, rtol=0.01 if cls is BERT4Rec else 1e-6)


def test_bert_hides_what_it_asks_for():
    X = make(61, longest=40, seed=3)
    model = BERT4Rec(**SMALL)
    model.items_, model.n_items_ = X.vocabularies["item"], 30
    windows = model._windows(model._read(X))
    padded = windows.pad(8)
    inputs, target, place = model._cut(padded, np.random.default_rng(0))
    assert (inputs["item"].ravel()[place] == 30).all()
    np.testing.assert_array_equal(padded["item"].ravel()[place], target)
    assert padded["mask"].ravel()[place].all()
    hidden = (inputs["item"] == 30).sum(axis=1)
    assert hidden.min() >= 1 and 0.2 < hidden.sum() / padded["mask"].sum() < 0.45


@pytest.fixture(scope="module")
def base():
    X = make(32, longest=20)
    with no_graphs():
        return X, SASRec(**SMALL, loss="sampled", negatives=8).fit(X)


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.0},
        {"logq": 0.0},
        {"negatives": 5},
        {"loss": "gbce"},
        {"loss": "bpr-max"},
        {"loss": "bce"},
        {"loss": "softmax"},
        {"batch_size": 16},
        {"learning_rate": 1e-2},
        {"dropout": 0.6},
        {"item_dropout": 0.5},
        {"item_dropout": 0.5, "hide_read": True},
        {"shared_negatives": False},
        {"temperature": 0.1},
        {"weight_decay": 0.5},
        {"windows": "last"},
        {"seed": 1},
        {"schedule": "cosine"},
    ],
)
def test_every_option_has_an_effect(change, base, eagerly):
    X, fitted = base
    other = clone(fitted).set_params(**change).fit(X)
    same_loss = np.isclose(other.history_["loss"][0], fitted.history_["loss"][0], rtol=1e-7)
    same_scores = np.allclose(scores(other, X[:5]), scores(fitted, X[:5]), atol=1e-7)
    assert not (same_loss and same_scores)


def test_the_same_numbers_are_hidden_where_items_are_read_and_compared():
    keras = import_keras()
    table = keras.layers.Embedding(30, 8)
    table.build()
    item = keras.ops.convert_to_tensor([[0, 3, 3], [29, 0, 1]])
    read, hidden = map(keras.ops.convert_to_numpy, module._hiding_class()(table, 0.5)(item, training=True))
    np.testing.assert_array_equal(read, hidden[[[0, 3, 3], [29, 0, 1]]])
    vectors = keras.ops.convert_to_numpy(table.embeddings)
    left = hidden != 0
    assert 0.3 < left.mean() < 0.7
    np.testing.assert_allclose(hidden[left], 2 * vectors[left], rtol=1e-6)


@pytest.mark.parametrize("cls", [GRU4Rec, SASRec, BERT4Rec])
def test_nothing_hidden_changes_nothing(cls, eagerly):
    X = make(64, longest=20)
    found = [cls(**SMALL, hide_read=hide).fit(X) for hide in (False, True)]
    np.testing.assert_allclose(*(scores(model, X[:5]) for model in found), atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_events_share_their_negatives_or_have_their_own(shared):
    model = SASRec(loss="sampled", negatives=5, shared_negatives=shared)
    model.n_items_, model.counts_ = 1000, np.ones(1000)
    model._edges = np.cumsum(model._chances())
    drawn = model._draw(np.random.default_rng(0), 40)["negative"]
    assert drawn.shape == ((5,) if shared else (40, 5)) and len(np.unique(drawn)) > len(drawn) / 2


def test_the_score_penalty_and_the_calibration_change_their_losses(eagerly):
    X = make(64)
    for name, option, values in (
        ("bpr-max", "score_penalty", (0.0, 2.0)),
        ("gbce", "calibration", (0.0, 1.0)),
    ):
        found = [SASRec(**SMALL, loss=name, **{option: v}).fit(X).history_["loss"][0] for v in values]
        assert abs(found[0] - found[1]) > 1e-4


def test_dropout_is_off_in_predictions(shoppers, eagerly):
    model = SASRec(**{**SMALL, "dropout": 0.5}).fit(shoppers)
    np.testing.assert_array_equal(scores(model, shoppers[:5]), scores(model, shoppers[:5]))


@pytest.mark.parametrize("cls", [GRU4Rec, SASRec, BERT4Rec])
def test_the_same_seed_gives_the_same_model(cls):
    X = make(80)
    one, two = (cls(**SMALL).fit(X) for _ in range(2))
    np.testing.assert_array_equal(scores(one, X[:10]), scores(two, X[:10]))


def test_a_fit_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    X = make(80)
    validation = leave_one_out(X)
    options = {**SMALL, "units": 8, "patience": None}
    whole = SASRec(**{**options, "epochs": 4}).fit(X, validation)
    SASRec(**{**options, "epochs": 2}, checkpoint=tmp_path).fit(X, validation)
    rest = SASRec(**{**options, "epochs": 4}, checkpoint=tmp_path).fit(X, validation)
    pd.testing.assert_frame_equal(rest.history_, whole.history_)
    np.testing.assert_array_equal(scores(rest, X[:10]), scores(whole, X[:10]))
    with pytest.raises(LogError, match="another fit"):
        SASRec(**{**options, "epochs": 4, "dropout": 0.3}, checkpoint=tmp_path).fit(X, validation)


@pytest.mark.parametrize("change", [{"schedule": "cosine"}, {"warmup": 0.5}])
def test_a_fit_whose_rate_depends_on_the_end_does_not_get_another_end(change, tmp_path, eagerly):
    X, options = make(40), {**SMALL, **change, "checkpoint": tmp_path}
    SASRec(**options).fit(X)
    with pytest.raises(LogError, match="another fit"):
        SASRec(**{**options, "epochs": 2}).fit(X)


@pytest.mark.parametrize("cls", [GRU4Rec, SASRec, BERT4Rec])
def test_networks_learn_a_ring(cls):
    """On a ring where most steps go one ahead, the next item must be far above chance (1 in 20)."""
    X = make(400, items=20, seed=1)
    histories, targets = leave_one_out(X)
    options = {**SMALL, "units": 16, "epochs": 25, "learning_rate": 1e-2, "dropout": 0.0}
    model = cls(**options).fit(histories)
    found = ranking_metrics(model.target_ranks(histories, targets), k=3)
    markov = ranking_metrics(MarkovChain().fit(histories).target_ranks(histories, targets), k=3)
    assert found["hit@3"] > 0.8 * markov["hit@3"] > 0.6


# --- elsewhere ---


@pytest.fixture(scope="module", params=[GRU4Rec, SASRec, BERT4Rec])
def cosines(request, shoppers):
    """A network whose scores are cosines."""
    return request.param(**SMALL, temperature=0.2).fit(shoppers)


@pytest.mark.parametrize("kind", ["savedmodel", "onnx", "litert"])
def test_exported_models_answer_the_same(cosines, kind, shoppers, tmp_path):
    needs = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}.get(kind, ("tensorflow",))
    for package in needs:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'seqbook[serving]'")
    model = cosines
    path = model.export(tmp_path / {"onnx": "m.onnx", "litert": "m.tflite"}.get(kind, "m"), format=kind)
    codes = model.serving_inputs(shoppers[:5])
    runner = {"onnx": run_onnx, "litert": run_litert}.get(kind, run_saved)
    found = np.concatenate([runner(str(path), codes[[i]]) for i in range(5)])
    np.testing.assert_allclose(found, scores(model, shoppers[:5]), atol=1e-5)
    ids = Vocabulary.load(str(path) + ".items.parquet")
    assert ids == model.items_


def run_saved(path, codes):
    import tensorflow as tf

    server = tf.saved_model.load(path)
    return server.serve(codes).numpy()


def run_onnx(path, codes):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: codes})[0]


def run_litert(path, codes):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    runner = interpreter.get_signature_runner()
    (name,) = runner.get_input_details()
    (found,) = runner(**{name: codes}).values()
    return found


OTHER = """
    import json, sys
    from pathlib import Path
    from seqbook.data.sequences import Sequences
    from seqbook.models import next_item
    X, found = Sequences.load(Path(sys.argv[1]) / "X.parquet"), {}
    options = {"units": 8, "max_length": 8, "loss": "sampled", "learning_rate": 0.01}
    options |= {"epochs": 4, "batch_size": 1000}  # one batch an epoch: JAX compiles each shape anew
    for name in ("GRU4Rec", "SASRec", "BERT4Rec"):
        model = getattr(next_item, name).load(Path(sys.argv[1]) / name)
        trained = getattr(next_item, name)(**options, progress=False).fit(X)
        found[name] = model._scores(model._read(X[:20])).tolist(), trained.history_["loss"].tolist()
    print(json.dumps(found))
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_answer_the_same_and_learn(backend, shoppers, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    models = {cls.__name__: cls(**SMALL).fit(shoppers) for cls in (GRU4Rec, SASRec, BERT4Rec)}
    for name, model in models.items():
        model.save(tmp_path / name)
    shoppers.save(tmp_path / "X.parquet")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(OTHER), tmp_path],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name, (found, losses) in json.loads(done.stdout.splitlines()[-1]).items():
        np.testing.assert_allclose(found, scores(models[name], shoppers[:20]), atol=1e-5)
        assert losses[-1] < losses[0] - 0.01


def test_the_published_beauty_file_ranks_as_it_should(real_data):
    """A Markov chain on Amazon Beauty, leave-one-out, all items, seen ones removed."""
    from seqbook.data.datasets import load_next_item
    from seqbook.data.sequences import SequenceEncoder

    log = load_next_item(real_data("s3rec_Beauty.txt.gz"))
    X = SequenceEncoder(fields=("item_id",)).fit(log).encode(log)
    histories, targets = leave_one_out(X)
    model = MarkovChain(steps=5).fit(histories)
    rows = np.arange(0, len(X), 5)
    found = ranking_metrics(model.target_ranks(histories[rows], targets[rows], exclude_seen=True))
    assert (len(X), model.n_items_) == (22_363, 12_101)
    assert 0.06 < found["hit@10"] < 0.09
