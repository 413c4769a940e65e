"""Recommendation on real logs: live lists (Taobao), carts and repeat purchases (Online Retail).

Prints tables; see README.md for the protocol.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from lightgbm import LGBMClassifier
from results import save, show_tables

from seqbook.applications.recommendation import (
    FEATURES,
    LiveRecommender,
    PairLift,
    best_first,
    due_dates,
    page_features,
    recommend_cart,
)
from seqbook.data.datasets import LOADERS
from seqbook.data.events import clean_events
from seqbook.data.sequences import SequenceEncoder, sessionize
from seqbook.evaluation.metrics import compare_models
from seqbook.evaluation.ranking import compare_lists
from seqbook.models.next_item import GRU4Rec, ItemCooccurrence

DATA = Path(os.environ.get("SEQBOOK_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
FILES = {"taobao": "taobao_userbehavior_sample.csv.gz", "online_retail": "online_retail.csv.gz"}
DAY = pd.Timedelta("1D")


def read(folder: Path, name: str) -> pd.DataFrame:
    """A cleaned log in the order of time."""
    return clean_events(LOADERS[name](folder / FILES[name]))[0].reset_index(drop=True)


def following_view(log: pd.DataFrame) -> np.ndarray:
    """The item viewed next in the same session, if it is another one; None elsewhere."""
    views = log[log["behavior"] == "view"]
    after = views.groupby(["user_id", "session_id"])["item_id"].shift(-1).reindex(log.index)
    return after.where(after.notna() & (after != log["item_id"])).to_numpy(object)


def live_parts(log: pd.DataFrame, days: int, seed: int) -> tuple:
    """The models, learned before the last `2 * days` days; rows for the ranker, and for the test."""
    end = log["timestamp"].max()
    start, middle = end - 2 * days * DAY, end - days * DAY
    past = log[(log["behavior"] == "view") & (log["timestamp"] < start)]
    histories = SequenceEncoder(fields=("item_id",), min_count=3).fit(past).encode(past)
    gru = GRU4Rec(units=64, epochs=10, loss="sampled", learning_rate=5e-3, seed=seed, progress=False)
    gru, coview = gru.fit(histories), ItemCooccurrence().fit(histories)
    items = log.drop_duplicates("item_id")[["item_id", "category"]].assign(
        price=1.0
    )  # Taobao names no prices
    live = LiveRecommender(gru, coview, items, n=100)
    known = pd.Series(following_view(log)).isin(live.ids).to_numpy()
    rows = [
        np.flatnonzero(known & (log["timestamp"] >= a) & (log["timestamp"] < b))
        for a, b in ((start, middle), (middle, end))
    ]
    return live, *rows


def live_lists(log: pd.DataFrame, days: int, resamples: int, seed: int) -> tuple:
    """Popular items, the list that stood before the session, and the live list: is the next view in it?"""
    log = sessionize(log).sort_values("timestamp", kind="stable", ignore_index=True)
    live, train, test = live_parts(log, days, seed)
    wanted = following_view(log)
    listed, X = page_features(live, log, train)
    came = listed == wanted[train][:, None].astype(listed.dtype)
    ranker = LGBMClassifier(n_estimators=100, num_leaves=15, verbose=-1, random_state=seed, n_jobs=2)
    ranker.fit(X.reshape(-1, len(FEATURES)), came.ravel())
    lists = standing_and_live(live, log, test, ranker)
    target = [[item] for item in wanted[test]]
    users = log["user_id"].to_numpy()[test]
    found = compare_lists(
        lists, target, k=20, baseline="stands still", groups=users, n_resamples=resamples, seed=seed
    )
    caption = (
        f"taobao: is the next view of the session in a list of 20? {len(live.ids):,} items, viewed three "
        f"times or more before; the last {days} days, {len(test):,} pages of {len(np.unique(users)):,} users"
    )
    return caption, table_of(found, ["hit@20", "ndcg@20"])


def standing_and_live(live: LiveRecommender, log: pd.DataFrame, rows, ranker) -> dict:
    """Lists just after each row, and those that could be made before its session began."""
    number, visit = pd.Series(np.arange(len(log))), log.groupby(["user_id", "session_id"]).ngroup()
    begin = number.groupby(visit.to_numpy()).transform("min").to_numpy()[rows]
    before = number.groupby(log["user_id"].to_numpy()).shift(1).to_numpy()[begin]
    known = ~np.isnan(before)
    asked = np.union1d(rows, before[known].astype(int))
    listed, X = page_features(live, log, asked)
    chance = ranker.predict_proba(X.reshape(-1, len(FEATURES)))[:, 1].reshape(listed.shape)
    ranked = best_first(listed, chance, 20)
    popular = np.tile(live.ids[live.popular[:20]], (len(rows), 1))
    standing = popular.copy()
    standing[known] = ranked[np.searchsorted(asked, before[known])]
    return {"popular": popular, "stands still": standing, "live": ranked[np.searchsorted(asked, rows)]}


def carts(log: pd.DataFrame, days: int, most: int, resamples: int, seed: int) -> tuple:
    """One item of each later order is hidden; the rest of the order is the cart."""
    rng, cutoff = np.random.default_rng(seed), log["timestamp"].max() - days * DAY
    past, later = log[log["timestamp"] < cutoff], log[log["timestamp"] >= cutoff]
    lift = {f"lift, s = {s:g}": PairLift(past["session_id"], past["item_id"], s) for s in (0.1, 5, 50)}
    known = later[later["item_id"].isin(lift["lift, s = 5"].things)].drop_duplicates(
        ["session_id", "item_id"]
    )
    orders = known.groupby("session_id")["item_id"].agg(list)
    orders = orders[orders.map(len) > 1]
    orders = orders.sample(min(most, len(orders)), random_state=seed)
    hidden = [int(rng.integers(len(order))) for order in orders]
    rest = [order[:i] + order[i + 1 :] for order, i in zip(orders, hidden, strict=True)]
    best = past.drop_duplicates(["session_id", "item_id"])["item_id"].value_counts().index
    lists = {"popular": [[item for item in best[:200] if item not in cart][:10] for cart in rest]}
    lists |= {
        name: [recommend_cart(one, cart[-20:], 10, exclude=cart) for cart in rest]
        for name, one in lift.items()
    }
    target = [[order[i]] for order, i in zip(orders, hidden, strict=True)]
    found = compare_lists(lists, target, k=10, n_resamples=resamples, seed=seed)
    caption = (
        f"online_retail: one item of an order is hidden, is it among ten? {len(orders):,} orders of the "
        f"last {days} days, lifts from {lift['lift, s = 5'].n:,} orders before; 20 items of an order are read"
    )
    return caption, table_of(found, ["hit@10", "ndcg@10"])


def repeats(log: pd.DataFrame, weeks: int, resamples: int, seed: int) -> tuple:
    """Who buys which item again within 14 days? At the start of each of the last pairs of weeks."""
    end, parts = log["timestamp"].max().normalize(), []
    for at in [end - 14 * DAY * (i + 1) for i in range(weeks // 2)]:
        told = due_dates(log, at, "14D")
        came = log[(log["timestamp"] >= at) & (log["timestamp"] < at + 14 * DAY)]
        again = pd.MultiIndex.from_frame(told[["user_id", "item_id"]]).isin(
            pd.MultiIndex.from_frame(came[["user_id", "item_id"]])
        )
        silent = (at - told["last"]) / DAY
        parts.append(told.assign(came=again, recent=1 / (1 + silent), rate=np.minimum(14 / (1 + silent), 1)))
    told = pd.concat(parts, ignore_index=True).sample(frac=0.2, random_state=seed)
    said = {
        "bought lately": told["recent"] * told["came"].mean() / told["recent"].mean(),
        "gaps of customer and item": told["chance"],
    }
    said = {name: np.clip(score.to_numpy(), 0, 1) for name, score in said.items()}
    found = compare_models(
        said,
        told["came"].to_numpy(int),
        groups=told["user_id"],
        baseline="bought lately",
        n_resamples=resamples,
        seed=seed,
    )
    top = told.nlargest(len(told) // 100, "chance")["came"].mean()
    caption = (
        f"online_retail: does the same customer buy the same item within 14 days? {len(told):,} pairs at "
        f"{len(parts)} moments, {told['came'].mean():.2%} do (told {told['chance'].mean():.2%}), of the "
        f"hundredth with the highest chance {top:.1%}"
    )
    return caption, table_of(found, ["roc_auc", "average_precision"])


def table_of(found: pd.DataFrame, metrics: list) -> pd.DataFrame:
    """A row a model, a column a metric with its interval, and the verdict on the first metric."""
    cells = [
        f"{value:.3f} ({low:.3f} to {high:.3f})"
        for value, low, high in found[["value", "low", "high"]].to_numpy()
    ]
    wide = found.assign(cell=cells).pivot(index="model", columns="metric", values="cell")
    verdict = found[found["metric"] == metrics[0]].set_index("model")["verdict"]
    return (
        wide.loc[list(dict.fromkeys(found["model"])), metrics]
        .assign(verdict=verdict)
        .reset_index()
        .fillna("")
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA, help=f"the folder of {', '.join(FILES.values())}")
    parser.add_argument(
        "--days", type=int, default=2, help="test days of taobao; as many before are for the ranker"
    )
    parser.add_argument("--orders", type=int, default=2000, help="orders of online_retail, at most")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap samples of users or orders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()
    retail, more = read(options.data, "online_retail"), (options.resamples, options.seed)
    tables = dict(
        [
            live_lists(read(options.data, "taobao"), options.days, *more),
            carts(retail, 56, options.orders, *more),
            repeats(retail, 8, *more),
        ]
    )
    show_tables(tables)
    if options.save:
        settings = {"seed": options.seed, "bootstrap samples": options.resamples}
        save("applications_recommendation", [], settings, tables)


if __name__ == "__main__":
    main()
