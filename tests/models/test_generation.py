"""The event generator: causality, padding, samples that follow the model, rules, kills, saving, backends."""

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone

from seqbook.data.events import LogError
from seqbook.data.sequences import Sequences, Vocabulary
from seqbook.models.generation import (
    BIN,
    FIRST,
    GAP,
    INPUTS,
    READ,
    SILENCE,
    STOP,
    CachedReader,
    EventGenerator,
    behavior_proba,
    build_generator,
    cut_windows,
    draw,
    gap_bin,
    import_keras,
    item_proba,
    keep_top_k,
    keep_top_p,
    network_arrays,
    next_tokens,
    recent_items,
    still_possible,
    time_proba,
    with_temperature,
)

SMALL = {"units": 8, "depth": 2, "epochs": 2, "batch_size": 16, "length": 12, "memory": 3, "progress": False}
NAMES = Vocabulary(np.array(["view", "cart", "buy"], object))
ITEMS = Vocabulary(np.array([101, 102, 103, 104]))
DAY = 86_400_000_000  # microseconds


def make(n=60, seed=0, longest=30):
    """Histories of views, carts and purchases; a cart is mostly followed by a purchase of the same item."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    behavior = rng.choice([2, 3, 4], offsets[-1], p=[0.6, 0.3, 0.1]).astype("int32")
    item = rng.integers(2, 6, offsets[-1]).astype("int32")
    gap = np.round(np.exp(rng.normal(rng.choice([4, 10], offsets[-1]), 0.7)))
    gap[offsets[:-1][lengths > 0]] = 0
    time = np.concatenate([np.cumsum(part) for part in np.split(gap, offsets[1:-1])]) * 1e6
    fields = {"behavior": behavior, "item": item, "log_gap": np.log1p(gap).astype("float32")}
    fields["timestamp"] = time.astype("int64")
    return Sequences(fields, offsets, np.arange(n) + 1000, {"behavior": NAMES, "item": ITEMS})


END = pd.Timestamp(0) + pd.Timedelta("60D")


@pytest.fixture(scope="module")
def fitted():
    """A small generator of histories that the log cuts off."""
    X = make()
    return EventGenerator(**SMALL).fit(X, validation=(make(seed=1), END), end=END), X


@pytest.fixture(scope="module")
def sessions():
    """A small generator of whole sequences."""
    X = make(longest=8, seed=3)
    return EventGenerator(**SMALL).fit(X), X


def changed(X, name, where, value):
    """Sequences with some values of a field replaced."""
    return Sequences(
        {**X.fields, name: np.where(where, value, X.fields[name]).astype(X.fields[name].dtype)},
        X.offsets,
        X.ids,
        X.vocabularies,
    )


# --- likelihood


@pytest.mark.parametrize(
    ("name", "value"), [("behavior", 4), ("behavior", 2), ("item", 5), ("log_gap", 9.1), ("log_gap", 0)]
)
def test_later_events_change_nothing_before_them(fitted, name, value):
    model, X = fitted
    place = np.arange(X.offsets[-1]) - np.repeat(X.offsets[:-1], X.lengths)
    late = place >= np.repeat(X.lengths, X.lengths) * 0.6
    before = model.log_likelihood(X, END)[["time", "behavior", "item"]]
    after = model.log_likelihood(changed(X, name, late, value), END)[["time", "behavior", "item"]]
    assert late.any() and not np.allclose(before[late], after[late])
    np.testing.assert_allclose(before[~late], after[~late], atol=1e-5)


def test_the_padding_and_the_company_change_nothing(fitted):
    model, X = fitted
    whole, order = model.log_likelihood(X, END), np.random.default_rng(0).permutation(len(X))
    mixed = model.log_likelihood(X[order], END)
    rows = np.concatenate([np.arange(X.offsets[i], X.offsets[i + 1]) for i in order])
    np.testing.assert_allclose(mixed, whole.iloc[rows], atol=1e-5)
    longest = int(X.lengths.argmax())
    alone = model.log_likelihood(X[longest], END)
    np.testing.assert_allclose(alone, whole[X.offsets[longest] : X.offsets[longest + 1]], atol=1e-5)


@pytest.mark.parametrize("left", [0, 1, 5])
@pytest.mark.parametrize("rubbish", [0, 3])
def test_padding_on_the_left_changes_no_state(fitted, left, rubbish):
    model, X = fitted
    padded = next_tokens(X[:5].truncate(6), np.full(5, np.nan)).select(READ).pad(side="left")
    mask = padded.pop("mask")
    one = CachedReader(model.weights_, 2, *mask.shape).read(padded, mask)
    wider = {n: np.pad(v, ((0, 0), (left, 0)), constant_values=rubbish) for n, v in padded.items()}
    real = np.pad(mask, ((0, 0), (left, 0)))
    two = CachedReader(model.weights_, 2, *real.shape).read(wider, real)[:, left:]
    np.testing.assert_allclose(one[mask], two[mask], atol=1e-5)


@pytest.mark.parametrize("end", [None, END])
def test_the_reader_computes_what_keras_does(end):
    X = make(seed=5)
    model = EventGenerator(**SMALL)
    W, starts = model._learn(X, end)
    import_keras().utils.set_random_seed(1)
    network = model._build(W, starts)
    model.weights_ = network_arrays(network)
    padded = W.select(INPUTS).pad()
    expected = import_keras().ops.convert_to_numpy(network(padded, training=False))
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(model._likelihood(W), expected[padded["mask"]], atol=1e-5)
    assert (expected[~padded["mask"]] == 0).all()


def test_reading_one_by_one_in_chunks_or_at_once_is_the_same(fitted):
    model, X = fitted
    tokens = next_tokens(X[[int(X.lengths.argmax())] * 2].truncate(11), np.full(2, np.nan)).select(READ).pad()
    mask = tokens.pop("mask")
    states = []
    for cuts in ([0, 12], [0, 5, 12], list(range(13))):
        reader = CachedReader(model.weights_, 2, 2, 12)
        parts = [
            reader.read({n: v[:, a:b] for n, v in tokens.items()}, mask[:, a:b])
            for a, b in zip(cuts[:-1], cuts[1:], strict=True)
        ]
        states.append(np.concatenate(parts, axis=1))
    np.testing.assert_allclose(states[0], states[1], atol=1e-5)
    np.testing.assert_allclose(states[0], states[2], atol=1e-5)


def by_hand(model, tokens, silence):
    """The log-likelihood of what follows the tokens of one sequence, token by token, from the definition."""
    w, f, logs = model.weights_, tokens.fields, []
    for t in range(len(f["kind"])):
        part = {n: f[n][None, : t + 1] for n in READ}
        reader = CachedReader(w, model.heads, 1, t + 1)
        state = reader.read(part, np.ones((1, t + 1), bool))[:, -1]
        p, kind, gap = time_proba(w, state)[0], f["kind"][t], f["next_gap"][t : t + 1]
        if kind == STOP:
            logs.append([np.log(p[-1]), 0, 0])
        elif kind == SILENCE:
            edges = BIN * np.arange(model.bins_ + 1)
            later = np.clip((edges[1:] - silence) / BIN, 0, 1)
            logs.append([np.log(p[-1] + (p[:-1] * later).sum()), 0, 0])
        else:
            what = behavior_proba(w, state, gap)[0, f["next_behavior"][t]]
            recent = recent_items(part["item"], model.memory)[:, -1]
            which = item_proba(w, state, gap, f["next_behavior"][t : t + 1], recent)[0, f["next_item"][t]]
            when = 0 if kind == FIRST else np.log(p[gap[0] - 1] / BIN)
            logs.append([when, np.log(what), np.log(which)])
    return np.array(logs)


@pytest.mark.parametrize("end", [None, END])
def test_the_log_likelihood_equals_the_sum_by_hand(fitted, sessions, end):
    model, X = sessions if end is None else fitted
    i = int(np.flatnonzero((X.lengths > 4) & (X.lengths < 11))[0])
    seconds = (END.value / 1e9) - X.fields["timestamp"][X.offsets[i + 1] - 1] / 1e6
    silence = np.nan if end is None else np.log1p(seconds)
    expected = by_hand(model, next_tokens(X[i], np.array([silence])), silence)
    found = model.log_likelihood(X[i], end)
    np.testing.assert_allclose(found[["time", "behavior", "item"]], expected[:-1], atol=1e-4)
    assert found["end"].iloc[-1] == pytest.approx(expected[-1, 0], abs=1e-4)
    assert model.score(X[i], end) == pytest.approx(expected.sum() / len(expected), abs=1e-4)


def test_probabilities_add_up_to_one(fitted):
    model, _ = fitted
    states = np.random.default_rng(0).normal(size=(50, 8)).astype("float32")
    gap, behavior = np.arange(50) % model.bins_, np.arange(50) % 3 + 2
    recent = np.random.default_rng(1).integers(0, 6, (50, 3))
    for p in (
        time_proba(model.weights_, states),
        behavior_proba(model.weights_, states, gap),
        item_proba(model.weights_, states, gap, behavior, recent),
    ):
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
        assert (p >= 0).all()


def test_a_long_sequence_counts_each_event_once():
    X = make(n=1, longest=2)
    long = Sequences(
        {"behavior": np.full(100, 2), "item": np.full(100, 2), "log_gap": np.zeros(100)}, [0, 100], [0]
    )
    for length in (4, 7, 12, 101, 256):
        W = cut_windows(next_tokens(long, np.array([np.nan])), length)
        assert W.lengths.max() <= length
        np.testing.assert_array_equal(np.bincount(W.fields["row"], W.fields["score"], minlength=101), 1)
        early = (W.fields["score"] > 0) & (
            np.arange(W.offsets[-1]) - np.repeat(W.offsets[:-1], W.lengths) < length // 2
        )
        assert (W.fields["row"][early] < length // 2).all()
    assert len(X) == 1


# --- what may follow


def test_the_kinds_of_what_follows():
    X = make(n=4, seed=2, longest=5)
    tokens = next_tokens(X, np.array([np.nan, 3.0, np.nan, 5.0]))
    kinds = np.split(tokens.fields["kind"], tokens.offsets[1:-1])
    for i, kind in enumerate(kinds):
        n = X.lengths[i]
        assert kind.tolist() == [FIRST, *[GAP] * n][:n] + [STOP if i % 2 == 0 else SILENCE]
    some = tokens.fields["kind"] == GAP
    assert (tokens.fields["next_gap"][some] > 0).all() and (tokens.fields["next_behavior"][some] > 1).all()


def test_still_possible_is_the_share_of_a_bin_that_is_left():
    found = still_possible(np.array([0, BIN * 1.25, 100]), 3)
    np.testing.assert_allclose(found, [[1, 1, 1, 1], [0, 0.75, 1, 1], [0, 0, 0, 1]])


def test_gap_bins_round_trip_over_whole_seconds():
    seconds = np.unique(np.round(np.exp(np.linspace(0, 18, 3000))))
    bins = gap_bin(np.log1p(seconds).astype("float32"))
    assert (np.diff(bins) >= 0).all() and bins[0] == 2
    assert (BIN * bins <= np.log1p(seconds) + 1e-5).all() and (
        np.log1p(seconds) < BIN * (bins + 1) + 1e-5
    ).all()


# --- rules


@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_top_k_keeps_exactly_the_k_likeliest(k):
    p = np.random.default_rng(k).dirichlet(np.ones(9), 200)
    kept = keep_top_k(p, k)
    for before, after in zip(p, kept, strict=True):
        assert set(np.flatnonzero(after)) == set(np.argsort(-before)[:k])
        np.testing.assert_allclose(after[after > 0], before[after > 0] / before[after > 0].sum())
    assert ((keep_top_k(np.full((3, 9), 1 / 9), k) > 0).sum(axis=1) == k).all()  # ties too


@pytest.mark.parametrize("top_p", [0.1, 0.5, 0.9, 1.0])
def test_top_p_keeps_the_fewest_options_that_reach_it(top_p):
    p = np.random.default_rng(0).dirichlet(np.ones(9) / 2, 200)
    for before, after in zip(p, keep_top_p(p, top_p), strict=True):
        ranked = np.sort(before)[::-1]
        n = int((after > 0).sum())
        assert set(np.flatnonzero(after)) == set(np.argsort(-before)[:n])
        assert ranked[:n].sum() >= top_p - 1e-6 and ranked[: n - 1].sum() < top_p
        assert after.sum() == pytest.approx(1)


def test_the_limits_of_the_temperature():
    p = np.random.default_rng(0).dirichlet(np.ones(5), 100)
    np.testing.assert_allclose(with_temperature(p, 1), p)
    np.testing.assert_array_equal(with_temperature(p, 0).argmax(axis=1), p.argmax(axis=1))
    np.testing.assert_allclose(with_temperature(p, 0).max(axis=1), 1)
    np.testing.assert_allclose(with_temperature(p, 1e6), 0.2, atol=1e-4)
    np.testing.assert_allclose(with_temperature(p, 0.5), p**2 / (p**2).sum(axis=1, keepdims=True))
    zero = with_temperature(np.array([[0.0, 0.5, 0.5]]), 0.7)
    np.testing.assert_allclose(zero, [[0, 0.5, 0.5]])


def test_draws_follow_the_probabilities_and_never_take_what_cannot_be():
    p = np.array([0.0, 0.6, 0.0, 0.3, 0.1, 0.0])
    u = np.concatenate([np.random.default_rng(0).random(20_000), [0.0, np.nextafter(1, 0)]])
    counts = np.bincount(draw(np.tile(p, (len(u), 1)), u), minlength=6)
    assert counts[[0, 2, 5]].sum() == 0
    assert stats.chisquare(counts[p > 0], p[p > 0] * len(u)).pvalue > 1e-3


# --- sampling


def exact(model, history, silence):
    """The probability of each next behaviour and item, and of the end, summed over all times."""
    w = model.weights_
    tokens = next_tokens(history, np.array([np.nan])).select(READ).pad(model.length // 2, side="left")
    mask = tokens.pop("mask")
    state = CachedReader(w, model.heads, *mask.shape).read(tokens, mask)[:, -1]
    when = time_proba(w, state)[0] * still_possible(np.array([silence]), model.bins_)[0]
    when, n = when / when.sum(), model.bins_
    gaps, states = np.minimum(np.arange(n) + 1, n), np.repeat(state, n, axis=0)
    what = behavior_proba(w, states, gaps) * when[:-1, None]
    recent = np.repeat(recent_items(tokens["item"], model.memory)[:, -1], n, axis=0)
    which = sum(
        what[:, b : b + 1] * item_proba(w, states, gaps, np.full(n, b), recent) for b in range(what.shape[1])
    )
    return when, what.sum(axis=0), which.sum(axis=0)


@pytest.mark.parametrize("wait", [0, 20])
def test_samples_follow_the_probabilities_of_the_model(fitted, wait):
    model, X = fitted
    history = X[[int(np.flatnonzero(X.lengths > 8)[0])]]
    last = pd.Timestamp(history.fields["timestamp"][-1], unit="us")
    n, silence = 20_000, np.log1p(wait * 60)
    found = model.sample(history, since=last + pd.Timedelta(minutes=wait), n_futures=n, n_events=1)
    when, what, which = exact(model, history, silence)
    assert stats.binomtest(int(found.stopped.sum()), n, float(when[-1])).pvalue > 1e-3
    for column, vocabulary, p in (("behavior", NAMES, what), ("item_id", ITEMS, which)):
        counts = np.bincount(vocabulary.encode(found.events[column]), minlength=len(p))[2:]
        expected = p[2:] / p[2:].sum() * counts.sum()
        assert stats.chisquare(counts, expected).pvalue > 1e-3
    bins = gap_bin(np.log1p(found.events["seconds"] + wait * 60))
    counts, expected = np.bincount(bins, minlength=len(when))[:-1], when[:-1] / when[:-1].sum() * len(bins)
    large = (expected > 20) & (np.arange(len(expected)) > 14)  # below, whole seconds are coarser than bins
    assert (
        stats.chisquare(counts[large], expected[large] / expected[large].sum() * counts[large].sum()).pvalue
        > 1e-3
    )
    assert (found.events["seconds"] >= 0).all()


def test_the_second_event_follows_the_model_too(fitted):
    """With the cache, a second event has the distribution of a first one after a longer history."""
    model, X = fitted
    history = X[[int(np.flatnonzero(X.lengths == 3)[0])]]
    rules = {"n_futures": 4000, "top_k": {"time": 1, "item": 1, "behavior": 1}}
    one = model.sample(history, n_events=1, **rules).events.iloc[0]
    code = NAMES.encode([one["behavior"]])[0], ITEMS.encode([one["item_id"]])[0]
    longer = Sequences(
        {
            "behavior": np.append(history.fields["behavior"], code[0]),
            "item": np.append(history.fields["item"], code[1]),
            "log_gap": np.append(history.fields["log_gap"], np.log1p(one["seconds"])),
            "timestamp": np.append(history.fields["timestamp"], int(one["seconds"] * 1e6)),
        },
        [0, 4],
        history.ids,
        X.vocabularies,
    )
    two = model.sample(history, n_events=2, n_futures=1, top_k=1).events
    other = model.sample(longer, n_events=1, n_futures=1, top_k=1).events
    assert two["behavior"].iloc[1] == other["behavior"].iloc[0]
    assert two["item_id"].iloc[1] == other["item_id"].iloc[0]


def test_the_same_seed_gives_the_same_futures(fitted):
    model, X = fitted
    rules = {"since": END, "until": "30d", "n_futures": 20}
    one, two = (model.sample(X, **rules, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(one.events, two.events)
    np.testing.assert_array_equal(one.stopped, two.stopped)
    assert not one.events.equals(model.sample(X, **rules, seed=4).events)


def test_futures_have_original_ids_and_times(fitted):
    model, X = fitted
    found = model.sample(X, since=END, until="10d", n_futures=5)
    assert set(found.events["id"]) <= set(X.ids)
    assert set(found.events["behavior"]) <= set(NAMES.values) and set(found.events["item_id"]) <= set(
        ITEMS.values
    )
    assert found.events["timestamp"].between(END, END + pd.Timedelta("10D")).all()
    order = found.events.sort_values(["history", "future", "seconds"], kind="stable").index
    assert (order == found.events.index).all()
    log = found.to_log()
    assert log.groupby("user_id")["timestamp"].is_monotonic_increasing.all()
    assert found.counts().sum() == len(found.events) and found.counts().shape == (len(X), 5)
    assert (
        found.counts("buy", within="1d").sum()
        == ((found.events["behavior"] == "buy") & (found.events["seconds"] < 86_400)).sum()
    )


def test_sessions_begin_from_nothing_and_end(sessions):
    model, X = sessions
    nothing = X[:1].truncate(0)
    found = model.sample(nothing, n_futures=400)
    assert found.stopped.all() and (found.counts() > 0).all()
    assert (found.events.groupby("future")["seconds"].first() == 0).all()
    real, made = X.lengths[X.lengths > 0], found.counts()[0]
    assert abs(made.mean() - real.mean()) < 0.35 * real.mean()


def test_a_future_may_be_longer_than_the_window(fitted):
    model, X = fitted
    rules = {"temperature": {"time": 0.3}, "n_futures": 3}
    found = model.sample(X[:10], n_events=40, **rules)
    assert found.counts().max() == 40 > model.length
    assert (found.events.groupby(["history", "future"])["seconds"].diff().dropna() >= 0).all()


def test_greedy_futures_are_all_the_same(fitted):
    model, X = fitted
    found = model.sample(X[[5]], n_events=6, n_futures=4, temperature=0)
    rows = [part[["behavior", "item_id"]].to_numpy().tolist() for _, part in found.events.groupby("future")]
    assert all(row == rows[0] for row in rows)


def test_probability_and_expected_are_means_with_their_errors(fitted):
    model, X = fitted
    found = model.sample(X[:5], since=END, until="20d", n_futures=50)
    counts = found.counts("view")
    p = (counts > 0).mean(axis=1)
    np.testing.assert_allclose(found.probability("view")["mean"], p)
    np.testing.assert_allclose(found.probability("view")["error"], np.sqrt(p * (1 - p) / 50))
    np.testing.assert_allclose(found.expected("view")["mean"], counts.mean(axis=1))
    assert found.probability("view").index.tolist() == X.ids[:5].tolist()


# --- fit, save, errors


def test_fits_with_one_seed_are_equal_and_clone_works(fitted):
    model, X = fitted
    again = clone(model).fit(X, validation=(make(seed=1), END), end=END)
    assert again.score(X, END) == pytest.approx(model.score(X, END), abs=1e-6)
    pd.testing.assert_frame_equal(again.history_, model.history_)
    assert model.history_["loss"].iloc[-1] < model.history_["loss"].iloc[0]


def test_the_validation_scores_are_those_of_score(fitted):
    model, _ = fitted
    best = model.history_["val_loss"].min()
    assert -model.score(make(seed=1), END) == pytest.approx(best, abs=1e-5)


def test_a_saved_generator_is_the_same(fitted, tmp_path):
    model, X = fitted
    loaded = EventGenerator.load(model.save(tmp_path / "model"))
    pd.testing.assert_frame_equal(loaded.log_likelihood(X, END), model.log_likelihood(X, END))
    rules = {"since": END, "until": "9d", "n_futures": 3}
    pd.testing.assert_frame_equal(loaded.sample(X, **rules).events, model.sample(X, **rules).events)
    assert not [path for path in (tmp_path / "model").iterdir() if path.suffix not in (".npz", ".json")]


def test_sampling_from_a_saved_generator_needs_no_keras(fitted, tmp_path):
    model, X = fitted
    model.save(tmp_path / "model")
    X.save(tmp_path / "X.parquet")
    code = f"""
        import sys
        from seqbook.data.sequences import Sequences
        from seqbook.models.generation import EventGenerator
        X = Sequences.load({str(tmp_path / "X.parquet")!r})
        EventGenerator.load({str(tmp_path / "model")!r}).sample(X, n_events=2)
        assert "keras" not in sys.modules and "tensorflow" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_damage_is_named(fitted, tmp_path):
    model, _ = fitted
    model.save(tmp_path)
    (tmp_path / "weights.npz").write_bytes(b"rubbish")
    with pytest.raises(LogError, match="damaged"):
        EventGenerator.load(tmp_path)
    with pytest.raises(LogError, match="not a saved"):
        EventGenerator.load(tmp_path / "elsewhere")


