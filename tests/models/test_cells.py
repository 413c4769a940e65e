"""The NumPy cells and attention: Keras, finite differences, masks, causality, sizes, training."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqbook.data.events import LogError
from seqbook.models.cells import (
    Adam,
    CellNetwork,
    GRUCell,
    LSTMCell,
    MultiHeadAttention,
    RNNCell,
    adding_task,
    attention,
    causal_mask,
    clip_norm,
    copy_task,
    from_keras,
    numeric_gradient,
    orthogonal,
    padding_mask,
    positional_encoding,
    relative_error,
    sigmoid,
    softmax,
    softmax_loss,
    squared_loss,
    to_keras,
    train,
)

CELLS = {
    "rnn": RNNCell.init,
    "lstm": LSTMCell.init,
    "gru, reset after": GRUCell.init,
    "gru, reset before": lambda *a, **k: GRUCell.init(*a, reset_after=False, **k),
}
ALL = {**CELLS, "peepholes": lambda *a, **k: LSTMCell.init(*a, peepholes=True, **k)}
each = pytest.mark.parametrize("name", ALL)
SIZES = {"batch": st.integers(1, 4), "time": st.integers(1, 9), "inputs": st.integers(1, 5)}
MASKS = ("none", "right", "left", "holes")


def shake(cell, rng):
    """Random biases and peepholes too, so that no term is zero."""
    for w in cell.weights.values():
        w += rng.normal(0, 0.2, w.shape).astype(w.dtype)
    return cell


def draw_mask(kind, batch, time, rng):
    lengths = rng.integers(0, time + 1, batch)[:, None]
    masks = {
        "right": np.arange(time) < lengths,
        "left": np.arange(time) >= lengths,
        "holes": rng.random((batch, time)) < 0.6,
    }
    return masks.get(kind)


def draw(cell, batch, time, mask, seed):
    """Events, mask, first state, and what comes back to outputs and last state."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(cell.dtype)

    state = tuple(normal(batch, cell.units) for _ in range(cell.states))
    back = tuple(normal(batch, cell.units) for _ in range(cell.states))
    x, d_outputs = normal(batch, time, cell.inputs), normal(batch, time, cell.units)
    return x, draw_mask(mask, batch, time, rng), state, d_outputs, back


def after_first_event(mask):
    """1 from the first event of each history on: before it Keras shows zeros, and the cells their state."""
    return np.float32(1) if mask is None else np.maximum.accumulate(mask, axis=1)[..., None].astype("float32")


def by_keras(cell, x, mask, state, d_outputs, d_state):
    import tensorflow as tf

    layer = to_keras(cell, return_sequences=True, return_state=True)
    x, state = tf.constant(x), [tf.constant(s) for s in state]
    with tf.GradientTape() as tape:
        tape.watch([x, *state])
        outputs, *last = layer(x, mask=mask, initial_state=state)
        loss = tf.reduce_sum(d_outputs * outputs)
        loss += sum(tf.reduce_sum(d * v) for d, v in zip(d_state, last, strict=True))
    found = tape.gradient(loss, [*layer.trainable_variables, x, *state])
    return [np.array(v) for v in (outputs, *last, *found)]


def by_cell(cell, x, mask, state, d_outputs, d_state):
    outputs, last, cache = cell.forward(x, mask, state)
    g, d_x, d_first = cell.backward(cache, d_outputs, d_state)
    return [outputs, *last, g["W"], g["U"], np.stack([g["b"], g["s"]]) if "s" in g else g["b"], d_x, *d_first]


def distance(found, expected):
    """The largest difference, as a share of the largest number of its array if this is above 1."""
    pairs = list(zip(found, expected, strict=True))
    return max(np.abs(a - b).max(initial=0) / max(1, np.abs(b).max(initial=0)) for a, b in pairs)


def assert_agree(found, expected, tolerance=1e-6):
    assert [a.shape for a in found] == [b.shape for b in expected]
    assert distance(found, expected) <= tolerance


# ---- Keras


