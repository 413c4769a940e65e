"""What holds for every encoder and every head, on whichever backend Keras runs.

`test_networks.py` runs this file again on JAX and on PyTorch, in processes of their own."""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqbook.data.sequences import Sequences, Vocabulary
from seqbook.models.networks import (
    ENCODERS,
    NETWORK,
    TWO_WAY,
    NextEventModel,
    SequenceClassifier,
    SequenceRegressor,
    SequenceTagger,
    build_network,
    import_keras,
    input_fields,
    probability_layer,
    zero_inflated_loss,
    zero_inflated_nll,
)

VOCABULARY = Vocabulary(np.array(["view", "cart", "buy"], object))
SHARES = [0.8, 0.2]
CASES = [(name, {}) for name in ENCODERS] + [
    ("transformer", {"positions": "rotary"}),
    ("transformer", {"positions": "none", "depth": 1}),
    ("gru", {"depth": 2}),
]
IDS = [" ".join([name, *map(str, options.values())]) for name, options in CASES]


def make(n=40, seed=0, longest=12):
    """Histories with codes and measurements, empty ones too; and a table that joins late."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest, n)
    lengths[:2] = 0, longest
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype("int64")
    fields = {
        "behavior": rng.choice([2, 3, 4], offsets[-1]).astype("int32"),
        "item": rng.integers(1, 99, offsets[-1]).astype("int32"),
        "log_gap": rng.exponential(4, offsets[-1]).astype("float32"),
    }
    return Sequences(fields, offsets, np.arange(n), {"behavior": VOCABULARY})


X = make()
LATE = np.random.default_rng(1).normal(size=(len(X), 3)).astype("float32")


def draw_weights(network, seed=0):
    """Weights that are not small, so that each of them matters."""
    rng = np.random.default_rng(seed)
    for weights in network.trainable_variables:
        weights.assign(rng.normal(0, 0.4, weights.shape))
    return network


@cache
def _built(encoder, options, each):
    more = {"units": 8, "counts": 2, "features": 3, "combine": "sum" if each else "concat"}
    output = probability_layer(SHARES)
    network = build_network(input_fields(X), output, encoder, each=each, options=dict(options), **more)
    return draw_weights(network)


def build(encoder, options, each):
    """A network with random weights and everything that there is; made once, and never trained."""
    return _built(encoder, tuple(options.items()), each)


def ask(network, inputs):
    """The answers as NumPy."""
    return import_keras().ops.convert_to_numpy(network({**inputs, "features": LATE}, training=False))


def answers(network, width, side="right", each=False):
    """The answers for the padded histories, those for padding left out."""
    inputs = X.pad(width, side)
    found = ask(network, inputs)
    return found[inputs["mask"]] if each else found


@pytest.mark.parametrize("each", [False, True], ids=["history", "each event"])
@pytest.mark.parametrize("encoder, options", CASES, ids=IDS)
def test_padding_of_any_amount_on_either_side_changes_nothing(encoder, options, each):
    network = build(encoder, options, each)
    plain = answers(network, 12, each=each)
    assert np.isfinite(plain).all() and plain.std() > 1e-3
    for width, side in [(12, "left"), (31, "right"), (31, "left")]:
        np.testing.assert_allclose(answers(network, width, side, each), plain, atol=1e-5)


@pytest.mark.parametrize("encoder, options", CASES, ids=IDS)
def test_what_stands_in_the_padding_does_not_matter(encoder, options):
    network, inputs = build(encoder, options, False), X.pad(31)
    rubbish = {
        "behavior": np.where(inputs["mask"], inputs["behavior"], 4),
        "item": np.where(inputs["mask"], inputs["item"], 7),
        "log_gap": np.where(inputs["mask"], inputs["log_gap"], 99).astype("float32"),
        "mask": inputs["mask"],
    }
    np.testing.assert_allclose(ask(network, rubbish), ask(network, inputs), atol=1e-5)


@pytest.mark.parametrize("encoder, options", CASES, ids=IDS)
def test_an_event_knows_nothing_of_later_ones(encoder, options):
    network, inputs = build(encoder, options, True), X.pad(12)
    other = {**inputs, "item": inputs["item"].copy(), "log_gap": inputs["log_gap"].copy()}
    other["item"][:, 6:] = 50
    other["log_gap"][:, 6:] += 3
    one, two = ask(network, inputs), ask(network, other)
    assert np.abs(one[1, 6:] - two[1, 6:]).max() > 1e-4
    if encoder in TWO_WAY:
        assert np.abs(one[1, :6] - two[1, :6]).max() > 1e-4
    else:
        np.testing.assert_allclose(one[:, :6], two[:, :6], atol=1e-6)


@pytest.mark.parametrize("encoder, options", CASES, ids=IDS)
def test_order_matters_to_all_but_the_bag(encoder, options):
    network, inputs = build(encoder, options, False), X.pad(12)
    turned = {name: values[:, ::-1].copy() for name, values in inputs.items()}
    full = X.lengths == 12
    change = np.abs(ask(network, inputs) - ask(network, turned))[full].max()
    assert (change < 1e-5) == (encoder == "bag")


def test_the_loss_of_amounts_is_minus_the_logarithm_of_their_density():
    rng = np.random.default_rng(0)
    y = np.where(rng.random(200) < 0.5, 0, rng.lognormal(3, 1, 200)).astype("float32")
    answers = rng.normal([0, 3, 0.5], 0.5, (200, 3)).astype("float32")
    ours = import_keras().ops.convert_to_numpy(zero_inflated_loss(y[:, None], answers))
    np.testing.assert_allclose(ours, zero_inflated_nll(y, answers), rtol=1e-4)


def learned_from(number, seed=0):
    """A head, histories, a table that joins late, and what the head learns."""
    data, rng = make(120, seed), np.random.default_rng(seed)
    label = rng.integers(0, 2, len(data))
    table = pd.DataFrame({"age": rng.normal(size=len(data)), "city": rng.choice(["Rome", "Oslo"], len(data))})
    table.loc[3, "age"] = np.nan
    tags = np.where(rng.random(data.offsets[-1]) < 0.3, -1, data.fields["behavior"] == 3)
    amount = label * rng.lognormal(3, 1, len(data))
    heads = [
        (SequenceClassifier, label),
        (SequenceTagger, tags),
        (SequenceRegressor, amount),
        (NextEventModel, None),
    ]
    return *heads[number], data, table


@pytest.fixture(scope="module", params=range(4), ids=["class", "tags", "amount", "next event"])
def fitted(request):
    """Each head, fitted, and what it was fitted to. One batch an epoch: JAX compiles each shape anew."""
    kind, y, data, table = learned_from(request.param)
    model = kind("gru", units=8, epochs=6, batch_size=len(data), learning_rate=0.01, progress=False)
    return model.fit(data, y, (data, y, table), features=table), data, table


def test_each_head_learns_saves_and_answers_alike(fitted, tmp_path):
    model, data, table = fitted
    losses = model.history_[model.monitor]
    assert np.isfinite(losses).all() and losses.iloc[-1] < losses.iloc[0]
    again = type(model).load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again._answers(data, table), model._answers(data, table))
    assert again.get_params() == model.get_params() and again.history_.equals(model.history_)


def test_answers_do_not_depend_on_the_company(fitted):
    model, data, table = fitted
    short = np.flatnonzero(data.lengths < 6)
    rows = np.random.default_rng(0).permutation(short)
    apart, together = model._answers(data[rows], table.iloc[rows]), model._answers(data, table)
    events = np.concatenate([np.arange(data.offsets[i], data.offsets[i + 1]) for i in rows])
    at = events if model.each else rows
    assert len(short) < len(data) / 2
    np.testing.assert_allclose(apart, together[at], atol=1e-5)


def test_saved_elsewhere_the_networks_answer_the_same():
    """Networks that another backend saved, where the caller names a folder of them."""
    if (folder := os.environ.get("SEQBOOK_NETWORKS")) is None:
        pytest.skip("no folder of networks; test_networks.py names one")
    found = sorted(Path(folder).iterdir())
    assert len(found) == 2 * len(CASES)
    for path in found:
        network = import_keras().saving.load_model(path / NETWORK, safe_mode=True)
        np.testing.assert_allclose(ask(network, X.pad(12)), np.load(path / "answers.npy"), atol=1e-5)
