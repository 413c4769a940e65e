"""The recurrent classifier: masks, repeatability, kills, saving, other backends."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from sklearn.base import clone

from seqbook.data.events import LogError
from seqbook.data.sequences import Sequences, Vocabulary
from seqbook.models.classical import CountsClassifier
from seqbook.models.networks import SequenceClassifier, build_network, import_keras, input_fields

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
        SequenceClassifier(cell="abacus", progress=False).fit(*make())


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


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_runs_on_other_backends(backend, tmp_path, fitted):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    model, X, _ = fitted
    folder = model.save(tmp_path / "model")
    code = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        import numpy as np
        from test_networks import SMALL, make
        from seqbook.models.networks import SequenceClassifier
        X, y = make()
        np.save({str(tmp_path / "p.npy")!r}, SequenceClassifier.load({str(folder)!r}).predict_proba(X))
        assert np.isfinite(SequenceClassifier(**SMALL).fit(X, y).predict_proba(X)).all()
    """
    done = python(code, KERAS_BACKEND=backend)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), model.predict_proba(X), atol=1e-5)


def test_a_fresh_network_answers_the_shares_where_it_reads_nothing():
    X, _ = make()
    network = build_network(input_fields(X), np.array([0.8, 0.2]))
    answers = import_keras().ops.convert_to_numpy(network(X.pad(), training=False))
    np.testing.assert_allclose(answers[X.lengths == 0], 0.2, atol=1e-6)