SHAPES = {
    **SIZES,
    "units": st.integers(1, 6),
    "mask": st.sampled_from(MASKS),
    "seed": st.integers(0, 10**6),
}


def compute(by, cell, x, mask, state, d_outputs, d_state):
    """Outputs, states and gradients by the cell or by Keras, where Keras shows them."""
    seen = after_first_event(mask)
    outputs, *rest = by(cell, x, mask, state, d_outputs * seen, d_state)
    return [outputs * seen, *rest]


@pytest.mark.parametrize("name", CELLS)
@given(**SHAPES, activation=st.sampled_from(["tanh", "relu"]))
@settings(max_examples=12, deadline=None)
def test_cells_agree_with_keras_in_outputs_states_and_gradients(
    name, batch, time, inputs, units, mask, activation, seed
):
    cell = CELLS[name](inputs, units, seed=seed, dtype="float64", activation=activation)
    cell = shake(cell, np.random.default_rng(seed))
    drawn = draw(cell, batch, time, mask, seed)
    assert_agree(compute(by_cell, cell, *drawn), compute(by_keras, cell, *drawn), 1e-11)


@pytest.mark.parametrize("name", CELLS)
@given(**SHAPES)
@settings(max_examples=12, deadline=None)
def test_in_float32_cells_and_keras_differ_by_rounding(name, batch, time, inputs, units, mask, seed):
    cell = shake(CELLS[name](inputs, units, seed=seed, dtype="float32"), np.random.default_rng(seed))
    drawn = draw(cell, batch, time, mask, seed)
    found, expected = compute(by_cell, cell, *drawn), compute(by_keras, cell, *drawn)
    # a chain of steps can make more of a rounding error: how much more, the same in float64 tells
    rounding = distance(found, in_float64(cell, *drawn))
    assert rounding < 1e-4
    assert_agree(found, expected, max(1e-6, 16 * rounding))


def in_float64(cell, x, mask, state, d_outputs, d_state):
    """What the cell computes from the same numbers in float64."""
    wide = type(cell)({key: w.astype("float64") for key, w in cell.weights.items()})
    x, d_outputs, *rest = (np.float64(v) for v in (x, d_outputs, *state, *d_state))
    return compute(by_cell, wide, x, mask, rest[: cell.states], d_outputs, rest[cell.states :])


def test_before_the_first_event_the_output_is_the_state_where_keras_shows_zeros():
    cell = shake(GRUCell.init(2, 3, dtype="float32"), np.random.default_rng(0))
    x, _, state, *_ = draw(cell, 1, 4, "none", seed=0)
    mask = np.array([[False, False, True, True]])
    outputs, last, _ = cell.forward(x, mask, state)
    shown, kept = to_keras(cell, return_sequences=True, return_state=True)(
        x, mask=mask, initial_state=list(state)
    )
    assert np.array_equal(outputs[:, :2], np.repeat(state[0][:, None], 2, axis=1))
    assert not np.any(shown[:, :2])
    assert_agree([outputs[:, 2:], *last], [np.array(shown)[:, 2:], np.array(kept)])


@pytest.mark.parametrize("name", CELLS)
@given(inputs=st.integers(1, 6), units=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=8, deadline=None)
def test_weights_go_to_keras_and_back(name, inputs, units, seed):
    cell = shake(CELLS[name](inputs, units, seed=seed, dtype="float32"), np.random.default_rng(seed))
    layer = to_keras(cell)
    back = from_keras(layer)
    assert type(back) is type(cell) and back.weights.keys() == cell.weights.keys()
    assert all(np.array_equal(back.weights[key], w) for key, w in cell.weights.items())
    assert cell.n_parameters == layer.count_params() == sum(w.size for w in cell.weights.values())
    back.weights["W"] += 1  # copies: the layer keeps its own
    assert np.array_equal(layer.get_weights()[0], cell.weights["W"])


@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_layers_that_keras_made_are_read(kind, use_bias):
    import keras

    layer = getattr(keras.layers, kind)(5, return_sequences=True, use_bias=use_bias)
    x = np.random.default_rng(0).normal(size=(3, 6, 2)).astype("float32")
    expected = np.array(layer(x))
    assert np.abs(from_keras(layer).forward(x)[0] - expected).max() < 1e-6


