"""The training loop: kills, accumulation, precision, schedules, other devices and backends, tuning."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqbook.data.events import LogError
from seqbook.data.sequences import Sequences, import_keras
from seqbook.models.training import (
    Checkpoint,
    Prefetch,
    find_learning_rate,
    fit_identity,
    jit_choice,
    make_optimizer,
    make_schedule,
    memory_table,
    precision,
    profile_steps,
    run_epochs,
    trace_once,
    tune_network,
)

N, WIDTH, SIZE = 96, 6, 16


def data(seed=0):
    """Codes, and whether there are many of the first kind."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 5, (N, WIDTH)).astype("int32")
    return x, ((x == 1).sum(axis=1) > 1).astype("float32")


def make_network(optimizer=None, policy="float32", dropout=0.3, seed=0, jit=False):
    """A small network with an embedding, a recurrent layer and dropout."""
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    with precision(policy):
        codes = keras.Input((None,), dtype="int32")
        state = layers.GRU(8)(layers.Embedding(5, 4)(codes))
        answer = layers.Dense(1, "sigmoid", dtype="float32")(layers.Dropout(dropout)(state))
        network = keras.Model(codes, answer)
        optimizer = optimizer or make_optimizer(0.01, 24, "cosine", warmup=0.2, clip_norm=1.0)
        network.compile(optimizer, "binary_crossentropy", jit_compile=jit)
    return network


