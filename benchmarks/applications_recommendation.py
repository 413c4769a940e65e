"""Recommendation: live lists (Taobao), carts and repeat purchases (Online Retail), money in simulated shops.

Prints tables; see README.md for the protocol.
"""

import argparse
import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from lightgbm import LGBMClassifier
from results import kept, save, show_tables, spoken
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from seqbook.applications.recommendation import (
    FEATURES,
    LiveRecommender,
    PairLift,
    best_first,
    due_dates,
    page_features,
    recommend_cart,
)
from seqbook.data.datasets import LOADERS, simulate_shop
from seqbook.data.events import clean_events
from seqbook.data.experiments import choice_chances, draw_slates, show_items_at, slot_truth_at
from seqbook.data.sequences import SequenceEncoder, sessionize
from seqbook.evaluation.metrics import compare_models
from seqbook.evaluation.ranking import compare_lists
from seqbook.evaluation.reports import comparison_table
from seqbook.evaluation.uncertainty import bootstrap_interval
from seqbook.models.next_item import GRU4Rec, ItemCooccurrence

DATA = Path(os.environ.get("SEQBOOK_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
FILES = {"taobao": "taobao_userbehavior_sample.csv.gz", "online_retail": "online_retail.csv.gz"}
RUNS = Path(__file__).parent / "runs" / "recommendation"
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
    again, offered = seen_before(log, test, wanted[test]), page_features(live, log, test)[0]
    there = (offered == wanted[test][:, None].astype(offered.dtype)).any(axis=1)
    every = pd.notna(wanted) & (log["timestamp"] >= log["timestamp"].iloc[test[0]]).to_numpy()
    caption = (
        f"taobao: is the next view of the session in a list of 20? {len(live.ids):,} items, viewed three "
        f"times or more before; the last {days} days, {len(test):,} pages of {len(np.unique(users))} users "
        f"(of {every.sum():,} pages that lead to any item). {again.mean():.0%} of the next views the user "
        f"had viewed in a session before; {there.mean():.0%} are among the {live.n} candidates"
    )
    return caption, table_of(found, ["hit@20", "ndcg@20"])


def seen_before(log: pd.DataFrame, rows, wanted) -> np.ndarray:
    """Whether the user had viewed the item before the session of the page."""
    views = log[log["behavior"] == "view"]
    first = views.groupby(["user_id", "item_id"])["session_id"].first()
    pages = pd.MultiIndex.from_arrays([log["user_id"].to_numpy()[rows], wanted])
    return first.reindex(pages).to_numpy() != log["session_id"].to_numpy()[rows]


def standing_and_live(live: LiveRecommender, log: pd.DataFrame, rows, ranker) -> dict:
    """Lists just after each row, and those that could be made before its session began.

    All without the item of the page."""
    number, visit = pd.Series(np.arange(len(log))), log.groupby(["user_id", "session_id"]).ngroup()
    begin = number.groupby(visit.to_numpy()).transform("min").to_numpy()[rows]
    before = number.groupby(log["user_id"].to_numpy()).shift(1).to_numpy()[begin]
    known = ~np.isnan(before)
    asked = np.union1d(rows, before[known].astype(int))
    listed, X = page_features(live, log, asked)
    chance = ranker.predict_proba(X.reshape(-1, len(FEATURES)))[:, 1].reshape(listed.shape)
    ranked = best_first(listed, chance, 21)
    popular = np.tile(live.ids[live.popular[:21]], (len(rows), 1))
    standing = popular.copy()
    standing[known] = ranked[np.searchsorted(asked, before[known])]
    lists = {"popular": popular, "stands still": standing, "live": ranked[np.searchsorted(asked, rows)]}
    page = log["item_id"].tolist()
    return {
        name: [
            [item for item in shown if item != page[row]][:20] for row, shown in zip(rows, some, strict=True)
        ]
        for name, some in ((name, found.tolist()) for name, found in lists.items())
    }


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


def repeats(log: pd.DataFrame, weeks: int, resamples: int, seed: int) -> dict:
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
    bins = told_and_came(told, resamples, seed)
    top = told.nlargest(len(told) // 100, "chance")["came"].mean()
    caption = (
        f"online_retail: does the same customer buy the same item within 14 days? {len(told):,} pairs at "
        f"{len(parts)} moments, {told['came'].mean():.2%} do (told {told['chance'].mean():.2%}), of the "
        f"hundredth with the highest chance {top:.1%}"
    )
    came = (
        f"online_retail: told and came within 14 days, {len(told):,} pairs of customer and item by the "
        f"chance told; all together told {told['chance'].mean():.2%}, came {told['came'].mean():.2%}"
    )
    return {caption: table_of(found, ["roc_auc", "average_precision"]), came: bins}


def told_and_came(told: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Means by the chance told; customers are drawn whole for the interval."""
    rows = []
    tops = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 1])
    for top, inside in told.groupby(tops[np.searchsorted(tops, told["chance"])]):
        _, low, high = bootstrap_interval(
            np.mean, inside["came"], groups=inside["user_id"], n_resamples=min(resamples, 300), seed=seed
        )
        came = f"{inside['came'].mean():.1%} ({low:.1%} to {high:.1%})"
        rows.append([f"up to {top:.0%}", len(inside), f"{inside['chance'].mean():.1%}", came])
    return pd.DataFrame(rows, columns=["chance", "pairs", "told", "came"])


def simulated(seed: int) -> SimpleNamespace:
    """A shop as in the chapter, with its own margins and stock, and models of its first eight weeks."""
    shop = simulate_shop(n_users=5000, n_items=400, n_categories=12, days=84, seed=seed)
    rng, log = np.random.default_rng(seed), shop.events
    goods = shop.items.set_index("item_id")[["category", "price"]].assign(
        margin=rng.choice([0.1, 0.2, 0.3, 0.4], len(shop.items)), stock=rng.poisson(2.5, len(shop.items))
    )
    week = ((log["timestamp"] - log["timestamp"].min().normalize()) // (7 * DAY) + 1).to_numpy()
    past = log[(log["behavior"] == "view") & (week <= 8)]
    histories = SequenceEncoder(fields=("item_id",)).fit(past).encode(past)
    gru = GRU4Rec(units=32, learning_rate=5e-3, epochs=5, seed=seed, progress=False).fit(histories)
    live = LiveRecommender(gru, ItemCooccurrence().fit(histories), goods.reset_index())
    known = ((log["behavior"] == "view") & log["item_id"].isin(live.ids)).to_numpy()
    old, rows = np.flatnonzero(known & (week > 8) & (week <= 10)), np.flatnonzero(known & (week > 10))[::2]
    return SimpleNamespace(shop=shop, log=log, goods=goods, live=live, old=old, rows=rows, seed=seed)


def trees(seed: int, leaves: int) -> LGBMClassifier:
    """Boosting as in the chapter."""
    return LGBMClassifier(n_estimators=80, num_leaves=leaves, n_jobs=1, verbose=-1, random_state=seed)


def next_view_ranker(s: SimpleNamespace) -> LGBMClassifier:
    """The chance that a candidate is the next view of the visit, from pages of the weeks 9 and 10."""
    wanted = following_view(s.log)
    train = np.random.default_rng(s.seed).permutation(s.old[pd.notna(wanted[s.old])])[:3300]
    listed, X = page_features(s.live, s.log, train)
    came = listed == wanted[train][:, None].astype(listed.dtype)
    return trees(s.seed, 15).fit(X.reshape(-1, len(FEATURES)), came.ravel())


def likely_and_near(s: SimpleNamespace, rows) -> np.ndarray:
    """Popularity, and the category of the page: scores of all items, which the old recommender draws by."""
    page = s.live.category[[s.live.code[item] for item in s.log["item_id"].to_numpy()[rows]]]
    return 0.7 * s.live.popularity + 2.2 * (s.live.category == page[:, None])


def slot_models(s: SimpleNamespace) -> tuple:
    """Clicks by place, and purchases after a click, from what the old recommender showed."""
    slates = s.live.ids[draw_slates(choice_chances(likely_and_near(s, s.old), 1.0), k=5, seed=s.seed)[0]]
    shown = show_items_at(s.shop, s.old, slates, seed=s.seed)
    X = page_features(s.live, s.log, s.old, slates)[1].reshape(-1, len(FEATURES))
    left = (s.log["timestamp"].min().normalize() + 70 * DAY - s.log["timestamp"].iloc[shown["row"]]) / DAY
    bought, clicked = (shown["delay"] <= left.to_numpy()).to_numpy(), shown["click"].to_numpy()
    click = trees(s.seed, 7).fit(np.column_stack([X, np.log(shown["position"])]), clicked)
    buy = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(X[clicked], bought[clicked])
    return click, buy


def policies(s: SimpleNamespace) -> dict:
    """Five items for each page of the weeks 11 and 12, in stock and not of the page."""
    offered, X = page_features(s.live, s.log, s.rows)
    flat, there = X.reshape(-1, len(FEATURES)), (s.goods["stock"] > 0).to_numpy()
    click, buy = slot_models(s)
    clicks = click.predict_proba(np.column_stack([flat, np.zeros(len(flat))]))[:, 1]
    goods = s.goods.loc[offered.ravel()]
    money = clicks * buy.predict_proba(flat)[:, 1] * (goods["price"] * goods["margin"]).to_numpy()
    view = next_view_ranker(s).predict_proba(flat)[:, 1]
    here = s.log["item_id"].to_numpy()[s.rows][:, None]
    every = np.tile(s.live.ids, (len(s.rows), 1))
    popular = s.live.popularity + 100 * (likely_and_near(s, s.rows) - 0.7 * s.live.popularity > 1)

    def five(scores, of=offered, rule=True):
        may = (there[of - 1] | (not rule)) & (of != here)
        return best_first(of, np.where(may, np.reshape(scores, of.shape), -np.inf), 5)

    return {
        "popular in the category": five(popular, every),
        "old recommender": s.live.ids[draw_slates(choice_chances(likely_and_near(s, s.rows), 1.0), 5, 2)[0]],
        "viewed together": five(X[..., FEATURES.index("coview")]),
        "live, clicks": five(clicks),
        "live, next view": five(view),
        "live, money, sold out too": five(money, rule=False),
        "live, money": five(money),
        "best possible": five(true_worth(s, every), every),
    }


def true_worth(s: SimpleNamespace, slates) -> np.ndarray:
    """What each item shown would earn in the first place."""
    truth = slot_truth_at(s.shop, s.rows, slates)
    margin = s.goods["margin"].to_numpy()[slates - 1]
    return truth.attraction * truth.conversion * truth.price * margin


def worth_of_shop(seed: int) -> dict:
    """Margin of 1,000 pages in one shop, by policy; what is out of stock earns nothing."""
    s = simulated(seed)
    earns = (s.goods["margin"] * (s.goods["stock"] > 0)).to_numpy()
    return {
        name: 1000 * float((slot_truth_at(s.shop, s.rows, found).value * earns[found - 1]).sum(axis=1).mean())
        for name, found in policies(s).items()
    }


def worth(shops: int, folder: Path) -> tuple:
    """Means over shops with their intervals (Student's t); differences are taken within a shop."""
    found = pd.DataFrame([kept(folder, ("worth", s), partial(worth_of_shop, s)) for s in range(shops)])
    views, naive = found["live, next view"], found["popular in the category"]
    table = {
        "margin of 1,000 pages": found,
        "more than naive": found.sub(naive, axis=0),
        "more than next view": found.sub(views, axis=0),
    }
    wide = pd.DataFrame(
        {
            name: part.apply(lambda values: spoken(values, 0) if values.any() else "")
            for name, part in table.items()
        }
    )
    caption = (
        f"simulated shops: expected margin of 1,000 pages with five places; means of {shops} shops, each "
        "with its own margins, stock, training and log, and 95 % intervals of the mean over shops"
    )
    return caption, wide.rename_axis("policy").reset_index()


def table_of(found: pd.DataFrame, metrics: list) -> pd.DataFrame:
    """A row a model, a column a metric with its interval, and the verdict on the first metric."""
    verdict = found[found["metric"] == metrics[0]].set_index("model")["verdict"]
    table = comparison_table(found[found["metric"].isin(metrics)]).assign(verdict=verdict)
    return table.rename_axis("model").reset_index().fillna("")


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
    parser.add_argument("--shops", type=int, default=5, help="simulated shops, at least two")
    parser.add_argument("--folder", type=Path, default=RUNS, help="where finished shops are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()
    retail, more = read(options.data, "online_retail"), (options.resamples, options.seed)
    tables = dict(
        [
            live_lists(read(options.data, "taobao"), options.days, *more),
            carts(retail, 56, options.orders, *more),
            worth(options.shops, options.folder),
        ]
    )
    tables |= repeats(retail, 8, *more)
    show_tables(tables)
    if options.save:
        settings = {"seed": options.seed, "bootstrap samples": options.resamples, "shops": options.shops}
        save("applications_recommendation", [], settings, tables)


if __name__ == "__main__":
    main()