def test_what_the_cells_do_not_know_is_refused():
    import keras

    def built(layer):
        layer.build((None, None, 2))
        return layer

    layers = keras.layers
    with pytest.raises(LogError, match="reads backwards"):
        from_keras(built(layers.LSTM(3, go_backwards=True)))
    with pytest.raises(LogError, match="activation 'elu'"):
        from_keras(built(layers.GRU(3, activation="elu")))
    with pytest.raises(LogError, match="gates with 'hard_sigmoid'"):
        from_keras(built(layers.LSTM(3, recurrent_activation="hard_sigmoid")))
    with pytest.raises(LogError, match="no weights yet"):
        from_keras(layers.LSTM(3))
    with pytest.raises(LogError, match="pass one of"):
        from_keras(built(layers.Dense(3)))
    with pytest.raises(LogError, match="peepholes=False"):
        to_keras(LSTMCell.init(2, 3, peepholes=True))


def test_keras_is_not_imported_with_the_module():
    code = "import sys, seqbook.models.cells; sys.exit('keras' in sys.modules or 'tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- peepholes


def test_without_weight_a_peephole_is_nothing():
    rng = np.random.default_rng(0)
    plain = shake(LSTMCell.init(3, 4), rng)
    peeping = LSTMCell({**plain.weights, "p": np.zeros(12)})
    given_ = draw(plain, 3, 6, "holes", seed=1)
    assert_agree(by_cell(peeping, *given_), by_cell(plain, *given_), 1e-14)


@pytest.mark.parametrize("seed", range(3))
def test_peepholes_agree_with_the_kernel_of_tensorflow(seed):
    import tensorflow as tf

    cell = shake(LSTMCell.init(3, 4, seed=seed, dtype="float32", peepholes=True), np.random.default_rng(seed))
    x, _, state, *_ = draw(cell, 2, 5, "none", seed)
    W, U, b, p = (cell.weights[name] for name in "WUbp")
    looks = dict(zip(("wci", "wcf", "wco"), np.split(p, 3), strict=True))
    options = dict(seq_len_max=5, w=np.concatenate([W, U]), b=b, use_peephole=True, cell_clip=0.0, **looks)
    h = tf.raw_ops.BlockLSTMV2(x=x.swapaxes(0, 1), cs_prev=state[1], h_prev=state[0], **options).h
    assert_agree([cell.forward(x, state=state)[0]], [h.numpy().swapaxes(0, 1)])


# ---- gradients


