"""The simulated shop and its truth; fetching and unpacking; loaders of the public data sets."""

import gzip
import hashlib
import io
import json
import os
import pickle
import socket
import sys
import tarfile
import time
import types
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pandas as pd
import pytest

from seqbook.data import datasets
from seqbook.data.datasets import (
    LOADERS,
    SOURCES,
    ShopModel,
    best_scores,
    fetch_file,
    load_cdnow,
    load_complete_journey,
    load_criteo,
    load_diginetica,
    load_movielens,
    load_next_item,
    load_online_retail,
    load_otto,
    load_rees46,
    load_retailrocket,
    load_sessions,
    load_shoppers_intention,
    load_taobao,
    load_yoochoose,
    simulate_shop,
    unpack,
    write_shop,
)
from seqbook.data.events import BEHAVIORS, LogError, clean_events


@pytest.fixture(scope="module")
def shop():
    return simulate_shop(n_users=25_000, seed=11)


@pytest.fixture(scope="module")
def year():
    return simulate_shop(n_users=3000, days=730, start="2023-01-01", seed=2, promotion_every=0)


# The simulator


def test_the_same_seed_gives_the_same_shop():
    one, two, other = (simulate_shop(n_users=300, seed=s) for s in (5, 5, 6))
    pd.testing.assert_frame_equal(one.events, two.events)
    pd.testing.assert_frame_equal(one.items, two.items)
    pd.testing.assert_frame_equal(one.truth.users, two.truth.users)
    assert not one.events.equals(other.events)
    assert one.truth.states.equals(two.truth.states)


def test_blocks_do_not_depend_on_how_many_there_are(monkeypatch):
    monkeypatch.setattr(datasets, "_BLOCK", 100)
    few, many = simulate_shop(n_users=100).events, simulate_shop(n_users=300).events
    first = many[many["user_id"] <= 100].reset_index(drop=True)
    pd.testing.assert_frame_equal(few, first)
    assert many["timestamp"].is_monotonic_increasing and many["user_id"].max() > 200


def test_the_global_random_state_is_neither_read_nor_changed():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    one = simulate_shop(n_users=50).events
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(2)
    assert one.equals(simulate_shop(n_users=50).events)


def test_a_million_events_take_seconds():
    start = time.process_time()  # of this process alone: other work on the machine does not count
    shop = simulate_shop(n_users=36_000)
    assert len(shop.events) > 1_000_000
    assert time.process_time() - start < 15


def test_the_log_is_a_clean_event_log(shop):
    log = shop.events
    names = "user_id timestamp behavior item_id category price quantity session_id".split()
    assert list(log) == names and not log.isna().any().any()
    assert log["timestamp"].dtype == "datetime64[us]" and log["timestamp"].is_monotonic_increasing
    assert log["timestamp"].min() >= pd.Timestamp("2024-01-01")
    assert log["timestamp"].max() < pd.Timestamp("2024-04-30")
    assert set(log["behavior"]) == set(BEHAVIORS)
    assert (log["price"] > 0).all() and (log["quantity"] >= 1).all()
    wrong = {k: v for k, v in clean_events(log)[1].counts.items() if k != "duplicate" and v}
    assert not wrong


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"n_users": 0}, "n_users is 0"),
        ({"days": 1.5}, "whole number"),
        ({"n_items": 3, "n_categories": 4}, "cannot fill"),
        ({"promotion_every": 3}, "promotion_every"),
        ({"start": "yesterdayish"}, "no date"),
        ({"start": pd.Timestamp("2024-01-01", tz="Europe/Berlin")}, "time zone"),
    ],
)
def test_sizes_of_which_no_shop_can_be_made(wrong, message):
    with pytest.raises(LogError, match=message):
        simulate_shop(**{"n_users": 10, **wrong})


def test_tiny_shops():
    shop = simulate_shop(n_users=1, n_items=1, n_categories=1, days=30, promotion_every=0)
    assert set(shop.events["item_id"]) <= {1} and len(shop.promotions) == 0


def test_week_and_day_have_their_seasons(shop):
    log = shop.events[shop.events["timestamp"] >= "2024-01-29"]  # 13 whole weeks, once the shop has filled up
    weekday = log["timestamp"].dt.dayofweek.value_counts().sort_index()
    hour = log["timestamp"].dt.hour.value_counts().sort_index()
    assert weekday[5] > 1.1 * weekday[1]
    assert hour[20] > 5 * hour[4]


def test_the_year_has_its_season(year):
    visits = year.events.drop_duplicates("session_id")
    month = visits["timestamp"].dt.month[visits["timestamp"] >= "2024-01-01"].value_counts()
    season = datasets._season(pd.Timestamp("2023-01-01"), np.zeros(730, bool), 1).reshape(-1, 24).mean(1)
    assert season.max() > 1.4 * season.min()
    assert month[12] > 1.15 * month[6]


def test_promotions_draw_visits_and_lower_prices(shop):
    assert shop.promotions["start"].between("2024-01-01", "2024-04-30").all() and len(shop.promotions) >= 3
    price = shop.events["item_id"].map(shop.items.set_index("item_id")["price"])
    paid = shop.events["price"] / price
    expected = pd.Series(1.0, shop.events.index)
    for row in shop.promotions.itertuples():
        inside = shop.events["timestamp"].between(row.start, row.end, inclusive="left")
        expected[inside] = 1 - row.discount
    assert np.allclose(paid, expected, atol=0.02)

    buys = shop.events["behavior"] == "buy"
    assert buys[expected < 1].mean() > 1.1 * buys[expected == 1].mean()
    day = shop.events["timestamp"].dt.date
    per_day = [(expected[m] < 1).size / day[m].nunique() for m in (expected < 1, expected == 1)]
    assert per_day[0] > 1.1 * per_day[1]


def test_few_items_are_popular_and_most_are_not(shop):
    shares = shop.items["popularity"]
    assert np.isclose(shares.sum(), 1)
    views = shop.events.loc[shop.events["behavior"] == "view", "item_id"].value_counts()
    middle = views.iloc[10:400]
    slope = np.polyfit(np.log(np.arange(11, 401)), np.log(middle), 1)[0]
    assert -1.6 < slope < -0.6
    assert views.head(50).sum() > 0.35 * views.sum()
    by_item = shop.items.set_index("item_id")["popularity"]
    assert views.corr(by_item.reindex(views.index), method="spearman") > 0.8


def test_shoppers_stay_with_their_categories(shop):
    # two events of a visit are about the same category far more often than two events of different visits
    log = shop.events.sort_values(["session_id", "timestamp"])
    same_visit = log["session_id"] == log["session_id"].shift()
    same_category = log["category"] == log["category"].shift()
    assert same_category[same_visit].mean() > 2 * same_category[~same_visit].mean()


def test_sessions_hold_together(shop):
    log = shop.events
    by_session = log.groupby("session_id")
    assert (by_session["user_id"].nunique() == 1).all()
    length = by_session["timestamp"].max() - by_session["timestamp"].min()
    assert length.quantile(0.99) < pd.Timedelta("1h")
    first = by_session["timestamp"].min().groupby(by_session["user_id"].first()).diff().dropna()
    assert first.median() > pd.Timedelta("12h")


