"""Advertising: click models on the first 10,000 rows of Criteo, and uplift learners on the simulated shop.

Prints tables; see README.md for the protocol.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from results import save, show_tables
from sklearn.linear_model import LogisticRegression

from seqbook.applications.advertising import (
    LEARNERS,
    PARTS,
    ClickNetwork,
    UpliftLearner,
    hash_codes,
    one_hot,
    uplift_areas,
)
from seqbook.data.datasets import load_criteo, simulate_shop
from seqbook.data.experiments import offer_campaign, offer_truth
from seqbook.evaluation.metrics import compare_models, expected_calibration_error
from seqbook.evaluation.reports import comparison_table
from seqbook.models.classical import make_classifier

DATA = Path(os.environ.get("SEQBOOK_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
SIZE, MARGIN = 2**16, 0.3
PILOT, CAMPAIGN = "2024-03-01", "2024-04-01"


def as_values(rows: pd.DataFrame) -> pd.DataFrame:
    """All columns as values to hash; a number becomes the whole part of twice its logarithm."""
    numbers = [name for name in rows if name.startswith("I")]
    logs = np.floor(2 * np.log1p(rows[numbers].clip(lower=0)))
    return rows.drop(columns=["label", *numbers]).join(logs)


def criteo(folder: Path, resamples: int, seed: int) -> tuple:
    """Click models fitted on the first 8,000 rows, asked for the last 2,000."""
    rows = load_criteo(folder / "criteo_train_examples_10k.tsv.gz")
    y, first = rows["label"].to_numpy(), np.arange(len(rows)) < 0.8 * len(rows)
    values = as_values(rows)
    codes, numbers = hash_codes(values, SIZE), rows.drop(columns="label")
    said = {"mean": np.full((~first).sum(), y[first].mean())}
    logistic = LogisticRegression(C=0.05, max_iter=500).fit(one_hot(codes[first], SIZE), y[first])
    said["logistic, hashed"] = logistic.predict_proba(one_hot(codes[~first], SIZE))[:, 1]
    for name, parts in {"FM": PARTS[:2], "DeepFM": PARTS[:3]}.items():
        model = ClickNetwork(parts, SIZE, penalty=1e-4, batch_size=256, seed=seed).fit(codes[first], y[first])
        said[name] = model.predict_proba(codes[~first])[:, 1]
    trees = make_classifier("lightgbm", n_estimators=150, learning_rate=0.05, seed=seed)
    said["boosting"] = trees.fit(numbers[first], y[first]).predict_proba(numbers[~first])[:, 1]
    found = compare_models(said, y[~first], n_resamples=resamples, seed=seed)
    table = comparison_table(found[found["metric"].isin(["log_loss", "roc_auc"])], 4)
    table["calibration error"] = [f"{expected_calibration_error(y[~first], p):.4f}" for p in said.values()]
    new = np.mean([~values.loc[~first, c].isin(values.loc[first, c]) for c in values if c.startswith("C")])
    caption = (
        f"Criteo, the first {len(rows):,} rows: {first.sum():,} to learn from, {(~first).sum():,} after them "
        f"asked ({y[~first].mean():.1%} clicked; {new:.1%} of their categories are new)"
    )
    return caption, table.rename_axis("model").reset_index()


def habits(shop, cutoff: str, users) -> np.ndarray:
    """What the log shows of each user before the cutoff."""
    past = shop.events[shop.events["timestamp"] < cutoff]
    by, counts = past.groupby("user_id"), pd.crosstab(past["user_id"], past["behavior"])
    n, visits = by.size(), by["session_id"].nunique()
    days = (pd.Timestamp(cutoff) - by["timestamp"].agg(["min", "max"])) / pd.Timedelta(days=1)
    price = np.log(past["price"]).groupby(past["user_id"]).mean()
    parts = [np.log1p(counts), counts.div(n, axis=0), np.log(visits), np.log(visits / (days["min"] + 7))]
    return pd.concat([*parts, np.log(n / visits), price, np.log1p(days)], axis=1).loc[users].to_numpy()


def one_pilot(shop, before, after, truth, seed: int) -> dict:
    """Learners fitted on one pilot: the true profit of their choices, and what a campaign says of them."""
    pilot, second = (offer_campaign(shop, day, seed=s) for day, s in ((PILOT, seed), (CAMPAIGN, seed + 1000)))
    gain = MARGIN * (truth["spend_with"] - truth["spend_without"]) - truth["cost"]
    seen = MARGIN * second["spend"] - second["cost"]
    found = {}
    for name in LEARNERS:
        model = UpliftLearner(name, seed=seed)
        said = model.fit(before, pilot["treated"], MARGIN * pilot["spend"] - pilot["cost"]).predict(after)
        areas = uplift_areas(seen, second["treated"], said)
        found[name] = {
            "true profit": gain[said > 0].sum(),
            "correlation with the true gain": np.corrcoef(said, gain)[0, 1],
            "true AUUC": float(
                np.mean(gain.to_numpy()[np.argsort(-said)].cumsum()) / len(gain) - gain.mean() / 2
            ),
            "measured AUUC": areas["auuc"],
        }
    return found


def uplift(users: int, pilots: int) -> tuple:
    """All learners on several pilots of one shop."""
    shop = simulate_shop(n_users=users, seed=8)
    truth = offer_truth(shop, CAMPAIGN)
    before = habits(shop, PILOT, offer_campaign(shop, PILOT)["user_id"])
    after = habits(shop, CAMPAIGN, truth["user_id"])
    runs = [pd.DataFrame(one_pilot(shop, before, after, truth, seed)).T for seed in range(pilots)]
    mean, spread = (getattr(pd.concat(runs).groupby(level=0, sort=False), f)() for f in ("mean", "std"))
    gain = MARGIN * (truth["spend_with"] - truth["spend_without"]) - truth["cost"]
    table = pd.DataFrame(
        {c: [f"{m:.3g} ± {s:.2g}" for m, s in zip(mean[c], spread[c], strict=True)] for c in mean}, mean.index
    )
    caption = (
        f"uplift: {pilots} pilots (mean ± standard deviation) among {len(before):,} shoppers, a coupon a "
        f"month later to those of {len(truth):,} whose expected gain is above 0; to all it brings "
        f"{gain.sum():,.0f}, to the right ones {gain.clip(lower=0).sum():,.0f}"
    )
    return caption, table.rename_axis("learner").reset_index()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public logs")
    parser.add_argument("--users", type=int, default=30_000, help="shoppers of the simulated shop")
    parser.add_argument("--pilots", type=int, default=5, help="pilots of the uplift learners")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    asked = parser.parse_args()
    tables = dict([criteo(asked.data, asked.resamples, asked.seed), uplift(asked.users, asked.pilots)])
    show_tables(tables)
    if asked.save:
        settings = {name: getattr(asked, name) for name in ("users", "pilots", "resamples", "seed")}
        save("applications_advertising", [], settings, tables)


if __name__ == "__main__":
    main()
