"""Reading, cleaning, filling, outliers: the same for every kind of frame, and blind for the future."""

import bz2
import gzip
import json
import lzma
import subprocess
import sys
import threading
import warnings
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from seqbook.data.events import (
    BEHAVIORS,
    Filler,
    LogError,
    OutlierDetector,
    check_events,
    clean_events,
    flag_events,
    flag_outliers,
    log_clock,
    read_events,
    to_events,
    to_pandas,
)

KINDS = {
    "pandas": lambda frame: frame,
    "polars": pl.from_pandas,
    "polars lazy": lambda frame: pl.from_pandas(frame).lazy(),
    "arrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    "duckdb": lambda frame: duckdb.connect().from_arrow(pa.Table.from_pandas(frame, preserve_index=False)),
}


def values(frame):
    """The rows of any frame as comparable tuples."""
    table = to_pandas(frame)
    return [tuple(None if pd.isna(v) else v for v in row) for row in table.itertuples(index=False)]


@pytest.fixture
def log():
    """A log of 3,000 events over 30 days, in order, with prices by item; a tenth of the prices is missing."""
    rng = np.random.default_rng(0)
    n = 3000
    item = rng.integers(0, 20, n)
    frame = pd.DataFrame(
        {
            "user_id": rng.integers(0, 50, n),
            "timestamp": pd.Timestamp("2024-01-01")
            + pd.to_timedelta(np.sort(rng.uniform(0, 30, n)), unit="D"),
            "behavior": rng.choice(["view", "cart", "buy"], n),
            "item_id": item,
            "price": np.where(rng.random(n) < 0.1, np.nan, (10.0 + item + rng.normal(0, 0.3, n)).round(2)),
            "quantity": rng.integers(1, 4, n).astype(float),
        }
    )
    return frame.assign(timestamp=frame.timestamp.astype("datetime64[us]"))


# reading


def test_every_form_of_a_file_gives_the_same_log(tmp_path, log):
    log = log.assign(user_id=log.user_id.astype(str), item_id=log.item_id.astype(str))[:500]
    csv, jsonl = (
        log.to_csv(index=False),
        log.to_json(orient="records", lines=True, date_format="iso", date_unit="us"),
    )
    zst = partial(pa.Codec("zstd").compress, asbytes=True)
    log.to_parquet(tmp_path / "log.parquet")
    log.to_parquet(tmp_path / "log[1].csv")
    files = {
        "log.csv": csv.encode(),
        "bom.csv": b"\xef\xbb\xbf" + csv.encode(),
        "crlf.csv": csv.replace("\n", "\r\n").encode(),
        "cr.csv": csv.replace("\n", "\r").encode(),
        "log.tsv": log.to_csv(index=False, sep="\t").encode(),
        "semicolon.csv": log.to_csv(index=False, sep=";").encode(),
        "bar.txt": log.to_csv(index=False, sep="|").encode(),
        "quoted.csv": log.to_csv(index=False, quoting=1).encode(),
        "wide.csv": csv.encode("utf-16"),
        "log.jsonl": jsonl.encode(),
        "bom.jsonl": b"\xef\xbb\xbf" + jsonl.replace("\n", "\r\n").encode(),
        "list.json": log.to_json(orient="records", date_format="iso", date_unit="us").encode(),
        "log.csv.gz": gzip.compress(csv.encode()),
        "two.csv.gz": gzip.compress(csv[:999].encode()) + gzip.compress(csv[999:].encode()),
        "log.csv.bz2": bz2.compress(csv.encode()),
        "log.csv.xz": lzma.compress(csv.encode()),
        "log.csv.zst": zst(csv.encode()),
        "log.jsonl.zst": zst(jsonl.encode()),
        "noname": gzip.compress(csv.encode()),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    for name in [*files, "log.parquet", "log[1].csv"]:
        read = read_events(tmp_path / name, encoding="utf-16" if name == "wide.csv" else "utf-8")
        assert values(read) == values(log), name


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "duckdb"])
def test_kinds_patterns_lists_and_limits(tmp_path, log, kind):
    parts = [log[:100], log[100:250]]
    for i, part in enumerate(parts):
        part.to_parquet(tmp_path / f"part{i}.parquet")
        part.to_csv(tmp_path / f"part{i}.csv.gz", index=False)
    whole = read_events(str(tmp_path / "*.parquet"), kind=kind)
    assert values(whole) == values(log[:250])
    listed = read_events([tmp_path / "part1.csv.gz", tmp_path / "part0.csv.gz"], kind=kind)
    assert (
        to_pandas(listed).user_id.tolist()
        == log[100:250].user_id.astype(str).tolist() + log[:100].user_id.astype(str).tolist()
    )
    for limit in (0, 1, 100, 130, 1000):
        for pattern in ("*.parquet", "*.csv.gz"):
            assert len(to_pandas(read_events(tmp_path / pattern, kind=kind, limit=limit))) == min(limit, 250)