def test_sign_ups_and_churn(shop):
    first = shop.events.groupby("user_id")["timestamp"].min()
    users = shop.truth.users.set_index("user_id")
    start = pd.Timestamp("2024-01-01")
    new = users["signup"] >= start
    assert 0.6 < new.mean() < 0.7
    seen = first.index[new.reindex(first.index)]
    assert (first[seen] == users.loc[seen, "signup"]).mean() > 0.99  # the first visit is the sign-up
    monthly = first[first.index.isin(seen)].dt.month.value_counts()
    assert monthly.min() > 0.15 * monthly.sum()

    visit = shop.events.drop_duplicates("session_id")
    lost = visit["user_id"].map(users["churned"])
    assert not (visit["timestamp"] > lost).any()
    assert users["churned"].notna().mean() > 0.5


def test_intent_decides_the_behavior(shop):
    states = shop.truth.states
    assert len(states) == len(shop.events)
    buys = shop.events["behavior"] == "buy"
    assert set(states[buys]) == {"decide"}
    share = pd.crosstab(states, shop.events["behavior"], normalize="index")
    assert np.isclose(share.loc["compare", "cart"], ShopModel().emissions[1][1], atol=0.01)
    assert np.isclose(share.loc["decide", "buy"], ShopModel().emissions[2][2], atol=0.01)


def test_the_order_of_events_tells_more_than_their_counts(shop):
    # a cart as the last thing of a visit promises more than the same cart followed by views
    log = shop.events[shop.events["timestamp"] < "2024-03-15"]
    later = shop.events[shop.events["timestamp"].between("2024-03-15", "2024-03-22", inclusive="left")]
    buyers = later.loc[later["behavior"] == "buy", "user_id"].unique()
    last = log.drop_duplicates("user_id", keep="last")
    recent = last[last["timestamp"] >= "2024-03-12"]
    rate = recent["user_id"].isin(buyers).groupby(recent["behavior"]).mean()
    assert rate["cart"] > 1.2 * rate["view"]


# The truth


def _window(log, cutoff, horizon):
    start = pd.Timestamp(cutoff)
    return log[(log["timestamp"] >= start) & (log["timestamp"] < start + pd.Timedelta(horizon))]


def _z_scores(probability, happened, groups=10):
    """How many standard errors lie between the chances and what happened, by group and for all."""
    frame = pd.DataFrame({"p": np.asarray(probability), "y": np.asarray(happened, float)})
    frame["v"] = frame["p"] * (1 - frame["p"])
    sums = frame.groupby(pd.qcut(frame["p"], groups, labels=False, duplicates="drop")).sum()
    total = frame.sum()
    return (sums["y"] - sums["p"]) / np.sqrt(sums["v"]), (total["y"] - total["p"]) / np.sqrt(total["v"])


CUTOFFS = [
    ("2024-03-01", "7D"),
    ("2024-02-10 20:30", "14D"),
    ("2024-04-01", "28D"),
    ("2024-01-20 12:00", "1D"),
]


@pytest.mark.parametrize("cutoff, horizon", CUTOFFS)
def test_purchase_probabilities_are_calibrated(shop, cutoff, horizon):
    truth = shop.truth.purchase_probability(cutoff, horizon)
    later = _window(shop.events, cutoff, horizon)
    bought = truth["user_id"].isin(later.loc[later["behavior"] == "buy", "user_id"])
    groups, total = _z_scores(truth["probability"], bought)
    assert abs(total) < 3.3 and groups.abs().max() < 4


@pytest.mark.parametrize("cutoff, horizon", CUTOFFS)
def test_churn_probabilities_are_calibrated(shop, cutoff, horizon):
    truth = shop.truth.churn_probability(cutoff, horizon)
    silent = ~truth["user_id"].isin(_window(shop.events, cutoff, horizon)["user_id"])
    groups, total = _z_scores(truth["probability"], silent)
    assert abs(total) < 3.3 and groups.abs().max() < 4


def test_a_wrong_truth_would_be_noticed(shop):
    truth = shop.truth.purchase_probability("2024-03-01", "7D")
    later = _window(shop.events, "2024-03-01", "7D")
    bought = truth["user_id"].isin(later.loc[later["behavior"] == "buy", "user_id"])
    assert abs(_z_scores(truth["probability"] * 1.15, bought)[1]) > 4


def test_probabilities_are_calibrated_within_each_type(shop):
    # the truth is sharp: knowing the type adds nothing
    truth = shop.truth.purchase_probability("2024-03-01", "14D").merge(shop.truth.users, on="user_id")
    later = _window(shop.events, "2024-03-01", "14D")
    truth["bought"] = truth["user_id"].isin(later.loc[later["behavior"] == "buy", "user_id"])
    for _, group in truth.groupby("type"):
        assert abs(_z_scores(group["probability"], group["bought"])[1]) < 3.5


def test_the_truth_is_for_all_and_only_those_seen_before_the_cutoff(shop):
    truth = shop.truth.purchase_probability("2024-02-01")
    seen = shop.events.loc[shop.events["timestamp"] < "2024-02-01", "user_id"].unique()
    assert set(truth["user_id"]) == set(seen) and truth["probability"].between(0, 1).all()


@pytest.mark.parametrize("method", ["purchase_probability", "churn_probability"])
def test_the_truth_sees_nothing_after_the_cutoff(method):
    shop = simulate_shop(n_users=500, seed=4)
    when, ends = shop.truth.when["timestamp"], shop.truth.hidden["ends"]
    middle = (when > "2024-03-05") & (ends - when > pd.Timedelta("1min"))
    cutoff = when[middle].iloc[0] + pd.Timedelta("30s")  # in the midst of a visit
    right = getattr(shop.truth, method)(cutoff, "7d")

    n = shop.truth.when["timestamp"].searchsorted(cutoff)
    rng = np.random.default_rng(0)
    hidden, when, users = shop.truth.hidden.copy(), shop.truth.when.copy(), shop.truth.users.copy()
    hidden.loc[n:, "state"] = rng.integers(0, 3, len(hidden) - n, dtype="int8")
    hidden.loc[n:, "ends"] = cutoff + pd.Timedelta("40D")
    when.loc[n:, "user_id"] = rng.integers(1, 501, len(when) - n)
    ends = hidden["ends"].to_numpy().copy()
    still_open = ends[:n] > np.datetime64(cutoff)
    ends[:n][still_open] = np.datetime64(cutoff + pd.Timedelta("3s"))  # when it ends is the future, too
    assert still_open.any()
    hidden["ends"] = ends
    users["churned"] = pd.NaT
    later = users["signup"] >= cutoff
    users.loc[later, ["visit_rate", "churn_rate"]] = 99.0
    corrupted = replace(shop.truth, hidden=hidden, when=when, users=users)
    pd.testing.assert_frame_equal(getattr(corrupted, method)(cutoff, "7d"), right)


def test_longer_horizons_bring_more_purchases_and_less_churn():
    truth = simulate_shop(n_users=300).truth
    buys = [truth.purchase_probability("2024-03-01", h)["probability"] for h in ("1d", "7d", "60D", "364d")]
    gone = [truth.churn_probability("2024-03-01", h)["probability"] for h in ("1d", "7d", "60 d", "364d")]
    for short, long in zip(buys, buys[1:], strict=False):
        assert (long >= short - 1e-9).all()
    for short, long in zip(gone, gone[1:], strict=False):
        assert (long <= short + 1e-9).all()


