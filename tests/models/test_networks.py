"""The networks: masks, repeatability, kills, saving, late features, each head, other backends."""

import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from seqbook.data.events import LogError
from seqbook.data.sequences import Sequences, Vocabulary
from seqbook.models.classical import CountsClassifier
from seqbook.models.networks import (
    ENCODERS,
    NetworkBatches,
    NextEventModel,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
    attention_weights,
    build_network,
    events_of,
    import_keras,
    input_fields,
    network_graph,
    next_targets,
    probability_layer,
)

ENCODER_TESTS = Path(__file__).with_name("test_encoders.py")
test_encoders = SimpleNamespace(**runpy.run_path(str(ENCODER_TESTS)))
VOCABULARY = Vocabulary(np.array(["view", "cart", "buy"], object))
SMALL = {"units": 8, "epochs": 2, "batch_size": 64, "progress": False}


def make(n=300, seed=0, longest=12):
    """Histories with codes and measurements; the label says whether the last cart is the last event."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("int64")
    behavior = rng.choice([2, 3, 4], offsets[-1], p=[0.5, 0.4, 0.1]).astype("int32")
    gap = rng.exponential(1, offsets[-1]).astype("float32")
    last = np.where(lengths > 0, np.append(behavior, 0)[offsets[1:] - 1], 0)
    X = Sequences({"behavior": behavior, "log_gap": gap}, offsets, np.arange(n), {"behavior": VOCABULARY})
    return X, (last == 3).astype(int)


@pytest.fixture(scope="module")
def fitted():
    """A small classifier and its data."""
    X, y = make()
    return SequenceClassifier(**SMALL).fit(X, y, validation=make(seed=1)), X, y


@pytest.mark.parametrize("extra", [0, 1, 7, 40])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_any_amount_on_either_side_changes_nothing(fitted, side, extra):
    model, X, _ = fitted
    inputs = X.pad(int(X.lengths.max()) + extra, side)
    padded = import_keras().ops.convert_to_numpy(model.network_(inputs, training=False))[:, 0]
    np.testing.assert_allclose(padded, model.predict_proba(X)[:, 1], atol=1e-5)


def test_what_stands_in_the_padding_does_not_matter(fitted):
    model, X, _ = fitted
    inputs = X.pad(20)
    rubbish = {**inputs, "behavior": np.where(inputs["mask"], inputs["behavior"], 4)}
    rubbish["log_gap"] = np.where(inputs["mask"], inputs["log_gap"], 99).astype("float32")
    one, other = (
        import_keras().ops.convert_to_numpy(model.network_(i, training=False)) for i in (inputs, rubbish)
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_answers_do_not_depend_on_the_company(fitted):
    model, X, _ = fitted
    proba, order = model.predict_proba(X), np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(model.predict_proba(X[order]), proba[order], atol=1e-5)
    np.testing.assert_allclose(model.predict_proba(X[:1]), proba[:1], atol=1e-5)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)


def test_codes_never_seen_are_the_unknown(fitted):
    model, X, _ = fitted
    strange = {
        **X.fields,
        "behavior": np.where(X.fields["behavior"] == 3, 77, X.fields["behavior"]).astype("int32"),
    }
    unknown = {
        **X.fields,
        "behavior": np.where(X.fields["behavior"] == 3, 1, X.fields["behavior"]).astype("int32"),
    }
    answers = [
        model.predict_proba(Sequences(fields, X.offsets, X.ids, X.vocabularies))
        for fields in (strange, unknown)
    ]
    np.testing.assert_array_equal(*answers)


def test_empty_histories_get_an_answer(fitted):
    model, X, _ = fitted
    empty = X[np.flatnonzero(X.lengths == 0)]
    proba = model.predict_proba(empty)
    assert len(empty) > 1 and np.isfinite(proba).all()
    np.testing.assert_allclose(proba, proba[:1].repeat(len(proba), 0), atol=1e-6)
    assert model.predict_proba(X[[]]).shape == (0, 2)


def test_same_seed_same_network_and_another_seed_another(fitted):
    model, X, y = fitted
    again, other = (
        SequenceClassifier(**SMALL, seed=seed).fit(X, y, validation=make(seed=1)) for seed in (model.seed, 4)
    )
    for one, two in zip(model.network_.get_weights(), again.network_.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(model.predict_proba(X), again.predict_proba(X))
    assert np.abs(model.predict_proba(X) - other.predict_proba(X)).max() > 1e-4


def test_reads_order_that_counts_cannot_see():
    (X, y), (other, z) = make(2000), make(1000, seed=5)
    model = SequenceClassifier(units=8, epochs=12, learning_rate=0.01, progress=False).fit(
        X, y, validation=(other, z)
    )
    assert model.score(other, z) > 0.95 > CountsClassifier().fit(X, y).score(other, z)


def test_several_classes():
    X, _ = make(600)
    names = np.array(["none", "view", "cart", "buy"])
    last = np.where(X.lengths > 0, np.append(X.fields["behavior"], 1)[X.offsets[1:] - 1], 1)
    y = names[last - 1]
    model = SequenceClassifier(units=8, epochs=8, learning_rate=0.02, progress=False).fit(X, y)
    assert model.classes_.tolist() == sorted(names)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1, atol=1e-5)
    assert model.score(X, y) > 0.8


def test_class_weights_raise_the_rare_class():
    X, y = make(600)
    rare = y * (np.arange(len(y)) % 4 == 0)
    plain, weighed = (
        SequenceClassifier(**SMALL | {"epochs": 8, "learning_rate": 0.01}, class_weight=weight)
        .fit(X, rare)
        .predict_proba(X)[:, 1]
        .mean()
        for weight in (None, "balanced")
    )
    assert abs(plain - rare.mean()) < 0.06 and weighed > plain + 0.1


def test_scale_comes_from_the_training_part_alone():
    (X, y), (V, v) = make(), make(seed=1)
    far = Sequences({**V.fields, "log_gap": V.fields["log_gap"] + 1000}, V.offsets, V.ids, V.vocabularies)
    model = SequenceClassifier(**SMALL | {"epochs": 1}).fit(X, y, validation=(far, v))
    assert model.fields_ == input_fields(X)


@pytest.mark.parametrize(
    "y", [np.zeros(300, int), np.ones(300, int), np.array([0, 1])], ids=["none", "all", "few"]
)
def test_labels_of_which_nothing_can_be_learned(y):
    with pytest.raises(LogError):
        SequenceClassifier(**SMALL).fit(make()[0], y)


def test_a_missing_field_is_named(fitted):
    model, X, _ = fitted
    with pytest.raises(LogError, match="log_gap"):
        model.predict_proba(X.select(["behavior"]))


def test_is_a_scikit_learn_model():
    model = SequenceClassifier(units=5, class_weight={0: 1.0, 1: 3.0})
    assert clone(model).get_params() == model.get_params()
    assert clone(model).set_params(units=7).units == 7
    with pytest.raises(LogError, match="choose one of"):
        SequenceClassifier("abacus", progress=False).fit(*make())


@pytest.mark.parametrize("weight", [None, {0: 1.0, 1: 3.0}], ids=str)
def test_saved_and_loaded_it_is_the_same(tmp_path, fitted, weight):
    model, X, y = fitted
    if weight:  # JSON has no numbers as keys
        model = SequenceClassifier(**SMALL | {"epochs": 1}, class_weight=weight).fit(X, y)
    again = SequenceClassifier.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.get_params() == model.get_params() and again.history_.equals(model.history_)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["manifest.json", "network.keras"]


def damage(folder, how):
    """Make a saved model unreadable."""
    manifest = json.loads((folder / "manifest.json").read_text())
    if how == "no file":
        (folder / "network.keras").unlink()
    elif how == "other bytes":
        (folder / "network.keras").write_bytes(b"no network")
    elif how == "newer":
        (folder / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99, "seqbook": "9.9"}))
    else:
        (folder / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    "how, message",
    [("no file", "missing"), ("other bytes", "damaged"), ("newer", "9.9"), ("torn manifest", "damaged")],
)
def test_a_folder_that_is_no_model(tmp_path, fitted, how, message):
    folder = fitted[0].save(tmp_path / "model")
    damage(folder, how)
    with pytest.raises(LogError, match=message):
        SequenceClassifier.load(folder)


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    X, y = make()
    SequenceClassifier(**SMALL, checkpoint=tmp_path).fit(X, y)
    with pytest.raises(LogError, match="units"):
        SequenceClassifier(**SMALL | {"units": 9}, checkpoint=tmp_path).fit(X, y)
    with pytest.raises(LogError, match="other data"):
        SequenceClassifier(**SMALL, checkpoint=tmp_path).fit(X, 1 - y)
    (tmp_path / "training.npz").write_bytes(b"torn")
    with pytest.raises(LogError, match="damaged"):
        SequenceClassifier(**SMALL, checkpoint=tmp_path).fit(X, y)


KILLED = """
    import os, signal, sys
    sys.path.insert(0, {here!r})
    from test_networks import SMALL, make
    from seqbook.models import networks
    write = networks.Checkpoint._write
    def die_after_two(self):
        write(self)
        if self.epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    networks.Checkpoint._write = die_after_two
    model = networks.SequenceClassifier(**SMALL | {{"epochs": 5}}, checkpoint={folder!r})
    model.fit(*make(), validation=make(seed=1))
