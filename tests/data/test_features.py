"""Features against a slow reading of their definitions; engines agree; nothing sees the future."""

import dataclasses
import math
import re
import time
import warnings
from collections import Counter
from itertools import groupby, pairwise, product

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline

from seqbook.data import features
from seqbook.data.datasets import simulate_shop
from seqbook.data.events import LogError, read_events, to_pandas
from seqbook.data.features import (
    FAMILIES,
    FeatureBuilder,
    NGrams,
    associations,
    describe_features,
    history_features,
)
from seqbook.data.tasks import Churn, Demand, NextBehavior, Purchase, Spend, TagPurchased

START = pd.Timestamp("2024-01-03 05:00")  # no Monday, no midnight
STEP = pd.Timedelta("10min")  # times lie on a coarse grid, so that ties and events at the cutoff are common
CUTOFF = START + 60 * STEP
BEHAVIORS = ["view", "cart", "remove", "buy"]
WINDOWS = {"1h": 3600, "5h": 18_000, "all": math.inf}  # seconds
OPTIONS = dict(windows=("1h", "5h", None), half_life="6h", gap="30min", behaviors=BEHAVIORS)
HALF_LIFE, GAP, DAY = 6 * 3600, 1800, 86_400
FEW = settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
LOGS = st.integers(0, 10**6)  # seeds: each log has all kinds of users at once, so that few logs are enough


def to_log(seed, n=90) -> pd.DataFrame:
    """A random log: of some users one event, of some many, many of them at one moment, some just the same."""
    rng = np.random.default_rng(seed)
    log = pd.DataFrame(
        {
            "user_id": np.minimum(rng.geometric(0.25, n), 12),
            "timestamp": START + rng.integers(0, 70, n) * STEP,
            "behavior": rng.choice(["view", "view", "view", "cart", "remove", "buy", "share"], n),
            "item_id": rng.integers(1, 4, n),
            "category": rng.choice(["a", "b", None], n),
            "price": rng.choice([1.0, 2.5, 10.0], n),
            "quantity": rng.integers(1, 3, n),
        }
    )
    log.loc[0, "timestamp"] = START  # surely before the cutoff
    return pd.concat([log, log[:5]], ignore_index=True).astype(
        {"category": "str", "timestamp": "datetime64[us]"}
    )


def made(log, **options) -> pd.DataFrame:
    """The features of users at the cutoff."""
    table = to_pandas(history_features(log, CUTOFF, **{**OPTIONS, **options}))
    return table.drop(columns="cutoff").set_index("user_id").sort_index()


def assert_same(left: pd.DataFrame, right: pd.DataFrame):
    """The same numbers to 1e-9, missing in the same places."""
    assert list(left) == list(right)
    assert left.index.tolist() == right.index.tolist()
    for name in left:
        one, other = (table[name].to_numpy("float64", na_value=np.nan) for table in (left, right))
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9, err_msg=name)


# --- a slow reading of the definitions, for one user


def mean(values):
    return sum(values) / len(values) if values else math.nan


def std(values):
    if len(values) < 2:
        return math.nan
    return math.sqrt(sum((v - mean(values)) ** 2 for v in values) / (len(values) - 1))


def median(values):
    return float(np.median(values)) if values else math.nan


def ratio(above, below):
    return above / below if below > 0 else math.nan


def entropy(counts):
    total = sum(counts)
    return -sum(n / total * math.log2(n / total) for n in counts if n) if total else math.nan


MEASURES = {"mean": mean, "median": median, "std": std, "min": lambda v: min(v, default=math.nan)}


def in_order(rows):
    """Events by time; those of one moment from view to buy and then the others; by session."""
    rank = {b: i for i, b in enumerate(BEHAVIORS)}
    return sorted(
        rows, key=lambda r: (r["timestamp"], rank.get(r["behavior"], len(rank)), r.get("session_id"))
    )


def reference(rows) -> dict:
    """All features of one user that need no fit."""
    events = [r for r in in_order(rows) if r["timestamp"] < CUTOFF]
    age = [(CUTOFF - r["timestamp"]).total_seconds() for r in events]
    acts = [r["behavior"] for r in events]
    gaps = [a - b for a, b in pairwise(age)]
    near = session_steps(events, gaps)
    return {
        **counts_of(events, age, acts, near),
        **durations_of(events, age, acts, gaps, near),
        **intervals_of(events, age, acts, gaps, near),
        **patterns_of(events, age, acts, near),
    }


def session_steps(events, gaps) -> list:
    """For each event the number of the next one of its session; None where it is the last."""
    if "session_id" not in events[0]:
        return [i + 1 if i < len(gaps) and gaps[i] <= GAP else None for i in range(len(events))]
    later = range(len(events))
    own = [r["session_id"] for r in events]
    return [next((j for j in later if j > i and own[j] == own[i]), None) for i in later]