@pytest.mark.parametrize(
    "cutoff, horizon, message",
    [
        ("2023-12-31", "7d", "outside the log"),
        ("2025-01-01", "7d", "outside the log"),
        ("2024-03-01", "0d", "above 0"),
        ("2024-03-01", "900d", "below a year"),
        ("2024-03-01", "soon", "not understood"),
        ("soon", "7d", "not understood"),
        ("2024-01-01 00:00:01", "7d", "no shopper was seen"),
    ],
)
def test_cutoffs_that_the_truth_refuses(cutoff, horizon, message):
    truth = simulate_shop(n_users=3).truth
    with pytest.raises(LogError, match=message):
        truth.purchase_probability(cutoff, horizon)


def test_the_ceiling_is_what_the_truth_reaches():
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    rng = np.random.default_rng(3)
    p = rng.beta(0.4, 3, 2000).round(3)  # with ties
    drawn = rng.random((150, len(p))) < p
    found = best_scores(p)
    assert np.isclose(np.mean([roc_auc_score(y, p) for y in drawn]), found["roc_auc"], atol=0.004)
    assert np.isclose(np.mean([brier_score_loss(y, p) for y in drawn]), found["brier"], atol=0.002)
    inner = p.clip(1e-9, 1 - 1e-9)
    assert np.isclose(np.mean([log_loss(y, inner) for y in drawn]), found["log_loss"], atol=0.006)
    noisy = p + rng.normal(0, 0.05, len(p))
    assert np.mean([roc_auc_score(y, noisy) for y in drawn]) < found["roc_auc"] - 0.01


def test_the_ceiling_of_odd_chances():
    assert best_scores([0.3, 0.3, 0.3])["roc_auc"] == pytest.approx(0.5)
    assert best_scores([0.0, 1.0])["roc_auc"] == 1.0 and best_scores([0.0, 1.0])["brier"] == 0
    assert np.isnan(best_scores([0.0, 0.0])["roc_auc"])
    for wrong in ([], [0.5, np.nan], [-0.1], [2]):
        with pytest.raises(LogError, match="between 0 and 1"):
            best_scores(wrong)


# Logs that do not fit into memory