def batches_of(epoch, x=None, y=None):
    """The batches of an epoch, in an order of its own."""
    x, y = data() if x is None else (x, y)
    order = np.random.default_rng([3, epoch]).permutation(len(x))
    return [(x[rows], y[rows]) for rows in np.split(order, len(x) // SIZE)]


def train(folder=None, epochs=4, policy="float32", every=2, train_step=None, patience=None, **identity):
    """A fit with a validation score, saved in mid-epoch too."""
    network, (x, y) = make_network(policy=policy), data(1)

    def evaluate(epoch):
        p = np.asarray(network.predict_on_batch(x))[:, 0].astype("float64")
        return {"val_log_loss": float(-np.mean(np.log(np.where(y == 1, p, 1 - p))))}

    keeper = Checkpoint(folder, network, fit_identity(identity, data()), every=every)
    step = train_step and (lambda *batch: train_step(network, *batch))
    history = run_epochs(network, batches_of, epochs, keeper, evaluate, patience, False, step)
    return network, history, keeper


def variables_of(network) -> list:
    """The state of weights, random generators, metrics and optimiser, as NumPy."""
    as_array = import_keras().ops.convert_to_numpy
    return [as_array(v).copy() for v in [*network.variables, *network.optimizer.variables]]


def assert_same(one, other):
    """Weights, optimiser and history, to the last bit."""
    assert one[1].equals(other[1])
    for a, b in zip(variables_of(one[0]), variables_of(other[0]), strict=True):
        np.testing.assert_array_equal(a, b)


def python(code: str, *arguments, **environment) -> subprocess.CompletedProcess:
    """Run code in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


KILLED = """
    import os, signal, sys
    sys.path.insert(0, sys.argv[1])
    from test_training import train
    steps = []

    def step(network, *batch):
        steps.append(1)
        if len(steps) == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
        return network.train_on_batch(*batch)

    train(sys.argv[2], policy=sys.argv[3], train_step=step)
"""


@pytest.mark.parametrize("policy, at", [("float32", 16), ("float32", 18), ("mixed_float16", 9)])
def test_killed_in_mid_epoch_it_goes_on_to_the_same_end(tmp_path, policy, at):
    done = python(KILLED, os.path.dirname(__file__), tmp_path, policy, at)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with np.load(tmp_path / "training.npz") as file:
        saved = json.loads(str(file["state"]))
    steps = N // SIZE
    assert len(saved["history"]) == (at - 1) // steps and saved["step"] == (at - 1) % steps // 2 * 2
    calls = []

    def counted(network, *batch):
        calls.append(1)
        return network.train_on_batch(*batch)

    resumed, whole = train(tmp_path, policy=policy, train_step=counted), train(policy=policy)
    assert_same(resumed, whole)
    assert len(calls) == 4 * steps - len(saved["history"]) * steps - saved["step"]


def test_rows_that_fill_a_batch_up_do_not_count_in_the_loss_of_the_epoch():
    class Planned(list):
        plan = [[0, 1, 2], [3]]

    x, y = data()
    made = Planned([(x[:SIZE], y[:SIZE])] * 2)
    losses = iter([1.0, 5.0])
    keeper = Checkpoint(None, network := make_network(), {})
    history = run_epochs(network, lambda epoch: made, 1, keeper, None, None, False, lambda *_: next(losses))
    assert history["loss"].tolist() == [(3 * 1.0 + 5.0) / 4]


def test_killed_while_it_writes_the_old_file_is_whole(tmp_path, monkeypatch):
    train(tmp_path, epochs=1)
    before = (tmp_path / "training.npz").read_bytes()

    def torn(file, **arrays):
        file.write(b"half of")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", torn)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, epochs=2)
    assert (tmp_path / "training.npz").read_bytes() == before
    monkeypatch.undo()
    assert_same(train(tmp_path, epochs=2), train(epochs=2))


def test_a_finished_fit_trains_no_more(tmp_path):
    first = train(tmp_path)
    again = train(tmp_path, train_step=lambda *args: pytest.fail("it trained again"))
    assert_same(first, again)


def test_what_is_no_checkpoint_of_this_fit_is_refused(tmp_path):
    train(tmp_path, epochs=1, units=8)
    with pytest.raises(LogError, match="units 8 there, 9 here"):
        train(tmp_path, units=9)
    with pytest.raises(LogError, match="another network"):
        keras = import_keras()
        other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        other.compile(make_optimizer(), "mse")
        Checkpoint(tmp_path, other, fit_identity({"units": 8}, data()))
    whole = (tmp_path / "training.npz").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:300] + b"\xff" * 50 + whole[350:]):
        (tmp_path / "training.npz").write_bytes(damaged)
        with pytest.raises(LogError, match="damaged"):
            train(tmp_path, units=8)


@pytest.mark.parametrize(
    "changed",
    [
        {"y": np.array([1, 0, 0])},
        {"values": np.array([2, 3, 3])},
        {"offsets": np.array([0, 1, 3])},
        {"params": {"units": 9}},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_an_identity_changes_with_parameters_and_data(changed):
    def identity(y=(1, 0, 1), values=(2, 3, 2), offsets=(0, 2, 3), params=None):
        fields = {"behavior": np.asarray(values)}
        X = Sequences(fields, np.asarray(offsets), np.array(["Ana", "Bo"]), {})
        return fit_identity(params or {"units": 8}, (X, np.asarray(y)), None)

    assert identity() == identity() != identity(**changed)


@pytest.mark.parametrize("maximize, best", [(False, 2), (True, 3)])
def test_the_best_epoch_is_kept_and_patience_ends(maximize, best):
    scores, weights = [0.5, 0.2, 0.9, np.nan, 0.2, 0.9, 0.3, 0.3], []
    network = make_network()
    keeper = Checkpoint(None, network, {}, monitor="val_x", maximize=maximize)

    def evaluate(epoch):
        weights.append(network.get_weights())
        return {"val_x": scores[epoch]}

    history = run_epochs(network, batches_of, 8, keeper, evaluate, patience=3, progress=False)
    assert keeper.best_epoch == best and len(history) == best + 3
    for kept, then in zip(network.get_weights(), weights[best - 1], strict=True):
        np.testing.assert_array_equal(kept, then)


def test_a_score_that_is_not_there_is_named():
    network = make_network()
    keeper = Checkpoint(None, network, {}, monitor="val_ndcg")
    with pytest.raises(LogError, match="monitor one of.*val_auc"):
        run_epochs(network, batches_of, 1, keeper, lambda epoch: {"val_auc": 0.5}, progress=False)


def test_the_loss_of_an_epoch_is_the_mean_over_its_examples():
    network = make_network(make_optimizer(1e-9), dropout=0.0)
    x, y = data()
    parts = [(x[:10], y[:10]), (x[10:90], y[10:90]), (x[90:], y[90:])]
    p = import_keras().ops.convert_to_numpy(network(x))[:, 0].astype("float64")
    history = run_epochs(network, lambda epoch: parts, 1, Checkpoint(None, network, {}), progress=False)
    assert history["loss"][0] == pytest.approx(-np.mean(np.log(np.where(y == 1, p, 1 - p))), abs=1e-5)


def test_a_loss_that_is_no_number_stops_the_fit_and_is_not_saved(tmp_path):
    with pytest.raises(LogError, match="diverged"):
        train(tmp_path, train_step=lambda network, *batch: np.nan, every=None)
    assert not (tmp_path / "training.npz").exists()


@pytest.mark.parametrize("accumulate", [2, 4])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_accumulated_batches_are_one_large_batch(accumulate, clip_norm):
    x, y = data()
    options = {"total_steps": 40, "schedule": "cosine", "warmup": 0.3, "clip_norm": clip_norm}
    large = make_network(make_optimizer(0.01, **options | {"total_steps": 40 // accumulate}), dropout=0.0)
    small = make_network(make_optimizer(0.01, **options, accumulate=accumulate), dropout=0.0)
    start = large.get_weights()
    for _ in range(5):
        large.train_on_batch(x, y)
        for rows in np.split(np.arange(N), accumulate):
            small.train_on_batch(x[rows], y[rows])
    for a, b, c in zip(large.get_weights(), small.get_weights(), start, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
        assert np.abs(a - c).max() > 1e-3


def test_adam_follows_its_equations_for_embeddings_too():
    keras, rate, n = import_keras(), 0.01, 12
    keras.utils.set_random_seed(0)
    codes = keras.Input((WIDTH,), dtype="int32")
    table = keras.layers.Embedding(5, 3)
    network = keras.Model(codes, keras.layers.Dense(1)(keras.ops.mean(table(codes), axis=1)))
    network.compile(make_optimizer(rate), "mse", jit_compile=False)
    x, y = data()
    m = v = 0.0
    for t in range(1, n + 1):
        w, kernel, bias = (weight.astype("float64") for weight in network.get_weights())
        error = (w[x].mean(axis=1) @ kernel + bias)[:, 0] - y
        counts = np.stack([(x == code).sum(axis=1) for code in range(5)]) / WIDTH
        gradient = (counts @ (2 * error / N))[:, None] * kernel[:, 0]
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        step = rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-7)
        network.train_on_batch(x, y[:, None])
        np.testing.assert_allclose(network.get_weights()[0], w - step, atol=2e-4)


@settings(deadline=None, max_examples=30)
@given(
    total=st.integers(1, 2000),
    warmup=st.floats(0, 0.9),
    name=st.sampled_from(["constant", "linear", "cosine"]),
    rate=st.floats(1e-5, 1.0),
)
def test_a_schedule_rises_then_never_rises_again(total, warmup, name, rate):
    schedule = make_schedule(rate, total, name, warmup)
    steps = np.unique(np.linspace(0, total, 40).astype(int))
    rates = np.array([float(schedule(step)) for step in steps])
    top = round(warmup * total)
    assert (rates >= -1e-9).all() and (rates <= rate * 1.0001).all()
    assert (np.diff(rates[steps < top]) > 0).all()
    assert (np.diff(rates[steps >= top]) <= rate * 1e-5).all()
    never_falls = name == "constant" or top == total  # of a step or two the warm-up may take all
    assert rates[-1] == pytest.approx(rate if never_falls else 0, abs=rate * 1e-3)


@pytest.mark.parametrize("options", [{"schedule": "steps"}, {"warmup": 1.0}, {"warmup": -0.1}])
def test_a_schedule_that_cannot_be(options):
    with pytest.raises(LogError):
        make_optimizer(total_steps=10, **{"schedule": "cosine", **options})


def test_weights_decay_and_biases_do_not():
    keras = import_keras()
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, bias_initializer="ones")])
    network.compile(make_optimizer(0.1, weight_decay=0.5), lambda y, p: 0.0 * p, jit_compile=False)
    kernel, bias = network.get_weights()
    network.train_on_batch(np.ones((4, 2)), np.ones((4, 3)))
    np.testing.assert_allclose(network.get_weights()[0], kernel * 0.95, rtol=1e-5)
    np.testing.assert_array_equal(network.get_weights()[1], bias)


def test_finder_and_profile_leave_the_network_as_it_was():
    network = make_network(make_optimizer(0.01))
    network.train_on_batch(*batches_of(0)[0])
    kept = variables_of(network)
    found = find_learning_rate(network, batches_of(0), steps=30)
    table = profile_steps(network, batches_of(0), steps=5)
    for before, now in zip(kept, variables_of(network), strict=True):
        np.testing.assert_array_equal(before, now)
    assert float(network.optimizer.learning_rate) == pytest.approx(0.01)
    assert found["rate"].is_monotonic_increasing and found["rate"].min() == 1e-5
    assert table["share"].sum() == pytest.approx(1)


def test_the_finder_stops_where_the_loss_explodes():
    keras = import_keras()
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    network.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    x = np.ones((4, 1), "float32")  # loss (w - y)^2: it diverges above 1
    found = find_learning_rate(network, [(x, 2 * x), (x, 4 * x)], 1e-3, 100.0, steps=100)
    assert found["rate"].max() < 20 and len(found) < 100 and found.attrs["suggested"] < 1


@pytest.mark.parametrize("time_steps", [1, 7])
def test_memory_is_that_of_real_arrays(time_steps):
    network = make_network(make_optimizer())
    table = memory_table(network, 32, time_steps)
    network.train_on_batch(np.zeros((32, time_steps), "int32"), np.zeros(32))
    as_array = import_keras().ops.convert_to_numpy
    for name, tensors in (("parameters", network.weights), ("optimiser", network.optimizer.variables)):
        assert table.loc[name, "MB"] == pytest.approx(sum(as_array(t).nbytes for t in tensors) / 1e6)
    activations = 32 * time_steps * 4 + 32 * 8 + 32 * 8  # embedding, state, dropout
    assert table.loc["activations", "numbers"] == activations
    with pytest.raises(LogError, match="time_steps"):
        memory_table(network, 32)


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
def test_16_bits_take_half_the_activations_and_none_of_the_weights(name):
    full, half = (memory_table(make_network(policy=p), 8, 4)["MB"] for p in ("float32", name))
    assert half["activations"] == pytest.approx(full["activations"] / 2)
    assert half["parameters"] == full["parameters"]


def test_precision_is_given_back_after_an_error():
    config = import_keras().config
    with pytest.raises(ZeroDivisionError), precision("mixed_bfloat16"):
        raise ZeroDivisionError
    assert config.dtype_policy().name == "float32"
    with pytest.raises(LogError, match="choose one of"), precision("float8"):
        pass


def test_batches_made_ahead_are_the_same_and_an_error_comes_through():
    class Source(list):
        def __getitem__(self, i):
            if i == 5:
                raise OSError("disk")
            return super().__getitem__(i)

    made = Prefetch(Source(range(8)), ahead=3)
    assert [made[i] for i in range(5)] == [0, 1, 2, 3, 4] and len(made) == 8
    with pytest.raises(OSError, match="disk"):
        made[5]
    assert [Prefetch(list(range(4)))[i] for i in (2, 3)] == [2, 3]


def test_a_study_goes_on_where_it_was_killed(tmp_path):
    calls = []

    def fit(params, report):
        calls.append(params["a"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        for epoch in (1, 2, 3):
            report(epoch, (params["a"] - 2) ** 2 / epoch)
        return (params["a"] - 2) ** 2 / 3

    def space(trial):
        return {"a": trial.suggest_float("a", -10, 10)}

    options = {"n_trials": 12, "storage": tmp_path / "study.db", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        tune_network(fit, space, **options)
    study = tune_network(fit, space, **options)
    ended = [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
    assert len(ended) == 12 and len(calls) == 13
    assert any(trial.state.name == "PRUNED" for trial in ended)
    assert len(tune_network(fit, space, **options).trials) == len(study.trials)
    assert abs(study.best_params["a"] - 2) == min(abs(t.params["a"] - 2) for t in ended)


TWO_DEVICES = """
    import os, sys
    if os.environ["KERAS_BACKEND"] == "jax":
        os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2"
    else:
        import tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    sys.path.insert(0, sys.argv[1])
    import numpy as np
    from test_training import data, make_network
    from seqbook.models.training import make_optimizer
    from seqbook.data.sequences import import_keras
    keras, (x, y) = import_keras(), data()

    def fit():
        network = make_network(make_optimizer(0.01), dropout=0.0)
        network.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0)
        return network

    one = fit()
    if os.environ["KERAS_BACKEND"] == "jax":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        two = fit()
        held = len(two.weights[0].value.sharding.device_set)
    else:
        with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
            two = fit()
        held = len(two.weights[0].value.values)
    assert held == 2, held
    for a, b in zip(one.get_weights(), two.get_weights()):
        np.testing.assert_allclose(a, b, atol=1e-4)
"""


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_train_what_one_does(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = python(TWO_DEVICES, os.path.dirname(__file__), KERAS_BACKEND=backend)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_fit_goes_on_with_other_backends(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    code = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from test_training import assert_same, train

        def step(network, *batch):
            step.calls += 1
            if step.calls == 10:
                raise KeyboardInterrupt
            return network.train_on_batch(*batch)

        step.calls = 0
        try:
            train(sys.argv[2], train_step=step)
        except KeyboardInterrupt:
            pass
        assert_same(train(sys.argv[2]), train())
    """
    done = python(code, os.path.dirname(__file__), tmp_path, KERAS_BACKEND=backend)
    assert done.returncode == 0, done.stderr


def test_xla_is_not_the_default_of_recurrent_networks():
    assert jit_choice(recurrent=True) in (False, "auto")


def varied(seed=0):
    """Batches of many shapes, with weights."""
    rng = np.random.default_rng(seed)
    for rows, width in [(16, 6), (9, 6), (16, 4), (1, 1), (30, 11)]:
        x = rng.integers(0, 5, (rows, width)).astype("int32")
        y = (x == 1).any(axis=1, keepdims=True).astype("float32")
        yield x, y, rng.random(rows).astype("float32")


def test_traced_once_it_learns_and_answers_the_same():
    plain, once = make_network(), trace_once(make_network())
    for batch in varied():
        assert once.train_on_batch(*batch) == pytest.approx(plain.train_on_batch(*batch), abs=1e-6)
        once.train_on_batch(*batch[:2]), plain.train_on_batch(*batch[:2])
    for a, b in zip(variables_of(once), variables_of(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    for x, *_ in varied(1):
        np.testing.assert_allclose(once.predict_on_batch(x), plain.predict_on_batch(x), atol=1e-5)
        np.testing.assert_allclose(once.predict(x, verbose=0), plain.predict(x, verbose=0), atol=1e-5)


@pytest.mark.parametrize("everything", [False, True])
def test_a_network_that_is_to_run_eagerly_does(everything):
    import tensorflow as tf

    found = []

    def loss(y, p):
        found.append(tf.executing_eagerly())
        return import_keras().losses.binary_crossentropy(y, p)

    network = make_network()
    network.compile(make_optimizer(), loss, run_eagerly=not everything, jit_compile=False)
    tf.config.run_functions_eagerly(everything)
    try:
        trace_once(network).train_on_batch(*next(iter(varied(1))))
    finally:
        tf.config.run_functions_eagerly(False)
    assert found == [True]


def test_traced_once_is_traced_once():
    keras, found = import_keras(), []

    def loss(y, p):
        found.append(1)
        return keras.losses.binary_crossentropy(y, p)

    network = make_network()
    network.compile(make_optimizer(), loss, jit_compile=False)
    trace_once(network)
    for batch in varied():
        network.train_on_batch(*batch)
    assert len(found) == 1