def counts_of(events, age, acts, near) -> dict:
    made, tenure = {}, max(max(age) / DAY, 1)
    for window, length in WINDOWS.items():
        recent = [i for i in range(len(age)) if age[i] <= length]
        made[f"event_count_{window}"] = len(recent)
        for b in BEHAVIORS:
            made[f"{b}_count_{window}"] = n = sum(acts[i] == b for i in recent)
            made[f"{b}_share_{window}"] = ratio(n, len(recent))
        made[f"active_day_count_{window}"] = len({math.ceil(age[i] / DAY) for i in recent})
        made[f"session_count_{window}"] = sum(near[i] is None for i in recent)
        for column, short in {"item_id": "item", "category": "category"}.items():
            values = {events[i][column] for i in recent}
            made[f"{short}_count_{window}"] = len({v for v in values if isinstance(v, (int, str))})
        paid = [events[i]["price"] * events[i]["quantity"] for i in recent if acts[i] == "buy"]
        made[f"spend_{window}"] = sum(paid)
        n = {b: made[f"{b}_count_{window}"] for b in BEHAVIORS}
        for above, below in (("cart", "view"), ("buy", "cart"), ("buy", "view")):
            made[f"{above}_per_{below}_{window}"] = (n[above] + 1) / (n[below] + 10)
        if length < math.inf:
            made[f"event_momentum_{window}"] = len(recent) / len(events)
    made["spend_mean_all"] = mean(paid)
    made |= {f"price_{m}_all": f([r["price"] for r in events]) for m, f in MEASURES.items()}
    weight = [2 ** (-a / HALF_LIFE) for a in age]
    for b in ["event", *BEHAVIORS]:
        chosen = [i for i in range(len(acts)) if b in ("event", acts[i])]
        made[f"{b}_rate_all"] = len(chosen) / tenure
        made[f"{b}_count_decayed"] = sum(weight[i] for i in chosen)
    bought = [i for i in range(len(acts)) if acts[i] == "buy"]
    made["spend_decayed"] = sum(weight[i] * events[i]["price"] * events[i]["quantity"] for i in bought)
    return made


def durations_of(events, age, acts, gaps, near) -> dict:
    stays = {i: age[i] - age[j] for i, j in enumerate(near) if j is not None}
    dwell = stays
    if "duration" in events[0]:
        dwell = {i: r["duration"] for i, r in enumerate(events) if r["duration"] <= age[i]}
    made = {f"dwell_{m}_all": f(list(dwell.values())) for m, f in MEASURES.items()}
    for window, length in WINDOWS.items():
        made[f"dwell_sum_{window}"] = sum(d for i, d in dwell.items() if age[i] <= length)
    for b in BEHAVIORS:
        made[f"{b}_dwell_mean_all"] = mean([d for i, d in dwell.items() if acts[i] == b])
    made["dwell_known_share_all"] = len(dwell) / len(events)
    sessions = sum(j is None for j in near)
    made["session_duration_mean_all"] = sum(stays.values()) / sessions
    made["session_event_mean_all"] = len(events) / sessions
    made["session_duration_last"] = session_start(age, gaps, near) - age[-1]
    for column, short in {"item_id": "item", "category": "category"}.items():
        values = {r[column] for r in events if isinstance(r[column], (int, str))}
        made[f"{short}_dwell_mean_all"] = ratio(sum(dwell.values()), len(values))
    return made


def session_start(age, gaps, near):
    """The age of the first event after the last end of a session."""
    return min([age[i + 1] for i in range(len(gaps)) if near[i] is None], default=age[0])


def intervals_of(events, age, acts, gaps, near) -> dict:
    bought = [a for a, b in zip(age, acts, strict=True) if b == "buy"]
    kinds = {
        "event": list(zip(gaps, age[1:], strict=True)),
        "session": [(gaps[i], age[i + 1]) for i in range(len(gaps)) if near[i] is None],
        "buy": [(a - b, b) for a, b in pairwise(bought)],
    }
    made = {}
    for kind, pairs in kinds.items():
        hours = [gap / 3600 for gap, _ in pairs]
        made |= {f"{kind}_gap_{m}_all": f(hours) for m, f in MEASURES.items()}
        weight = [2 ** (-a / HALF_LIFE) for _, a in pairs]
        late = ratio(sum(w * h for w, h in zip(weight, hours, strict=True)), sum(weight))
        made[f"{kind}_gap_trend_all"] = ratio(late, mean(hours)) - 1
        made[f"{kind}_burstiness_all"] = ratio(std(hours) - mean(hours), std(hours) + mean(hours))
    made |= {"event_recency": age[-1] / 3600, "event_tenure": age[0] / 3600}
    made["session_recency"] = session_start(age, gaps, near) / 3600
    for b in BEHAVIORS:
        made[f"{b}_recency"] = min(
            (a / 3600 for a, act in zip(age, acts, strict=True) if act == b), default=math.nan
        )
    return {**made, **circles_of([r["timestamp"] for r in events])}