@each
@given(
    batch=st.integers(1, 3),
    time=st.integers(1, 4),
    mask=st.sampled_from(MASKS),
    activation=st.sampled_from(["tanh", "relu"]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=5, deadline=None)
def test_gradients_are_those_of_finite_differences(name, batch, time, mask, activation, seed):
    cell = shake(ALL[name](2, 3, seed=seed, activation=activation), np.random.default_rng(seed))
    x, m, state, d_outputs, d_state = draw(cell, batch, time, mask, seed)

    def loss():
        outputs, last, _ = cell.forward(x, m, state)
        return float(
            (outputs * d_outputs).sum() + sum((a * b).sum() for a, b in zip(last, d_state, strict=True))
        )

    gradients, d_x, d_first = cell.backward(cell.forward(x, m, state)[2], d_outputs, d_state)
    pairs = [(cell.weights[k], g) for k, g in gradients.items()]
    pairs += [(x, d_x), *zip(state, d_first, strict=True)]
    assert gradients.keys() == cell.weights.keys()
    for array, gradient in pairs:
        numeric = numeric_gradient(loss, array, 1e-6 if activation == "relu" else 1e-5)
        difference = np.abs(gradient - numeric).max()
        assert difference < 1e-6 * max(np.abs(numeric).max(), 1e-2)


@each
def test_the_gradient_check_finds_a_wrong_gradient(name):
    cell = shake(ALL[name](2, 3), np.random.default_rng(0))
    x, _, _, d_outputs, _ = draw(cell, 2, 4, "none", 0)
    gradients = cell.backward(cell.forward(x)[2], d_outputs)[0]
    numeric = numeric_gradient(lambda: float((cell.forward(x)[0] * d_outputs).sum()), cell.weights["U"])
    assert relative_error(gradients["U"], numeric) < 1e-6
    assert relative_error(gradients["U"] * 1.001, numeric) > 1e-4


# ---- masks, pieces, time


@each
@pytest.mark.parametrize("at", [0, 2, 5])
def test_padding_anywhere_changes_neither_states_nor_gradients(name, at):
    cell = shake(ALL[name](3, 4), np.random.default_rng(0))
    x, _, state, d_outputs, d_state = draw(cell, 2, 5, "none", 0)
    padded = np.insert(x, [at] * 3, np.nan, axis=1)
    mask = np.insert(np.ones((2, 5)), [at] * 3, 0, axis=1)
    d_padded = np.insert(d_outputs, [at] * 3, 0, axis=1)
    plain, masked = (
        by_cell(cell, x, None, state, d_outputs, d_state),
        by_cell(cell, padded, mask, state, d_padded, d_state),
    )
    kept = mask[0].astype(bool)
    masked[0] = masked[0][:, kept]
    i = len(masked) - 1 - cell.states
    assert not np.any(masked[i][:, ~kept])
    masked[i] = masked[i][:, kept]
    assert_agree(masked, plain, 1e-13)


@each
def test_a_history_without_events_keeps_its_state(name):
    cell = shake(ALL[name](3, 4), np.random.default_rng(0))
    x, _, state, _, d_state = draw(cell, 2, 5, "none", 0)
    _, last, cache = cell.forward(x, np.zeros((2, 5)), state)
    assert_agree(last, state, 0)
    gradients, d_x, d_first = cell.backward(cache, None, d_state)
    assert_agree(d_first, d_state, 0)
    assert not any(np.any(g) for g in (d_x, *gradients.values()))


@each
def test_two_pieces_are_one_history_forwards_and_backwards(name):
    cell = shake(ALL[name](3, 4), np.random.default_rng(0))
    x, mask, state, d_outputs, d_state = draw(cell, 3, 8, "holes", 0)
    whole = by_cell(cell, x, mask, state, d_outputs, d_state)
    first, middle, cache = cell.forward(x[:, :3], mask[:, :3], state)
    second, last, later = cell.forward(x[:, 3:], mask[:, 3:], middle)
    g2, d_x2, d_middle = cell.backward(later, d_outputs[:, 3:], d_state)
    g1, d_x1, d_first = cell.backward(cache, d_outputs[:, :3], d_middle)
    assert_agree([np.concatenate([first, second], axis=1), *last], whole[: 1 + cell.states], 1e-13)
    assert_agree([np.concatenate([d_x1, d_x2], axis=1), *d_first], whole[-1 - cell.states :], 1e-13)
    assert_agree([g1["W"] + g2["W"], g1["U"] + g2["U"]], whole[1 + cell.states : 3 + cell.states], 1e-13)


@each
@given(cut=st.integers(1, 7), seed=st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_outputs_do_not_see_later_events(name, cut, seed):
    cell = shake(ALL[name](3, 4), np.random.default_rng(seed))
    x = np.random.default_rng(seed).normal(size=(2, 8, 3))
    changed = x.copy()
    changed[:, cut:] = 99
    assert np.array_equal(cell.forward(x)[0][:, :cut], cell.forward(changed)[0][:, :cut])
    outputs, _, cache = cell.forward(x)
    only = np.zeros_like(outputs)
    only[:, cut - 1] = 1
    assert not np.any(cell.backward(cache, only)[1][:, cut:])


@each
def test_the_company_in_a_batch_does_not_matter_and_inputs_stay_as_they_are(name):
    cell = shake(ALL[name](3, 4), np.random.default_rng(0))
    x, mask, state, *_ = draw(cell, 4, 6, "right", 0)
    before = x.copy(), state[0].copy(), {k: w.copy() for k, w in cell.weights.items()}
    outputs = cell.forward(x, mask, state)[0]
    alone = cell.forward(x[2:3], mask[2:3], tuple(s[2:3] for s in state))[0]
    assert np.abs(outputs[2:3] - alone).max() < 1e-12
    assert np.array_equal(x, before[0]) and np.array_equal(state[0], before[1])
    assert all(np.array_equal(w, before[2][k]) for k, w in cell.weights.items())


def test_shapes_that_do_not_fit_are_named():
    cell = LSTMCell.init(3, 4)
    with pytest.raises(LogError, match=r"the cell reads \(batch, time, 3\)"):
        cell.forward(np.zeros((2, 5)))
    with pytest.raises(LogError, match=r"needs one of shape \(2, 5\)"):
        cell.forward(np.zeros((2, 5, 3)), np.ones((2, 4)))


# ---- sizes


class Number:
    """A number that counts how often it is multiplied by another of its kind."""

    products = 0

    def __init__(self, value):
        self.value = float(value)

    def _other(self, other):
        return other.value if isinstance(other, Number) else float(other)

    def __add__(self, other):
        return Number(self.value + self._other(other))

    def __sub__(self, other):
        return Number(self.value - self._other(other))

    def __rsub__(self, other):
        return Number(self._other(other) - self.value)

    def __mul__(self, other):
        Number.products += isinstance(other, Number)
        return Number(self.value * self._other(other))

    __radd__, __rmul__ = __add__, __mul__

    def tanh(self):
        return Number(np.tanh(self.value))


@each
def test_multiply_adds_are_those_that_a_step_does(name):
    cell = ALL[name](3, 4)
    counting = type(cell)({k: np.vectorize(Number, otypes=[object])(w) for k, w in cell.weights.items()})
    number = np.vectorize(Number, otypes=[object])
    x = np.random.default_rng(0).normal(size=(1, 1, 3))
    state = tuple(number(np.zeros((1, 4))) for _ in range(cell.states))
    Number.products = 0
    outputs = counting.forward(number(x), state=state)[0]
    assert Number.products == cell.multiply_adds
    assert np.allclose([n.value for n in outputs[0, 0]], cell.forward(x)[0][0, 0])


def test_new_weights_are_as_announced():
    cell = LSTMCell.init(5, 8, forget_bias=2.0, seed=3, dtype="float32")
    assert all(w.dtype == np.float32 for w in cell.weights.values())
    assert np.array_equal(cell.weights["b"], np.repeat([0, 2, 0, 0], 8))
    for U in np.split(cell.weights["U"], 4, axis=1):
        assert np.allclose(U.T @ U, np.eye(8), atol=1e-5)
    assert np.array_equal(GRUCell.init(5, 8, update_bias=1.5).weights["b"], np.repeat([1.5, 0, 0], 8))
    again = LSTMCell.init(5, 8, forget_bias=2.0, seed=3, dtype="float32")
    assert all(np.array_equal(again.weights[k], w) for k, w in cell.weights.items())
    signs = [np.linalg.det(orthogonal(3, np.random.default_rng(seed))) > 0 for seed in range(40)]
    assert 10 < sum(signs) < 30  # both turns and mirrors are drawn


# ---- training


def test_the_sigmoid_does_not_overflow():
    with np.errstate(all="raise"):
        assert np.array_equal(sigmoid(np.float32([-1e4, 0, 1e4])), [0, 0.5, 1])
    assert np.allclose(sigmoid(np.linspace(-9, 9, 50)), 1 / (1 + np.exp(-np.linspace(-9, 9, 50))))


@given(seed=st.integers(0, 999))
@settings(max_examples=10, deadline=None)
def test_losses_and_their_gradients(seed):
    rng = np.random.default_rng(seed)
    scores, y = rng.normal(size=(2, 3, 4)), rng.integers(-1, 4, (2, 3))
    y[0, 0] = 1
    loss, gradient = softmax_loss(scores, y)
    asked = [(i, t) for i in range(2) for t in range(3) if y[i, t] >= 0]
    assert np.isclose(loss, np.mean([-np.log(softmax(scores[i, t])[y[i, t]]) for i, t in asked]))
    assert np.isclose(softmax_loss(scores, y, per=7)[0] * 7, loss * len(asked))
    assert relative_error(gradient, numeric_gradient(lambda: softmax_loss(scores, y)[0], scores)) < 1e-7
    amounts = np.where(y < 0, np.nan, y)
    one = scores[..., :1].copy()
    loss, gradient = squared_loss(one, amounts)
    assert np.isclose(loss, np.nanmean((one[..., 0] - amounts) ** 2))
    assert relative_error(gradient, numeric_gradient(lambda: squared_loss(one, amounts)[0], one)) < 1e-7


def test_adam_takes_the_steps_of_keras():
    import keras

    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 2)).astype("float32"), rng.normal(size=(6, 3, 2)).astype("float32")
    variable, ours, adam = keras.Variable(start), {"w": start.copy()}, Adam(0.01)
    optimizer = keras.optimizers.Adam(0.01, epsilon=1e-7)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        adam.step(ours, {"w": gradient})
    assert np.abs(ours["w"] - np.array(variable)).max() < 1e-6


