"""Tasks against slow readings of their definitions; no input sees the future; splits keep their promises."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator
from sklearn.model_selection import cross_val_score

from seqbook.data.datasets import LOADERS, simulate_shop
from seqbook.data.events import LogError
from seqbook.data.sequences import SequenceEncoder
from seqbook.data.tasks import (
    TASKS,
    Churn,
    Demand,
    Examples,
    LeaveOneOut,
    NextBehavior,
    NextItem,
    Purchase,
    RollingSplit,
    Spend,
    TagPurchased,
    TimeSplit,
    UserSplit,
    check_learnable,
    log_span,
)

START = np.datetime64("2024-01-01", "us")
MINUTE, TICK = np.timedelta64(1, "m"), np.timedelta64(1, "us")
STEP = 10 * MINUTE  # times lie on a coarse grid, so that ties and events exactly at a cutoff are common
SPAN = 40  # steps
END = START + 1000 * STEP  # "the log goes on": every window is inside
BEHAVIORS = ["view", "view", "view", "cart", "buy"]

events = st.tuples(
    st.integers(0, 3),  # user
    st.integers(0, SPAN - 1),  # time
    st.sampled_from(BEHAVIORS),
    st.integers(1, 3),  # item
    st.sampled_from([1.0, 2.5, 10.0]),  # price
    st.integers(1, 3),  # quantity
    st.integers(0, 1),  # session of the user, for logs that have sessions
)
many = st.lists(events, min_size=2, max_size=40)
moments = st.integers(1, SPAN - 1)
quick = settings(max_examples=30, deadline=None, derandomize=True)


def make_log(rows, sessions=False):
    """A log from the tuples of `events`, in the order given."""
    user, step, behavior, item, price, quantity, session = map(list, zip(*rows, strict=True))
    log = pd.DataFrame(
        {
            "user_id": [f"u{u}" for u in user],
            "timestamp": START + np.array(step) * STEP,
            "behavior": behavior,
            "item_id": item,
            "price": price,
            "quantity": quantity,
        }
    )
    return (
        log.assign(session_id=[10 * u + s for u, s in zip(user, session, strict=True)]) if sessions else log
    )


def at(step):
    return START + step * STEP


def corrupt(log, cutoff, future, seed):
    """Other rows in place of all events from the cutoff on, strewn among the past ones, whose order stays."""
    rng, past = np.random.default_rng(seed), log[log["timestamp"] < cutoff]
    if not len(future):
        return past
    future = make_log(future, "session_id" in log)
    start = int((cutoff - START) / STEP)
    later = rng.integers(0, 30, len(future)) * rng.integers(
        0, 2, len(future)
    )  # half are at the cutoff itself
    future["timestamp"] = START + (start + later) * STEP
    future["price"] *= 1000
    mixed = pd.concat([past, future])
    place = np.concatenate([np.arange(len(past)), rng.integers(-1, len(past) + 1, len(future)) + 0.5])
    return mixed.iloc[np.argsort(place, kind="stable")].reset_index(drop=True)


def inputs(examples, index=slice(None)):
    """All that a model can see of examples: ids, cutoffs, the events of the histories, and their encoding."""
    examples = examples[index]
    histories = examples.histories()
    encoder = SequenceEncoder(fields=("behavior", "item_id", "log_gap", "log_age", "price_bucket", "hour"))
    encoded = encoder.fit(examples.fit_log()).encode(examples) if len(examples) else None
    return examples.ids.tolist(), examples.cutoff.tolist(), histories, encoded


def assert_same_inputs(before, after):
    assert before[:2] == after[:2]
    if not before[0]:
        return
    pd.testing.assert_frame_equal(before[2], after[2])
    assert before[3].fields.keys() == after[3].fields.keys()
    assert np.array_equal(before[3].offsets, after[3].offsets)
    for name in before[3].fields:
        np.testing.assert_array_equal(before[3].fields[name], after[3].fields[name], err_msg=name)
    assert before[3].vocabularies == after[3].vocabularies


# ---------------------------------------------------------------- the future does not change an input

AT_CUTOFFS = [
    Purchase("1h"),
    Purchase("1h", active_within="30min", min_events=2),
    Churn("1h"),
    Spend("1h"),
    Demand("1h"),
    Demand("1h", by="behavior"),
    NextBehavior(),
    NextBehavior(within="user", gap="1h"),
    TagPurchased(),
]


@pytest.mark.parametrize("task", AT_CUTOFFS, ids=repr)
@pytest.mark.parametrize("sessions", [False, True])
@given(rows=many, future=st.lists(events, max_size=20), step=moments, seed=st.integers(0, 9))
@settings(quick, max_examples=20)
def test_inputs_at_cutoffs_do_not_see_the_future(task, sessions, rows, future, step, seed):
    log, cutoff = make_log(rows, sessions), at(step)
    changed = corrupt(log, cutoff, future, seed)
    if log["timestamp"].nunique() < 2 or changed["timestamp"].nunique() < 2:
        return
    # an earlier cutoff goes along: its windows see what changes, its inputs must not
    cutoffs = [at(max(step - 2, 1)), cutoff]
    try:
        before = task.examples(log, cutoffs, log_end=END)
    except LogError as error:
        assert "no event is before" in str(error)
        return
    assert_same_inputs(inputs(before), inputs(task.examples(changed, cutoffs, log_end=END)))


@pytest.mark.parametrize("task", [NextBehavior(), NextBehavior(within="user"), TagPurchased()], ids=repr)
@pytest.mark.parametrize("sessions", [False, True])
@given(rows=many, future=st.lists(events, max_size=20), step=moments, seed=st.integers(0, 9))
@settings(quick, max_examples=20)
def test_inputs_at_every_event_do_not_see_the_future(task, sessions, rows, future, step, seed):
    log, cutoff = make_log(rows, sessions), at(step)
    changed = corrupt(log, cutoff, future, seed)
    if log["timestamp"].nunique() < 2 or changed["timestamp"].nunique() < 2:
        return
    before, after = task.examples(log, log_end=END), task.examples(changed, log_end=END)
    if before.each_event:
        before, after = before.prefixes(), after.prefixes()
    assert_same_inputs(inputs(before, before.cutoff <= cutoff), inputs(after, after.cutoff <= cutoff))


@pytest.mark.parametrize("within", ["user", "session"])
@pytest.mark.parametrize("every", [True, False])
@given(rows=many, future=st.lists(events, max_size=20), step=moments, seed=st.integers(0, 9))
@settings(quick, max_examples=20)
def test_next_item_does_not_see_the_future(within, every, rows, future, step, seed):
    """Whether there is an example may depend on the future, for it needs a label. What it sees may not."""
    log, cutoff = make_log(rows, within == "session"), at(step)
    changed = corrupt(log, cutoff, future, seed)
    if log["timestamp"].nunique() < 2 or changed["timestamp"].nunique() < 2:
        return
    cutoffs = None if every else cutoff
    before, after = (NextItem(within=within).examples(frame, cutoffs) for frame in (log, changed))

    def key(e):
        first = e.log["session_id"].to_numpy()[e.start] if within == "session" else e.ids
        return list(zip(e.ids, first.tolist(), e.start * 0 + e.lengths, e.cutoff.tolist(), strict=True))

    shared = set(key(before)) & set(key(after))
    early = [e.cutoff <= cutoff for e in (before, after)]
    both = [
        np.flatnonzero(mask & np.array([k in shared for k in key(e)], bool))
        for e, mask in zip((before, after), early, strict=True)
    ]
    assert_same_inputs(inputs(before, both[0]), inputs(after, both[1]))
    # and no history of a shared (user, session, cutoff) has another length
    names = [{(k[0], k[1], k[3]) for k in key(e[e.cutoff <= cutoff])} for e in (before, after)]
    assert len(names[0] & names[1]) == len(both[0])


def test_a_leak_would_be_seen():
    """The check above must fail for a task that leaks: histories that reach one event too far."""
    log = make_log([(0, 1, "view", 1, 1.0, 1, 0), (0, 5, "buy", 2, 1.0, 1, 0), (1, 2, "view", 3, 1.0, 1, 0)])
    honest = Purchase("1h").examples(log, at(5), log_end=END)
    with pytest.raises(LogError, match="sees an event at .* its cutoff is"):
        Examples(**{**vars(honest), "stop": honest.stop + (honest.ids == "u0")})


@pytest.mark.parametrize(
    "task", [Purchase("1h"), Churn("1h"), Spend("1h"), NextBehavior(), TagPurchased()], ids=repr
)
def test_events_exactly_at_the_cutoff_are_future(task):
    rows = [(0, 1, "view", 1, 1.0, 1, 0), (0, 3, "buy", 1, 1.0, 1, 0), (0, 3, "view", 2, 1.0, 1, 0)]
    log = make_log([*rows, (1, 2, "view", 1, 1.0, 1, 0)])
    made = task.examples(log, at(3), log_end=END)
    assert (made.histories()["timestamp"] < pd.Timestamp(at(3))).all()
    assert made[made.ids == "u0"].lengths.tolist() == [1]
    expected = {"purchase": 1, "churn": 0, "spend": 1.0, "next-behavior": "buy", "tag-purchased": 1}
    assert made[made.ids == "u0"].label.tolist() == [expected[task.name]]


@pytest.mark.parametrize("task", [Purchase("1h"), Churn("1h"), Spend("1h")], ids=repr)
def test_the_window_ends_before_cutoff_plus_horizon(task):
    log = make_log([(0, 1, "view", 1, 1.0, 1, 0), (0, 9, "buy", 1, 1.0, 1, 0)])
    outside, inside = (task.examples(log, at(step), log_end=END).label[0] for step in (3, 4))
    assert (outside, inside) == {"purchase": (0, 1), "churn": (1, 0), "spend": (0.0, 1.0)}[task.name]
    last = task.examples(log, at(3) + TICK, log_end=END).label[0]
    assert last == inside


def test_cutoffs_between_events_do_not_tell_the_class():
    """The time from the last event to the cutoff is the same for every class, so it gives no answer away."""
    made = NextBehavior().examples(simulate_shop(n_users=200, days=60, seed=3).events)
    waited = made.cutoff - made.log["timestamp"].to_numpy("datetime64[us]")[made.stop - 1]
    assert set(waited.tolist()) == {TICK.astype(object)}


def test_sampling_is_the_same_for_a_seed_and_keeps_histories():
    log = simulate_shop(n_users=200, days=60, seed=3).events
    every, some = NextBehavior().examples(log), NextBehavior(max_per_user=3, seed=1).examples(log)
    assert pd.Series(some.ids).value_counts().max() == 3
    assert len(pd.unique(some.ids)) == len(pd.unique(every.ids))
    assert np.array_equal(some.stop, NextBehavior(max_per_user=3, seed=1).examples(log).stop)
    assert not np.array_equal(some.stop, NextBehavior(max_per_user=3, seed=2).examples(log).stop)
    where = np.flatnonzero(np.isin(every.stop, some.stop))
    assert np.array_equal(every[where].start, some.start) and np.array_equal(every[where].label, some.label)


# ---------------------------------------------------------------- labels against slow readings


def slow_horizon(log, cutoff, length, label, by="user_id"):
    """{id: (events before, label of those in the window)}, by a loop."""
    found = {}
    for name, mine in log.groupby(by):
        past = mine[mine["timestamp"] < cutoff]
        window = mine[(mine["timestamp"] >= cutoff) & (mine["timestamp"] < cutoff + length)]
        if len(past):
            found[name] = (len(past), label(window))
    return found


def bought(window):
    return window[window["behavior"] == "buy"]


SLOW = {
    "purchase": lambda w: int(len(bought(w)) > 0),
    "churn": lambda w: int(len(w) == 0),
    "spend": lambda w: float((bought(w)["price"] * bought(w)["quantity"]).sum()),
    "demand": lambda w: float(bought(w)["quantity"].sum()),
}


@pytest.mark.parametrize("name", SLOW)
@given(rows=many, step=moments)
@quick
def test_horizon_labels_are_what_they_say(name, rows, step):
    log = make_log(rows)
    if log["timestamp"].nunique() < 2 or log["timestamp"].min() >= at(step):
        return
    made = TASKS[name]("1h").examples(log, at(step), log_end=END)
    got = {i: (n, v) for i, n, v in zip(made.ids, made.lengths, made.label, strict=True)}
    assert got == slow_horizon(
        log, at(step), 6 * STEP, SLOW[name], "item_id" if name == "demand" else "user_id"
    )


def slow_sessions(log, gap):
    """Lists of rows, a list a session: of one user and one session_id, without a pause above the gap."""
    found = []
    keys = ["user_id", *(["session_id"] if "session_id" in log else [])]
    for _, mine in log.groupby(keys, sort=False):
        mine = mine.sort_values("timestamp", kind="stable").to_dict("records")
        for before, row in zip([None, *mine[:-1]], mine, strict=True):
            if before is None or row["timestamp"] - before["timestamp"] > gap:
                found.append([])
            found[-1].append(row)
    return found


@pytest.mark.parametrize("sessions", [False, True])
@given(rows=many)
@quick
def test_next_behavior_is_what_it_says(sessions, rows):
    log = make_log(rows, sessions)
    if log["timestamp"].nunique() < 2 or log["timestamp"].max() - log["timestamp"].min() <= pd.Timedelta(
        "1h"
    ):
        return
    end, expected = log["timestamp"].max() + pd.Timedelta("1min"), []
    if (log["timestamp"] == log["timestamp"].dt.normalize()).all():
        return
    for session in slow_sessions(log, pd.Timedelta("30min")):
        for time_ in sorted({row["timestamp"] for row in session}):
            past = [r for r in session if r["timestamp"] <= time_]
            later = [r for r in session if r["timestamp"] > time_]
            if time_ + pd.Timedelta("30min") + pd.Timedelta("1us") <= end:
                label = later[0]["behavior"] if later else "end"
                expected.append((past[0]["user_id"], time_, len(past), label))
    made = NextBehavior().examples(log)
    times = pd.DatetimeIndex(made.cutoff - TICK)
    assert sorted(zip(made.ids, times, made.lengths, made.label, strict=True)) == sorted(expected)


@pytest.mark.parametrize("behaviors", [None, ("buy",), ("cart", "buy")])
@given(rows=many)
@quick
def test_next_item_is_what_it_says(behaviors, rows):
    log = make_log(rows)
    if log["timestamp"].nunique() < 2:
        return
    expected = []
    for user, mine in log.groupby("user_id"):
        mine = mine.sort_values("timestamp", kind="stable")
        times = sorted(mine["timestamp"].unique())
        for before, now in zip(times[:-1], times[1:], strict=True):
            here = mine[mine["timestamp"] == now]
            here = here if behaviors is None else here[here["behavior"].isin(behaviors)]
            if len(here):
                expected.append((user, before, (mine["timestamp"] < now).sum(), here["item_id"].iloc[0]))
    made = NextItem(behaviors=behaviors).examples(log)
    got = zip(made.ids, pd.DatetimeIndex(made.cutoff - TICK), made.lengths, made.label, strict=True)
    assert sorted(got) == sorted(expected)


@given(rows=many, step=moments)
@quick
def test_next_item_at_a_cutoff_is_the_first_item_from_then_on(rows, step):
    log = make_log(rows)
    if log["timestamp"].nunique() < 2:
        return
    expected = {}
    for user, mine in log.groupby("user_id"):
        later = mine[mine["timestamp"] >= at(step)].sort_values("timestamp", kind="stable")
        if len(later) and len(later) < len(mine):
            expected[user] = later["item_id"].iloc[0]
    made = NextItem().examples(log, at(step))
    assert dict(zip(made.ids, made.label, strict=True)) == expected


@pytest.mark.parametrize("sessions", [False, True])
@given(rows=many)
@quick
def test_tags_are_what_they_say(sessions, rows):
    log = make_log(rows, sessions)
    if log["timestamp"].nunique() < 2:
        return
    expected = []
    for session in slow_sessions(log, pd.Timedelta("30min")):
        for row in session:
            later = [
                r for r in session if r["timestamp"] > row["timestamp"] and r["item_id"] == row["item_id"]
            ]
            label = int(any(r["behavior"] == "buy" for r in later)) if row["behavior"] == "view" else -1
            expected.append((row["user_id"], row["timestamp"], row["item_id"], row["behavior"], label))
    made = TagPurchased().examples(log, log_end=END)
    rows = made.histories().assign(label=made.label)
    got = rows[["user_id", "timestamp", "item_id", "behavior", "label"]].itertuples(index=False, name=None)
    assert sorted(got) == sorted(expected)
    flat = made.prefixes()
    assert np.array_equal(flat.label, made.asked()) and len(made.frame()) == len(flat)
    assert (flat.log["behavior"].to_numpy()[flat.stop - 1] == "view").all()


def test_an_item_bought_twice_counts_until_its_last_purchase():
    rows = [(0, step, b, 1, 1.0, 1, 0) for step, b in enumerate(["view", "buy", "view", "buy", "view"])]
    assert TagPurchased().examples(make_log(rows), log_end=END).label.tolist() == [1, -1, 1, -1, 0]


def test_a_purchase_at_the_time_of_the_view_is_not_later():
    rows = [(0, 0, "view", 1, 1.0, 1, 0), (0, 0, "buy", 1, 1.0, 1, 0), (0, 1, "view", 2, 1.0, 1, 0)]
    assert TagPurchased().examples(make_log(rows), log_end=END).label.tolist() == [0, -1, 0]


def test_sessions_open_at_the_end_are_left_out():
    log = make_log(
        [(0, 0, "view", 1, 1.0, 1, 0), (0, 30, "view", 1, 1.0, 1, 0), (1, 20, "view", 1, 1.0, 1, 0)]
    )
    assert len(NextBehavior().examples(log)) == 2  # what follows the last view is not known
    assert len(NextBehavior().examples(log, log_end=at(33) + TICK)) == 3
    assert len(TagPurchased().examples(log)) == 2


def test_two_sessions_at_once_are_kept_apart():
    rows = [(0, s, "view", i, 1.0, 1, t) for s, i, t in [(0, 1, 0), (1, 2, 1), (2, 1, 0), (3, 2, 1)]]
    made = NextBehavior().examples(make_log(rows, sessions=True), log_end=END)
    assert made.label.tolist() == ["view", "end", "view", "end"]
    assert made.histories().groupby("example")["item_id"].nunique().max() == 1


def test_active_within_and_min_events():
    rows = [(0, 1, "view", 1, 1.0, 1, 0), (0, 2, "view", 1, 1.0, 1, 0), (1, 9, "view", 1, 1.0, 1, 0)]
    log = make_log(rows)
    assert Purchase("1h").examples(log, at(10), log_end=END).ids.tolist() == ["u0", "u1"]
    assert Purchase("1h", active_within="20min").examples(log, at(10), log_end=END).ids.tolist() == ["u1"]
    assert Purchase("1h", active_within="10min").examples(log, at(10), log_end=END).ids.tolist() == ["u1"]
    assert Purchase("1h", min_events=2).examples(log, at(10), log_end=END).ids.tolist() == ["u0"]


@pytest.mark.parametrize("seed", range(3))
def test_labels_agree_with_the_truth(seed):
    """The share of buyers and of churned users is within sampling error of the mean true probability."""
    shop = simulate_shop(n_users=1500, days=90, seed=seed)
    for task, truth in (
        (Purchase("7d"), shop.truth.purchase_probability),
        (Churn("14d"), shop.truth.churn_probability),
    ):
        made = task.examples(shop.events, ["2024-02-01", "2024-02-15", "2024-03-01", "2024-03-15"])
        excess, variance = 0.0, 0.0
        for cutoff in np.unique(made.cutoff):
            here = made[made.cutoff == cutoff]
            p = truth(cutoff, task.horizon).set_index("user_id")["probability"][here.ids].to_numpy()
            assert abs(here.label.sum() - p.sum()) < 4 * np.sqrt((p * (1 - p)).sum())
            excess, variance = excess + here.label.sum() - p.sum(), variance + (p * (1 - p)).sum()
        assert abs(excess) < 3.5 * np.sqrt(variance)


# ---------------------------------------------------------------- kinds of logs


def as_polars(log):
    import polars as pl

    return pl.from_pandas(log)


def as_arrow(log):
    import pyarrow as pa

    return pa.Table.from_pandas(log, preserve_index=False)


def as_relation(log):
    import duckdb

    return duckdb.connect().from_arrow(as_arrow(log))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", [as_polars, lambda log: as_polars(log).lazy(), as_arrow, as_relation])
def test_any_dataframe_gives_the_same(name, kind):
    log = simulate_shop(n_users=60, days=60, seed=1).events
    task = TASKS[name]()
    one, two = task.examples(log), task.examples(kind(log))
    for part in ("start", "stop", "ids", "cutoff", "label", "label_end"):
        np.testing.assert_array_equal(getattr(one, part), getattr(two, part), err_msg=part)
    pd.testing.assert_frame_equal(one.histories(), two.histories(), check_dtype=False)


@pytest.mark.parametrize(
    "ids", [["u 1", "é🙂"], [2**63 - 1, 5], np.array([2**64 - 1, 5], "uint64"), [1, "one"]], ids=str
)
def test_ids_come_back_as_they_were(ids):
    ids = list(ids)
    rows = pd.DataFrame({"user_id": pd.Series([ids[0], ids[1], ids[0]])})
    log = rows.assign(timestamp=at(0) + np.arange(3) * STEP, behavior="view", item_id=[1, 2, 3])
    made = Churn("10min").examples(log, at(2), log_end=END)
    assert sorted(made.ids.tolist(), key=str) == sorted(ids, key=str)


def test_rows_in_any_order_and_times_of_any_kind():
    log = simulate_shop(n_users=60, days=60, seed=1).events
    log = log.drop_duplicates(["user_id", "timestamp"])
    plain = Purchase("7d").examples(log)
    for other in (
        log.sample(frac=1, random_state=0),
        log.assign(timestamp=log["timestamp"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")),
        log.assign(timestamp=log["timestamp"].astype("datetime64[ns]")),
        log.assign(behavior=log["behavior"].astype("category"), user_id=log["user_id"].astype("category")),
    ):
        made = Purchase("7d").examples(other)
        np.testing.assert_array_equal(made.label, plain.label)
        np.testing.assert_array_equal(made.stop, plain.stop)
        np.testing.assert_array_equal(made.cutoff, plain.cutoff)


def test_the_given_log_is_not_changed():
    log = simulate_shop(n_users=60, days=60, seed=1).events.sample(frac=1, random_state=0)
    copy = log.copy()
    for task in TASKS.values():
        task().examples(log)
    pd.testing.assert_frame_equal(log, copy)


def test_a_million_events_in_seconds():
    rng, n = np.random.default_rng(0), 1_000_000
    log = pd.DataFrame(
        {
            "user_id": rng.integers(0, 50_000, n),
            "timestamp": START + np.sort(rng.integers(0, 120 * 86_400, n)).astype("timedelta64[s]"),
            "behavior": rng.choice(["view", "cart", "buy"], n, p=[0.9, 0.06, 0.04]),
            "item_id": rng.integers(0, 10_000, n),
        }
    )
    began = time.perf_counter()
    Purchase("7d").examples(log)
    NextBehavior().examples(log)
    assert time.perf_counter() - began < 12  # a loop over 50,000 users and 10 cutoffs takes minutes


# ---------------------------------------------------------------- logs and options that cannot be


LOG = simulate_shop(n_users=80, days=60, seed=1).events


@pytest.mark.parametrize(
    "make, parts",
    [
        (
            lambda: Purchase("90d").examples(LOG),
            ["horizon 90d is longer than the log", "the log spans", "choose a horizon below"],
        ),
        (
            lambda: Purchase("7d").examples(LOG, "2024-02-27"),
            ["reaches past the log's end", "choose cutoffs up to"],
        ),
        (lambda: Purchase("7d").examples(LOG, "2023-01-01"), ["no event is before the cutoff"]),
        (lambda: Purchase("7d").examples(LOG, "soon"), ["'soon' is no time"]),
        (lambda: Purchase("7d").examples(LOG, 20240201), ["20240201 is no time"]),
        (lambda: Purchase("7d").examples(LOG, []), ["cutoffs is empty"]),
        (lambda: Purchase("a while").examples(LOG), ["horizon is 'a while'", "write '7d'"]),
        (lambda: Purchase(7).examples(LOG), ["horizon is 7"]),
        (lambda: Purchase("0d").examples(LOG), ["horizon is '0d'", "above 0"]),
        (lambda: Purchase("7d", active_within="x").examples(LOG), ["active_within is 'x'"]),
        (lambda: Purchase("7d").examples(LOG.head(0)), ["the log has no event"]),
        (lambda: Purchase("7d").examples(LOG.head(1)), ["all events of the log (1)", "take a longer log"]),
        (
            lambda: Purchase("7d").examples(LOG.drop(columns="behavior")),
            ["'behavior' is missing", "the log has"],
        ),
        (
            lambda: Purchase("7d").examples(LOG.assign(user_id=None)),
            ["no user_id or no time", "clean_events"],
        ),
        (lambda: Purchase("7d").examples(LOG.assign(timestamp="noon")), ["not times", "read_events"]),
        (lambda: Purchase("7d").examples(LOG, max_length=0), ["at least 1 event"]),
        (lambda: NextItem().examples(LOG.drop(columns="item_id")), ["'item_id' is missing"]),
        (lambda: Spend("7d").examples(LOG.drop(columns="price")), ["'price' is missing"]),
        (lambda: Demand("7d", by="brand").examples(LOG), ["'brand' is missing"]),
        (lambda: Demand("7d").examples(LOG.assign(item_id=None)), ["'item_id' is empty in every row"]),
        (lambda: NextBehavior(gap="90d").examples(LOG), ["gap 90d is longer than the log"]),
        (lambda: NextBehavior(max_per_user=0).examples(LOG), ["max_per_user is 0"]),
        (lambda: NextItem(within="shop").examples(LOG), ["'session' or 'user'"]),
        (lambda: log_span(LOG.head(0)), ["the log has no event"]),
    ],
)
def test_mistakes_are_explained(make, parts):
    with pytest.raises(LogError) as caught:
        make()
    for part in parts:
        assert part in str(caught.value)


VIEWS = LOG[LOG["behavior"] == "view"]
ONE = LOG[LOG["user_id"] == LOG["user_id"].mode()[0]]


@pytest.mark.parametrize(
    "made, parts",
    [
        (
            lambda: Purchase("7d").examples(VIEWS),
            ["no positive label", "the log has no 'buy' event", "next-behavior"],
        ),
        (lambda: Spend("7d").examples(VIEWS), ["is 0 for all", "the log has no 'buy' event"]),
        (lambda: Demand("7d").examples(VIEWS), ["is 0 for all", "the log has no 'buy' event"]),
        (lambda: TagPurchased().examples(VIEWS), ["no positive label"]),
        (lambda: NextBehavior(end=False).examples(VIEWS), ["only one class", "view"]),
        (lambda: Churn("7d").examples(LOG.groupby("user_id").head(1)), ["only one class", "is 1 for all"]),
        (lambda: Purchase("7d").examples(ONE), ["are of one user_id"]),
        (lambda: Purchase("7d", min_events=10**6).examples(LOG), ["there is no example"]),
        (lambda: NextItem(behaviors=("gift",)).examples(LOG), ["there is no example"]),
    ],
)
def test_logs_that_cannot_be_scored_say_so(made, parts):
    examples = made()
    sentence = examples.problem()
    assert not examples.learnable and "; " in sentence
    for part in parts:
        assert part in sentence
    with pytest.raises(LogError) as caught:
        check_learnable(examples)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", TASKS)
def test_a_good_log_has_no_problem(name):
    made = TASKS[name]().examples(simulate_shop(n_users=300, days=90, seed=1).events)
    assert made.problem() is None
    check_learnable(made)
    assert "labels are too few" in (made.problem(least=10**6) or "labels are too few")


# ---------------------------------------------------------------- default cutoffs, log_span, Examples


@pytest.mark.parametrize("task", [Purchase("7d"), Churn("14d"), Spend("3d"), Demand("12h")], ids=repr)
def test_default_cutoffs_are_observed_and_do_not_overlap(task):
    cutoffs, (start, end) = task.default_cutoffs(LOG), log_span(LOG)
    length = pd.Timedelta(task.horizon.replace("d", "D")).to_timedelta64()
    assert (cutoffs + length <= end).all() and (cutoffs > start).all() and (np.diff(cutoffs) == length).all()
    assert 2 <= len(cutoffs) <= 10
    assert end - length - cutoffs[-1] < length / 5  # lost to a round time
    assert np.array_equal(np.unique(task.examples(LOG).cutoff), cutoffs)
    assert np.array_equal(np.unique(task.examples(LOG.sample(frac=1, random_state=0)).cutoff), cutoffs)
    assert len(task.default_cutoffs(LOG, most=2)) == 2


@pytest.mark.parametrize(
    "last, end",
    [
        ("2024-03-01", "2024-03-02"),
        ("2024-03-01 10:05", "2024-03-01 10:06"),
        ("2024-03-01 10:05:01", "2024-03-01 10:05:02"),
        ("2024-03-01 10:05:01.25", "2024-03-01 10:05:01.251"),
        ("2024-03-01 10:05:01.000001", "2024-03-01 10:05:01.000002"),
    ],
)
def test_the_log_ends_after_its_last_tick(last, end):
    log = pd.DataFrame({"timestamp": pd.to_datetime(["2024-02-01", last], format="ISO8601")})
    assert log_span(log) == (np.datetime64("2024-02-01"), np.datetime64(end.replace(" ", "T")))


def test_examples_index_like_arrays():
    for made in (Purchase("7d").examples(LOG), TagPurchased().examples(LOG)):
        table = made.histories()
        for index in (3, slice(2, 9, 3), np.array([5, 1, 1]), np.arange(len(made)) % 3 == 0, []):
            part = made[index]
            rows = np.atleast_1d(np.arange(len(made))[index])
            assert part.ids.tolist() == made.ids[rows].tolist()
            expected = pd.concat([table[table["example"] == r] for r in rows]) if len(rows) else table.head(0)
            got = part.histories()
            assert got["timestamp"].tolist() == expected["timestamp"].tolist()
            if made.each_event:
                labels = pd.Series(made.label).groupby(table["example"]).apply(list)
                assert part.label.tolist() == [v for r in rows for v in labels[r]]
            else:
                assert part.label.tolist() == made.label[rows].tolist()


def test_truncation_keeps_the_last_events_and_their_labels():
    whole, short = TagPurchased().examples(LOG), TagPurchased().examples(LOG, max_length=2)
    table = whole.histories().assign(label=whole.label).groupby("example").tail(2)
    assert short.lengths.max() == 2
    assert short.label.tolist() == table["label"].tolist()
    assert short.histories()["timestamp"].tolist() == table["timestamp"].tolist()


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_plain_and_summaries_are_json(name):
    import json

    task = TASKS[name]()
    assert (
        TASKS[name](**json.loads(json.dumps(task.get_params()))).examples(LOG).summary()
        == task.examples(LOG).summary()
    )
    assert json.loads(json.dumps(task.examples(LOG).summary()))["task"] == name
    assert eval(repr(task), dict(vars(__import__("seqbook.data.tasks", fromlist=["tasks"])))) == task


# ---------------------------------------------------------------- what may be fitted on


@pytest.mark.parametrize(
    "splitter",
    [TimeSplit(validation=True), TimeSplit(purge="3d"), UserSplit(), LeaveOneOut(), RollingSplit(2)],
    ids=repr,
)
@pytest.mark.parametrize("name", TASKS)
def test_the_fit_log_holds_training_histories_alone(splitter, name):
    log = simulate_shop(n_users=150, days=150, seed=2).events
    made = TASKS[name](**({"horizon": "14d"} if "horizon" in TASKS[name]().get_params() else {})).examples(
        log
    )
    made.log["row"] = np.arange(len(made.log))
    for train, *_, test in splitter.split(made):
        rows = made.fit_log(train)
        assert set(rows["row"]) == set(made[train].histories()["row"]) and rows["row"].is_unique
        assert rows["timestamp"].max() < pd.Timestamp(made.train_cutoff(train))
        assert set(rows[made.by]) <= set(made.ids[train])
        if isinstance(splitter, TimeSplit | RollingSplit):
            assert rows["timestamp"].max() < pd.Timestamp(made.cutoff[test].min())


# ---------------------------------------------------------------- splits


@st.composite
def example_sets(draw):
    """Examples with any cutoffs and windows: overlapping ones, ties, users with few examples."""
    n = draw(st.integers(6, 40))
    cutoff = START + np.array(draw(st.lists(st.integers(1, 30), min_size=n, max_size=n))) * STEP
    length = np.array(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n))) * STEP
    ids = np.array(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)))
    log = pd.DataFrame({"user_id": [0], "timestamp": [pd.Timestamp(START)], "behavior": ["view"]})
    zeros = np.zeros(n, int)
    return Examples(log, zeros, zeros + 1, ids, cutoff, zeros, cutoff + length, "purchase", np.array([0, 1]))


def splits(splitter, examples):
    """All splits; none where a part would be empty, which must be a LogError that says so."""
    try:
        return list(splitter.split(examples))
    except LogError as error:
        assert "part of the split is empty" in str(error) or "splits need more cutoffs" in str(error)
        return []


def assert_parts(parts, examples):
    """Parts are not empty, do not overlap, and hold indices in order."""
    joined = np.concatenate(parts)
    assert len(joined) == len(set(joined.tolist())) and all(len(part) for part in parts)
    assert all((np.diff(part) > 0).all() for part in parts)
    assert joined.min() >= 0 and joined.max() < len(examples)


purges = st.sampled_from(["0d", "10min", "30min"])


@given(examples=example_sets(), purge=purges, validation=st.booleans(), size=st.sampled_from([0.1, 0.3, 0.5]))
@settings(quick, max_examples=100)
def test_time_split(examples, purge, validation, size):
    gap = pd.Timedelta(purge.replace("d", "D")).to_timedelta64()
    for parts in splits(TimeSplit(validation=validation, purge=purge, test_size=size), examples):
        assert_parts(parts, examples)
        assert len(parts) == 2 + validation
        for earlier, later in zip(parts[:-1], parts[1:], strict=True):
            assert (examples.label_end[earlier] + gap <= examples.cutoff[later].min()).all()
            assert examples.cutoff[earlier].max() < examples.cutoff[later].min()
        assert len(parts[-1]) >= size * len(examples)
        # complete: everything from the first test cutoff on, and all before that is known in time
        first = examples.cutoff[parts[-1]].min()
        assert set(parts[-1]) == set(np.flatnonzero(examples.cutoff >= first))
        if not validation:
            known = (examples.cutoff < first) & (examples.label_end + gap <= first)
            assert set(parts[0]) == set(np.flatnonzero(known))


@given(examples=example_sets(), validation=st.booleans(), seed=st.integers(0, 5))
@settings(quick, max_examples=100)
def test_user_split(examples, validation, seed):
    for parts in splits(UserSplit(0.3, validation, 0.3, seed), examples):
        assert_parts(parts, examples)
        users = [set(examples.ids[part].tolist()) for part in parts]
        assert sum(map(len, users)) == len(set().union(*users)) == len(set(examples.ids.tolist()))
        assert sum(map(len, parts)) == len(examples)
        assert len(users[-1]) == max(1, round(0.3 * len(set(examples.ids.tolist()))))


@given(examples=example_sets(), validation=st.booleans(), purge=purges)
@settings(quick, max_examples=100)
def test_leave_one_out(examples, validation, purge):
    gap = pd.Timedelta(purge.replace("d", "D")).to_timedelta64()
    for parts in splits(LeaveOneOut(validation, purge), examples):
        assert_parts(parts, examples)
        train, test = parts[0], parts[-1]
        counts = pd.Series(examples.ids).value_counts()
        assert set(examples.ids[test]) == set(counts.index[counts > 1 + validation])
        for i in test:
            mine = np.flatnonzero(examples.ids == examples.ids[i])
            assert examples.cutoff[i] == examples.cutoff[mine].max()
            held = [p for part in parts[1:] for p in part if p in set(mine)]
            own = np.intersect1d(train, mine)
            assert all((examples.label_end[own] + gap <= examples.cutoff[p]).all() for p in held)
            assert examples.ids[held].tolist().count(examples.ids[i]) <= 1 + validation
        poor = np.flatnonzero(~np.isin(examples.ids, examples.ids[test]))
        assert set(poor) <= set(train)


@given(
    examples=example_sets(),
    n=st.integers(1, 4),
    step=st.sampled_from([None, "20min", "1h"]),
    window=st.sampled_from([None, "1h"]),
    purge=purges,
)
@settings(quick, max_examples=100)
def test_rolling_split(examples, n, step, window, purge):
    gap, last, found = pd.Timedelta(purge.replace("d", "D")).to_timedelta64(), None, 0
    for train, test in splits(RollingSplit(n, step, window, purge), examples):
        assert_parts((train, test), examples)
        first = examples.cutoff[test].min()
        assert (examples.label_end[train] + gap <= first).all()
        assert window is None or (examples.cutoff[train] >= first - np.timedelta64(1, "h")).all()
        assert last is None or last < first
        last, found = examples.cutoff[test].max(), found + 1
        among = (examples.cutoff < first) & (examples.label_end + gap <= first)
        among &= True if window is None else examples.cutoff >= first - np.timedelta64(1, "h")
        assert set(train) == set(np.flatnonzero(among))
    assert found in (0, n) and (not found or last == examples.cutoff.max())


def test_users_stay_on_their_side_when_the_log_grows():
    made = Purchase("7d").examples(simulate_shop(n_users=400, days=60, seed=1).events)
    _, test = next(UserSplit(0.25, seed=3).split(made))
    fewer = made[np.isin(made.ids, np.unique(made.ids)[::2])]
    _, again = next(UserSplit(0.25, seed=3).split(fewer))
    before = set(made.ids[test]) & set(fewer.ids)
    assert len(before & set(fewer.ids[again])) > 0.85 * len(before)
    _, other = next(UserSplit(0.25, seed=4).split(made))
    assert set(made.ids[test]) != set(made.ids[other])


@pytest.mark.parametrize(
    "splitter, part",
    [
        (TimeSplit(test_from="2024-01-02"), "the training part of the split is empty"),
        (TimeSplit(test_from="2025-01-02"), "the test part of the split is empty"),
        (TimeSplit(purge="60d"), "the training part of the split is empty"),
        (TimeSplit(test_size=1.5), "test_size is 1.5"),
        (TimeSplit(purge="-1d"), "purge is '-1d'"),
        (TimeSplit(test_from="never"), "test_from: 'never' is no time"),
        (UserSplit(test_size=1.0), "leave a training part"),
        (RollingSplit(0), "n_splits is 0"),
        (RollingSplit(99), "99 splits need more cutoffs"),
    ],
    ids=repr,
)
def test_splits_that_cannot_be_are_explained(splitter, part):
    with pytest.raises(LogError, match=part.replace("(", r"\(")):
        list(splitter.split(Purchase("7d").examples(LOG)))


def test_splitters_show_their_parameters():
    assert TimeSplit(purge="2d").get_params()["purge"] == "2d"
    assert repr(LeaveOneOut()) == "LeaveOneOut(validation=True, purge='0d')"
    assert UserSplit(seed=1) == UserSplit(**UserSplit(seed=1).get_params())


# ---------------------------------------------------------------- real logs


def test_clicks_alone_are_scored_as_view_or_end(real_data):
    log = LOADERS["yoochoose"](real_data("rsc15_clicks_100k.csv.gz"))
    made = NextBehavior().examples(log)
    assert made.classes.tolist() == ["end", "view"] and made.problem() is None
    train, test = next(TimeSplit().split(made))
    assert made.label_end[train].max() <= made.cutoff[test].min()
    assert "no 'buy' event" in Purchase("1d").examples(log).problem()


def test_dates_are_whole_days(real_data):
    log = LOADERS["cdnow"](real_data("CDNOW_master.txt.gz"))
    assert log_span(log)[1] == np.datetime64("1998-07-01")
    made = Churn("90d").examples(log)
    assert made.problem() is None and 0.5 < made.label.mean() < 0.99
    assert made.label_end.max() <= log_span(log)[1]


def test_taobao_purchases(real_data):
    log = LOADERS["taobao"](real_data("taobao_userbehavior_sample.csv.gz"))
    log = log[log["timestamp"] >= "2017-11-24"]  # stray dates in the published file
    made = Purchase("2d").examples(log)
    assert made.problem() is None and len(np.unique(made.cutoff)) >= 3
    assert len(next(TimeSplit(validation=True).split(made))) == 3


def test_scikit_learn_cross_validates_examples_with_our_splitters():
    class CountRows(BaseEstimator):
        "Remembers the cutoffs that it was fitted on."

        def fit(self, X, y):
            self.last_ = X.train_cutoff()
            return self

        def score(self, X, y):
            assert (X.label == y).all() and (X.cutoff > self.last_).all()
            return len(X)

    examples = Purchase("7d").examples(simulate_shop(n_users=60, days=60, seed=3).events)
    splits = list(RollingSplit(n_splits=3).split(examples))
    scores = cross_val_score(CountRows(), examples, examples.label, cv=splits, error_score="raise")
    assert scores.tolist() == [len(test) for _, test in splits]
