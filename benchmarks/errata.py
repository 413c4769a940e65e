"""The corrected script of the errata against the network of the classic tutorial, on 8,000 sequences.

Prints how many times sooner the script reaches the tutorial's best validation AUC; README.md says how.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow: no greetings

import numpy as np
from results import save, show
from sklearn.metrics import roc_auc_score

from seqbook.data.datasets import simulate_shop
from seqbook.data.sequences import SequenceEncoder, Sequences, import_keras
from seqbook.data.tasks import Examples, Purchase
from seqbook.evaluation.metrics import compare_models
from seqbook.models.classical import CountsClassifier
from seqbook.models.networks import SequenceClassifier

LONGEST, UNITS, BATCH = 100, 128, 64
CUTOFFS = ("2024-04-01", "2024-04-08", "2024-04-15")  # training, validation, test: one history a shopper each
CODES = {"view": 0, "cart": 1, "buy": 2}  # the tutorial's, where 0 is padding too
FIELDS = ("behavior", "log_gap", "log_age")
REPAIRED = "repaired, with times"
FIRST_WEIGHTS = (0, 1)  # seeds of the original, of which the better one counts


def ask(log, most: int) -> tuple[Examples, list]:
    """The examples, and the positions of the training (at most so many), validation and test parts."""
    examples = Purchase("7d").examples(log, cutoffs=CUTOFFS, max_length=LONGEST)
    train, valid, test = (np.flatnonzero(examples.cutoff == np.datetime64(c)) for c in CUTOFFS)
    train = np.sort(np.random.default_rng(0).choice(train, min(most, len(train)), replace=False))
    return examples, [train, valid, test]


def by_number(examples: Examples) -> tuple[np.ndarray, None]:
    """The tutorial's inputs with an axis more: a code an event, 0 after the last one, no mask."""
    code = examples.histories()["behavior"].map(CODES).to_numpy("float32")
    offsets = np.append(0, np.cumsum(examples.lengths))
    return Sequences({"code": code}, offsets, examples.ids).pad(LONGEST)["code"][..., None], None


