"""CDNOW: BG/NBD and Pareto/NBD beside the published figures, 39 weeks held out, and our models beside them.
Simulated shops: what the win-back of the chapter gains, in shops and with pilots that it was not made on.

Prints tables; see README.md for the protocol. Results are kept, so a run that was broken off goes on.
"""

import argparse
import functools
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from results import kept, save, show, show_tables

from seqbook.applications.churn import (
    BGNBD,
    PILOT_FEATURES,
    REWARDS,
    GammaGamma,
    ParetoNBD,
    arm_chances,
    customer_table,
    draw_value,
    offer_values,
    play_pilots,
    win_back,
)
from seqbook.data.datasets import ShopModel, load_cdnow, simulate_shop
from seqbook.data.experiments import offer_truth
from seqbook.data.features import FeatureBuilder
from seqbook.data.tasks import Churn
from seqbook.evaluation.metrics import compare_models, compare_regressions
from seqbook.evaluation.reports import comparison_table
from seqbook.evaluation.uncertainty import bootstrap_interval, coverage_table
from seqbook.models.classical import make_classifier, make_regressor

DATA = Path(os.environ.get("SEQBOOK_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
RUNS = Path(__file__).parent / "runs" / "churn"
START, END, WEEKS = "1997-10-01", "1998-07-01", 39
PUBLISHED = {  # Fader, Hardie and Lee 2005, table 2; Fader and Hardie 2013 for the gamma-gamma
    "BG/NBD": {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426, "log-likelihood": -9582.4},
    "Pareto/NBD": {"r": 0.553, "alpha": 10.578, "s": 0.606, "beta": 11.669, "log-likelihood": -9595.0},
    "gamma-gamma": {"p": 6.25, "q": 3.74, "v": 15.44},
}
MODELS = {"BG/NBD": BGNBD, "Pareto/NBD": ParetoNBD}
PILOT_DAYS, CAMPAIGN, LATER, BUDGET, MARGIN = (
    ("2024-02-01", "2024-02-15", "2024-03-01"),
    "2024-06-01",
    "60d",
    300,
    0.3,
)
WIN_BACK = {kind: f"win_back, {kind}" for kind in ("cost by ridge", "with features that grow")} | {
    "": "win_back"
}
GROWN = ["event_tenure", "session_count_all", "spend_all"]  # the same shoppers have more of it each month
LEARNED = ("1997-04-02", "1997-07-02")  # cutoffs to learn from, with a horizon of 91 days each


def parameters(models: dict) -> pd.DataFrame:
    """Estimates beside the published ones."""
    rows = []
    for name, model in models.items():
        found = model.params_.to_dict() | (
            {"log-likelihood": model.log_likelihood_} if hasattr(model, "log_likelihood_") else {}
        )
        rows += [(name, what, f"{PUBLISHED[name][what]:g}", f"{value:.4g}") for what, value in found.items()]
    return pd.DataFrame(rows, columns=["model", "parameter", "published", "found"])


def bought_later(log: pd.DataFrame, customers: pd.DataFrame) -> pd.Series:
    """Days with a purchase in the weeks held out."""
    late = log[(log["timestamp"] >= START) & (log["timestamp"] < END)]
    days = late.groupby("user_id")["timestamp"].apply(lambda times: times.dt.floor("D").nunique())
    return days.reindex(customers.index, fill_value=0)


def spent_later(log: pd.DataFrame, customers: pd.DataFrame) -> pd.Series:
    """Money in the weeks held out."""
    late = log[(log["timestamp"] >= START) & (log["timestamp"] < END)]
    money = (late["price"] * late["quantity"]).groupby(late["user_id"]).sum()
    return money.reindex(customers.index, fill_value=0.0)


def by_frequency(came: pd.Series, said: dict, customers: pd.DataFrame) -> pd.DataFrame:
    """Mean purchases in the weeks held out, by purchases before: the figure of the paper as a table."""
    groups = customers["frequency"].clip(upper=7).astype(int).rename("repeat purchases (7: or more)")
    table = pd.DataFrame({"came": came, **said}, customers.index).groupby(groups).mean().round(2)
    return table.assign(customers=groups.value_counts()).reset_index().astype(str)


def learned(log: pd.DataFrame, customers: pd.DataFrame, seed: int) -> tuple:
    """Ours: will anyone buy, and how often, learned from two earlier cutoffs and asked for 39 weeks.

    The labels of the training are known before the test begins, so their horizon is a quarter, and counts
    are scaled from 13 to 39 weeks."""
    task = Churn("91d")
    train = task.examples(log, LEARNED, log_end=START)
    test = task.examples(log, START, log_end=END)
    builder = FeatureBuilder(families=("frequency", "interval"), seed=seed).fit(train, train.label)
    X, asked = builder.transform(train), builder.transform(test)
    counts = quarter_counts(log, train)
    silent, often = {}, {}
    for name in ("logistic", "lightgbm"):
        model = make_classifier(name, seed=seed).fit(X, train.label)
        silent[name] = pd.Series(model.predict_proba(asked)[:, 1], test.ids)[customers.index].to_numpy()
    for name in ("two-part", "lightgbm"):
        model = make_regressor(name, seed=seed).fit(X, counts)
        often[name] = 3 * pd.Series(model.predict(asked), test.ids)[customers.index].to_numpy()
    return silent, often, test.label[pd.Index(test.ids).get_indexer(customers.index)]


def quarter_counts(log: pd.DataFrame, train) -> np.ndarray:
    """Days with a purchase in the 91 days after the cutoff of each example."""
    rows = []
    for cutoff in LEARNED:
        end = pd.Timestamp(cutoff) + pd.Timedelta(days=91)
        late = log[(log["timestamp"] >= cutoff) & (log["timestamp"] < end)]
        days = late.groupby("user_id")["timestamp"].apply(lambda times: times.dt.floor("D").nunique())
        ids = train.ids[train.cutoff == np.datetime64(cutoff)]
        rows.append(days.reindex(ids, fill_value=0).to_numpy(float))
    return np.concatenate(rows)


def wide(found: pd.DataFrame, metrics: list) -> pd.DataFrame:
    """A comparison as a table of texts."""
    return comparison_table(found[found["metric"].isin(metrics)]).rename_axis("model").reset_index()


def campaign_truth(shop, ids) -> tuple:
    """True benefit and cost of each offer for each shopper."""
    found = {
        name: offer_truth(shop, CAMPAIGN, offer=o, later=LATER).set_index("user_id")
        for name, o in REWARDS.items()
    }
    bring = {
        name: MARGIN * (t["spend_with"] - t["spend_without"] + t["later_with"] - t["later_without"])
        for name, t in found.items()
    }
    cost = {name: t["cost"] for name, t in found.items()}
    return pd.DataFrame(bring).loc[ids], pd.DataFrame(cost).loc[ids]


def learned_cost(x, pilot, x_now) -> pd.DataFrame:
    """The cost of each offer, learned by ridge from what the pilot cost: not an upper estimate."""
    said = {}
    for arm, name in enumerate(REWARDS, start=1):
        rows = (pilot["arm"] == arm).to_numpy()
        said[name] = make_regressor("ridge").fit(x[rows], pilot["cost"][rows]).predict(x_now).clip(0)
    return pd.DataFrame(said, x_now.index)


def campaigns(seed: int, lots: int, users: int) -> list:
    """The policies in one simulated shop, for so many lots of the pilots: true gain, true cost, promise."""
    shop = simulate_shop(n_users=users, days=180, seed=seed, model=ShopModel(churn=(2.0, 1 / 60)))
    asked = Churn("7d", active_within="45d").examples(shop.events, [*PILOT_DAYS, CAMPAIGN])
    late = asked.cutoff == np.datetime64(CAMPAIGN)
    now, earlier, rows = asked[late], asked[~late], []
    truth = campaign_truth(shop, now.ids)
    for lot in range(lots):
        taken, pilot = play_pilots(shop, earlier, REWARDS, LATER, seed=lot)
        builder = FeatureBuilder(names=[*PILOT_FEATURES, *GROWN]).fit(taken)
        x, x_now = builder.transform(taken), builder.transform(now).set_axis(now.ids)
        rows += [{"shop": seed, "lot": lot} | row for row in policies(x, pilot, x_now, *truth)]
    return rows


def policies(x, pilot, x_now, benefit, cost) -> list:
    """The plans of one lot, and what each promises and is worth in truth."""
    learned = {"with features that grow": offer_values(x, pilot, x_now, REWARDS, MARGIN)}
    x, x_now = x[PILOT_FEATURES], x_now[PILOT_FEATURES]
    value = offer_values(x, pilot, x_now, REWARDS, MARGIN)
    learned = {"": value, "cost by ridge": (value[0], learned_cost(x, pilot, x_now))} | learned
    likely = arm_chances(x, pilot, x_now)[0].sort_values(ascending=False).index
    buyers = pd.Series(np.where(value[1]["coupon"][likely].cumsum() <= BUDGET, "coupon", None), likely)
    plans = {
        "likeliest buyer first, coupon": (buyers[x_now.index], np.nan),
        "a message to all": (pd.Series("message", x_now.index), np.nan),
    }
    for name, amounts in (learned | {"best possible": (benefit, cost)}).items():
        plan = win_back(*amounts, BUDGET)
        plans[WIN_BACK.get(name, name)] = plan["offer"], plan["gain"].sum()
    return [{"policy": name} | worth(*plan, benefit, cost) for name, plan in plans.items()]


def worth(offer, promise, benefit, cost) -> dict:
    """True gain and cost of a plan beside what it promised."""
    made = pd.get_dummies(offer).reindex(columns=list(REWARDS), fill_value=False).astype(bool)
    paid = float((cost * made).sum().sum())
    return {"gain": float((benefit * made).sum().sum()) - paid, "cost": paid, "promise": float(promise)}


def over_shops(found: pd.DataFrame, column: str, of: str, less: str = None) -> str:
    """Mean of a policy (less another) with an interval over shops, and the lowest and highest of all lots."""
    by_lot = found.pivot(index=["shop", "lot"], columns="policy", values=column)
    each = by_lot[of] if less is None else by_lot[of] - by_lot[less]
    if each.isna().any():
        return ""
    mean = bootstrap_interval(np.mean, each.to_numpy(), groups=each.index.get_level_values("shop"))
    return f"{mean.value:.0f} ({mean.low:.0f} to {mean.high:.0f}); {each.min():.0f} to {each.max():.0f}"


def money_table(found: pd.DataFrame) -> pd.DataFrame:
    """Policies in rows; mean (95 % interval over shops); lowest to highest."""
    rows = [
        {
            "policy": name,
            "gain": over_shops(found, "gain", name),
            "true cost": over_shops(found, "cost", name),
            "promise": over_shops(found, "promise", name),
            "gain less a message to all": ""
            if name == "a message to all"
            else over_shops(found, "gain", name, "a message to all"),
        }
        for name in dict.fromkeys(found["policy"])
    ]
    return pd.DataFrame(rows)


def win_backs(options) -> tuple:
    """Counts over all campaigns, and the money table."""
    found = []
    for shop in range(101, 101 + options.shops):
        how = shop, options.lots, options.users
        found += kept(options.folder, how, functools.partial(campaigns, *how))
        print(f"shop {shop} done", file=sys.stderr, flush=True)
    found = pd.DataFrame(found)
    gain, paid = (
        found.pivot(index=["shop", "lot"], columns="policy", values=what) for what in ("gain", "cost")
    )
    better = (gain["win_back"] > gain["a message to all"]).sum()
    rows = [
        ("win-back: campaigns in simulated shops", len(gain), ""),
        ("win_back gains more than a message to all", better, "campaigns"),
        ("win_back loses money", (gain["win_back"] < 0).sum(), "campaigns"),
    ]
    for name in WIN_BACK.values():
        rows.append((f"{name}: true cost above the budget", (paid[name] > BUDGET).sum(), "campaigns"))
    return rows, money_table(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with CDNOW_sample.txt.gz")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shops", type=int, default=6, help="simulated shops, with seeds from 101 on")
    parser.add_argument("--lots", type=int, default=2, help="lots of the pilots in each shop")
    parser.add_argument("--users", type=int, default=18_000, help="shoppers of each shop")
    parser.add_argument("--folder", type=Path, default=RUNS, help="where finished shops are kept")
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    options = parser.parse_args()

    log = load_cdnow(options.data / "CDNOW_sample.txt.gz")
    customers = customer_table(log, START)
    models = {name: make().fit(customers) for name, make in MODELS.items()}
    money = GammaGamma().fit(customers)
    came, spent = bought_later(log, customers), spent_later(log, customers)
    often = {name: model.expected(customers, WEEKS) for name, model in models.items()}
    rows = [
        ("customers", len(customers), ""),
        ("repeat purchases in 39 weeks", customers["frequency"].sum(), ""),
        ("purchases in the 39 weeks held out", came.sum(), ""),
    ]
    rows += [(f"{name}: forecast of them", said.sum(), "") for name, said in often.items()]
    rows += [(f"{name}: error", 100 * (said.sum() / came.sum() - 1), "%") for name, said in often.items()]

    silent, ours, label = learned(log, customers, options.seed)
    quiet = {name: (model.draw(customers, 13, n=1000) == 0).mean(axis=0) for name, model in models.items()}
    how = {"n_resamples": options.resamples, "seed": options.seed}
    churn = compare_models({**quiet, **silent}, label, baseline="BG/NBD", **how)
    last_quarter = customers["frequency"].to_numpy(float)
    naive = {"as often as before": last_quarter * WEEKS / customers["T"].to_numpy()}
    counts = compare_regressions({**often, **ours, **naive}, came, baseline="BG/NBD", **how)
    draws = draw_value(models["Pareto/NBD"], money, customers, WEEKS, n=2000, seed=options.seed)
    low, high = np.quantile(draws, [0.1, 0.9], axis=0)
    inside = coverage_table((low <= spent) & (spent <= high), size=high - low).iloc[0]
    rows += [
        ("spent in the 39 weeks held out", spent.sum(), "$"),
        ("Pareto/NBD and gamma-gamma: forecast of it", draws.mean(axis=0).sum(), "$"),
        ("customers inside their 80 % interval", 100 * inside["coverage"], "%"),
    ]
    tables = {
        "CDNOW sample: parameters": parameters({**models, "gamma-gamma": money}),
        "CDNOW sample: mean purchases in the 39 weeks held out": by_frequency(came, often, customers),
        "CDNOW sample: no purchase in the 13 weeks after the calibration": wide(
            churn, ["roc_auc", "brier", "log_loss"]
        ),
        "CDNOW sample: number of purchases in the 39 weeks held out": wide(
            counts, ["mae", "rmse", "bias", "spearman"]
        ),
    }
    counted, tables["Win-back: mean (95 % interval over shops); lowest to highest"] = win_backs(options)
    rows += counted
    rows = [(what, float(value), unit) for what, value, unit in rows]
    show(rows)
    show_tables(tables)
    if options.save:
        settings = {name: getattr(options, name) for name in ("resamples", "seed", "shops", "lots", "users")}
        save("applications_churn", rows, settings, tables)


if __name__ == "__main__":
    main()