def test_clipping_keeps_the_direction():
    gradients = {"a": np.array([3.0, 0]), "b": np.array([[4.0]])}
    assert clip_norm(gradients, 10) == 5
    assert np.array_equal(gradients["a"], [3, 0])
    assert clip_norm(gradients, 1) == 5
    assert np.allclose(gradients["a"], [0.6, 0]) and np.allclose(gradients["b"], 0.8)


def test_a_network_knows_the_gradients_of_its_readout():
    network = CellNetwork(GRUCell.init(2, 3), outputs=4)
    x, y = np.random.default_rng(0).normal(size=(2, 5, 2)), np.random.default_rng(1).integers(-1, 4, (2, 5))
    value, gradients = network.gradients(x, y, softmax_loss)
    for name, w in network.weights.items():
        numeric = numeric_gradient(lambda: softmax_loss(network.scores(x), y)[0], w)
        assert relative_error(gradients[name], numeric) < 1e-6
    assert value == softmax_loss(network.scores(x), y)[0]


@each
def test_training_learns_and_is_the_same_each_time(name):
    rng = np.random.default_rng(0)
    data = [(*copy_task(16, 1, rng, symbols=2, length=1), None) for _ in range(120)]
    runs = [train(CellNetwork(ALL[name](4, 12), 2), data) for _ in range(2)]
    assert np.array_equal(*runs)
    assert runs[0][0] > 0.5 and runs[0][-10:].mean() < 0.2