def circles_of(times) -> dict:
    def hour(t):
        return 2 * math.pi * (t - t.normalize()).total_seconds() / DAY

    made = {}
    for circle, angle in {
        "hour": hour,
        "weekday": lambda t: (2 * math.pi * t.weekday() + hour(t)) / 7,
    }.items():
        s, c = mean([math.sin(angle(t)) for t in times]), mean([math.cos(angle(t)) for t in times])
        made |= {f"{circle}_sin_all": s, f"{circle}_cos_all": c, f"{circle}_focus_all": math.hypot(s, c)}
        for name, t in {"last": times[-1], "cutoff": CUTOFF}.items():
            made |= {f"{name}_{circle}_sin": math.sin(angle(t)), f"{name}_{circle}_cos": math.cos(angle(t))}
    return made


def patterns_of(events, age, acts, near) -> dict:
    pairs = Counter((acts[i], acts[j]) for i, j in enumerate(near) if j is not None)
    ends = Counter(acts[i] for i, j in enumerate(near[:-1]) if j is None)
    pairs.update({(b, "end"): n for b, n in ends.items()})
    known, made, rows = Counter(acts[:-1]), {}, []
    for b in BEHAVIORS:
        rows.append([pairs[b, after] for after in [*BEHAVIORS, "end"]])
        for after, n in zip([*BEHAVIORS, "end"], rows[-1], strict=True):
            made |= {f"{b}_to_{after}_count_all": n, f"{b}_to_{after}_share_all": ratio(n, known[b])}
    total = sum(map(sum, rows))
    made["transition_entropy_all"] = ratio(sum(sum(row) * entropy(row) for row in rows if any(row)), total)
    made["compressibility_all"] = 1 - made["transition_entropy_all"] / math.log2(len(BEHAVIORS) + 1)
    made["behavior_entropy_all"] = entropy([acts.count(b) for b in BEHAVIORS])
    for column, short in {"item_id": "item", "category": "category"}.items():
        values = [r[column] for r in events if isinstance(r[column], (int, str))]
        made[f"{short}_entropy_all"] = entropy(list(Counter(values).values()))
    known = [b if b in BEHAVIORS else "other" for b in acts]
    made["run_length_mean_all"] = len(acts) / len(list(groupby(known)))
    return {**made, **paths_of(events, age, acts)}


def paths_of(events, age, acts) -> dict:
    first, newest = {}, {}
    for r, a, b in zip(events, age, acts, strict=True):
        first.setdefault((r["item_id"], b), a)
        newest[r["item_id"], b] = a
    items, made = {r["item_id"] for r in events}, {}
    for path in (("view", "cart"), ("cart", "buy"), ("view", "cart", "buy")):
        started = [i for i in items if (i, path[0]) in first]
        whole = [[first[i, b] for b in path] for i in started if all((i, b) in first for b in path)]
        whole = [ages for ages in whole if ages == sorted(ages, reverse=True)]
        for limit, length in {"1h": 3600, "1d": DAY, "7d": 7 * DAY}.items():
            done = sum(ages[0] - ages[-1] <= length for ages in whole)
            made[f"{'>'.join(path)}_path_count_{limit}"] = done
            made[f"{'>'.join(path)}_path_share_{limit}"] = ratio(done, len(started))
    for window, length in WINDOWS.items():
        out = {i: min(newest.get((i, b), math.inf) for b in ("buy", "remove")) for i in items}
        carted = {i: newest[i, "cart"] for i in items if (i, "cart") in newest}
        made[f"open_cart_count_{window}"] = sum(out[i] > a for i, a in carted.items() if a <= length)
    return made


def assert_as_reference(log):
    """Every feature of every user is what the slow reading says."""
    table, rows = made(log), log.to_dict("records")
    users = {r["user_id"] for r in rows if r["timestamp"] < CUTOFF}
    slow = pd.DataFrame(
        {user: reference([r for r in rows if r["user_id"] == user]) for user in sorted(users)}
    ).T
    assert set(slow) == set(table), set(slow) ^ set(table)
    assert_same(table, slow[list(table)])


@FEW
@given(seed=LOGS)
def test_as_by_a_slow_reading(seed):
    assert_as_reference(to_log(seed))


@FEW
@given(seed=LOGS)
def test_as_by_a_slow_reading_with_sessions_and_durations(seed):
    log, rng = to_log(seed), np.random.default_rng(seed)
    log["session_id"] = 10 * log["user_id"] + rng.integers(1, 4, len(log))
    assert_as_reference(log.assign(duration=rng.choice([0.0, 30.0, 700.0, 7200.0], len(log))))


# --- properties


@FEW
@given(seed=LOGS)
def test_permuting_rows_changes_nothing(seed):
    log = to_log(seed)
    assert_same(made(log), made(log.sample(frac=1, random_state=seed)))