def test_parts_with_different_columns_and_types(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"user_id": 1, "time": 1714557600, "event": "view", "price": 1}\n')
    (tmp_path / "b.jsonl").write_text('{"user_id": "x", "time": 1714557600, "event": "view", "item": 7}\n')
    read = read_events(tmp_path / "*.jsonl")
    assert read.user_id.tolist() == ["1", "x"] and read.price.isna().tolist() == [False, True]


def test_quoted_line_breaks_belong_to_their_row(tmp_path):
    (tmp_path / "q.csv").write_text(
        'user_id,timestamp,behavior,note\n"a\nb",2024-05-01,view,"x, ""y"""\nc,2024-05-02,buy,z\n'
    )
    read = read_events(tmp_path / "q.csv", keep=["note"])
    assert read.user_id.tolist() == ["a\nb", "c"] and read.note.tolist() == ['x, "y"', "z"]


def test_files_without_a_header_and_with_blanks(tmp_path):
    (tmp_path / "blank.txt").write_text(
        " id  date     n amount\n\n 00001 19970101  1  11.77\n 00002 19970112 12  12.00\n"
    )
    read = read_events(tmp_path / "blank.txt", columns={"id": "user_id", "amount": "price"}, behavior="buy")
    assert values(read)[0] == ("00001", pd.Timestamp("1997-01-01"), 11.77, "buy")
    (tmp_path / "plain.csv").write_text("1,7,pv,1511658000\n1,8,buy,1511658001\n")
    read = read_events(tmp_path / "plain.csv", names=["user_id", "item_id", "behavior", "timestamp"])
    assert read.behavior.tolist() == ["view", "buy"]


@pytest.mark.parametrize(
    "text, options, utc",
    [
        ("1569888000", {}, "2019-10-01 00:00:00"),
        ("1569888000123", {}, "2019-10-01 00:00:00.123"),
        ("1569888000123456", {}, "2019-10-01 00:00:00.123456"),
        ("1569888000123456789", {}, "2019-10-01 00:00:00.123456789"),
        ("86400", {"time_unit": "s"}, "1970-01-02"),
        ("86400000", {"time_unit": "ms"}, "1970-01-02"),
        ("2019-10-01", {}, "2019-10-01"),
        ("2019-10-01 02:00:00 UTC", {}, "2019-10-01 02:00:00"),
        ("2019-10-01T02:00:00Z", {}, "2019-10-01 02:00:00"),
        ("2019-10-01T02:00:00.25+02:00", {}, "2019-10-01 00:00:00.25"),
        ("2019-10-01 00:00:00-0530", {}, "2019-10-01 05:30:00"),
        ("2019-07-01 12:00:00", {"time_zone": "Europe/Berlin"}, "2019-07-01 10:00:00"),
        ("2019-12-01 12:00:00", {"time_zone": "Europe/Berlin"}, "2019-12-01 11:00:00"),
        ("1/12/2019 13:05", {"time_format": "%d/%m/%Y %H:%M"}, "2019-12-01 13:05:00"),
        ("19970101", {}, "1997-01-01"),
    ],
)
def test_times(tmp_path, text, options, utc):
    (tmp_path / "t.csv").write_text(f"user_id,timestamp,behavior\na,{text},view\n")
    assert read_events(tmp_path / "t.csv", **options).timestamp[0] == pd.Timestamp(utc).floor("us")


