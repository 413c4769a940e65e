"""Features of 5 million events at one cutoff: seqbook, hand-written DuckDB SQL, and pandas `groupby.apply`.

Prints how many times faster seqbook is; see README.md for how it is measured.
"""

import json
import tempfile
import threading
import time
from itertools import product
from pathlib import Path

import pandas as pd
from results import contest_options, save, show, take_turns
from sequences import make_log

BEHAVIORS = ("view", "cart", "buy")
WINDOWS = {"1d": 1, "7d": 7, "30d": 30, "all": None}  # days
GAPS = ("mean", "median", "std", "min")
SLOW = 20  # the loop gets one user in so many, and its time is multiplied

COUNTS = [f"{name}_count_{window}" for name in ("event", *BEHAVIORS) for window in WINDOWS]
GAP_NAMES = [f"event_gap_{measure}_all" for measure in GAPS]
SESSIONS = ["session_count_all", "session_duration_mean_all"]
BIGRAMS = [f"{a}_to_{b}_count_all" for a, b in product(BEHAVIORS, BEHAVIORS)]
SHARED = [*COUNTS, *GAP_NAMES, *SESSIONS, *BIGRAMS]  # what all contestants make


def seqbook(log: pd.DataFrame, cutoff: pd.Timestamp) -> pd.DataFrame:
    """The shared features by their names."""
    from seqbook.data.features import history_features

    return history_features(log, cutoff, names=SHARED).set_index("user_id")[SHARED]


def all_families(log: pd.DataFrame, cutoff: pd.Timestamp) -> pd.DataFrame:
    """Every feature there is."""
    from seqbook.data.features import history_features

    return history_features(log, cutoff).set_index("user_id")


def write_sql() -> str:
    """One window, one aggregate. Events of one second come in the order view, cart, buy."""
    age = {name: f" AND age_us <= {days} * 86400000000" if days else "" for name, days in WINDOWS.items()}
    columns = [f"count(*) FILTER (true{also}) AS event_count_{window}" for window, also in age.items()] + [
        f"count(*) FILTER (behavior = '{behavior}'{also}) AS {behavior}_count_{window}"
        for behavior, (window, also) in product(BEHAVIORS, age.items())
    ]
    sql = {"mean": "avg", "median": "median", "std": "stddev_samp", "min": "min"}
    columns += [f"{sql[measure]}(gap / 3.6e9) AS event_gap_{measure}_all" for measure in GAPS]
    columns += [
        "count(*) FILTER (gap IS NULL OR gap > 1800000000) AS session_count_all",
        "coalesce(sum(gap) FILTER (gap <= 1800000000), 0) / 1e6 / session_count_all "
        "AS session_duration_mean_all",
    ]
    columns += [
        f"count(*) FILTER (behavior = '{a}' AND following = '{b}' AND gap <= 1800000000) "
        f"AS {a}_to_{b}_count_all"
        for a, b in product(BEHAVIORS, BEHAVIORS)
    ]
    return f"""
        WITH past AS (SELECT user_id, epoch_us(timestamp) AS moment, behavior FROM log WHERE timestamp < ?),
        events AS (
            SELECT user_id, behavior, epoch_us(CAST(? AS TIMESTAMP)) - moment AS age_us,
                lead(moment) OVER w - moment AS gap, lead(behavior) OVER w AS following
            FROM past WINDOW w AS (PARTITION BY user_id ORDER BY moment, behavior DESC)
        )
        SELECT user_id, {", ".join(columns)} FROM events GROUP BY user_id"""


def hand_written_sql(log: pd.DataFrame, cutoff: pd.Timestamp) -> pd.DataFrame:
    """What one would write by hand."""
    import duckdb

    con = duckdb.connect()
    con.register("log", log)
    return con.execute(write_sql(), [cutoff.to_pydatetime()] * 2).df().set_index("user_id")[SHARED]