def test_bad_input_is_explained(fitted):
    model, X = fitted

    def fit(**options):
        return EventGenerator(**{**SMALL, **options}).fit

    with pytest.raises(LogError, match="'item' is missing"):
        fit()(X.select(["behavior", "log_gap"]))
    with pytest.raises(LogError, match="no vocabulary"):
        fit()(Sequences(X.fields, X.offsets, X.ids))
    with pytest.raises(LogError, match="no sequence has an event"):
        fit()(X.truncate(0))
    with pytest.raises(LogError, match="log_gap"):
        fit()(changed(X, "log_gap", np.arange(X.offsets[-1]) == 3, np.nan))
    with pytest.raises(LogError, match="after"):
        fit()(X, end=pd.Timestamp(0) + pd.Timedelta("1h"))
    with pytest.raises(LogError, match="'timestamp' is missing"):
        fit()(X.select(["behavior", "item", "log_gap"]), end=END)
    with pytest.raises(LogError, match="heads"):
        fit(heads=3)(X)
    with pytest.raises(LogError, match="length"):
        fit(length=2)(X)
    with pytest.raises(LogError, match="training encoder"):
        model.log_likelihood(changed(X, "item", np.arange(X.offsets[-1]) == 0, 50))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"since": pd.Timestamp(0)}, "after"),
        ({"n_futures": 0}, "at least 1"),
        ({"n_events": 0}, "at least 1"),
        ({"temperature": -1}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"temperature": {"price": 1}}, "factors"),
        ({"until": "soon"}, "until"),
    ],
)
def test_bad_rules_are_explained(fitted, options, says):
    model, X = fitted
    with pytest.raises(LogError, match=says):
        model.sample(X[:3], **options)


