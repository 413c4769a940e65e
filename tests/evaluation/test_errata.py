"""The checks of the errata: each finds its mistake, and only its mistake, in pipelines good and bad."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqbook.data.datasets import simulate_shop
from seqbook.data.sequences import SequenceEncoder
from seqbook.data.tasks import LeaveOneOut, Purchase, RollingSplit, TimeSplit, UserSplit
from seqbook.evaluation.errata import (
    CHECKS,
    ambiguous_padding,
    audit,
    overlapping_labels,
    repeated_rows,
    shared_ids,
    unequal_lengths,
    unsorted_times,
)
from seqbook.evaluation.metrics import EvaluationError


@pytest.fixture(scope="module")
def examples():
    """Weekly examples of a small shop, whose labels reach over two weeks."""
    log = simulate_shop(n_users=200, seed=3).events
    return Purchase("14d").examples(log, cutoffs=pd.date_range("2024-02-05", "2024-04-08", freq="7D"))


def examine(examples, train, test) -> dict:
    """The verdict of each check on a split of the examples, with everything that can be given."""
    X = SequenceEncoder(("behavior", "log_gap")).fit(examples.fit_log(train)).encode(examples)
    padded = X.pad()
    table = audit(
        examples.label,
        train,
        test,
        X=np.column_stack([np.arange(len(examples)), X.lengths]),
        ids=examples.ids,
        cutoff=examples.cutoff,
        label_end=examples.label_end,
        codes=padded["behavior"],
        mask=padded["mask"],
        times=examples.histories()["timestamp"],
        offsets=X.offsets,
    )
    return dict(zip(table["check"], table["verdict"], strict=True))


@pytest.mark.parametrize(
    "splitter", [TimeSplit(), RollingSplit(n_splits=2), UserSplit(seed=1), LeaveOneOut(validation=False)]
)
def test_sound_splits_are_fine(examples, splitter):
    """What the splitters of the package make has none of the mistakes."""
    for train, test in splitter.split(examples):
        assert set(examine(examples, train, test).values()) == {"fine"}


def test_a_random_split_is_found(examples):
    """Rows drawn at random share users, at all times, and their labels overlap."""
    train, test = np.split(np.random.default_rng(0).permutation(len(examples)), [int(0.8 * len(examples))])
    found = {name for name, verdict in examine(examples, train, test).items() if verdict == "found"}
    assert found == {"shared_ids", "overlapping_labels"}


def test_a_split_by_time_without_a_purge_is_found(examples):
    """All training cutoffs are earlier, but some labels were not known yet."""
    border = np.sort(np.unique(examples.cutoff))[-2]
    found = examine(examples, examples.cutoff < border, examples.cutoff >= border)
    assert found["shared_ids"] == "fine" and found["overlapping_labels"] == "found"


few = st.integers(0, 3)
rows = st.lists(st.tuples(few, st.integers(0, 9), st.integers(1, 4), st.booleans()), min_size=2, max_size=12)


@given(rows)
@settings(max_examples=200, deadline=None)
def test_users_and_labels_pair_by_pair(rows):
    """The counts are those of a loop over all pairs of a training and a test example."""
    ids, cutoff, length, in_test = (np.array(column) for column in zip(*rows, strict=True))
    in_test[:2] = False, True
    train, test, end = np.flatnonzero(~in_test), np.flatnonzero(in_test), cutoff + length
    same = ids[test][:, None] == ids[train]
    users = set(ids[test][(same & (cutoff[train] >= cutoff[test][:, None])).any(axis=1)])
    late = int((same & (end[train] > cutoff[test][:, None])).any(axis=1).sum())
    sentences = {
        shared_ids(train, test, ids): len(set(ids[train]) & set(ids[test])),
        shared_ids(train, test, ids, cutoff): len(users),
        overlapping_labels(train, test, cutoff, end, ids): late,
    }
    for sentence, count in sentences.items():
        assert (sentence is None) if count == 0 else sentence.startswith(f"{count} of ")


def test_without_ids_all_are_one_user():
    """Then every training label must be known before the first test cutoff."""
    cutoff, end = np.array([0, 5, 6]), np.array([7, 8, 9])
    assert overlapping_labels([0], [1, 2], cutoff, end).startswith("2 of 2")
    assert overlapping_labels([0], [1, 2], cutoff, end, ids=["a", "b", "b"]) is None
    assert overlapping_labels([0], [1, 2], cutoff, end - 2) is None  # known just when the first is asked


@given(st.lists(st.lists(few, max_size=5), max_size=6))
@settings(max_examples=200, deadline=None)
def test_unsorted_sequence_by_sequence(sequences):
    """As many as a loop finds; empty sequences, ties and a step back between sequences are fine."""
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(int)
    times = np.array([t for s in sequences for t in s], "datetime64[s]")
    wrong = sum(s != sorted(s) for s in sequences)
    sentence = unsorted_times(times, offsets)
    assert (sentence is None) if wrong == 0 else sentence.startswith(f"{wrong} of {len(sequences)} ")


def test_padding_that_is_an_event():
    """Counted are events with the code of the padding, and sequences of nothing else."""
    codes, mask = [[0, 0, 0], [0, 2, 0], [2, 0, 0], [0, 0, 0]], [[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]
    sentence = ambiguous_padding(codes, mask)
    assert sentence.startswith("3 of 5 events") and "1 sequences have no other" in sentence
    assert ambiguous_padding(codes, mask, padding=7) is None


def test_repeated_rows_beyond_chance():
    """Twins up to the tolerated share are fine; inputs may have any shape and be texts."""
    X = np.arange(40).reshape(20, 2)
    X[19] = X[0]
    train, test = np.arange(10), np.arange(10, 20)
    assert repeated_rows(train, test, X, tolerated=0.1) is None
    assert repeated_rows(train, test, X).startswith("10% of")
    assert repeated_rows(train, test, X.reshape(20, 2, 1).astype(str)).startswith("10% of")
    assert repeated_rows([0, 1], [1, 2], X).startswith("1 of 2 test examples")


def test_unequal_lengths_stop_the_audit():
    """What does not belong together is not compared further."""
    table = audit(np.zeros(3), [0], [1], ids=[1, 2], cutoff=[1, 2, 3])
    assert table["verdict"].tolist() == ["found"] + ["not run"] * 5
    assert "y has 3, ids has 2" in table["finding"][0]
    assert unequal_lengths(np.zeros(3), X=np.zeros((3, 2)), ids=[1, 2, 3]) is None


def test_what_is_not_given_is_not_run():
    """The audit names what it lacks, and runs the rest."""
    table = audit([0, 1, 1], [True, True, False], [False, False, True], ids=[1, 2, 3]).set_index("check")
    assert list(table.index) == [check.__name__ for check in CHECKS]
    assert table["verdict"].value_counts().to_dict() == {"not run": 4, "fine": 2}
    assert table.loc["overlapping_labels", "finding"] == "pass cutoff and label_end"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shared_ids([0], [5], [1, 2]), "there are 2 examples"),
        (lambda: shared_ids([], [1], [1, 2]), "one or more examples"),
        (lambda: shared_ids([0.5], [1], [1, 2]), "positions or flags"),
        (lambda: shared_ids([True], [1], [1, 2]), "a flag for each"),
        (lambda: shared_ids([-1], [1], [1, 2]), "position"),
        (lambda: unsorted_times([1, 2], [0, 1]), "number of events, 2"),
        (lambda: unsorted_times([1, 2], [0, 2, 1, 2]), "must rise"),
        (lambda: ambiguous_padding([[0, 1]], [[1]]), "one flag for each code"),
        (lambda: repeated_rows([0], [1], np.array([[1], [1, 2]], object)), "objects"),
    ],
)
def test_bad_input_is_named(call, message):
    """Each mistake in the call is an `EvaluationError` that says what to pass."""
    with pytest.raises(EvaluationError, match=message):
        call()
