"""Advertising: click models on 10,000 rows of Criteo, and the chapter's decisions on several shops.

Runs the cells of the chapter on shops of other seeds. Prints tables; see README.md for the protocol.
"""

import argparse
import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from results import kept, save, show_tables, spoken
from sklearn.linear_model import LogisticRegression

from seqbook.applications import advertising
from seqbook.applications.advertising import PARTS, ClickNetwork, UpliftLearner, hash_codes, one_hot
from seqbook.data.datasets import load_criteo
from seqbook.evaluation.metrics import compare_models, expected_calibration_error
from seqbook.evaluation.reports import comparison_table
from seqbook.models.classical import make_classifier

DATA = Path(os.environ.get("SEQBOOK_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
RUNS = Path(__file__).parent / "runs" / "advertising"
CHAPTER = Path(__file__).parents[1] / "nbs" / "applications" / "02_advertising.ipynb"
SIZE = 2**16
SKIPPED = {  # sections that no decision needs
    "### Factorisation machine",
    "### A network that reads the history",
    "### Which is best?",
    "### Fewer rows, and the way back",
    "### Credit among touches",
    "### A holdout",
}


def as_values(rows: pd.DataFrame) -> pd.DataFrame:
    """All columns as values to hash; a number becomes the whole part of twice its logarithm."""
    numbers = [name for name in rows if name.startswith("I")]
    logs = np.floor(2 * np.log1p(rows[numbers].clip(lower=0)))
    return rows.drop(columns=["label", *numbers]).join(logs)


def by_chance(p, n: int = 200) -> float:
    """The mean calibration error of answers that are right."""
    draws = np.random.default_rng(0).random((n, len(p))) < p
    return np.mean([expected_calibration_error(y.astype(int), p) for y in draws])


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
    table["by chance alone"] = [f"{by_chance(p):.4f}" for p in said.values()]
    new = np.mean([~values.loc[~first, c].isin(values.loc[first, c]) for c in values if c.startswith("C")])
    caption = (
        f"Criteo, the first {len(rows):,} rows: {first.sum():,} to learn from, {(~first).sum():,} after them "
        f"asked ({y[~first].mean():.1%} clicked; {new:.1%} of their categories are new)"
    )
    return caption, table.rename_axis("model").reset_index().to_dict("list")


def chapter(seed: int) -> str:
    """The code of the chapter up to the money, for the shop of another seed."""
    code, heading = [], ""
    for cell in json.loads(CHAPTER.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^##.*", source, re.M) or [heading])[-1]
        elif heading not in SKIPPED and not re.search(r"#\||subplots|bootstrap_interval|\"forest\"", source):
            code.append(source)
        if heading == "## What goes wrong":
            break
    whole, shop = "\n\n".join(code), "seed=8)"
    if whole.count(shop) != 1:
        sys.exit(f"the chapter does not make one shop with {shop}")
    return whole.replace(shop, f"seed={seed})")


def one_shop(seed: int) -> dict:
    """What the decisions of the chapter bring in one shop: means of money and pacing, and all pilots."""
    tests = {}
    exec("from fastcore.test import *", tests)
    space = {**vars(advertising), **tests}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(chapter(seed), str(CHAPTER), "exec"), space)
    for pilot in (space["pilot"], *space["others"]):
        profit = space["MARGIN"] * pilot["spend"] - pilot["cost"]
        forest = UpliftLearner("forest").fit(space["before"], pilot["treated"], profit)
        space["judged"].append(space["judge"]("causal forest", forest.predict(space["now_known"])))
    money = {what: {p: np.mean(x) for p, x in parts.items()} for what, parts in space["repeated"].items()}
    pacing = {kind: both.mean(axis=1).tolist() for kind, both in space["pacing"].items()}
    pilots = [{"shop": seed, "shoppers": len(space["true_gain"]), **row} for row in space["judged"]]
    return {"money": money, "pacing": pacing, "pilots": pilots}


def decisions(shops: list) -> pd.DataFrame:
    """Money of each decision over the shops."""
    rows = []
    for what in shops[0]["money"]:
        by = pd.DataFrame([shop["money"][what] for shop in shops])
        more = by["ours"] - by["naive"]
        told = {policy: spoken(by[policy], 1) for policy in by}
        better = f"{(more > 0).sum()} of {len(more)} shops"
        rows.append({"decision": what, **told, "ours - naive": spoken(more, 1), "better in": better})
    return pd.DataFrame(rows)


def pacing(shops: list) -> pd.DataFrame:
    """Profit of the shaded bidder by kind of day, and what pacing adds, over the shops."""
    rows = []
    for kind in shops[0]["pacing"]:
        shaded, more = zip(*(shop["pacing"][kind] for shop in shops), strict=True)
        rows.append({"day": kind, "shaded": spoken(shaded, 1), "pacing adds": spoken(more, 1)})
    return pd.DataFrame(rows)


def uplift(shops: list) -> pd.DataFrame:
    """Learners over all pilots of all shops: what a second campaign tells, and the true profit."""
    runs = pd.DataFrame([row for shop in shops for row in shop["pilots"]])
    runs["profit"] = 1000 * runs["true profit"] / runs["shoppers"]
    rows = []
    for name, some in runs.groupby("learner"):
        area, profit = some["measured AUUC"], some["profit"]
        rows.append(
            {
                "learner": name,
                "measured AUUC": f"{area.mean():.3f} ({area.min():.3f} to {area.max():.3f})",
                "true profit": f"{profit.mean():.0f} ({profit.min():.0f} to {profit.max():.0f})",
                "pilots without profit": f"{(profit <= 0).sum()} of {len(some)}",
            }
        )
    return pd.DataFrame(rows)


def tables(shops: list) -> dict:
    """Captions and tables of all shops."""
    of, over = f"{len(shops)} simulated shops", "intervals are Student's, over the shops"
    of_pilots = "money for 1,000 shoppers; mean, and the lowest and highest of a pilot"
    return {
        f"decisions: the money of the chapter in {of}, the mean of each; {over}": decisions(shops),
        f"pacing: profit of a day for one item, in {of}; {over}": pacing(shops),
        f"uplift: learners of five pilots in each of {of}; {of_pilots}": uplift(shops),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the public logs")
    parser.add_argument("--shops", type=int, default=4, help="simulated shops: the chapter's and others")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=RUNS, help="where finished shops are kept")
    parser.add_argument("--save", action="store_true", help="keep the result and bring README.md up to date")
    asked = parser.parse_args()
    settings = {name: getattr(asked, name) for name in ("shops", "resamples", "seed")}
    what = ("criteo", asked.resamples, asked.seed)
    caption, rows = kept(asked.folder, what, lambda: criteo(asked.data, asked.resamples, asked.seed))
    shops = [
        kept(asked.folder, (seed, chapter(seed)), lambda seed=seed: one_shop(seed))
        for seed in range(8, 8 + asked.shops)
    ]
    found = {caption: pd.DataFrame(rows), **tables(shops)}
    show_tables(found)
    if asked.save:
        save("applications_advertising", [], settings, found)


if __name__ == "__main__":
    main()