def one_user(events: pd.DataFrame, cutoff: pd.Timestamp) -> pd.Series:
    """The shared features of one user, as one would write them first."""
    age, behavior = cutoff - events["timestamp"], events["behavior"]
    row = {}
    for name, days in WINDOWS.items():
        recent = behavior if days is None else behavior[age <= pd.Timedelta(days, "D")]
        row[f"event_count_{name}"] = len(recent)
        row |= {f"{b}_count_{name}": (recent == b).sum() for b in BEHAVIORS}
    gap = events["timestamp"].diff().dt.total_seconds().iloc[1:]
    row |= {f"event_gap_{measure}_all": getattr(gap / 3600, measure)() for measure in GAPS}
    row["session_count_all"] = (gap > 1800).sum() + 1
    row["session_duration_mean_all"] = gap[gap <= 1800].sum() / row["session_count_all"]
    pairs = pd.Series(
        list(zip(behavior[:-1][gap.to_numpy() <= 1800], behavior[1:][gap.to_numpy() <= 1800], strict=True))
    )
    row |= {
        f"{a}_to_{b}_count_all": sum(pair == (a, b) for pair in pairs)
        for a, b in product(BEHAVIORS, BEHAVIORS)
    }
    return pd.Series(row)


def groupby_apply(log: pd.DataFrame, cutoff: pd.Timestamp) -> pd.DataFrame:
    """The function above for every user."""
    order = log["behavior"].map({name: i for i, name in enumerate(BEHAVIORS)})
    past = log.assign(order=order)[log["timestamp"] < cutoff].sort_values(["user_id", "timestamp", "order"])
    return past.groupby("user_id")[["timestamp", "behavior"]].apply(one_user, cutoff=cutoff)[SHARED]


CONTESTANTS = {
    "seqbook": seqbook,
    "hand-written SQL": hand_written_sql,
    "groupby.apply": groupby_apply,
    "seqbook, all families": all_families,
}


class Watch:
    """The most resident memory while it runs, above what there was at its start, in bytes."""

    def __enter__(self):
        self.before = self.most = self.now()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()
        return self

    def look(self):
        while not self.over.wait(0.005):
            self.most = max(self.most, self.now())

    @staticmethod
    def now() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def run_one(path: str, name: str):
    """One measurement, in this process; prints JSON."""
    log, contestant = pd.read_parquet(path), CONTESTANTS[name]
    cutoff = log["timestamp"].max() - pd.Timedelta(1, "D")
    contestant(log[log["user_id"] < 50], cutoff)  # imports and first calls
    if name == "groupby.apply":
        log = log[log["user_id"] % SLOW == 0]
    with Watch() as watch:
        started = time.perf_counter()
        made = contestant(log, cutoff)
        seconds = time.perf_counter() - started
    some = made.loc[made.index % SLOW == 0, SHARED].sort_index().astype("float64")
    found = {
        "seconds": seconds * (SLOW if name == "groupby.apply" else 1),
        "memory": (watch.most - watch.before) / log.memory_usage(deep=True).sum(),
        "features": made.shape[1] - ("cutoff" in made),
        "sum": some.sum().round(6).tolist(),
    }
    print(json.dumps(found))


def report(found: dict) -> list:
    """Ratios first, then what is behind them."""
    ours, every, sql, slow = (
        found[name] for name in ("seqbook", "seqbook, all families", "hand-written SQL", "groupby.apply")
    )
    return [
        ("seqbook, times as fast as groupby.apply", slow["seconds"] / ours["seconds"], "times"),
        ("seqbook, times the seconds of hand-written SQL", ours["seconds"] / sql["seconds"], "times"),
        (
            "all families, times as fast as groupby.apply on its few",
            slow["seconds"] / every["seconds"],
            "times",
        ),
        ("seqbook, most memory above the log, in logs", ours["memory"], "times"),
        ("all families, most memory above the log, in logs", every["memory"], "times"),
        ("hand-written SQL, most memory above the log, in logs", sql["memory"], "times"),
        *((f"{name}", run["seconds"], "s") for name, run in found.items()),
        *((f"{name}, features", run["features"], "") for name, run in found.items()),
    ]


def main():
    options = contest_options(__doc__, CONTESTANTS)
    if options.one:
        return run_one(options.path, options.one)
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder) / "log.parquet", make_log(options.events)
        users = log["user_id"].nunique()
        log.to_parquet(path)
        del log
        turns = {name: 1 if name == "groupby.apply" else options.repeats for name in CONTESTANTS}
        rows = report(take_turns(__file__, path, turns, rtol=1e-9))
    show(rows)
    if options.save:
        settings = {"events": f"{options.events:,}", "users": f"{users:,}", "repeats": options.repeats}
        save("features", rows, settings | {"users of the loop": f"one in {SLOW}"})


if __name__ == "__main__":
    main()
