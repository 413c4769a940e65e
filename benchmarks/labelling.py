"""Forward-backward, Viterbi and a round of Baum-Welch on many sequences: seqbook (NumPy), hmmlearn (C++).

Prints how much longer seqbook takes; see README.md for how it is measured.
"""

import argparse
import importlib.metadata
import statistics
import sys
import time

import numpy as np
from hmmlearn import _hmmc
from hmmlearn.hmm import CategoricalHMM
from results import save, show

from seqbook.models.labelling import HiddenMarkovModel, best_paths, forward_backward

STATES, SYMBOLS = 4, 10


def make_model(seed: int) -> HiddenMarkovModel:
    """Random probabilities, with states that rather stay."""
    rng = np.random.default_rng(seed)
    stay = rng.dirichlet(np.ones(STATES), STATES) + 2 * np.eye(STATES)
    return HiddenMarkovModel.from_parameters(
        rng.dirichlet(np.ones(STATES)),
        stay / stay.sum(axis=1, keepdims=True),
        {"code": rng.dirichlet(np.ones(SYMBOLS), STATES)},
        smoothing=0,
        warm_start=True,
        n_iter=1,
    )


def make_peer(model: HiddenMarkovModel, implementation: str) -> CategoricalHMM:
    """The same model in hmmlearn."""
    peer = CategoricalHMM(STATES, n_iter=1, init_params="", n_features=SYMBOLS, implementation=implementation)
    peer.startprob_, peer.transmat_ = model.start_.copy(), model.transitions_.copy()
    peer.emissionprob_ = model.emissions_["code"].copy()
    return peer


def contestants(model: HiddenMarkovModel, X) -> dict:
    """job -> name -> a function that does it, seqbook's first. Each gives numbers that must be the same."""
    flat, lengths, stops = X.fields["code"][:, None] - 2, X.lengths, X.offsets
    events = np.log(model.emissions_["code"].T[flat[:, 0]])
    log_start, log_step = np.log(model.start_), np.log(model.transitions_)
    scaling, logs = make_peer(model, "scaling"), make_peer(model, "log")

    def numpy_batched():
        found = forward_backward(log_start, log_step, events, lengths)
        return found.log_z.sum(), found.states.sum(axis=0)

    def compiled():
        "The C++ functions of hmmlearn themselves, one sequence after the other."
        total, states, weight = 0.0, np.zeros(STATES), np.exp(events)
        for start, stop in zip(stops[:-1], stops[1:], strict=True):
            part = weight[start:stop]
            log_z, alpha, scale = _hmmc.forward_scaling(model.start_, model.transitions_, part)
            beta = _hmmc.backward_scaling(model.start_, model.transitions_, part, scale)
            posterior = alpha * beta
            states += (posterior / posterior.sum(axis=1, keepdims=True)).sum(axis=0)
            total += log_z
        return total, states

    def by_score_samples(peer):
        total, proba = peer.score_samples(flat, lengths)
        return total, proba.sum(axis=0)

    def numpy_paths():
        return (best_paths(log_start, log_step, events, lengths)[1].sum(),)

    def numpy_round():
        options = {k: v for k, v in model.get_params().items() if k not in ("n_states", "fields")}
        tables = model.start_, model.transitions_, model.emissions_
        fresh = HiddenMarkovModel.from_parameters(*tables, **options).fit(X)
        return fresh.start_, fresh.transitions_, fresh.emissions_["code"]

    def compiled_round():
        fresh = make_peer(model, "scaling").fit(flat, lengths)
        return fresh.startprob_, fresh.transmat_, fresh.emissionprob_

    return {
        "forward and backward": {
            "seqbook": numpy_batched,
            "hmmlearn's C++ functions": compiled,
            "hmmlearn, scaling": lambda: by_score_samples(scaling),
            "hmmlearn, logarithms": lambda: by_score_samples(logs),
        },
        "best paths": {"seqbook": numpy_paths, "hmmlearn": lambda: (scaling.decode(flat, lengths)[0],)},
        "a round of Baum-Welch": {"seqbook": numpy_round, "hmmlearn": compiled_round},
    }


def measure(job: dict, repeats: int) -> dict:
    """Median seconds of each; they take turns. Stops where they do not agree."""
    seconds = {name: [] for name in job}
    answers = {name: run() for name, run in job.items()}  # also the first calls, which are not timed
    first = next(iter(answers.values()))
    for name, answer in answers.items():
        if not all(np.allclose(a, b, rtol=1e-6) for a, b in zip(first, answer, strict=True)):
            sys.exit(f"{name} does not agree with seqbook")
    for _ in range(repeats):
        for name, run in job.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(found) for name, found in seconds.items()}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sequences", type=int, default=20_000)
    parser.add_argument("--length", type=int, default=20, help="events in a sequence, mean")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()
    lengths = np.random.default_rng(0).geometric(1 / options.length, options.sequences)
    model, rows = make_model(0), []
    X, _ = model.sample(lengths, seed=1)
    for what, job in contestants(model, X).items():
        found = measure(job, options.repeats)
        ours = found["seqbook"]
        rows += [
            (f"{what}: seqbook takes, against {name}", ours / seconds, "times")
            for name, seconds in found.items()
            if name != "seqbook"
        ]
        rows += [(f"{what}: {name}", seconds, "s") for name, seconds in found.items()]
    show(rows)
    if options.save:
        settings = {
            "sequences": f"{options.sequences:,}",
            "events": f"{lengths.sum():,}",
            "states": STATES,
            "symbols": SYMBOLS,
            "repeats": options.repeats,
            "hmmlearn": importlib.metadata.version("hmmlearn"),
        }
        save("labelling", rows, settings)


if __name__ == "__main__":
    main()