@pytest.fixture
def server(tmp_path):
    """A web server on this machine that serves tmp_path."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path.startswith("/short"):
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"user_id,timestamp,behavior\na,2024-05-01,view\n")
                return
            super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_reading_from_an_address(tmp_path, log, server):
    log[:50].to_csv(tmp_path / "log.csv.gz", index=False)
    log[:50].to_parquet(tmp_path / "log.parquet")
    assert len(read_events(f"{server}/log.csv.gz?version=1")) == 50
    assert len(read_events(f"{server}/log.parquet", kind="duckdb")) == 50
    assert len(read_events([f"{server}/log.csv.gz", tmp_path / "log.parquet"])) == 100
    with pytest.raises(LogError, match="404.*check the address"):
        read_events(f"{server}/none.csv")
    with pytest.raises(LogError, match="cannot be read: the connection ended|IncompleteRead"):
        read_events(f"{server}/short.csv")


def test_no_file_stays_open(tmp_path, log):
    log[:50].to_csv(tmp_path / "log.csv.gz", index=False)
    log[:50].to_json(tmp_path / "log.jsonl", orient="records", lines=True)
    (tmp_path / "torn.csv").write_text("user_id,timestamp,behavior\na,2024-05-01,view\nb\n")
    (tmp_path / "latin.csv").write_bytes(b"user_id,timestamp,behavior\n\xfc,2024-05-01,view\n")
    code = """
import sys, warnings
from seqbook.data.events import LogError, read_events
for path in sys.argv[1:]:
    for options in ({}, {"limit": 1}):
        try:
            read_events(path, **options)
        except LogError:
            pass
