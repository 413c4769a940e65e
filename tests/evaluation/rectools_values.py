"""Write rectools_values.json: random lists, and what RecTools says of each of them.

RecTools 0.19 needs pandas below 3, so it cannot be installed beside this package. Run this in an environment
of its own (`pip install "rectools==0.19.*"`); test_ranking.py compares with the file.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from rectools import Columns
from rectools.metrics import (
    MAP,
    MRR,
    NDCG,
    AvgRecPopularity,
    CatalogCoverage,
    HitRate,
    IntraListDiversity,
    MeanInvUserFreq,
    Precision,
    Recall,
    Serendipity,
)
from rectools.metrics.distances import PairwiseHammingDistanceCalculator


def draw_case(seed: int) -> dict:
    """A few users with lists of different lengths, what they took, and a past; some items are new."""
    rng = np.random.default_rng(seed)
    n, n_items, k = int(rng.integers(1, 7)), int(rng.integers(3, 15)), int(rng.integers(1, 12))
    some = [rng.choice(n_items, rng.integers(1, n_items + 1), replace=False).tolist() for _ in range(2 * n)]
    past = pd.DataFrame({"user": rng.integers(9, size=40), "item": rng.integers(n_items - 1, size=40)})
    features = rng.integers(3, size=(n_items, 2)).tolist()
    return {
        "k": k, "n_items": n_items, "recommended": some[:n], "relevant": some[n:], "features": features,
        "past": past.drop_duplicates().to_numpy().tolist(),
    }  # fmt: skip


def frame(lists: list) -> pd.DataFrame:
    """One row an item, with its user and its place."""
    rows = [(user, item, j + 1) for user, items in enumerate(lists) for j, item in enumerate(items)]
    return pd.DataFrame(rows, columns=[Columns.User, Columns.Item, Columns.Rank])


def values(case: dict) -> dict:
    """Each metric by user."""
    k, reco, taken = case["k"], frame(case["recommended"]), frame(case["relevant"])
    past = pd.DataFrame(case["past"], columns=[Columns.User, Columns.Item])
    catalogue = np.arange(case["n_items"])
    features = pd.DataFrame(case["features"], index=pd.Index(catalogue, name=Columns.Item))
    apart = PairwiseHammingDistanceCalculator(features)
    right = {
        "hit": HitRate(k), "precision": Precision(k), "recall": Recall(k), "mrr": MRR(k), "map": MAP(k),
        "ndcg": NDCG(k, divide_by_achievable=True),
    }  # fmt: skip
    found = {name: metric.calc_per_user(reco, taken) for name, metric in right.items()}
    found["popularity"] = AvgRecPopularity(k).calc_per_user(reco, past)
    found["novelty"] = MeanInvUserFreq(k).calc_per_user(reco, past)
    found["diversity"] = IntraListDiversity(k, apart).calc_per_user(reco) / 2  # of two features
    found["serendipity"] = Serendipity(k).calc_per_user(reco, taken, past, catalogue)
    told = {name: series.sort_index().astype(float).tolist() for name, series in found.items()}
    return told | {"coverage": float(CatalogCoverage(k, normalize=True).calc(reco, catalogue))}


if __name__ == "__main__":
    cases = [draw_case(seed) for seed in range(60)]
    target = Path(__file__).with_suffix(".json")
    target.write_text(json.dumps([case | {"values": values(case)} for case in cases]) + "\n")