KILLED = """
    import sys, os, signal
    sys.path.insert(0, {folder!r})
    from test_generation import END, SMALL, make
    from seqbook.models import training
    from seqbook.models.generation import EventGenerator
    count, write = [0], training.Checkpoint._write
    def counting(self):
        write(self)
        count[0] += 1
        if count[0] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    training.Checkpoint._write = counting
    model = EventGenerator(**SMALL, checkpoint={path!r}, checkpoint_every=2)
    model.fit(make(), validation=(make(seed=1), END), end=END)
"""


def test_a_killed_fit_goes_on_to_the_same_end(fitted, tmp_path):
    model, X = fitted
    code = textwrap.dedent(KILLED.format(folder=os.path.dirname(__file__), path=str(tmp_path)))
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    resumed = EventGenerator(**SMALL, checkpoint=tmp_path, checkpoint_every=2)
    resumed.fit(X, validation=(make(seed=1), END), end=END)
    pd.testing.assert_frame_equal(resumed.history_, model.history_, rtol=1e-4)
    assert resumed.score(X, END) == pytest.approx(model.score(X, END), abs=1e-4)
    with pytest.raises(LogError, match="another fit"):
        EventGenerator(**SMALL | {"seed": 5}, checkpoint=tmp_path).fit(X, end=END)


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_jax_trains_the_same_generator(fitted, tmp_path):
    """One batch an epoch, since JAX compiles each shape anew; more epochs, for as many steps."""
    code = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from test_generation import END, SMALL, make
        from seqbook.models.generation import EventGenerator
        options = SMALL | {{"batch_size": 1000, "epochs": 15, "learning_rate": 0.01}}
        model = EventGenerator(**options).fit(make(), validation=(make(seed=1), END), end=END)
        model.save({str(tmp_path)!r})
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "KERAS_BACKEND": "jax"}, check=True
    )
    other, (model, X) = EventGenerator.load(tmp_path), fitted
    losses = other.history_["val_loss"]
    assert losses.min() < losses.iloc[0] - 0.03
    assert other.score(X, END) == pytest.approx(model.score(X, END), abs=0.1)


def test_memory_points_at_items_of_the_past():
    items = np.array([[0, 5, 6, 7]])
    assert recent_items(items, 3)[0].tolist() == [[0, 0, 0], [5, 0, 0], [6, 5, 0], [7, 6, 5]]


def test_build_generator_starts_from_the_shares():
    starts = {
        "time": np.log([0.5, 0.3, 0.2]),
        "behavior": np.log([1e-9, 1e-9, 0.7, 0.3]),
        "item": np.log([1e-9, 1e-9, 0.5, 0.5]),
    }
    weights = network_arrays(build_generator(starts, units=8, memory=2))
    np.testing.assert_allclose(
        time_proba(weights, np.zeros((1, 8), "float32"))[0], [0.5, 0.3, 0.2], atol=1e-5
    )
    np.testing.assert_allclose(weights["item_bias/embeddings"][:, 0], starts["item"], atol=1e-5)