@FEW
@given(seed=LOGS)
def test_adding_a_user_changes_no_other_user(seed):
    log, more = to_log(seed), to_log(seed + 1).assign(user_id=77)
    assert_same(made(log), made(pd.concat([log, more], ignore_index=True)).drop(index=77))


@FEW
@given(seed=LOGS)
def test_events_at_or_after_the_cutoff_change_nothing(seed):
    log, later = to_log(seed), to_log(seed + 1)
    later["timestamp"] += CUTOFF - later["timestamp"].min()
    assert_same(made(log), made(pd.concat([log, later], ignore_index=True)))


@FEW
@given(seed=LOGS, cut=st.integers(1, 90))
def test_two_files_are_as_good_as_one(seed, cut, tmp_path_factory):
    log, folder = to_log(seed), tmp_path_factory.mktemp("files")
    log.to_parquet(folder / "whole.parquet")
    log[:cut].to_parquet(folder / "part-1.parquet")
    log[cut:].to_parquet(folder / "part-2.parquet")
    assert_same(made(read_events(folder / "whole.parquet")), made(read_events(sorted(folder.glob("part-*")))))


@FEW
@given(seed=LOGS)
def test_engines_agree(seed):
    log = to_log(seed)
    expected = made(log)
    assert_same(expected, made(pl.from_pandas(log).lazy()))
    assert_same(expected, made(duckdb.connect().from_df(log)))


def test_features_may_be_written_to(shop):
    table = history_features(shop[:200], shop["timestamp"].max())
    table.fillna(0, inplace=True)
    table.loc[table.index[0], "event_count_all"] = -1.0
    assert table["event_count_all"].iloc[0] == -1 and not table.isna().any(axis=None)


def test_engines_agree_at_several_cutoffs(shop):
    cutoffs, few = ["2024-02-01", "2024-02-15", "2024-03-01"], dict(families=["frequency"])
    whole = history_features(shop, cutoffs, **few)
    assert whole["cutoff"].nunique() == 3
    for log in (pl.from_pandas(shop).lazy(), duckdb.connect().from_df(shop)):
        table = to_pandas(history_features(log, cutoffs, **few)).sort_values(["cutoff", "user_id"])
        assert_same(whole.drop(columns="cutoff"), table.drop(columns="cutoff").reset_index(drop=True))
        assert (table["cutoff"].to_numpy() == whole["cutoff"].to_numpy()).all()


def test_the_same_kind_of_frame_comes_back():
    log = to_log(0)[:1]
    for frame in (log, pl.from_pandas(log), pl.from_pandas(log).lazy(), pl.from_pandas(log).to_arrow()):
        assert type(history_features(frame, CUTOFF)) is type(frame)
    relation = duckdb.connect().from_df(log)
    assert isinstance(history_features(relation, CUTOFF), duckdb.DuckDBPyRelation)


@pytest.mark.parametrize("by", [("user_id",), ("user_id", "item_id")])
def test_parts_of_a_large_log_are_as_good_as_the_whole(shop, monkeypatch, by):
    few = dict(families=["duration"], by=by)
    whole = history_features(shop, ["2024-02-01", "2024-03-01"], **few)
    monkeypatch.setattr(features, "_CELLS", 90_000)
    moved = shop.set_index(shop.index[::-1])  # an index that is of no use
    assert len(list(features._parts(moved, "user_id", 20))) > 2
    pd.testing.assert_frame_equal(history_features(moved, ["2024-02-01", "2024-03-01"], **few), whole)
    other = history_features(pl.from_pandas(shop), ["2024-02-01", "2024-03-01"], **few)
    pd.testing.assert_frame_equal(other.to_pandas(), whole, check_dtype=False)