"""
    files = [str(p) for p in tmp_path.iterdir()]
    done = subprocess.run([sys.executable, "-X", "dev", "-c", code, *files], capture_output=True, text=True)
    assert done.returncode == 0 and "ResourceWarning" not in done.stderr, done.stderr


# cleaning

TIMES = st.sampled_from(
    ["2024-05-01 10:00", "2024-05-01 10:01", "2024-05-02", "1970-01-01", "2031-01-01", None]
)
LOGS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", None]),
        TIMES,
        st.sampled_from(["view", "buy", "wish", None]),
        st.sampled_from([1.0, 2.5, -1.0, None]),
    ),
    max_size=25,
)
MANY = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


def made(rows):
    """A pandas log of the rows, with the right types even where it is empty."""
    frame = pd.DataFrame(rows, columns=["user_id", "timestamp", "behavior", "price"])
    types = {"user_id": "str", "timestamp": "datetime64[us]", "behavior": "str", "price": float}
    return frame.astype(types)


@MANY
@given(rows=LOGS, limit=st.none() | st.integers(1, 4))
def test_every_kind_of_frame_is_cleaned_alike(rows, limit):
    log, seen = made(rows), {}
    for kind, make in KINDS.items():
        frame = make(log)
        events, report = clean_events(frame, max_events_per_day=limit, max_events_per_minute=limit)
        assert type(events) is type(report.removed) is type(frame)
        assert report.n_read == len(rows) == report.n_kept + sum(report.counts.values())
        assert len(to_pandas(events)) == report.n_kept
        seen[kind] = values(events), values(report.removed), report.to_dict()
        assert json.loads(json.dumps(report.to_dict())) == report.to_dict()
    assert all(one == seen["pandas"] for one in seen.values())


@MANY
@given(rows=LOGS, seed=st.integers(0, 99))
def test_the_order_of_rows_does_not_change_the_counts(rows, seed):
    log = made(rows)
    shuffled = log.sample(frac=1, random_state=seed)
    events, report = clean_events(log, now="2024-06-01")
    theirs, theirs_report = clean_events(shuffled, now="2024-06-01")
    assert report.counts == theirs_report.counts
    assert sorted(map(str, values(events))) == sorted(map(str, values(theirs)))


@MANY
@given(rows=LOGS)
def test_a_clean_log_stays_as_it_is(rows):
    events, _ = clean_events(made(rows), now="2024-06-01")
    again, report = clean_events(events, now="2024-06-01")
    assert again.equals(events) and report.out_of_order == 0 and not any(report.counts.values())
    check_events(events)


@MANY
@given(rows=LOGS)
def test_nothing_vanishes(rows):
    log = made(rows)
    events, report = clean_events(log)
    removed = report.removed
    assert removed.reason.value_counts().to_dict() == {k: n for k, n in report.counts.items() if n}
    assert log.iloc[removed.row - 1].reset_index(drop=True).equals(removed[log.columns])
    assert sorted(map(str, values(events) + values(removed[log.columns]))) == sorted(map(str, values(log)))


def test_reasons_by_hand():
    day = "2024-05-01 10:00"
    rows = [
        ("a", day, "view", 1.0),
        ("a", day, "view", 1.0),
        ("a", day, "view", None),
        ("a", day, "view", None),
        (None, day, "view", 1.0),
        ("a", None, "view", 1.0),
        ("a", day, None, 1.0),
        ("a", "1994-12-31", "view", 1.0),
        ("a", "2024-05-03 00:01", "view", 1.0),
        ("a", day, "gaze", 1.0),
        ("a", day, "buy", -1.0),
    ]
    expected = ["duplicate", "duplicate", "missing_user", "missing_time", "missing_behavior"]
    expected += ["impossible_time", "impossible_time", "unknown_behavior", "negative_price"]
    _, report = clean_events(made(rows), now="2024-05-03")
    assert report.removed.reason.tolist() == expected
    assert report.removed.row.tolist() == [2, 4, 5, 6, 7, 8, 9, 10, 11]


def test_out_of_order_rows_are_counted_and_sorted_stably():
    times = pd.to_datetime(["2024-05-03", "2024-05-01", "2024-05-01", "2024-05-02", "2024-05-04"]).astype(
        "datetime64[us]"
    )
    log = pd.DataFrame({"user_id": list("abcde"), "timestamp": times, "behavior": "view"})
    for make in KINDS.values():
        events, report = clean_events(make(log))
        assert to_pandas(events).user_id.tolist() == list("bcdae") and report.out_of_order == 3


def test_lazy_frames_stay_lazy(tmp_path, log):
    log.to_parquet(tmp_path / "log.parquet")
    for lazy in (
        pl.scan_parquet(tmp_path / "log.parquet"),
        duckdb.connect().read_parquet(str(tmp_path / "log.parquet")),
    ):
        events, report = clean_events(lazy)
        assert isinstance(events, pl.LazyFrame | duckdb.DuckDBPyRelation)
        assert isinstance(report.removed, pl.LazyFrame | duckdb.DuckDBPyRelation)
        assert report.n_read == len(log)


def test_types_survive(log):
    odd = log.astype({"behavior": "category", "quantity": "Int64"}).set_index(np.arange(len(log)) * 7 % 11)
    odd["timestamp"] = (
        odd.timestamp.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo").astype("datetime64[ns, Asia/Tokyo]")
    )
    events, report = clean_events(odd)
    assert str(events.dtypes["behavior"]) == "category" and str(events.dtypes["quantity"]) == "Int64"
    assert events.index.equals(pd.RangeIndex(len(log)))
    assert events.timestamp.equals(log.timestamp) and report.n_kept == len(log)
    assert odd.index[1] == 7 and "row" not in odd  # the log itself is as it was
    for make in (pl.from_pandas, lambda frame: pl.from_pandas(frame).lazy(), KINDS["arrow"], KINDS["duckdb"]):
        theirs, _ = clean_events(make(odd.reset_index(drop=True)))
        assert to_pandas(theirs).timestamp.astype("datetime64[us]").equals(log.timestamp)


def test_bots(log):
    robot = pd.DataFrame(
        {
            "user_id": 999,
            "timestamp": pd.date_range("2024-01-05 10:00", periods=200, freq="s"),
            "behavior": "view",
        }
    )
    both = pd.concat([log, robot], ignore_index=True)
    assert clean_events(both)[1].n_kept == len(both)
    for limit in ({"max_events_per_minute": 30}, {"max_events_per_day": 150}):
        for make in KINDS.values():
            report = clean_events(make(both), **limit)[1]
            assert report.counts["bot"] == 200 and set(to_pandas(report.removed).user_id) == {999}


def test_other_columns_named_like_helpers(log):
    for make in KINDS.values():
        kept, report = clean_events(make(log.assign(row="7a")))
        assert set(to_pandas(kept).row) == {"7a"} and list(to_pandas(report.removed))[-2:] == [
            "row",
            "reason",
        ]
    assert flag_events(log.assign(row="7a")).row.tolist() == ["7a"] * len(log)
    for name in ("reason", "_bot"):
        with pytest.raises(LogError, match=f"'{name}' would be overwritten; rename it"):
            clean_events(log.assign(**{name: "bought"}))
    with pytest.raises(LogError, match="to_events first"):
        clean_events(log.assign(timestamp=log.timestamp.astype(str)))
    with pytest.raises(LogError, match="'soon' is no time"):
        clean_events(log, now="soon")


def test_the_report_shows_itself(log):
    import matplotlib

    matplotlib.use("agg")
    dirty = pd.concat([log, log[:7], log[:3].assign(user_id=None)])
    report = clean_events(dirty)[1]
    table = report.to_frame().set_index("reason")
    assert table.rows["duplicate"] == 7 and table.share["missing_user"] == pytest.approx(3 / len(dirty))
    assert "duplicate 7, missing_user 3" in str(report) and "0.10%" in report._repr_html_()
    ax = report.plot()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["missing_user", "duplicate"]
    assert [bar.get_width() for bar in ax.patches] == [3, 7]
    clean_events(log[:0])[1].plot()


def test_the_clock_ignores_stray_days(log):
    stray = pd.concat([log, log[:1].assign(timestamp=pd.Timestamp("2025-01-01"))])
    assert log_clock(stray) == log_clock(log) == pd.Timestamp("2024-02-01")
    assert clean_events(stray)[1].counts["impossible_time"] == 1


# schema


def test_schema_names_rows(log):
    assert check_events(log) is log
    with pytest.raises(
        LogError, match=r"'behavior' fails .*row 3: 'gaze'.*; column 'price' fails .*row 5: -2.0"
    ):
        check_events(
            log.assign(behavior=["view"] * 2 + ["gaze"] + ["buy"] * 2997, price=[1.0] * 4 + [-2.0] * 2996)
        )
    with pytest.raises(LogError, match="column 'user_id' is missing"):
        check_events(log.drop(columns="user_id"))
    check_events(log.assign(behavior="wish"), behaviors=[*BEHAVIORS, "wish"])


# filling and outliers

CUTOFF = pd.Timestamp("2024-01-20")
FILLERS = {
    "drop": Filler("drop"),
    "constant": Filler("constant", value=1.5),
    "median": Filler("median"),
    "median of all": Filler("median", by=None),
    "last": Filler("last"),
    "last of all": Filler("last", by=None),
    "interpolate": Filler("interpolate", cutoff=CUTOFF),
    "interpolate often": Filler("interpolate", by=("item_id", "behavior"), cutoff=["2024-01-10", CUTOFF]),
    "model": Filler("model"),
    "model of all": Filler("model", by=None),
}
DETECTORS = {
    "iqr": OutlierDetector(),
    "iqr by item": OutlierDetector(by="item_id", log_scale=True),
    "forest": OutlierDetector("isolation_forest", by="item_id"),
}


def corrupted(log, time):
    """The log with all numbers from a time on made nonsense, some missing, some not any more."""
    rng = np.random.default_rng(1)
    later = log.timestamp >= time
    wrong = rng.choice([np.nan, -1e6, 1e9], (later.sum(), 2))
    bad = log.copy()
    bad.loc[later, ["price", "quantity"]] = wrong
    return bad


@pytest.mark.parametrize("step", [*FILLERS.values(), *DETECTORS.values()], ids=[*FILLERS, *DETECTORS])
def test_the_future_changes_nothing_before_the_cutoff(log, step):
    bad = corrupted(log, CUTOFF)
    train, bad_train = (frame[frame.timestamp < CUTOFF] for frame in (log, bad))
    want, got = (clone(step).fit(t).transform(frame) for t, frame in ((train, log), (bad_train, bad)))
    want, got = (frame[frame.timestamp < CUTOFF].reset_index(drop=True) for frame in (want, got))
    pd.testing.assert_frame_equal(want, got)
    assert len(want) > 1000


@pytest.mark.parametrize("strategy", ["last", "interpolate"])
def test_strategies_in_time_are_blind_even_if_fitted_on_all(log, strategy):
    filler = Filler(strategy, cutoff=CUTOFF)
    want, got = (clone(filler).fit(frame).transform(frame) for frame in (log, corrupted(log, CUTOFF)))
    before = log.timestamp < CUTOFF
    pd.testing.assert_frame_equal(want[before], got[before])


def test_the_median_of_all_rows_does_leak_if_fitted_on_all(log):
    want, got = (
        Filler("median", by=None).fit(frame).transform(frame) for frame in (log, corrupted(log, CUTOFF))
    )
    assert not want[log.timestamp < CUTOFF].equals(got[log.timestamp < CUTOFF])


@pytest.mark.parametrize("step", [*FILLERS.values(), *DETECTORS.values()], ids=[*FILLERS, *DETECTORS])
def test_every_kind_of_frame_is_filled_alike(log, step):
    step = clone(step).fit(log[:2000])
    want = values(step.transform(log))
    for make in KINDS.values():
        frame = make(log)
        out = step.transform(frame)
        assert type(out) is type(frame) and values(out) == want
        assert values(clone(step).fit(make(log[:2000])).transform(log)) == want


@pytest.mark.parametrize("name", [n for n in FILLERS if n != "drop"])
def test_known_values_stay(log, name):
    filled = clone(FILLERS[name]).fit(log).transform(log)
    known = log.price.notna()
    assert np.allclose(filled.price[known], log.price[known], rtol=0, atol=1e-12)
    assert filled.drop(columns="price").equals(log.drop(columns="price"))
    assert filled.price.isna().sum() <= (0 if not name.startswith(("last", "interp")) else 60)


def test_better_strategies_are_nearer_to_the_truth(log):
    truth = 10.0 + log.item_id
    missing = log.price.isna()
    error = {
        n: (clone(f).fit(log).transform(log).price - truth)[missing].abs().mean()
        for n, f in FILLERS.items()
        if n != "drop"
    }
    assert (
        error["median"] < 0.2 and error["model"] < 0.5 and error["last"] < 0.5 and error["interpolate"] < 0.5
    )
    assert error["median of all"] > 3 and error["last of all"] > 3 and error["constant"] > 10


def test_last_and_line_by_hand():
    def day(*days):
        return pd.to_datetime([f"2024-05-{d:02d}" for d in days]).astype("datetime64[us]")

    log = pd.DataFrame({"user_id": 1, "timestamp": day(5, 1, 3, 7, 9), "behavior": "view", "item_id": 1})
    log["price"] = [np.nan, 10, np.nan, 40, np.nan]

    def fill(strategy, **options):
        return Filler(strategy, columns=("price",), **options).fit(log).transform(log).price.tolist()

    assert fill("last") == [10, 10, 10, 40, 40]
    assert fill("interpolate", cutoff="2024-05-08") == [30, 10, 20, 40, 40]
    assert fill("interpolate", cutoff="2024-05-07") == [10, 10, 10, 40, 40]
    learned = Filler("last", columns=("price",)).fit(log[1:2])
    later = log.assign(price=np.nan)
    assert learned.transform(later).price.tolist() == [10] + [10] * 4
    assert np.isnan(
        learned.transform(later.assign(timestamp=day(1, 1, 1, 1, 1)[:5] - pd.Timedelta("1D"))).price
    ).all()


def test_dropped_rows_can_be_seen(log):
    dropper = Filler("drop").fit(log)
    kept, removed = dropper.transform(log), dropper.removed(log)
    assert len(kept) + len(removed) == len(log) and set(removed.reason) == {"missing_price"}
    assert removed.row.tolist() == (np.flatnonzero(log.price.isna()) + 1).tolist()


def test_fillers_and_detectors_are_scikit_learns(log):
    pipeline = make_pipeline(Filler("last"), Filler("median"), OutlierDetector(factor=3))
    out = clone(pipeline).fit(log).transform(log)
    assert out.price.notna().all() and out.outlier.dtype == bool
    assert pipeline.get_params()["outlierdetector__factor"] == 3
    assert "Filler" in repr(pipeline)


def test_outliers_are_found_and_removed_by_reason(log):
    wrong = [3, 99, 1500]
    slips = log.copy()
    slips.loc[wrong, "price"] = [9_999.0, 1e12, np.inf]
    for detector in DETECTORS.values():
        marked = clone(detector).fit(slips).transform(slips)
        assert marked.outlier[wrong].all() and marked.outlier.mean() < 0.05
        report = clean_events(marked)[1]
        assert report.counts["outlier"] == marked.outlier.sum()
        assert set(np.array(wrong) + 1) <= set(report.removed.row)
    assert flag_outliers(slips, ["price"], factor=3).outlier.sum() == 3


# real logs


def test_rees46(real_data):
    events, report = clean_events(read_events(real_data("rees46_2019oct_head.csv.gz")))
    assert report.n_read == 17435 and report.n_kept > 17000
    assert {"item_id", "category", "price", "session_id"} <= set(events.columns)
    assert (
        events.timestamp.min() == pd.Timestamp("2019-10-01 00:00:00")
        and events.timestamp.is_monotonic_increasing
    )
    found = read_events(real_data("rees46_2019oct_head.csv.gz")).behavior.value_counts().to_dict()
    assert found == {"view": 17056, "buy": 214, "cart": 165}
    check_events(events)


def test_taobao(real_data):
    log = read_events(real_data("taobao_userbehavior_sample.csv.gz"))
    assert len(log) == 84475 and log.user_id.nunique() == 815 and log.item_id.nunique() == 55368
    assert log.behavior.value_counts().to_dict() == {
        "view": 75872,
        "cart": 4497,
        "favorite": 2356,
        "buy": 1750,
    }
    events, report = clean_events(log)
    assert report.n_read == report.n_kept + sum(report.counts.values()) and report.out_of_order > 0
    assert events.timestamp.max() < pd.Timestamp("2017-12-06")


def test_online_retail(real_data):
    path = real_data("online_retail.csv.gz")
    log = read_events(path, behavior="buy", limit=100_000, kind="polars")
    events, report = clean_events(log)
    assert (
        len(log) == 100_000
        and report.counts["missing_user"] > 10_000
        and report.counts["negative_quantity"] > 100
    )
    assert report.n_read == report.n_kept + sum(report.counts.values())


def test_cdnow(real_data):
    names = ["user_id", "sample", "date", "quantity", "price"]
    log = read_events(real_data("CDNOW_sample.txt.gz"), names=names, behavior="buy")
    assert len(log) == 6919 and log.user_id.nunique() == 2357
    assert log.price.sum() == pytest.approx(244091.94)
    assert (log.timestamp.min(), log.timestamp.max()) == (
        pd.Timestamp("1997-01-01"),
        pd.Timestamp("1998-06-30"),
    )


def test_importing_is_fast_and_light():
    slow = ("pandera", "sklearn", "tensorflow", "matplotlib")
    code = f"import sys, seqbook.data.events; print([m for m in {slow} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_tables_of_every_kind_become_logs(log):
    theirs = log.rename(columns={"user_id": "uid", "timestamp": "ts", "behavior": "event"}).replace(
        {"view": "pv"}
    )
    for make in KINDS.values():
        out = to_events(make(theirs))
        assert type(out) is type(make(theirs)) and values(out)[:9] == values(log)[:9]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_events(theirs)