def test_the_two_tasks_are_what_they_say():
    x, y = copy_task(50, 4, np.random.default_rng(0))
    codes = x.argmax(axis=-1)
    assert x.shape == (50, 10, 6) and (x.sum(axis=-1) == 1).all()
    assert np.array_equal(codes[:, :3], y[:, 7:]) and (y[:, :7] == -1).all()
    assert (codes[:, 7] == 5).all() and (codes[:, 3:7] == 4).all()
    x, y = adding_task(5000, 9, np.random.default_rng(0))
    assert (x[..., 1].sum(axis=1) == 2).all() and (x[:, :4, 1].sum(axis=1) == 1).all()
    assert np.allclose((x[..., 0] * x[..., 1]).sum(axis=1), y[:, -1]) and np.isnan(y[:, :-1]).all()
    assert abs(np.mean((y[:, -1] - 1) ** 2) - 1 / 6) < 0.01


# ---- attention


@given(
    batch=st.integers(1, 3),
    time=st.integers(1, 6),
    inputs=st.integers(1, 5),
    heads=st.integers(1, 3),
    key_size=st.integers(2, 4),  # with 1, Keras 3.15 adds biases along time where time equals heads
    causal=st.booleans(),
    mask=st.sampled_from(MASKS),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=12, deadline=None)