def test_features_repeat_bit_for_bit(shop, monkeypatch):
    """Alone and among others, in one part and in many at a time."""
    same, cutoff = dict(check_exact=True), "2024-03-01"
    whole = history_features(shop, cutoff)
    pd.testing.assert_frame_equal(history_features(shop, cutoff), whole, **same)
    even = shop[shop["user_id"] % 2 == 0]
    rows = whole[whole["user_id"] % 2 == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(history_features(even, cutoff, behaviors=behaviors_of(shop)), rows, **same)
    monkeypatch.setattr(features, "_FEW", len(shop) // 7)
    monkeypatch.setattr(features, "_THREADS", 3)
    assert len(list(features._parts(shop, "user_id", 1))) == 6
    pd.testing.assert_frame_equal(history_features(shop, cutoff), whole, **same)


def test_the_builder_repeats_bit_for_bit(examples, fitted, table, monkeypatch):
    order = np.random.default_rng(0).permutation(len(examples))
    pd.testing.assert_frame_equal(fitted.transform(examples), table, check_exact=True)
    expected = table.iloc[order].reset_index(drop=True)
    pd.testing.assert_frame_equal(fitted.transform(examples[order]), expected, check_exact=True)
    monkeypatch.setattr(features, "_FEW", examples.lengths.sum() // 5)
    monkeypatch.setattr(features, "_THREADS", 4)
    pd.testing.assert_frame_equal(fitted.transform(examples), table, check_exact=True)


def test_many_cutoffs_are_one_after_the_other(shop):
    cutoffs, few = (
        pd.to_datetime(["2024-02-01", "2024-03-01"]),
        dict(families=["frequency"], windows=("7d", None)),
    )
    both = history_features(shop, cutoffs, **few)
    apart = pd.concat([history_features(shop, c, behaviors=behaviors_of(shop), **few) for c in cutoffs])
    pd.testing.assert_frame_equal(both, apart.reset_index(drop=True)[list(both)])


def test_pairs_are_users_that_saw_one_item(shop):
    pairs = history_features(
        shop, "2024-03-01", by=("user_id", "item_id"), families=["frequency", "interval"]
    )
    row = pairs.iloc[len(pairs) // 2]
    own = shop[(shop["user_id"] == row["user_id"]) & (shop["item_id"] == row["item_id"])]
    single = history_features(
        own, "2024-03-01", behaviors=behaviors_of(shop), families=["frequency", "interval"]
    )
    shared = [name for name in single if name in pairs]
    assert "event_gap_mean_all" in shared and "item_count_all" not in pairs
    np.testing.assert_allclose(
        row[shared[2:]].astype(float), single.iloc[0][shared[2:]].astype(float), rtol=1e-9, atol=1e-12
    )


def behaviors_of(log):
    return log["behavior"].unique().tolist()


# --- what may be missing


@pytest.fixture(scope="module")
def whole(shop):
    return history_features(shop, "2024-03-01").set_index(["user_id", "cutoff"])


@pytest.mark.parametrize(
    "column, starts", [("item_id", "item"), ("price", "spend"), ("category", "category")]
)
def test_without_a_column_its_features_are_left_out(shop, whole, column, starts):
    part = history_features(shop.drop(columns=column), "2024-03-01").set_index(["user_id", "cutoff"])
    lost = set(whole) - set(part)
    assert lost and all(re.match(f"{starts}|price|.*_path_|open_cart", name) for name in lost)
    assert_same(part, whole[list(part)])


def test_without_sessions_and_quantities_there_are_still_all_features(shop, whole):
    bare = history_features(shop.drop(columns=["session_id", "quantity"]), "2024-03-01")
    assert list(bare)[2:] == list(whole)


def test_a_bare_log_of_clicks_works():
    log = to_log(0)[["user_id", "timestamp"]].assign(behavior="click")
    counts = log[log["timestamp"] < CUTOFF].groupby("user_id").size()
    assert history_features(log, CUTOFF)["click_count_all"].tolist() == counts.tolist()
    examples = Churn("1h").examples(log, cutoffs=CUTOFF)
    table = FeatureBuilder().fit_transform(examples, examples.label)
    assert table["click_count_all"].tolist() == counts[examples.ids].tolist()


def test_unseen_behaviours_count_into_nothing(shop):
    train = Purchase("7d").examples(shop, cutoffs="2024-03-01")
    strange = shop.assign(behavior=shop["behavior"].replace("view", "hologram"))
    test = Purchase("7d").examples(strange, cutoffs="2024-03-01")
    builder = FeatureBuilder(names=["*_count_*"]).fit(train, train.label)
    table, usual = builder.transform(test), builder.transform(train)
    assert (table["view_count_all"] == 0).all()
    assert table["event_count_all"].tolist() == usual["event_count_all"].tolist()
    assert table["cart_count_7d"].tolist() == usual["cart_count_7d"].tolist()


def test_mistakes_are_named(shop):
    for options, sentence in (
        ({"by": ("customer",)}, "column 'customer' is missing"),
        ({"names": ["revenue"]}, "no feature is called 'revenue'"),
        ({"families": ["revenue"]}, "there is no family 'revenue'"),
        ({"gap": "soon"}, "gap is 'soon'"),
        ({"half_life": "0d"}, "half_life is '0d'"),
    ):
        with pytest.raises(LogError, match=sentence):
            history_features(shop, "2024-03-01", **options)
    with pytest.raises(LogError, match="no event is before the cutoff"):
        history_features(shop, "1999-01-01")


# --- the builder


@pytest.fixture(scope="module")
def shop():
    return simulate_shop(n_users=400, days=90, seed=1).events


@pytest.fixture(scope="module")
def examples(shop):
    return Purchase("7d").examples(shop)


@pytest.fixture(scope="module")
def fitted(examples):
    return FeatureBuilder().fit(examples, examples.label)


@pytest.fixture(scope="module")
def table(examples, fitted):
    return fitted.transform(examples)


def test_examples_have_the_features_of_their_history(shop, examples, table):
    moment = examples.cutoff[-1]
    some, ours = examples[examples.cutoff == moment], table[examples.cutoff == moment]
    theirs = history_features(shop, moment).set_index("user_id").loc[some.ids]
    shared = [name for name in theirs if name in ours and "_per_" not in name]
    assert len(shared) > 200
    assert_same(ours[shared].set_axis(some.ids), theirs[shared])


def test_truncated_histories_are_respected(shop, examples, fitted):
    table = fitted.transform(examples.truncate(3))
    assert table["event_count_all"].tolist() == np.minimum(examples.lengths, 3).tolist()
    alone = examples.truncate(3)[:50]
    log = alone.histories().assign(user_id=lambda t: t["example"])
    for example, moment in enumerate(alone.cutoff):
        own = log[log["user_id"] == example].drop(columns="example")
        names = ["event_gap_mean_all", "session_count_7d", "item_count_all", "view_dwell_mean_all"]
        slow = history_features(own, moment, behaviors=fitted.behaviors_, names=names)[names]
        np.testing.assert_allclose(table.loc[example, names], slow.iloc[0], rtol=1e-9)
        if example == 5:
            break


def test_an_empty_history_is_missing(examples, fitted):
    some = examples[:2]
    bare = dataclasses.replace(some, start=some.stop.copy())
    table = fitted.transform(bare)
    assert table["event_count_all"].isna().all() and len(table) == 2


@pytest.mark.parametrize("task", [Purchase("7d"), Churn("14d"), Spend("14d"), NextBehavior(), Demand("7d")])
def test_every_task_and_every_column_is_described(shop, task):
    examples = task.examples(shop)
    examples = examples[: min(len(examples), 3000)]
    builder = FeatureBuilder()
    table = builder.fit_transform(examples, examples.label)
    assert len(table) == len(examples) and set(map(str, table.dtypes)) == {"float64"}
    assert not np.isinf(table.to_numpy()).any()
    assert list(table) == list(builder.get_feature_names_out())
    described = describe_features(table.columns)
    assert described["name"].tolist() == list(table)
    assert set(described["family"]) == set(FAMILIES)
    assert not described.map(lambda text: "{" in text or not text).any().any()


def test_names_are_read_as_what_made_them(whole):
    table = describe_features(whole.columns).set_index("name")
    assert "paid" in table.loc["spend_7d", "description"]
    assert table.loc["open_cart_count_7d", "unit"] == "items"
    assert table.loc["item_count_7d", "description"] == "distinct item values in the last 7d"
    assert table.loc["view_to_cart_count_all", "unit"] == "pairs"
    assert table.loc["buy_gap_mean_all", "unit"] == "hours"
    assert table.loc["buy_dwell_mean_all", "unit"] == "seconds"
    assert table.loc["view>cart>buy_path_share_7d", "family"] == "pattern"
    assert len(describe_features()) == len(set(describe_features()["name"]))


def test_scikit_learn_conventions(examples, fitted):
    builder = clone(FeatureBuilder(families=["frequency"], windows=("3d",), n_patterns=3))
    assert builder.get_params()["windows"] == ("3d",)
    table = builder.fit(examples[:50]).transform(examples[:50])
    assert "view_count_3d" in table and "view_count_7d" not in table
    assert isinstance(
        clone(builder).set_output(transform="polars").fit_transform(examples[:50]), pl.DataFrame
    )
    with pytest.raises(Exception, match="not fitted"):
        FeatureBuilder().transform(examples)
    with pytest.raises(LogError, match="pass the examples of a task"):
        fitted.transform(examples.log)


def test_names_choose_columns(examples, table):
    wanted = ["*_count_7d", "recency_score", "category_co_buy_*"]
    chosen = FeatureBuilder(names=wanted).fit_transform(examples)
    assert {"buy_count_7d", "recency_score", "category_co_buy_lift_max"} <= set(chosen)
    assert "buy_count_30d" not in chosen
    pd.testing.assert_frame_equal(chosen, table[list(chosen)])
    with pytest.raises(LogError, match="no feature is called 'sales_7d'"):
        FeatureBuilder(names=["sales_7d"]).fit(examples)


def test_labels_for_each_event_need_prefixes(shop):
    tags = TagPurchased().examples(shop[shop["user_id"] < 50])
    with pytest.raises(LogError, match="pass examples.prefixes"):
        FeatureBuilder().fit(tags, tags.label)
    prefixes = tags.prefixes()
    assert len(FeatureBuilder().fit_transform(prefixes, prefixes.label)) == len(prefixes)


def loaded(model, path):
    """The model, saved and loaded with no type trusted but its own."""
    skops.io.dump(model, path)
    kind = f"seqbook.data.features.{type(model).__name__}"
    assert skops.io.get_untrusted_types(file=path) == [kind]
    return skops.io.load(path, trusted=[kind])


def test_skops_saves_and_loads(examples, fitted, table, tmp_path):
    again = loaded(fitted, tmp_path / "builder.skops").transform(examples)
    pd.testing.assert_frame_equal(again, table)
    grams = NGrams().fit(examples)
    assert (loaded(grams, tmp_path / "grams.skops").transform(examples) != grams.transform(examples)).nnz == 0


def test_scores_are_fifths_of_the_buyers(table):
    never = table["buy_count_all"] == 0
    for name in ("recency_score", "frequency_score", "monetary_score"):
        assert (table.loc[never, name] == 1).all() and set(table[name]) <= {1, 2, 3, 4, 5}
    shares = table.loc[~never, "monetary_score"].value_counts(normalize=True)
    assert shares.between(0.15, 0.25).all()
    assert table[~never].groupby("recency_score")["buy_recency"].mean().is_monotonic_decreasing
    assert table[~never].groupby("frequency_score")["buy_count_all"].mean().is_monotonic_increasing


# --- what is learned sees the training examples only


LEARNED = ("behaviors_", "priors_", "scores_", "patterns_", "rules_", "means_", "columns_")


def state(builder) -> str:
    """All that was learned, as text."""
    with np.printoptions(threshold=10**9):
        return repr({name: getattr(builder, name) for name in LEARNED})


def test_nothing_learned_sees_more_than_the_training_examples(shop):
    """Other users, and all that comes after the training histories, are replaced by nonsense: no change."""
    cutoff, label_end = pd.Timestamp("2024-02-15"), pd.Timestamp("2024-02-22")
    train = Purchase("7d").examples(shop, cutoffs=cutoff)
    half = train[np.unique(train.ids, return_inverse=True)[1] % 2 == 0]
    others = ~shop["user_id"].isin(half.ids)
    strange = shop.copy()
    hidden = others | (shop["timestamp"] >= cutoff)
    strange.loc[hidden, "behavior"] = "buy"
    strange.loc[hidden, "item_id"] = 1
    strange.loc[hidden, "category"] = "nonsense"
    strange.loc[hidden, "price"] = 1e6
    same = Purchase("7d").examples(strange, cutoffs=cutoff)
    same = same[np.isin(same.ids, half.ids)]
    assert same.ids.tolist() == half.ids.tolist() and label_end < shop["timestamp"].max()
    seen = FeatureBuilder().fit(half, half.label)
    blind = FeatureBuilder().fit(same, half.label)
    assert state(seen) == state(blind)
    whole = FeatureBuilder().fit(train, train.label)
    assert state(seen) != state(whole)  # the comparison can fail


def test_transform_does_not_look_at_labels(examples, fitted, table):
    turned = dataclasses.replace(examples, label=1 - examples.label)
    pd.testing.assert_frame_equal(table, fitted.transform(turned))


def test_own_labels_are_not_in_the_encoding(examples):
    """Turn the labels of one user: the user's own encodings stay, those of others move."""
    user = pd.Series(examples.ids).value_counts().index[0]
    own = examples.ids == user
    turned = np.where(own, 1 - examples.label, examples.label)
    names = ["*_target_*"]
    before = FeatureBuilder(families=["combination"], names=names).fit_transform(examples, examples.label)
    after = FeatureBuilder(families=["combination"], names=names).fit_transform(examples, turned)
    pd.testing.assert_frame_equal(before[own], after[own])
    assert (before[~own] != after[~own]).any().any()


def test_target_encoding_has_no_skill_on_noise(shop):
    """Labels are noise. In training cross-validation the encodings say nothing; in sample they would."""
    some = Purchase("7d").examples(shop)
    y = np.random.default_rng(0).integers(0, 2, len(some))
    encoder = FeatureBuilder(families=["combination"], names=["*_target_*"], smoothing=1.0)
    out_of_fold, in_sample = encoder.fit_transform(some, y), encoder.fit(some, y).transform(some)
    for name in out_of_fold:
        assert abs(roc_auc_score(y, out_of_fold[name]) - 0.5) < 0.06
    assert roc_auc_score(y, in_sample["item_target_last"]) > 0.55
    model = make_pipeline(encoder, LogisticRegression())
    guess = cross_val_predict(model, some, y, groups=some.ids, cv=GroupKFold(3), method="predict_proba")[:, 1]
    assert abs(roc_auc_score(y, guess) - 0.5) < 0.05


def test_target_encoding_is_the_smoothed_mean(examples, fitted):
    encoded = fitted.means_["category"]
    histories = examples.histories().drop_duplicates(["example", "category"])
    y = examples.label[histories["example"]]
    for value, mean_ in zip(encoded["values"], encoded["means"][""], strict=False):
        own = y[histories["category"] == value]
        assert math.isclose(mean_, (own.sum() + 10 * examples.label.mean()) / (len(own) + 10), rel_tol=1e-12)


def test_patterns_separate_the_classes(examples, fitted):
    """Those kept by the labels tell more about them than those kept by support."""
    y = examples.label
    options = dict(families=["pattern"], names=["pattern_*"], n_patterns=5)
    frequent, telling = FeatureBuilder(**options).fit(examples), FeatureBuilder(**options).fit(examples, y)
    skill = {}
    for name, builder in {"frequent": frequent, "telling": telling}.items():
        table = builder.transform(examples).filter(like="pattern_")
        skill[name] = np.mean([abs(table.loc[y == 1, p].mean() - table.loc[y == 0, p].mean()) for p in table])
    assert skill["telling"] > skill["frequent"]


def test_patterns_are_subsequences(examples, fitted):
    table, order = (
        fitted.transform(examples).filter(like="pattern_"),
        {b: i for i, b in enumerate(fitted.behaviors_)},
    )
    histories = examples.truncate(20).histories()
    histories["rank"] = histories["behavior"].map(order)
    histories = histories.sort_values(["example", "timestamp", "rank"], kind="stable")
    acts = histories.groupby("example")["behavior"].apply(list)
    for name, column in table.items():
        steps = name.removeprefix("pattern_").split(">")
        slow = [is_subsequence(steps, iter(history)) for history in acts]
        assert column.astype(bool).tolist() == slow


def is_subsequence(steps, history):
    return all(step in history for step in steps)


def test_associations_by_hand():
    baskets = {"s1": "ab", "s2": "abc", "s3": "a", "s4": "bc"}
    rows = [(key, item) for key, items in baskets.items() for item in items]
    log = pd.DataFrame(rows, columns=["session_id", "item_id"])
    log = log.assign(user_id=1, timestamp=START, behavior="view")
    rules = associations(log, "item_id", min_count=1).set_index(["antecedent", "consequent"])
    assert np.allclose(rules.loc[("c", "b")], [2 / 4, 1, (2 / 4) / (2 / 4 * 3 / 4)])
    assert np.allclose(rules.loc[("a", "b")], [2 / 4, 2 / 3, (2 / 4) / (3 / 4 * 3 / 4)])
    pd.testing.assert_frame_equal(
        associations(log, "item_id", min_count=1),
        associations(log.sample(frac=1, random_state=0), "item_id", min_count=1),
    )


def test_the_strongest_rule_is_to_something_missing(examples, fitted, table):
    rules = fitted.rules_["item_co_view"]
    for i, (start, stop) in enumerate(zip(examples.start[:300], examples.stop[:300], strict=True)):
        events = examples.log[start:stop]
        seen = set(events.loc[events["behavior"] == "view", "item_id"])
        has = [value in seen for value in rules["values"]]
        best = [rules["lift"][a, b] for a, b in product(range(len(has)), repeat=2) if has[a] and not has[b]]
        assert table["item_co_view_lift_max"][i] == max(best, default=0)


# --- n-grams


def test_ngrams_by_hand(examples):
    some = examples[:200]
    grams = NGrams(n=(1, 3), min_count=2).fit(some)
    counts, names = grams.transform(some).toarray(), grams.get_feature_names_out()
    order = {b: i for i, b in enumerate(["view", "favorite", "cart", "remove", "buy"])}
    slow = []
    for start, stop in zip(some.start, some.stop, strict=True):
        events = some.log[start:stop].assign(rank=lambda t: t["behavior"].map(order))
        acts = events.sort_values(["timestamp", "rank"], kind="stable")["behavior"].tolist()
        runs = [">".join(acts[i : i + n]) for n in (1, 2, 3) for i in range(len(acts) - n + 1)]
        slow.append(Counter(runs))
    assert counts.tolist() == [[history[name] for name in names] for history in slow]
    assert set(names) == {name for name, n in sum(slow, Counter()).items() if n >= 2}


def test_ngrams_of_items_leave_out_what_they_do_not_know(examples):
    grams = NGrams("item_id", n=(1, 2), min_count=1).fit(examples[:20])
    assert grams.transform(examples[:20]).sum() > 0
    log = examples.log.assign(item_id=examples.log["item_id"] + 10_000)
    assert grams.transform(dataclasses.replace(examples, log=log)).nnz == 0


# --- speed


def test_many_examples_are_fast():
    """24,000 examples of 3,000 users, and 15,000 of sessions: far from a loop over examples."""
    log = simulate_shop(n_users=3000, seed=0).events
    examples = Purchase("7d").examples(log)
    sessions = NextBehavior().examples(log)[:15_000]
    for some in (examples, sessions):
        builder = FeatureBuilder().fit(some[:500], some.label[:500])
        started = time.perf_counter()
        builder.transform(some)
        assert time.perf_counter() - started < 20  # about 2 s on two idle cores


def test_filters_of_warnings_are_left_as_they_were(monkeypatch):
    collect, before = features.nw.LazyFrame.collect, list(warnings.filters)

    def careless(*args):  # as pandas in two threads at once
        warnings.simplefilter("always", DeprecationWarning)
        return collect(*args)

    monkeypatch.setattr(features.nw.LazyFrame, "collect", careless)
    history_features(to_log(0), CUTOFF, **OPTIONS)
    assert warnings.filters == before