def test_write_shop_writes_the_rows_of_simulate_shop(tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    monkeypatch.setattr(datasets, "_BLOCK", 200)
    size = {"n_users": 700, "n_items": 100, "n_categories": 5, "days": 60, "seed": 9}
    n = write_shop(tmp_path / "shop.parquet", **size, progress=False)
    written, whole = pd.read_parquet(tmp_path / "shop.parquet"), simulate_shop(**size).events
    assert n == len(written) == len(whole)
    pd.testing.assert_frame_equal(
        written.sort_values("timestamp", kind="stable", ignore_index=True), whole, check_dtype=True
    )
    assert pq.ParquetFile(tmp_path / "shop.parquet").num_row_groups == 4
    assert [p.name for p in tmp_path.iterdir()] == ["shop.parquet"]


def test_write_shop_holds_one_block_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_BLOCK", 100)
    alive, most, frame = set(), [], datasets._log_frame

    class Watched(pd.DataFrame):
        def __del__(self):
            alive.discard(id(self))

    def watched(*args):
        log, hidden = frame(*args)
        log = Watched(log)
        alive.add(id(log))
        most.append(len(alive))
        return log, hidden

    monkeypatch.setattr(datasets, "_log_frame", watched)
    write_shop(tmp_path / "shop.parquet", n_users=1000, n_items=50, n_categories=5, days=30, progress=False)
    assert len(most) == 10 and max(most) <= 2


def test_write_shop_leaves_nothing_half_done(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_BLOCK", 100)
    frame, calls = datasets._log_frame, []

    def breaks(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return frame(*args)

    monkeypatch.setattr(datasets, "_log_frame", breaks)
    with pytest.raises(KeyboardInterrupt):
        write_shop(tmp_path / "shop.parquet", n_users=500, n_items=50, n_categories=5, progress=False)
    assert not list(tmp_path.iterdir())


# Fetching

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """A server of files whose manners the test decides."""

    def do_GET(self):
        how = self.server.how
        self.server.asked.append((self.path, self.headers.get("Range"), self.headers.get("If-Range")))
        status = how["status"].pop(0) if how["status"] else 200
        if status != 200:
            return self.answer(status, b"", {})
        content = how["files"].get(self.path)
        if content is None:
            return self.answer(404, b"not here", {})
        start = 0
        headers = {"ETag": how["etag"]} if how["etag"] else {}
        headers["Content-Type"] = how["type"]
        span, mark = self.headers.get("Range"), self.headers.get("If-Range")
        if span and how["ranges"] and mark == how["etag"]:
            start = int(span[6:-1])
            headers["Content-Range"] = f"bytes {start + how['shift']}-{len(content) - 1}/{len(content)}"
        self.answer(206 if start else 200, content[start:], headers, how["cut"])

    def answer(self, status, body, headers, cut=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def server():
    """A local server: `how` decides its manners, `asked` is what was asked of it, `url` its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.how = {"status": [], "files": {"/shop.zip": CONTENT}, "etag": '"v1"', "cut": None, "shift": 0}
    server.how |= {"ranges": True, "type": "application/zip"}
    server.asked = []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


FAST = {"wait": 0.001, "progress": False, "timeout": 5}


def test_fetch_once(server, tmp_path):
    path = fetch_file(f"{server.url}/shop.zip", SHA256, folder=tmp_path, **FAST)
    assert path.read_bytes() == CONTENT and path == tmp_path / "shop.zip"
    assert fetch_file(f"{server.url}/shop.zip", SHA256, folder=tmp_path, **FAST) == path
    assert len(server.asked) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shop.zip", "shop.zip.sha256"]


def test_fetch_goes_on_after_each_cut(server, tmp_path):
    server.how["cut"] = 100_001
    path = fetch_file(f"{server.url}/shop.zip", SHA256, folder=tmp_path, **FAST)
    assert path.read_bytes() == CONTENT
    assert [span for _, span, _ in server.asked] == [None, "bytes=100001-", "bytes=200002-"]
    assert [mark for *_, mark in server.asked] == [None, '"v1"', '"v1"']


def test_fetch_goes_on_in_another_call(server, tmp_path):
    server.how |= {"cut": 120_000, "status": [200, 503, 503, 503]}
    with pytest.raises(LogError, match="stopped after 120,000 bytes.*call again"):
        fetch_file(f"{server.url}/shop.zip", SHA256, folder=tmp_path, attempts=3, **FAST)
    assert not (tmp_path / "shop.zip").exists() and (tmp_path / "shop.zip.part").stat().st_size == 120_000
    server.how["cut"] = None
    assert fetch_file(f"{server.url}/shop.zip", SHA256, folder=tmp_path, **FAST).read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=120000-"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shop.zip", "shop.zip.sha256"]


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.how |= {"cut": 250_000, "ranges": False, "status": [200, 503]}
    with pytest.raises(LogError, match="stopped"):
        fetch_file(f"{server.url}/shop.zip", SHA256, folder=tmp_path, attempts=1, **FAST)
    server.how["cut"] = None
    assert fetch_file(f"{server.url}/shop.zip", SHA256, folder=tmp_path, **FAST).read_bytes() == CONTENT


def test_two_versions_of_a_file_are_never_glued_together(server, tmp_path):
    server.how |= {"cut": 100_000, "status": [200, 503]}
    with pytest.raises(LogError, match="stopped"):
        fetch_file(f"{server.url}/shop.zip", folder=tmp_path, attempts=1, **FAST)
    new = CONTENT[::-1]
    server.how |= {"cut": None, "etag": '"v2"', "files": {"/shop.zip": new}}
    assert fetch_file(f"{server.url}/shop.zip", folder=tmp_path, **FAST).read_bytes() == new


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_an_exact_mark_it_starts_again(server, tmp_path, etag):
    server.how |= {"cut": 100_000, "etag": etag, "status": [200, 503]}
    with pytest.raises(LogError, match="stopped"):
        fetch_file(f"{server.url}/shop.zip", SHA256, folder=tmp_path, attempts=1, **FAST)
    server.how["cut"] = None
    assert fetch_file(f"{server.url}/shop.zip", SHA256, folder=tmp_path, **FAST).read_bytes() == CONTENT
    assert all(span is None for _, span, _ in server.asked)


def test_a_piece_that_was_not_asked_for_is_refused(server, tmp_path):
    server.how |= {"cut": 100_000, "shift": 7, "status": []}
    with pytest.raises(LogError, match="stopped"):
        fetch_file(f"{server.url}/shop.zip", SHA256, folder=tmp_path, attempts=2, **FAST)
    assert not (tmp_path / "shop.zip").exists()


def test_416_means_from_the_start(server, tmp_path):
    (tmp_path / "shop.zip.part").write_bytes(CONTENT + b"too much")
    (tmp_path / "shop.zip.part.json").write_text('{"mark": "\\"v1\\""}')
    server.how["status"] = [416]
    assert fetch_file(f"{server.url}/shop.zip", SHA256, folder=tmp_path, **FAST).read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(LogError, match="nothing was kept"):
        fetch_file(f"{server.url}/shop.zip", "0" * 64, folder=tmp_path, **FAST)
    assert not list(tmp_path.iterdir())


def test_the_first_download_is_remembered(server, tmp_path):
    path = fetch_file(f"{server.url}/shop.zip", folder=tmp_path, **FAST)
    assert path.with_name("shop.zip.sha256").read_text() == f"{SHA256}  shop.zip\n"
    path.unlink()
    server.how |= {"files": {"/shop.zip": b"another file"}, "etag": '"v2"'}
    with pytest.raises(LogError, match="delete shop.zip.sha256"):
        fetch_file(f"{server.url}/shop.zip", folder=tmp_path, **FAST)
    assert not path.exists()


def test_a_file_that_changed_on_disk_is_noticed(server, tmp_path):
    path = fetch_file(f"{server.url}/shop.zip", folder=tmp_path, **FAST)
    path.write_bytes(b"torn")
    with pytest.raises(LogError, match="has changed"):
        fetch_file(f"{server.url}/shop.zip", folder=tmp_path, **FAST)


def test_a_published_md5_is_compared(server, tmp_path):
    server.how["files"]["/shop.zip.md5"] = f"MD5 (shop.zip) = {hashlib.md5(CONTENT).hexdigest()}\n".encode()
    url = f"{server.url}/shop.zip"
    assert fetch_file(url, md5_url=url + ".md5", folder=tmp_path / "a", **FAST).read_bytes() == CONTENT
    server.how["files"]["/shop.zip.md5"] = b"0" * 32
    with pytest.raises(LogError, match="nothing was kept"):
        fetch_file(url, md5_url=url + ".md5", folder=tmp_path / "b", **FAST)
    with pytest.raises(LogError, match="no MD5"):
        fetch_file(url, md5_url=server.url + "/nothing", folder=tmp_path / "b", **FAST)


@pytest.mark.parametrize("status, message", [(404, "HTTP 404"), (403, "log-in"), (401, "log-in")])
def test_answers_that_are_no_file(server, tmp_path, status, message):
    server.how["status"] = [status]
    with pytest.raises(LogError, match=message):
        fetch_file(f"{server.url}/shop.zip", folder=tmp_path, **FAST)
    assert len(server.asked) == 1 and not list(tmp_path.iterdir())


def test_a_web_page_is_no_file(server, tmp_path):
    server.how["type"] = "text/html; charset=utf-8"
    with pytest.raises(LogError, match="web page"):
        fetch_file(f"{server.url}/shop.zip", folder=tmp_path, **FAST)
    assert not list(tmp_path.iterdir())


def test_busy_servers_are_asked_again(server, tmp_path):
    server.how["status"] = [503, 429]
    assert fetch_file(f"{server.url}/shop.zip", SHA256, folder=tmp_path, **FAST).read_bytes() == CONTENT


def test_nobody_listens(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(LogError, match="check the connection"):
        fetch_file(f"http://127.0.0.1:{port}/shop.zip", folder=tmp_path, attempts=2, **FAST)
    for wrong in ("file:///etc/passwd", "shop.zip", "https://example.org/"):
        with pytest.raises(LogError, match="no address of a file"):
            fetch_file(wrong, folder=tmp_path)


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQBOOK_CACHE", str(tmp_path))
    assert datasets.cache_folder() == tmp_path
    monkeypatch.delenv("SEQBOOK_CACHE")
    assert datasets.cache_folder().name == "seqbook"


# Unpacking


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, content in members.items():
            z.writestr(name, content)
    return path


def make_tar(path, *members, mode="w:gz"):
    with tarfile.open(path, mode) as t:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            t.addfile(info, io.BytesIO(content))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def everything(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_unpack_writes_what_is_in_an_archive(tmp_path, kind):
    members = {"a.csv": b"1,2", "deep/er/b.csv": b"3,4", "./c.txt": b"5"}
    archive = tmp_path / f"data.{kind}"
    if kind == "zip":
        make_zip(archive, {**members, "empty/": b""})
    else:
        make_tar(archive, *members.items(), mode={"tar": "w", "tar.gz": "w:gz", "tar.xz": "w:xz"}[kind])
    out = tmp_path / "out"
    files = unpack(archive, out)
    assert {str(p.relative_to(out)): p.read_bytes() for p in files} == {
        "a.csv": b"1,2",
        "deep/er/b.csv": b"3,4",
        "c.txt": b"5",
    }
    assert [p.name for p in unpack(archive, tmp_path / "some", patterns=["*.csv"])] == ["a.csv", "b.csv"]


BAD_NAMES = [
    "../evil.txt",
    "a/../../evil.txt",
    "/evil.txt",
    "..\\evil.txt",
    "a\\..\\..\\evil.txt",
    "C:\\evil.txt",
    "\\\\host\\evil.txt",
    "..",
]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_no_member_leaves_the_folder(tmp_path, kind, name):
    home = tmp_path / "home"
    home.mkdir()
    if kind == "zip":
        archive = make_zip(tmp_path / "bad.zip", {"good.csv": b"1", name: b"evil"})
    else:
        archive = make_tar(tmp_path / "bad.tar.gz", ("good.csv", b"1"), (name, b"evil"))
    with pytest.raises(LogError, match="outside the folder"):
        unpack(archive, home / "out")
    with pytest.raises(LogError, match="outside the folder"):
        unpack(archive, home / "out", patterns=["good.csv"])
    assert everything(home) == ["out"] and not any("evil" in n for n in everything(tmp_path))


@pytest.mark.parametrize(
    "member",
    [
        special("link", tarfile.SYMTYPE, "/etc"),
        special("link", tarfile.SYMTYPE, "../.."),
        special("link", tarfile.LNKTYPE, "/etc/passwd"),
        special("pipe", tarfile.FIFOTYPE),
        special("disk", tarfile.BLKTYPE),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, member):
    archive = make_tar(
        tmp_path / "bad.tar", ("good.csv", b"1"), (member, b""), ("link/x.csv", b"2"), mode="w"
    )
    with pytest.raises(LogError, match="link or a device"):
        unpack(archive, tmp_path / "out")
    assert everything(tmp_path / "out") == []


def test_links_in_a_zip_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as z:
        z.writestr(link, "/etc")
        z.writestr("link/passwd", "evil")
    with pytest.raises(LogError, match="link or a device"):
        unpack(tmp_path / "bad.zip", tmp_path / "out")
    assert everything(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_bombs_are_stopped(tmp_path, kind):
    zeros = bytes(30_000_000)
    if kind == "zip":
        archive = make_zip(tmp_path / "bomb.zip", {"a": zeros, "b": zeros})
    else:
        archive = make_tar(tmp_path / "bomb.tar.gz", ("a", zeros), ("b", zeros))
    assert archive.stat().st_size < 200_000
    with pytest.raises(LogError, match="bomb"):
        unpack(archive, tmp_path / "out", max_bytes=40_000_000)
    assert everything(tmp_path / "out") == []
    assert len(unpack(archive, tmp_path / "out", max_bytes=60_000_000)) == 2


def test_a_size_that_lies_is_not_believed(tmp_path):
    archive = make_zip(tmp_path / "lie.zip", {"a.csv": bytes(1_000_000)})
    raw = bytearray(archive.read_bytes())
    size = (1_000_000).to_bytes(4, "little")
    while (i := raw.find(size)) >= 0:
        raw[i : i + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(raw)
    with pytest.raises(LogError):
        unpack(archive, tmp_path / "out", max_bytes=1000)
    assert everything(tmp_path / "out") == []


def test_too_many_files(tmp_path):
    archive = make_zip(tmp_path / "many.zip", {f"{i}.csv": b"" for i in range(30)})
    with pytest.raises(LogError, match="more than 20 files"):
        unpack(archive, tmp_path / "out", max_files=20)


def test_archives_that_cannot_be_read(tmp_path):
    members = {"a.csv": os.urandom(100_000)}
    good = make_zip(tmp_path / "good.zip", members).read_bytes()
    tar = make_tar(tmp_path / "good.tar.gz", *members.items()).read_bytes()
    broken = bytearray(good)
    broken[2000] ^= 0xFF
    cases = {"broken.zip": bytes(broken), "short.tar.gz": tar[: len(tar) // 2]}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LogError, match="download it again"):
            unpack(tmp_path / name, tmp_path / "out")
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c rest")
    with pytest.raises(LogError, match="7z x"):
        unpack(tmp_path / "a.7z", tmp_path / "out")
    (tmp_path / "plain.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LogError, match="no zip and no tar"):
        unpack(tmp_path / "plain.csv", tmp_path / "out")
    assert everything(tmp_path / "out") == []


def test_a_locked_zip_is_refused(tmp_path):
    archive = make_zip(tmp_path / "locked.zip", {"a.csv": b"1"})
    raw = bytearray(archive.read_bytes())
    raw[raw.find(b"PK\x01\x02") + 8] |= 1  # the mark of a password in the directory of the zip
    archive.write_bytes(raw)
    with pytest.raises(LogError, match="password"):
        unpack(archive, tmp_path / "out")


# Loaders: the forms in which the sets are published

U_DATA = "196\t242\t3\t881250949\n186\t302\t3\t891717742\n"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def test_a_file_a_folder_and_an_archive_read_alike(tmp_path):
    one = load_movielens(write(tmp_path / "ml" / "ml-100k" / "u.data", U_DATA))
    write(tmp_path / "ml" / "ml-100k" / "u1.base", "something else")
    members = {"ml-100k/u.data": U_DATA, "ml-100k/README": "words", "__MACOSX/._u": "x"}
    archives = [
        make_zip(tmp_path / "ml.zip", members),
        make_tar(tmp_path / "ml.tar.gz", *[(k, v.encode()) for k, v in members.items()]),
    ]
    packed = write(tmp_path / "any name.gz", U_DATA)
    for path in [tmp_path / "ml", *archives, packed, str(packed)]:
        pd.testing.assert_frame_equal(load_movielens(path), one)
    assert len(one) == 2 and one["rating"].tolist() == [3.0, 3.0]


def test_what_a_loader_says_of_a_wrong_path(tmp_path):
    with pytest.raises(LogError, match="no such file or folder"):
        load_taobao(tmp_path / "nowhere.csv")
    write(tmp_path / "folder" / "readme.txt", "hello")
    with pytest.raises(LogError, match="no file in it is named like"):
        load_taobao(tmp_path / "folder")
    with pytest.raises(LogError, match="needs a path.*tianchi"):
        load_taobao()
    with pytest.raises(LogError, match="needs a path"):
        load_taobao(download=True)
    with pytest.raises(LogError, match="or pass download=True"):
        load_movielens()
    with pytest.raises(LogError, match="not both"):
        load_movielens("x", download=True)
    with pytest.raises(LogError, match="no option"):
        load_taobao(write(tmp_path / "t.csv", "1,2,3,pv,1511544070\n"), kind="polars")


@pytest.mark.parametrize("name", sorted(LOADERS))
def test_every_loader_is_documented(name):
    doc, source = LOADERS[name].__doc__, SOURCES[name]
    assert "Columns:" in doc and "http" in doc
    assert any(
        word in doc.lower() for word in ("licence", "terms", "free to use", "for research", "non-commercial")
    )
    assert source.page.startswith("https://") and source.licence


def test_download_goes_through_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SEQBOOK_CACHE", str(tmp_path / "cache"))
    archive = make_zip(tmp_path / "ml.zip", {"ml-100k/u.data": U_DATA}).read_bytes()
    server.how["files"] = {"/ml-100k.zip": archive, "/ml-10m.zip": archive}
    server.how["files"]["/ml-10m.zip.md5"] = hashlib.md5(archive).hexdigest().encode()
    source = replace(SOURCES["movielens"], url=server.url + "/ml-{size}.zip")
    monkeypatch.setitem(SOURCES, "movielens", source)
    assert len(load_movielens(download=True, size="10m")) == 2
    assert [path for path, *_ in server.asked] == ["/ml-10m.zip.md5", "/ml-10m.zip"]
    assert len(load_movielens(download=True, size="10m")) == 2 and len(server.asked) == 2
    with pytest.raises(LogError, match="nothing was kept"):  # ours is not the published archive
        load_movielens(download=True, size="100k")


def test_kaggle_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(LogError, match=r"pip install seqbook\[kaggle\]"):
        load_retailrocket(download=True)


def test_kaggle_hands_out_a_folder(monkeypatch, tmp_path):
    write(
        tmp_path / "events.csv", "timestamp,visitorid,event,itemid,transactionid\n1433221332117,1,view,5,\n"
    )
    asked = []
    fake = types.SimpleNamespace(dataset_download=lambda name: asked.append(name) or str(tmp_path))
    monkeypatch.setitem(sys.modules, "kagglehub", fake)
    assert len(load_retailrocket(download=True)) == 1
    assert asked == ["retailrocket/ecommerce-dataset"]

    def refuses(name):
        raise OSError("403 Client Error")

    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(dataset_download=refuses))
    with pytest.raises(LogError, match="accept its terms"):
        load_otto(download=True)


def test_retailrocket_categories_never_come_from_the_future(tmp_path):
    events = "timestamp,visitorid,event,itemid,transactionid\n" + "".join(
        f"{1433000000000 + day * 86400000},{day},view,7,\n" for day in (9, 1, 5, 3)
    )
    properties = "timestamp,itemid,property,value\n" + "".join(
        f"{1433000000000 + day * 86400000},7,categoryid,{100 + day}\n" for day in (8, 2, 4)
    )
    write(tmp_path / "events.csv", events)
    write(tmp_path / "item_properties_part1.csv", properties + "1433000000000,7,available,1\n")
    write(
        tmp_path / "item_properties_part2.csv",
        properties.splitlines()[0] + "\n1433000000000,8,categoryid,9\n",
    )
    log = load_retailrocket(tmp_path)
    assert log["user_id"].tolist() == [9, 1, 5, 3]  # as in the file
    assert log["category"].fillna("none").tolist() == ["108", "none", "104", "102"]


def test_rees46_months_follow_each_other(tmp_path):
    head = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
    row = "{} 10:00:00 UTC,remove_from_cart,1,2053013555631882655,,b,1.5,7,s\n"
    for month, day in {"2019-Nov": "2019-11-01", "2019-Oct": "2019-10-01", "2020-Jan": "2020-01-01"}.items():
        write(tmp_path / f"{month}.csv.gz", head + row.format(day))
    log = load_rees46(tmp_path, keep=["brand"])
    assert log["timestamp"].dt.month.tolist() == [10, 11, 1] and set(log["behavior"]) == {"remove"}
    assert log["brand"].tolist() == ["b"] * 3 and len(load_rees46(tmp_path, limit=2)) == 2


def test_yoochoose_with_the_header_that_papers_add(tmp_path):
    rows = "1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,S\n"
    plain = load_yoochoose(write(tmp_path / "yoochoose-clicks.dat", rows))
    titled = load_yoochoose(write(tmp_path / "b.dat", "session_id,timestamp,item_id,category\n" + rows))
    pd.testing.assert_frame_equal(plain, titled)
    assert plain["category"].fillna("none").tolist() == ["none", "S"]


def test_yoochoose_prepared_with_a_split(tmp_path):
    text = "SessionId,ItemId,Time,split\n3,5,1396437466.94,train\n4,6,1396438212.318,test\n"
    log = load_yoochoose(write(tmp_path / "rsc15.csv", text), keep=["split"])
    assert log["split"].tolist() == ["train", "test"] and log["session_id"].tolist() == [3, 4]


def test_diginetica_with_prices_and_categories(tmp_path):
    views = "sessionId;userId;itemId;timeframe;eventdate\n1;NA;10;500;2016-05-09\n1;NA;11;1500;2016-05-09\n"
    write(tmp_path / "train-item-views.csv", views)
    write(
        tmp_path / "train-purchases.csv",
        "sessionId;userId;timeframe;eventdate;ordernumber;itemId\n1;8;1000;2016-05-09;1;10\n",
    )
    write(tmp_path / "products.csv", "itemId;pricelog2;product.name.tokens\n10;3;1,2\n")
    log = load_diginetica(tmp_path)
    assert log["behavior"].tolist() == ["view", "buy", "view"]  # the order of time, over both files
    assert log["price"].fillna(0).tolist() == [8.0, 8.0, 0.0]
    assert load_diginetica(tmp_path, by="user")["user_id"].isna().tolist() == [True, False, True]
    with pytest.raises(LogError, match="choose 'session' or 'user'"):
        load_diginetica(tmp_path, by="shopper")
    with pytest.raises(LogError, match="are missing"):
        load_diginetica(write(tmp_path / "other.csv", "a;b\n1;2\n"))


def test_otto_that_is_not_otto(tmp_path):
    for text in ('{"session": 1, "events": 5}\n', "not json\n"):
        with pytest.raises(LogError, match="each line must be an object"):
            load_otto(write(tmp_path / "x.jsonl", text))
    row = '{"session":1,"events":[{"aid":1,"ts":1659304800025,"type":"clicks"}]}\n'
    write(tmp_path / "set" / "otto-recsys-train.jsonl", row * 3)
    write(tmp_path / "set" / "otto-recsys-test.jsonl", row)
    assert len(load_otto(tmp_path / "set")) == 3 and len(load_otto(tmp_path / "set", part="test")) == 1
    assert len(load_otto(tmp_path / "set", limit=2)) == 2


INVOICES = pd.DataFrame(
    {
        "InvoiceNo": ["536365", "C536379", "536414", "A563185"],
        "StockCode": ["85123A", "D", "22139", "B"],
        "Description": ["WHITE HOLDER", "Caf\xe9", None, "Adjust bad debt"],
        "Quantity": [6, -1, -56, 1],
        "InvoiceDate": pd.to_datetime(
            ["2010-12-01 08:26", "2010-12-01 09:41", "2010-12-01 11:52", "2011-08-12 14:50"]
        ),
        "UnitPrice": [2.55, 27.5, 0.0, -11062.06],
        "CustomerID": [17850.0, 14527.0, np.nan, np.nan],
        "Country": "United Kingdom",
    }
)


def test_online_retail_in_all_its_forms(tmp_path):
    INVOICES.to_excel(tmp_path / "Online Retail.xlsx", index=False)
    INVOICES.to_csv(tmp_path / "iso.csv", index=False)
    INVOICES.assign(InvoiceDate=INVOICES["InvoiceDate"].dt.strftime("%-m/%-d/%Y %-H:%M")).to_csv(
        tmp_path / "kaggle.csv", index=False, encoding="latin-1"
    )
    second = {"InvoiceNo": "Invoice", "UnitPrice": "Price", "CustomerID": "Customer ID"}
    with pd.ExcelWriter(tmp_path / "online_retail_II.xlsx") as book:
        INVOICES.head(2).rename(columns=second).to_excel(book, sheet_name="Year 2009-2010", index=False)
        INVOICES.tail(2).rename(columns=second).to_excel(book, sheet_name="Year 2010-2011", index=False)
    with zipfile.ZipFile(tmp_path / "online+retail.zip", "w") as z:
        z.write(tmp_path / "Online Retail.xlsx", "Online Retail.xlsx")
    logs = [
        load_online_retail(tmp_path / name)
        for name in (
            "iso.csv",
            "kaggle.csv",
            "Online Retail.xlsx",
            "online_retail_II.xlsx",
            "online+retail.zip",
        )
    ]
    for log in logs[1:]:
        pd.testing.assert_frame_equal(log, logs[0], check_dtype=False)
    assert logs[0]["behavior"].tolist() == ["buy", "return", "buy", "buy"]
    assert logs[0]["quantity"].tolist() == [6, 1, -56, 1]
    assert logs[0]["user_id"].fillna("none").tolist() == ["17850", "14527", "none", "none"]
    with pytest.raises(LogError, match="not Online Retail"):
        load_online_retail(write(tmp_path / "other.csv", "a,b\n1,2\n"))


def test_complete_journey_of_both_editions(tmp_path):
    original = (
        "household_key,BASKET_ID,DAY,PRODUCT_ID,QUANTITY,SALES_VALUE,STORE_ID,RETAIL_DISC,TRANS_TIME,WEEK_NO\n"
        "2375,26984851472,1,1004906,2,1.38,364,-0.6,1631,1\n1364,26984896261,711,842930,0,2.19,31742,0,5,1\n"
    )
    log = load_complete_journey(write(tmp_path / "transaction_data.csv", original), first_day="2016-01-01")
    assert log["timestamp"].astype(str).tolist() == ["2016-01-01 16:31:00", "2017-12-11 00:05:00"]
    assert log["price"].fillna(-1).round(2).tolist() == [0.69, -1]
    assert list(log)[:3] == ["user_id", "timestamp", "behavior"]


def test_movielens_csv_and_dat(tmp_path):
    dat = load_movielens(write(tmp_path / "ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n"))
    csv = "userId,movieId,rating,timestamp\n1,1193,5.0,978300760\n1,661,3.0,978302109\n"
    pd.testing.assert_frame_equal(load_movielens(write(tmp_path / "ratings.csv", csv)), dat)


def test_next_item_files(tmp_path):
    log = load_next_item(write(tmp_path / "x.txt", "7 1 2 3\n9 4\n"))
    assert log["user_id"].tolist() == [7, 7, 7, 9] and log["item_id"].tolist() == [1, 2, 3, 4]
    assert log.groupby("user_id")["timestamp"].is_monotonic_increasing.all()
    with pytest.raises(LogError, match="row 2: a user and at least one item"):
        load_next_item(write(tmp_path / "y.txt", "7 1 2 3\n9\n"))
    with pytest.raises(LogError, match="more than numbers"):
        load_next_item(write(tmp_path / "z.txt", "7 lamp\n"))
    with pytest.raises(LogError, match="empty"):
        load_next_item(write(tmp_path / "e.txt", "\n"))
    torn = tmp_path / "t.txt.gz"
    torn.write_bytes(gzip.compress(b"1 2\n" * 100_000)[:-20])
    with pytest.raises(LogError, match="download or copy it again"):
        load_next_item(torn)


def test_sessions_from_text_and_from_pickles(tmp_path):
    sessions = [[3, 4, 5], [1, 2], [1, 2], [9, 9, 9, 9]]
    prefixes = [(s[:k], s[k]) for s in sessions for k in range(len(s) - 1, 0, -1)]
    text = write(tmp_path / "seq.txt", "".join(" ".join(map(str, s)) + "\n" for s in sessions))
    pairs = write(tmp_path / "pairs.txt", "".join(" ".join(map(str, s)) + f"\t{t}\n" for s, t in prefixes))
    (tmp_path / "all_train_seq.txt").write_bytes(pickle.dumps(sessions))
    (tmp_path / "train.txt").write_bytes(pickle.dumps(tuple(map(list, zip(*prefixes, strict=True)))))
    for path in (text, pairs, tmp_path / "all_train_seq.txt", tmp_path / "train.txt"):
        log = load_sessions(path)
        assert log.groupby("session_id")["item_id"].apply(list).tolist() == sessions
        assert log["timestamp"].is_monotonic_increasing


class Evil:
    def __reduce__(self):
        return os.system, ("touch surprise",)


def test_a_pickle_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.txt"
    path.write_bytes(pickle.dumps([[1, 2], Evil()]))
    with pytest.raises(LogError, match="wants to run"):
        load_sessions(path)
    for content in (b"\x80", b"\x80\x04K\x01.", pickle.dumps([["a", "b"]]), pickle.dumps({"a": 1})):
        path.write_bytes(content)
        with pytest.raises(LogError, match="no pickle of sessions"):
            load_sessions(path)
    assert not (tmp_path / "surprise").exists()


def test_tables_that_are_not_what_they_should_be(tmp_path):
    with pytest.raises(LogError, match="18 columns"):
        load_shoppers_intention(write(tmp_path / "a.csv", "a,b\n1,2\n"))
    with pytest.raises(LogError, match="40 columns"):
        load_criteo(write(tmp_path / "a.txt", "0\t1\t2\n"))
    with pytest.raises(LogError, match="4 columns"):
        load_cdnow(write(tmp_path / "b.txt", "1 2 3\n"))


TABLES = {"shoppers_intention": load_shoppers_intention, "criteo": load_criteo}


@pytest.mark.parametrize("name", sorted(LOADERS | TABLES))
@pytest.mark.parametrize("content", [b"", b"\n\n", b"\x00\xff\xfe" * 50, b"{}\n", b"a,b\n1,2\n"])
def test_no_loader_chokes_on_rubbish(tmp_path, name, content):
    path = tmp_path / "rubbish.txt"
    path.write_bytes(content)
    with pytest.raises(LogError):
        (LOADERS | TABLES)[name](path)


def test_files_beside_the_log_may_be_rubbish_too(tmp_path):
    write(
        tmp_path / "events.csv", "timestamp,visitorid,event,itemid,transactionid\n1433221332117,1,view,5,\n"
    )
    write(tmp_path / "item_properties_part1.csv", "timestamp,itemid,property,value\nx,y,categoryid,z\n")
    with pytest.raises(LogError, match="item properties"):
        load_retailrocket(tmp_path)
    views = "sessionId;userId;itemId;timeframe;eventdate\n1;NA;10;500;2016-05-09\n"
    write(tmp_path / "train-item-views.csv", views)
    write(tmp_path / "products.csv", "a,b\n")
    with pytest.raises(LogError, match="products.csv: column 'itemId' is missing"):
        load_diginetica(tmp_path)
    (tmp_path / "Online Retail.xlsx").write_bytes(b"no workbook")
    with pytest.raises(LogError, match="cannot be read"):
        load_online_retail(tmp_path / "Online Retail.xlsx")


# Loaders on the real files: the counts of their publishers


def test_real_taobao(real_data):
    log = load_taobao(real_data("taobao_userbehavior_sample.csv.gz"))
    assert len(log) == 84_475 and log["user_id"].nunique() == 815
    assert log["item_id"].nunique() == 55_368 and log["category"].nunique() == 2914
    assert log["behavior"].value_counts().to_dict() == {
        "view": 75_872,
        "cart": 4497,
        "favorite": 2356,
        "buy": 1750,
    }
    beijing = log["timestamp"] + pd.Timedelta("8h")
    assert beijing.between("2017-11-25", "2017-12-04", inclusive="left").sum() == 84_440


def test_real_rees46(real_data):
    log = load_rees46(real_data("rees46_2019oct_head.csv.gz"), keep=["brand", "category_code"])
    assert len(log) == 17_435 and log["user_id"].nunique() == 4505 and log["session_id"].nunique() == 5066
    assert log["item_id"].nunique() == 6493
    assert log["behavior"].value_counts().to_dict() == {"view": 17_056, "buy": 214, "cart": 165}
    assert log.loc[log["behavior"] == "buy", "session_id"].nunique() == 200
    assert log["timestamp"].min() == pd.Timestamp("2019-10-01 00:00:00")
    assert log["timestamp"].max() == pd.Timestamp("2019-10-01 02:50:00")
    assert log["category"].notna().all() and log["category"].astype(int).max() > 2**60


def test_real_yoochoose(real_data):
    log = load_yoochoose(real_data("rsc15_clicks_100k.csv.gz"), keep=["split"])
    by_split = log.groupby("split").agg(clicks=("item_id", "size"), sessions=("session_id", "nunique"))
    assert by_split.loc["train"].tolist() == [70_278, 17_794] and by_split.loc["test"].tolist() == [
        13_568,
        3416,
    ]
    assert log.loc[log["split"] == "train", "item_id"].nunique() == 2933
    assert log["timestamp"].min() == pd.Timestamp("2014-04-01 01:02:21.719000")
    assert log["timestamp"].max().floor("s") == pd.Timestamp("2014-04-08 00:50:01")
    assert set(log["behavior"]) == {"view"} and log["user_id"].equals(log["session_id"])


def test_real_session_files(real_data):
    train = load_sessions(real_data("srgnn_diginetica_train_seq.txt.gz"))
    assert train["session_id"].nunique() == 186_670 and len(train) == 906_140
    assert train["item_id"].nunique() == 43_097
    assert len(train) - train["session_id"].nunique() == 719_470  # a target for each prefix
    test = load_sessions(real_data("srgnn_diginetica_test.txt.gz"))
    assert len(test) - test["session_id"].nunique() == 60_858
    assert set(test["item_id"]) <= set(train["item_id"])


def test_real_diginetica(real_data):
    buys = load_diginetica(real_data("diginetica_train-purchases.csv.gz"))
    assert len(buys) == 18_025 and buys["user_id"].nunique() == 12_630 and buys["item_id"].nunique() == 11_244
    assert set(buys["behavior"]) == {"buy"} and buys["timestamp"].min().floor("D") == pd.Timestamp(
        "2016-01-02"
    )
    views = load_diginetica(real_data("diginetica_item-views_sample.csv.gz"))
    assert len(views) == 12_391 and views["user_id"].nunique() == 2986 and views["item_id"].nunique() == 7139
    assert set(views["behavior"]) == {"view"} and views["timestamp"].is_monotonic_increasing
    assert views["timestamp"].min().floor("D") == pd.Timestamp("2016-01-03")


def test_real_next_item_files(real_data):
    beauty = load_next_item(real_data("s3rec_Beauty.txt.gz"))
    assert (len(beauty), beauty["user_id"].nunique(), beauty["item_id"].nunique()) == (
        198_502,
        22_363,
        12_101,
    )
    video = load_next_item(real_data("sasrec_Video.txt.gz"))
    assert (len(video), video["user_id"].nunique(), video["item_id"].nunique()) == (287_107, 31_013, 23_715)
    assert video.groupby("user_id").size().min() == 1


def test_real_cdnow(real_data):
    master = load_cdnow(real_data("CDNOW_master.txt.gz"))
    assert len(master) == 69_659 and master["user_id"].nunique() == 23_570
    assert (master["price"] * master["quantity"]).sum() == pytest.approx(2_500_315.63, abs=0.01)
    assert [str(t.date()) for t in (master["timestamp"].min(), master["timestamp"].max())] == [
        "1997-01-01",
        "1998-06-30",
    ]
    tenth = load_cdnow(real_data("CDNOW_sample.txt.gz"))
    assert len(tenth) == 6919 and tenth["user_id"].nunique() == 2357
    assert (tenth["price"] * tenth["quantity"]).sum() == pytest.approx(244_091.94, abs=0.01)
    assert set(tenth["user_id"]) <= set(master["user_id"])


def test_real_online_retail(real_data):
    log = load_online_retail(real_data("online_retail.csv.gz"), keep=["Country"])
    assert len(log) == 541_909 and log["user_id"].nunique() == 4372 and log["item_id"].nunique() == 4070
    assert log["session_id"].nunique() == 25_900 and log["user_id"].isna().sum() == 135_080
    assert log["timestamp"].min() == pd.Timestamp("2010-12-01 08:26")
    assert log["timestamp"].max() == pd.Timestamp("2011-12-09 12:50")
    assert log["behavior"].value_counts().to_dict() == {"buy": 532_621, "return": 9288}
    assert (log.loc[log["behavior"] == "return", "quantity"] > 0).all()
    assert not log["user_id"].dropna().str.contains(".", regex=False).any()
    sales = clean_events(log)[0]
    assert (
        set(sales["behavior"]) == {"buy"} and (sales["quantity"] > 0).all() and sales["user_id"].notna().all()
    )
    with_returns = clean_events(log, behaviors=(*BEHAVIORS, "return"))[0]
    assert (with_returns["behavior"] == "return").sum() > 8000


def test_real_complete_journey(real_data):
    log = load_complete_journey(real_data("completejourney_transactions_sample.csv.gz"))
    assert len(log) == 75_000 and log["user_id"].nunique() == 2377 and log["session_id"].nunique() == 47_243
    assert log["item_id"].nunique() == 20_902
    assert log["timestamp"].min() == pd.Timestamp("2017-01-01 12:30:27")
    assert log["timestamp"].max() == pd.Timestamp("2018-01-01 03:47:38")


def test_real_otto(real_data):
    log = load_otto(real_data("otto_20_sessions.jsonl.gz"))
    assert len(log) == 862 and log["user_id"].nunique() == 20
    assert log["behavior"].value_counts().to_dict() == {"view": 800, "cart": 52, "buy": 10}
    raw = [json.loads(line) for line in gzip.open(real_data("otto_20_sessions.jsonl.gz"))]
    assert log["item_id"].tolist() == [event["aid"] for session in raw for event in session["events"]]


def test_real_shoppers_intention(real_data):
    features, label = load_shoppers_intention(real_data("online_shoppers_intention.csv.gz"))
    assert features.shape == (12_330, 17) and label.sum() == 1908 and label.dtype == bool
    assert not features.isna().any().any() and "Revenue" not in features
    assert pd.concat([features, label], axis=1).duplicated().sum() == 125


def test_real_criteo(real_data):
    table = load_criteo(real_data("criteo_train_examples_10k.tsv.gz"))
    assert table.shape == (10_000, 40) and table["label"].mean() == pytest.approx(0.2182)
    assert (
        table["C1"].dtype == "str"
        and len(load_criteo(real_data("criteo_train_examples_10k.tsv.gz"), limit=5)) == 5
    )