def test_attention_agrees_with_keras(batch, time, inputs, heads, key_size, causal, mask, seed):
    import tensorflow as tf

    rng = np.random.default_rng(seed)
    mine = shake(MultiHeadAttention.init(inputs, heads, key_size, seed, "float32", causal), rng)
    layer = to_keras(mine)
    x, d_outputs = rng.normal(size=(2, batch, time, inputs)).astype("float32")
    m = draw_mask(mask, batch, time, rng)
    x = x if m is None else x * m[..., None].astype("float32")
    allowed = None if m is None else np.broadcast_to(padding_mask(m)[:, 0], (batch, time, time))
    call = dict(attention_mask=allowed, use_causal_mask=causal, return_attention_scores=True)
    with tf.GradientTape() as tape:
        tensor = tf.Variable(x)
        outputs, weights = layer(tensor, tensor, **call)
        loss = tf.reduce_sum(outputs * d_outputs)
    expected = [np.array(g) for g in tape.gradient(loss, [tensor, *layer.trainable_variables])]
    found, seen, cache = mine.forward(x, m)
    gradients, d_x = mine.backward(cache, d_outputs)
    assert_agree([found, seen], [np.array(outputs), np.array(weights)], 1e-5)
    names = [f"{kind}{name}" for name in "qkvo" for kind in "Wb"]
    assert_agree([d_x, *(gradients[name] for name in names)], expected, 1e-5)
    assert mine.n_parameters == layer.count_params()
    back = from_keras(layer)
    assert all(np.array_equal(back.weights[name], mine.weights[name]) for name in names)


def test_gradients_of_attention_are_those_of_finite_differences():
    rng = np.random.default_rng(0)
    heads = shake(MultiHeadAttention.init(4, 2, 3), rng)
    x, d_outputs = rng.normal(size=(2, 2, 5, 4))
    mask = np.array([[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]], bool)
    gradients, d_x = heads.backward(heads.forward(x, mask)[2], d_outputs)

    def loss():
        return float((heads.forward(x, mask)[0] * d_outputs).sum())

    for name in sorted(gradients.keys() - {"bk"}):
        assert relative_error(gradients[name], numeric_gradient(loss, heads.weights[name])) < 1e-6
    assert np.abs(gradients["bk"]).max() < 1e-12  # a bias of the keys changes no weight
    assert relative_error(d_x * mask[..., None], numeric_gradient(loss, x)) < 1e-6


def test_attention_sees_neither_the_future_nor_padding():
    rng = np.random.default_rng(0)
    heads = shake(MultiHeadAttention.init(4, 2), rng)
    x, mask = rng.normal(size=(2, 7, 4)), np.arange(7) < np.array([[5], [7]])
    outputs, weights, _ = heads.forward(x, mask)
    later = x.copy()
    later[:, 3:] = 9
    assert np.array_equal(heads.forward(later, mask)[0][:, :3], outputs[:, :3])
    rubbish = np.where(mask[..., None], x, np.nan)
    assert np.array_equal(heads.forward(rubbish, mask)[0], outputs)
    assert not np.any(weights[0, :, :, 5:]) and not np.any(np.triu(weights, 1))
    assert np.allclose(weights.sum(axis=-1)[:, :, :5], 1)


def test_a_query_that_may_look_nowhere_finds_zeros():
    q = np.ones((1, 2, 3))
    found, weights = attention(q, q, q, np.array([[True, False], [False, False]]))
    assert np.array_equal(weights[0], [[1, 0], [0, 0]]) and not np.any(found[0, 1])


def test_positions_turn_by_the_same_angle():
    clock = positional_encoding(np.arange(40), 10)
    assert clock.shape == (40, 10) and np.allclose((clock**2).sum(axis=1), 5)
    products = clock @ clock.T
    assert np.allclose(np.diag(products, 4), products[0, 4])
    with pytest.raises(LogError, match="even"):
        positional_encoding(1, 3)
    assert causal_mask(3).tolist() == [[True, False, False], [True, True, False], [True, True, True]]