def one_hot(fields: tuple, train: np.ndarray):
    """Makes inputs: a column for each behaviour, measurements scaled by the training part, and the mask."""

    def make(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        encoder = SequenceEncoder(fields).fit(examples.fit_log(train))
        padded = encoder.encode(examples).pad(LONGEST)
        mask, codes = padded["mask"], len(encoder.vocabularies_["behavior"])
        columns = [np.eye(codes, dtype="float32")[padded["behavior"]] * mask[..., None]]
        for name in fields[1:]:
            known = padded[name][train][mask[train]]
            columns.append(((padded[name] - known.mean()) / known.std() * mask)[..., None])
        return np.concatenate(columns, axis=-1), mask

    return make


def make_network(width: int, activation: str, masked: bool, seed: int):
    """Two LSTM layers of 128, as in the tutorial; with a mask if asked for."""
    keras = import_keras()
    keras.utils.set_random_seed(seed)
    layers, events = keras.layers, keras.Input((LONGEST, width))
    mask = keras.Input((LONGEST,), dtype="bool") if masked else None
    state = layers.LSTM(UNITS, activation=activation, return_sequences=True)(events, mask=mask)
    state = layers.LSTM(UNITS, activation=activation)(layers.Dropout(0.2)(state), mask=mask)
    answer = layers.Dense(1, activation="sigmoid")(layers.Dropout(0.2)(state))
    network = keras.Model([events, mask] if masked else events, answer)
    network.compile("adam", "binary_crossentropy", jit_compile=False)
    return network


def train_padded(examples, parts, make_inputs, activation, epochs: int, seed: int = 0) -> dict:
    """Seconds after each epoch, validation AUC, and the answers for the test with the best weights."""
    started, (train, valid, test) = time.perf_counter(), parts
    inputs, mask = make_inputs(examples)
    network = make_network(inputs.shape[-1], activation, mask is not None, seed)
    found = {"seconds": [], "auc": [], "parameters": network.count_params()}

    def of(rows):
        return inputs[rows] if mask is None else [inputs[rows], mask[rows]]

    def answers(rows):
        return network.predict(of(rows), batch_size=512, verbose=0)[:, 0].astype("float64")

    clock = time.perf_counter() - started
    for epoch in range(epochs):
        started = time.perf_counter()
        order = np.random.default_rng(epoch).permutation(train)
        for rows in np.array_split(order, -(-len(order) // BATCH)):
            network.train_on_batch(of(rows), examples.label[rows].astype("float32"))
        clock += time.perf_counter() - started
        found["seconds"].append(clock)
        found["auc"].append(score(examples.label[valid], answers(valid)))
        if found["auc"][-1] == np.nanmax(found["auc"]):
            found["test"] = answers(test)
    return found


def score(y, p) -> float:
    """The AUC; NaN where the network gives no numbers any more."""
    return float(roc_auc_score(y, p)) if np.isfinite(p).all() else float("nan")


class Timed(SequenceClassifier):
    """Notes when each epoch ends; validation is not counted, as with the others."""

    def _evaluate(self, *validation):
        done = self.seconds_[-1] if self.seconds_ else 0.0
        self.seconds_.append(done + time.perf_counter() - self.since_)
        scores = super()._evaluate(*validation)
        self.since_ = time.perf_counter()
        return scores


def train_corrected(log, epochs: int, most: int) -> dict:
    """The corrected script, from the log on: examples, encoding, training in buckets."""
    started = time.perf_counter()
    examples, (train, valid, test) = ask(log, most)
    X = SequenceEncoder(FIELDS).fit(examples.fit_log(train)).encode(examples)
    y, model = examples.label, Timed(epochs=epochs, patience=epochs, progress=False)
    model.since_, model.seconds_ = started, []
    model.fit(X[train], y[train], validation=(X[valid], y[valid]))
    found = {"seconds": model.seconds_, "auc": model.history_["val_auc"].tolist()}
    counts = CountsClassifier().fit(X[train], y[train]).predict_proba(X[test])[:, 1]
    size = model.network_.count_params()
    return found | {"test": model.predict_proba(X[test])[:, 1], "parameters": size, "counts": counts}


def reached(found: dict, goal: float) -> float:
    """Seconds until the validation AUC is the goal or more; NaN if it never is."""
    there = np.flatnonzero(np.array(found["auc"]) >= goal)
    return found["seconds"][there[0]] if len(there) else float("nan")


def best(run: dict) -> float:
    """The best validation AUC of a run."""
    return float(np.nanmax(run["auc"]))


def ratios(found: dict) -> list:
    """How much sooner the script gets where the others get at their best."""
    script, rows = found["corrected script"], []
    for name in ("original", REPAIRED):
        goal, what = best(found[name]), f"{name}: its best validation AUC"
        sooner = reached(found[name], goal) / reached(script, goal)
        rows += [(f"{what}, reached by the script: times as fast", sooner, "times"), (what, goal, "")]
        rows += [(f"{what}, reached after", reached(found[name], goal), "s")]
        rows += [(f"{what}, reached by the script after", reached(script, goal), "s")]
    sooner = epoch(found["original"]) / epoch(script)
    return [*rows, ("an epoch of the script: times as fast as the original's", sooner, "times")]


def report(found: dict, first_weights: list, examples, test) -> list:
    """Ratios first, then what is behind them."""
    rows = ratios(found)
    for i, run in enumerate(first_weights):
        rows.append((f"original, first weights {i}: best validation AUC", best(run), ""))
    for name, run in found.items():
        rows += [(f"{name}: an epoch", epoch(run), "s"), (f"{name}: all epochs", run["seconds"][-1], "s")]
        rows += [(f"{name}: best validation AUC", best(run), "")]
        rows += [(f"{name}: parameters", run["parameters"], "")]
        low, high = np.quantile(run["test"], [0.05, 0.95])
        rows.append((f"{name}: width of the middle 90 % of its probabilities", high - low, ""))
    answers = {name: run["test"] for name, run in found.items()}
    answers["counts"] = found["corrected script"]["counts"]
    return rows + test_scores(answers, examples.label[test], examples.ids[test])


def test_scores(answers: dict, y, ids) -> list:
    """The AUC on the test and its difference to the original's, with intervals."""
    table, rows = compare_models(answers, y, baseline="original", groups=ids), []
    for row in table[table["metric"] == "roc_auc"].to_dict("records"):
        name = row["model"]
        rows += [(f"{name}: test AUC", row["value"], "")]
        rows += [(f"{name}: its 95 % interval, {end} end", row[end], "") for end in ("low", "high")]
        if name != "original":
            what = f"{name}: test AUC above the original's"
            rows += [(what, row["difference"], "")]
            rows += [(f"{what}, {end} end", row[f"difference_{end}"], "") for end in ("low", "high")]
    return rows


def epoch(run: dict) -> float:
    """Median seconds of an epoch, without the first, in which TensorFlow traces its graphs."""
    return float(np.median(np.diff(run["seconds"]) if len(run["seconds"]) > 1 else run["seconds"]))


def options() -> argparse.Namespace:
    """What was asked for on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=8_000, help="training sequences")
    parser.add_argument("--epochs", type=int, default=10, help="of the tutorial's network and its repairs")
    parser.add_argument("--seed", type=int, default=0, help="of the simulated shop")
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    return parser.parse_args()


def settings(examples: Examples, parts: list, epochs: int) -> dict:
    """What a reader of the result must know."""
    train, _, test = parts
    return {
        "training sequences": f"{len(train):,}",
        "padded to": LONGEST,
        "mean length": f"{examples.lengths[train].mean():.1f}",
        "test sequences": f"{len(test):,}",
        "epochs": epochs,
        "epochs of the script": 2 * epochs,
    }


def main():
    """The script before, between and after the others; of its three runs the one of median time counts."""
    chosen = options()
    most, epochs = chosen.sequences, chosen.epochs
    log = simulate_shop(n_users=round(most * 1.25), seed=chosen.seed).events
    log = log[log["behavior"].isin(CODES)]
    examples, parts = ask(log, most)
    import_keras()
    scripts = [train_corrected(log, 2 * epochs, most)]
    originals = [train_padded(examples, parts, by_number, "relu", epochs, seed) for seed in FIRST_WEIGHTS]
    scripts.append(train_corrected(log, 2 * epochs, most))
    found = {"original": max(originals, key=best)}
    for name, fields in {"repaired, behaviours only": FIELDS[:1], REPAIRED: FIELDS}.items():
        found[name] = train_padded(examples, parts, one_hot(fields, parts[0]), "tanh", epochs)
    scripts.append(train_corrected(log, 2 * epochs, most))
    found["corrected script"] = sorted(scripts, key=lambda run: run["seconds"][-1])[1]
    rows = report(found, originals, examples, parts[2])
    show(rows)
    if chosen.save:
        save("errata", rows, settings(examples, parts, epochs))


if __name__ == "__main__":
    main()