"""


def python(code: str, **environment) -> subprocess.CompletedProcess:
    """Run code in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


def test_killed_it_goes_on_to_the_same_end(tmp_path):
    done = python(KILLED.format(here=os.path.dirname(__file__), folder=str(tmp_path)))
    assert done.returncode == -signal.SIGKILL, done.stderr
    (X, y), V = make(), make(seed=1)
    resumed = SequenceClassifier(**SMALL | {"epochs": 5}, checkpoint=tmp_path).fit(X, y, validation=V)
    whole = SequenceClassifier(**SMALL | {"epochs": 5}).fit(X, y, validation=V)
    np.testing.assert_array_equal(resumed.predict_proba(X), whole.predict_proba(X))
    assert resumed.history_.equals(whole.history_) and len(resumed.history_) == 5


def test_nothing_heavy_is_imported_before_a_network_is_built():
    heavy = "('keras', 'tensorflow', 'torch', 'jax')"
    done = python(
        f"import sys, seqbook.models.networks; print([name for name in {heavy} if name in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.fixture(scope="module")
def saved_networks(tmp_path_factory):
    """Networks of every encoder, with what they answer here."""
    folder = tmp_path_factory.mktemp("networks")
    for i, (encoder, options) in enumerate(test_encoders.CASES):
        for each in (False, True):
            network = test_encoders.build(encoder, options, each)
            (path := folder / f"{i}_{each:d}").mkdir()
            network.save(path / "network.keras")
            np.save(path / "answers.npy", test_encoders.ask(network, test_encoders.X.pad(12)))
    return folder


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_same_holds_on_other_backends(backend, saved_networks):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed; pip install {backend} to run this")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ENCODER_TESTS)]
    chosen = {"KERAS_BACKEND": backend, "SEQBOOK_NETWORKS": str(saved_networks)}
    done = subprocess.run(command, env={**os.environ, **chosen}, capture_output=True, text=True)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout[-5000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


def test_a_fresh_network_answers_the_shares_where_it_reads_nothing():
    X, _ = make()
    network = build_network(input_fields(X), probability_layer([0.8, 0.2]))
    answers = import_keras().ops.convert_to_numpy(network(X.pad(), training=False))
    np.testing.assert_allclose(answers[X.lengths == 0], 0.2, atol=1e-6)


def test_a_network_needs_nothing_of_this_package_to_be_loaded(saved_networks):
    folder = saved_networks / "7_0"  # the Transformer
    code = f"""
        import sys, numpy as np, keras
        network = keras.saving.load_model({str(folder / "network.keras")!r}, safe_mode=True)
        assert not [name for name in sys.modules if name.startswith("seqbook")]
        print(network.count_params())
    """
    done = python(code)
    assert done.returncode == 0 and int(done.stdout.split()[-1]) > 0, done.stderr


@pytest.mark.parametrize("encoder", ENCODERS)
def test_each_encoder_learns_to_classify(encoder):
    X, _ = make(600)
    y = (np.bincount(np.repeat(np.arange(len(X)), X.lengths), X.fields["behavior"] == 3, len(X)) >= 1).astype(
        int
    )
    options = {"units": 8, "epochs": 12, "batch_size": 32, "learning_rate": 0.02, "progress": False}
    model = SequenceClassifier(encoder, counts=4, **options).fit(X, y, (X, y))
    assert model.history_["val_auc"].max() > 0.9


def test_wrong_options_say_what_to_do():
    X, y = make()
    for options, message in [
        ({"encoder": "abacus"}, "choose one of bag, cnn"),
        ({"combine": "mix"}, "choose one of concat, sum"),
        ({"encoder": "cnn", "options": {"heads": 2}}, "takes depth, kernel_size"),
        ({"encoder": "bag", "options": {"depth": 2}}, "takes none"),
        ({"encoder": "transformer", "options": {"heads": 3}}, "heads"),
        ({"encoder": "transformer", "options": {"positions": "spiral"}}, "positions"),
    ]:
        with pytest.raises(LogError, match=message):
            SequenceClassifier(**SMALL | options).fit(X, y)


def table_of(X, seed=0):
    """What is known beside the events; the first column gives the label away."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"hint": rng.normal(size=len(X)), "city": rng.choice(["Rome", "Oslo"], len(X))})


def test_what_joins_late_is_learned_from_and_asked_for():
    X, _ = make()
    table = table_of(X)
    y = (table["hint"] > 0).astype(int).to_numpy()
    model = SequenceClassifier(**SMALL | {"epochs": 20, "learning_rate": 0.02}).fit(X, y, features=table)
    fresh, other = make(seed=3)[0], table_of(X, seed=3)
    assert (model.predict(X, table) == y).mean() > 0.9
    assert ((model.predict_proba(fresh, other)[:, 1] > 0.5) == (other["hint"] > 0)).mean() > 0.9
    for wrong, message in [
        (None, "with a table"),
        (other[:-1], "pass one for each"),
        (other[["city"]], "hint"),
    ]:
        with pytest.raises(LogError, match=message):
            model.predict_proba(fresh, wrong)
    with pytest.raises(LogError, match="without a table"):
        SequenceClassifier(**SMALL).fit(X, y).predict_proba(X, table)


def test_gaps_and_unknown_categories_of_what_joins_late_get_an_answer():
    X, y = make()
    model = SequenceClassifier(**SMALL).fit(X, y, features=table_of(X))
    strange = table_of(X).assign(city="Atlantis")
    strange.loc[:9, "hint"] = np.nan
    assert np.isfinite(model.predict_proba(X, strange)).all()


def tags_of(X):
    """For each event: was an odd number of carts before it, itself included? Every third is not asked."""
    carts = np.concatenate(
        [
            np.cumsum(X.fields["behavior"][i:j] == 3)
            for i, j in zip(X.offsets[:-1], X.offsets[1:], strict=True)
        ]
    )
    return np.where(np.arange(len(carts)) % 3 == 2, -1, (carts > 0).astype(int))


def test_tags_are_learned_from_the_events_that_are_asked():
    X, V = make(600)[0], make(300, seed=1)[0]
    options = {"units": 8, "epochs": 8, "batch_size": 32, "learning_rate": 0.02, "progress": False}
    model = SequenceTagger("gru", **options).fit(X, tags_of(X), (V, tags_of(V)))
    asked = tags_of(V) >= 0
    assert (model.predict(V)[asked] == tags_of(V)[asked]).mean() > 0.97
    assert model.predict_proba(V).shape == (V.offsets[-1], 2)
    with pytest.raises(LogError, match="one for each event"):
        model.fit(X, np.zeros(len(X)))
    with pytest.raises(LogError):
        model.fit(X, np.full(X.offsets[-1], -1))


def test_labels_of_events_that_are_not_asked_do_not_matter():
    X = make()[0]
    tags = tags_of(X)
    one = SequenceTagger(**SMALL).fit(X, tags)
    with pytest.raises(LogError, match="one label|only one|class"):
        one.fit(X, np.where(tags == 1, -1, tags))
    assert set(one.classes_) == {0, 1}


def test_the_loss_of_tags_is_the_mean_over_all_events_in_batches_of_any_size():
    X = make()[0]
    still = {"learning_rate": 0.0, "dropout": 0.0, "epochs": 1}
    losses = [
        SequenceTagger("gru", **SMALL | still | {"batch_size": size}).fit(X, tags_of(X)).history_["loss"][0]
        for size in (300, 8)
    ]
    exact = (
        SequenceTagger("gru", **SMALL | still).fit(X, tags_of(X), (X, tags_of(X))).history_["val_log_loss"][0]
    )
    assert losses == pytest.approx([exact, exact], abs=1e-5)


def test_each_event_weighs_the_same_in_batches_of_short_and_of_long_histories():
    X = make(64)[0]
    weight = np.random.default_rng(0).choice([0, 1, 3], X.offsets[-1]).astype("float32")
    data = NetworkBatches(X, tags_of(X), weight, each=True, batch_size=16)
    assert len({data[i][0]["mask"].shape for i in range(len(data))}) > 1  # of different lengths
    shares = []
    for i, rows in enumerate(data.plan):
        inputs, _, got = data[i]
        assert (got[~inputs["mask"]] == 0).all()
        shares += [got[inputs["mask"]] / np.maximum(weight[events_of(X, rows)], 1e-9)]
    shares = np.concatenate(shares)
    np.testing.assert_allclose(shares[shares > 0], 4 / weight.sum(), rtol=1e-5)  # four batches


def test_a_tagger_that_looks_ahead_must_be_asked_for():
    X = make()[0]
    with pytest.raises(LogError, match="causal=False"):
        SequenceTagger("bigru", **SMALL).fit(X, tags_of(X))
    for encoder in ("bigru", "transformer"):
        model = SequenceTagger(encoder, causal=False, **SMALL).fit(X, tags_of(X))
        short = X.truncate(5)
        begun = Sequences(
            {name: v[: X.offsets[5]] for name, v in X.fields.items()},
            X.offsets[:6],
            X.ids[:5],
            X.vocabularies,
        )
        assert model.predict_proba(begun).shape[0] == X.offsets[5] and len(short)


def amounts_of(X, y, seed=0):
    """Amounts of those with label 1."""
    return y * np.random.default_rng(seed).lognormal(3, 0.5, len(X))


def test_amounts_are_expected_where_they_come():
    X, y = make(1500)
    V, v = make(500, seed=1)
    options = {"units": 8, "epochs": 10, "batch_size": 32, "learning_rate": 0.02, "progress": False}
    model = SequenceRegressor("gru", **options).fit(X, amounts_of(X, y), (V, amounts_of(V, v, 1)))
    mean = np.exp(3 + 0.5**2 / 2)
    assert (
        model.predict(V)[v == 1].mean() == pytest.approx(mean, rel=0.15)
        and model.predict(V)[v == 0].mean() < 2
    )
    parts = model.predict_parts(V)
    assert parts["median"][v == 1].mean() == pytest.approx(np.exp(3), rel=0.15)


def test_amounts_in_another_currency_are_the_same():
    X, y = make()
    euros = amounts_of(X, y)
    one = SequenceRegressor(**SMALL).fit(X, euros).predict(X)
    cents = SequenceRegressor(**SMALL).fit(X, 100 * euros).predict(X)
    np.testing.assert_allclose(cents, 100 * one, rtol=1e-3)


@pytest.mark.parametrize(
    "y, message",
    [(-np.ones(300), "below|negative|least"), (np.zeros(300), "longer horizon"), (np.full(300, np.nan), ".")],
    ids=["negative", "nothing", "missing"],
)
def test_amounts_that_cannot_be(y, message):
    with pytest.raises(LogError, match=message):
        SequenceRegressor(**SMALL).fit(make()[0], y)


def test_the_next_event_of_all_events_but_unknown_ones():
    X = make()[0]
    targets = next_targets(X)
    ends = X.offsets[1:][X.lengths > 0] - 1
    assert (targets[ends] == 0).all() and (np.delete(targets[:, 2], ends) == 1).all()
    inner = np.setdiff1d(np.arange(X.offsets[-1]), ends)
    np.testing.assert_array_equal(targets[inner, 0], X.fields["behavior"][inner + 1])
    np.testing.assert_array_equal(targets[inner, 1], X.fields["log_gap"][inner + 1])


def test_next_probabilities_and_times_are_what_they_should_be():
    X = make()[0]
    X = X[X.lengths > 0]
    model = NextEventModel(**SMALL).fit(X)
    proba = model.predict_proba(X)
    assert model.classes_.tolist() == ["end", "view", "cart", "buy"]
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    times = [model.predict_time(X, q) for q in (0.1, 0.5, 0.9)]
    assert (np.diff(times, axis=0) > 0).all() and (times[0] >= 0).all()
    np.testing.assert_allclose(model.predict_proba(X, each=True)[X.offsets[1:] - 1], proba, atol=1e-6)
    with pytest.raises(LogError, match="no event"):
        model.predict_proba(make()[0])
    with pytest.raises(LogError, match="log_gap"):
        model.fit(X.select(["behavior"]))


def test_without_the_end_it_is_never_expected():
    X = make()[0]
    model = NextEventModel(end=False, **SMALL).fit(X)
    assert model.predict_proba(X[X.lengths > 0])[:, 0].max() < 1e-3


def test_attention_weights_add_up():
    X, y = make()
    model = SequenceClassifier("gru-attention", **SMALL).fit(X, y)
    owner = np.repeat(np.arange(len(X)), X.lengths)
    sums = np.bincount(owner, attention_weights(model, X), len(X))
    np.testing.assert_allclose(sums, X.lengths > 0, atol=1e-6)
    with pytest.raises(LogError, match="gru-attention"):
        attention_weights(SequenceClassifier(**SMALL).fit(X, y), X)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_graph_leads_from_every_input_to_the_answer(encoder):
    network = build_network(input_fields(make()[0]), probability_layer([0.5, 0.5]), encoder, features=2)
    reached = {"behavior", "log_gap", "features"}
    for source, target in network_graph(network).to_numpy():
        assert source != target
        reached |= {target} if source in reached or "position" in source else set()
    assert "probability" in reached and "mask" not in reached
