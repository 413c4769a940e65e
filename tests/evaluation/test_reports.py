"""The report: whole, self-contained, safe with strings from outside; plots that show what the metrics say."""

import base64
import dataclasses
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cloudpickle
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from seqbook.data.datasets import simulate_shop
from seqbook.data.tasks import NextItem, Purchase, RollingSplit, Spend, TagPurchased, TimeSplit, UserSplit
from seqbook.evaluation import reports
from seqbook.evaluation.metrics import (
    EvaluationError,
    amount_bins,
    bootstrap_metrics,
    choose_threshold,
    classification_metrics,
    compare_models,
    compare_regressions,
    confusion_table,
    regression_metrics,
)
from seqbook.evaluation.ranking import compare_lists, compare_rankings, ranking_metrics
from seqbook.evaluation.reports import (
    Comparison,
    ReportExistsError,
    compare,
    compare_splits,
    comparison_table,
    fairness_gaps,
    funnel_table,
    history_segments,
    learning_curve,
    plot_calibration,
    plot_confusion,
    plot_deciles,
    plot_drift,
    plot_funnel,
    plot_gains,
    plot_hits,
    plot_learning_curve,
    plot_metrics,
    plot_precision_recall,
    plot_roc,
    plot_scores,
    plot_segments,
    plot_splits,
    report_html,
    run_environment,
    saved_result,
    saved_table,
    write_report,
)

matplotlib.use("Agg")
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\" & 'q'"


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    p = 1 / (1 + np.exp(-rng.normal(-2, 1.3, size=2000)))
    y = (rng.random(2000) < p).astype(int)
    models = {"constant": np.full(2000, y.mean()), "true": p}
    return models, y, compare_models(models, y, n_resamples=100)


class Page(HTMLParser):
    """Tags, ids and links of a page; fails on a tag that is closed in the wrong place."""

    void = {"meta", "img", "link", "br"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.images, self.open = [], [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        self.images += [attrs] if tag == "img" else []
        assert not any(name.startswith("on") for name in attrs)
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(case, **options):
    models, y, comparison = case
    figures = [("ROC", "Caption", plot_roc(models, y)), ("Dots", "", plot_metrics(comparison), "Two models")]
    tables = [("Cleaning", pd.DataFrame({"reason": ["duplicate"], "rows": [12345]})), ("Text", "a < b")]
    options = {"figures": figures, "tables": tables, "notes": ["A short log."]} | options
    return report_html("Title", {"data": "a shop", "seeds": {"split": 0}}, comparison, **options)


def test_page_is_well_formed_and_its_contents_lead_somewhere(case):
    page = Page(page_of(case))
    assert len(page.ids) == len(set(page.ids))
    assert page.links and all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    assert {"main", "nav", "header", "footer", "figure", "figcaption", "dl", "table"} <= set(page.tags)
    assert page.tags.count("h1") == 1


def test_page_fetches_nothing(case):
    text = page_of(case)
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links)
    assert all(image["src"].startswith("data:image/") for image in page.images)
    assert "@import" not in text and "url(" not in text and "http" not in text
    for image in page.images:
        drawing = base64.b64decode(image["src"].split(",")[1]).decode()
        assert not re.search(r"href=\"(?!#)", drawing) and "url(http" not in drawing


def test_protocol_comes_first_and_numbers_are_those_of_the_comparison(case):
    text, comparison = page_of(case), case[2].set_index(["model", "metric"])
    order = [
        text.index(f'id="{key}"') for key in ("protocol", "headline", "comparison", "figures", "table-1")
    ]
    assert order == sorted(order)
    for name in ("roc_auc", "average_precision", "f1", "brier"):
        row = comparison.loc[("true", name)]
        assert f"<b>{row['value']:.3f}</b>" in text
        assert f"{row['low']:.3f} to {row['high']:.3f}" in text
        assert f"{row['difference']:+.3f} against constant" in text
    assert "no example is predicted 1" in text and "12,345" in text and "split 0" in text


def test_styles_for_dark_phone_and_paper(case):
    text = page_of(case)
    for rule in ("prefers-color-scheme:dark", "@media print", "@media(max-width", 'name="viewport"'):
        assert rule in text


def test_every_figure_has_a_text(case):
    images = Page(page_of(case)).images
    assert "ranks best" in images[0]["alt"] and images[1]["alt"] == "Two models"


def test_strings_from_outside_stay_text(case):
    models, y, _ = case
    comparison = compare_models({EVIL: models["true"], "b": models["constant"]}, y, n_resamples=100)
    text = report_html(
        EVIL,
        {EVIL: {EVIL: [EVIL]}},
        comparison,
        [(EVIL, EVIL, plt.figure(), EVIL)],
        [(EVIL, pd.DataFrame({EVIL: [EVIL]}, index=[EVIL])), (EVIL, EVIL)],
        [EVIL],
        headline=EVIL,
    )
    page = Page(text)
    assert "script" not in page.tags and len(page.images) == 1
    assert text.count("&lt;script&gt;") > 12


def test_html_of_ones_own_goes_in(case):
    class Shown:
        def _repr_html_(self):
            return "<em>shown</em>"

    text = report_html("t", {}, tables=[("a", Markup("<em>mine</em>")), ("b", Shown()), ("c", "<em>no</em>")])
    assert "<em>mine</em>" in text and "<em>shown</em>" in text and "<em>no</em>" not in text


def test_a_report_is_never_lost(tmp_path):
    path = write_report(tmp_path / "new" / "report.html", "First", {"data": "é 商店 🛒"})
    with pytest.raises(ReportExistsError, match="overwrite=True") as error:
        write_report(path, "Second", {})
    assert isinstance(error.value, FileExistsError) and isinstance(error.value, EvaluationError)
    assert "First" in path.read_text(encoding="utf-8") and "商店 🛒" in path.read_text(encoding="utf-8")
    write_report(path, "Second", {}, overwrite=True)
    assert "Second" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_failed_report_leaves_the_old_one(tmp_path):
    path = write_report(tmp_path / "report.html", "First", {})
    with pytest.raises(EvaluationError):
        write_report(path, "Second", {}, notes="one", overwrite=True)
    assert "First" in path.read_text(encoding="utf-8") and len(list(tmp_path.iterdir())) == 1


def test_same_input_same_page(case):
    assert page_of(case) == page_of(case)


def test_nothing_to_score_is_said(case):
    few = compare_models({"a": [0.1] * 100, "b": [0.2] * 100}, [0] * 97 + [1] * 3, n_resamples=100)
    text = report_html("t", {}, few)
    assert "too few examples have the label 1: 3" in text and not re.search(r"<b>\d", text)


def test_one_model_alone(case):
    models, y, _ = case
    table = bootstrap_metrics(y, models["true"], n_resamples=100)
    text = report_html("t", {}, table)
    assert "Headline: model" in text and "against" not in text
    assert comparison_table(table).index.tolist() == ["model"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"notes": "one"}, "list of sentences"),
        ({"figures": [("a", "b")]}, "title, caption, figure"),
        ({"tables": [pd.DataFrame()]}, "tables must be"),
        ({"headline": "nobody"}, "nobody"),
    ],
)
def test_bad_parts_say_what_to_do(case, options, says):
    with pytest.raises(EvaluationError, match=says):
        page_of(case, **options)


def test_large_drawings_become_pixels(case, monkeypatch):
    monkeypatch.setattr(reports, "MAX_SVG", 1000)
    images = Page(page_of(case)).images
    assert all(image["src"].startswith("data:image/png") for image in images)


# -- plots


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_curves_say_what_the_metrics_say(case):
    models, y, _ = case
    told = classification_metrics(y, models["true"])
    assert f"true: {told['roc_auc']:.3f}" in legend(plot_roc(models, y))
    ax = plot_precision_recall(models, y)
    assert f"true: {told['average_precision']:.3f}" in legend(ax)
    assert f"base rate: {y.mean():.3f}" in legend(ax)


@pytest.mark.parametrize("plot", [plot_roc, plot_precision_recall, plot_calibration])
def test_curves_of_many_models_differ_without_colour(case, plot):
    models, y, _ = case
    ax = plot({f"m{i}": models["true"] ** (1 + i / 4) for i in range(4)}, y)
    drawn = [line for line in ax.get_lines() if line.get_linestyle() != "None"]
    lines = [line for line in drawn if len(line.get_xdata()) > 2]
    looks = {(line.get_linestyle(), line.get_marker()) for line in lines[:4]}
    assert len(looks) == 4 and ax.get_xlabel() and ax.get_ylabel() and ax.get_title("left")


def test_several_classes_need_a_label():
    y, proba = np.arange(90) % 3, np.full((90, 3), 1 / 3)
    for plot in (plot_roc, plot_precision_recall, plot_calibration):
        with pytest.raises(EvaluationError, match="label="):
            plot(proba, y)
        assert plot(proba, y, label=2).get_title("left")
    assert plot_scores(proba, y, label=1).get_title("left")


def test_confusion_shows_the_counts(case):
    models, y, _ = case
    texts = [text.get_text().split("\n")[0] for text in plot_confusion(models["true"], y).texts]
    assert texts == [f"{n:,}" for n in confusion_table(y, models["true"]).to_numpy().ravel()]


def test_scores_hold_every_example(case):
    models, y, _ = case
    ax = plot_scores(models["true"], y)
    heaps = [patch.get_data().values for patch in ax.patches]
    assert all(heap.sum() == pytest.approx(1) for heap in heaps)


def test_metrics_show_each_value_and_interval(case):
    figure = plot_metrics(case[2], ["roc_auc"])
    row = case[2].set_index(["model", "metric"]).loc[("true", "roc_auc")]
    spans = [line.get_xdata() for line in figure.axes[0].get_lines()]
    assert any(len(span) == 2 and np.allclose(span, [row["low"], row["high"]]) for span in spans)
    assert plot_metrics(compare_models({"a": [0.1] * 9}, [0] * 9, n_resamples=100)).axes


def test_funnel_counts_shoppers_not_events():
    users, behaviors = [1, 1, 1, 2, 2, 3, 4], ["view", "cart", "cart", "view", "buy", "view", "cart"]
    table = funnel_table(users, behaviors).set_index("behavior")
    assert table["reached"].tolist() == [3, 1, 0] and table["shoppers"].tolist() == [3, 2, 1]
    assert table.loc["cart", "events"] == 3 and table.loc["cart", "conversion"] == pytest.approx(1 / 3)
    assert funnel_table(users, behaviors, ["view", "buy"])["reached"].tolist() == [3, 1]


@pytest.mark.parametrize("behaviors", [["buy"] * 3, ["view"] * 3, ["click", "click", "stop"]])
def test_funnel_of_logs_with_few_behaviours(behaviors):
    table = funnel_table(["a", "b", "b"], behaviors)
    assert len(table) >= 1 and table["reached"].iloc[0] >= 1
    assert plot_funnel(["a", "b", "b"], behaviors).get_title("left")


def test_funnel_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    log = pd.DataFrame({"u": rng.integers(50, size=400), "b": rng.choice(["view", "cart", "buy"], size=400)})
    mixed = log.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(funnel_table(log["u"], log["b"]), funnel_table(mixed["u"], mixed["b"]))


def test_environment():
    facts = run_environment(("numpy", "no-such-package"))
    assert facts["versions"] == {"numpy": np.__version__} and "cores" in facts["machine"]


# -- amounts


@pytest.fixture(scope="module")
def money():
    rng = np.random.default_rng(0)
    y = rng.gamma(1, 400, size=2000) * (rng.random(2000) < 0.3)
    models = {"mean": np.full(2000, y.mean()), "model": 0.5 * y + rng.gamma(1, 100, size=2000)}
    return models, y, compare_regressions(models, y, n_resamples=100)


def test_gains_say_what_the_metrics_say(money):
    models, y, _ = money
    ax = plot_gains(models, y)
    assert f"model: {regression_metrics(y, models['model'])['gini']:.3f}" in legend(ax)
    first = y[np.argsort(-models["model"])[:200]].sum() / y.sum()
    assert f"The first 10% of the list of model hold {first:.0%} of the amount" == ax.get_title("left")
    flat, curve = ax.get_lines()[:2]
    assert len(flat.get_xdata()) == 2, "equal predictions are one step"
    assert len(curve.get_xdata()) == 2001 and curve.get_ydata()[-1] == pytest.approx(1)


def test_the_area_of_the_gains_is_the_gini(money):
    models, y, _ = money
    drawn = plot_gains(models, y).get_lines()
    gain = [np.trapezoid(line.get_ydata() - line.get_xdata(), line.get_xdata()) for line in drawn[1:3]]
    assert gain[0] / gain[1] == pytest.approx(regression_metrics(y, models["model"])["gini"], abs=1e-9)


def test_gains_of_nothing_are_refused(money):
    with pytest.raises(EvaluationError, match="nothing to gain"):
        plot_gains(money[0], np.zeros(2000))


def test_deciles_are_the_bins_of_amounts(money):
    models, y, _ = money
    ax = plot_deciles(models, y)
    table = amount_bins(y, models["model"])
    line = next(line for line in ax.get_lines() if len(line.get_xdata()) == 10)
    np.testing.assert_allclose(line.get_ydata().astype(float), table["observed"])
    np.testing.assert_allclose(line.get_xdata().astype(float), table["predicted"])
    low, high = ax.get_xlim()
    assert low <= table["predicted"].min() and table["high"].max() <= high


def test_deciles_show_predictions_below_zero(money):
    ax = plot_deciles(money[0]["model"] - 50, money[1])
    assert ax.get_xlim()[0] < -40 and ax.get_xlim() == ax.get_ylim()


def test_a_report_of_amounts(money):
    text = report_html("Money", {}, money[2], [("Dots", "", plot_metrics(money[2]))])
    row = money[2].set_index(["model", "metric"]).loc[("model", "mae")]
    assert f"<b>{row['value']:.1f}</b>" in text, "fewer decimals where the number is large"
    assert "against mean" in text and "Normalised Gini" in text and "ROC AUC" not in text
    assert "the difference is that of the distances from 0" in text
    assert "mean, Rank correlation: the predictions are all equal" in text
    Page(text)


@pytest.mark.parametrize(
    ("value", "shown"), [(0.12345, "0.123"), (12.345, "12.35"), (-987.65, "-987.6"), (12345.6, "12,346")]
)
def test_numbers_have_about_four_figures(value, shown):
    assert reports._number(value) == shown


# ---- lists of items


@pytest.fixture(scope="module")
def lists():
    rng = np.random.default_rng(0)
    worse = rng.integers(1, 200, 500).astype(float)
    worse[:50] = np.inf
    return {"worse": worse, "better": np.ceil(worse / 3)}


def test_hits_are_those_of_the_metrics(lists):
    ax = plot_hits(lists, ks=(20, 1, 5))
    for (name, ranks), line in zip(lists.items(), ax.get_lines(), strict=True):
        assert line.get_label() == name and line.get_xdata().tolist() == [1, 5, 20]
        assert line.get_ydata().tolist() == [ranking_metrics(ranks, k)[f"hit@{k}"] for k in (1, 5, 20)]
    share = ranking_metrics(lists["better"], 5)["hit@5"]
    assert ax.get_title("left") == f"5 items shown by better hold the right one in {share:.0%} of the lists"
    assert ax.get_xscale() == "log" and ax.get_ylim()[0] == 0
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "5", "20"]


def test_hits_of_one_model_and_on_given_axes(lists):
    _, ax = plt.subplots()
    assert plot_hits(lists["worse"], ax=ax) is ax and len(ax.get_lines()) == 1


@pytest.mark.parametrize(("ranks", "ks"), [([0, 2], (1, 2)), ([np.nan], (1,)), ([1.0], (0, 1))])
def test_hits_of_what_is_no_rank_are_refused(ranks, ks):
    with pytest.raises(EvaluationError):
        plot_hits(ranks, ks)


def test_a_comparison_of_rankings_in_table_plot_and_report(lists):
    table = compare_rankings(lists, k=7, n_resamples=100)
    names = ["Hit rate at 7", "NDCG at 7", "Mean reciprocal rank at 7"]
    assert list(comparison_table(table)) == names
    assert [ax.get_title("left") for ax in plot_metrics(table).axes if ax.get_visible()] == names
    precise = compare_lists({"a": [["x", "y"]] * 20}, [["x"]] * 20, k=2, n_resamples=100)
    assert "Mean average precision at 2" in comparison_table(precise)
    assert "Mean average precision at 2" in report_html("Lists", {}, precise)
    page = report_html("Lists", {}, table)
    assert "Headline: better" in page and page.count("Hit rate at 7") == 2  # on its card and in the table


# ---- compare: models on splits


class Lengths(BaseEstimator):
    """Logistic regression on the length of each history; notes in a file that it was fitted."""

    def __init__(self, power=1.0, noted=None):
        self.power, self.noted = power, noted

    def table(self, X):
        return np.log1p(X.lengths[:, None]) ** self.power

    def fit(self, X, y):
        if self.noted:
            with open(self.noted, "a") as file:
                file.write(f"{self.power}\n")
        self.model_ = LogisticRegression().fit(self.table(X), y)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X):
        return self.model_.predict_proba(self.table(X))


class Means(BaseEstimator):
    """The mean amount of the training, times the length of the history."""

    def fit(self, X, y):
        self.rate_ = np.mean(y) / max(np.mean(X.lengths), 1)
        return self

    def predict(self, X):
        return self.rate_ * X.lengths


class Popular(BaseEstimator):
    """The same list for everybody: the items of the training histories, the most frequent first."""

    def __init__(self, turned=False):
        self.turned = turned

    def fit(self, X, y):
        items = X.fit_log()["item_id"].value_counts(ascending=self.turned).index
        self.places_ = pd.Series(np.arange(1.0, len(items) + 1), index=items)
        return self

    def target_ranks(self, X, items):
        return self.places_.reindex(items).fillna(np.inf).to_numpy()


class Bad(Lengths):
    """A model that goes wrong in a way of its own."""

    def __init__(self, how="fit"):
        super().__init__()
        self.how = how

    def fit(self, X, y):
        if self.how == "fit":
            raise RuntimeError("out of luck")
        return super().fit(X, y)

    def predict_proba(self, X):
        proba = super().predict_proba(X)
        return {"nan": proba * np.nan, "short": proba[1:], "sums": proba * 2, "wide": proba[:, [0, 1, 1]]}[
            self.how
        ]


cloudpickle.register_pickle_by_value(sys.modules[__name__])  # other processes cannot import the tests
QUICK = {"progress": False, "n_resamples": 100, "min_count": 5, "n_jobs": 1}
CUTOFFS = pd.date_range("2024-01-20", "2024-02-17", freq="7D")


@pytest.fixture(scope="module")
def log():
    return simulate_shop(n_users=500, days=60, seed=3).events


@pytest.fixture(scope="module")
def asked(log):
    return Purchase("7d").examples(log, CUTOFFS)


@pytest.fixture(scope="module")
def found(asked):
    models = {"short": Lengths(), "long": Lengths(3.0)}
    return compare(models, asked, RollingSplit(n_splits=2), **QUICK)


def one_split(examples):
    return next(TimeSplit("2024-02-10").split(examples))


def same_scores(found, table):
    pd.testing.assert_frame_equal(found.scores.drop(columns="p_value"), table)


def test_one_split_of_classes_is_compare_models(asked):
    models, (train, test) = {"short": Lengths(), "long": Lengths(3.0)}, one_split(asked)
    found = compare(models, asked, [(train, test)], baseline="short", **QUICK)
    said = {n: m.fit(asked[train], asked.label[train]).predict_proba(asked[test]) for n, m in models.items()}
    part = asked[test]
    options = dict(baseline="short", n_resamples=100, groups=part.ids, min_count=5)
    same_scores(found, compare_models(said, part.label, part.classes, **options))


def test_one_split_of_amounts_is_compare_regressions(log):
    examples = Spend("7d").examples(log, CUTOFFS)
    train, test = one_split(examples)
    found = compare({"a": Means(), "b": Means()}, examples, [(train, test)], baseline="a", **QUICK)
    said = Means().fit(examples[train], examples.label[train]).predict(examples[test])
    options = dict(n_resamples=100, groups=examples.ids[test], min_count=5)
    table = compare_regressions({"a": said, "b": said}, examples.label[test], **options)
    same_scores(found, table)
    assert found.metric == "mae" and found.scores.query("model == 'b'")["difference"].abs().max() == 0


def test_one_split_of_items_is_compare_rankings(log):
    examples = NextItem().examples(log[log["behavior"] == "view"])
    train, test = one_split(examples)
    models = {"turned": Popular(True), "popular": Popular()}
    found = compare(models, examples, [(train, test)], baseline="turned", k=5, **QUICK)
    ranks = {
        n: m.fit(examples[train], None).target_ranks(None, examples.label[test]) for n, m in models.items()
    }
    table = compare_rankings(ranks, 5, baseline="turned", n_resamples=100, groups=examples.ids[test])
    same_scores(found, table)
    assert found.metric == "ndcg@5"


def test_a_mean_over_splits_is_that_of_the_cells(found):
    means = found.cells.groupby("model")[["roc_auc", "log_loss"]].mean()
    values = found.scores.set_index(["model", "metric"])["value"]
    for (model, metric), value in means.stack().items():
        assert values[model, metric] == pytest.approx(value, abs=1e-12)
    rows = found.scores.dropna(subset="low")
    assert ((rows["low"] <= rows["value"]) & (rows["value"] <= rows["high"])).all()
    assert list(found.cells["split"]) == ["RollingSplit 1", "RollingSplit 2"] * 2
    assert (found.cells[["fit_seconds", "score_seconds", "size"]] > 0).all(axis=None)


def test_cells_side_by_side_give_the_same_numbers(asked, found):
    models = {"short": Lengths(), "long": Lengths(3.0)}
    together = compare(models, asked, RollingSplit(n_splits=2), **QUICK | {"n_jobs": 2})
    pd.testing.assert_frame_equal(together.scores, found.scores)


def test_the_best_model_is_the_baseline_and_may_be_named(asked, found):
    values = found.scores.query("metric == 'roc_auc'").set_index("model")["value"]
    assert found.baseline == values.idxmax()
    least = compare(
        {"short": Lengths(), "long": Lengths(3.0)},
        asked,
        RollingSplit(n_splits=2),
        metric="log_loss",
        **QUICK,
    )
    values = least.scores.query("metric == 'log_loss'").set_index("model")["value"]
    assert least.baseline == values.idxmin()


def test_the_validation_part_goes_to_those_who_take_it_and_makes_the_threshold(asked, monkeypatch):
    monkeypatch.setattr(reports, "too_small", lambda *_: None)

    class Takes(Lengths):
        def fit(self, X, y, validation=None):
            self.given_ = len(validation[0]), float(np.mean(validation[1]))
            return super().fit(X, y)

        def predict_proba(self, X):
            told.append(self.given_)
            return super().predict_proba(X)

    told, parts = [], next(TimeSplit(validation=True).split(asked))
    found = compare({"takes": Takes()}, asked, [parts], **QUICK)
    assert set(told) == {(len(parts[1]), asked.label[parts[1]].mean())}
    model = Lengths().fit(asked[parts[0]], asked.label[parts[0]])
    best = choose_threshold(asked.label[parts[1]], model.predict_proba(asked[parts[1]]))
    proba = model.predict_proba(asked[parts[2]])
    f1 = classification_metrics(asked.label[parts[2]], proba, threshold=best, min_count=5)["f1"]
    assert found.cells["f1"].item() == pytest.approx(f1) and best != 0.5


# ---- compare: nothing leaks


def test_events_after_the_last_label_change_no_cell(log, asked, tmp_path):
    models, split = {"short": Lengths()}, TimeSplit("2024-02-03")
    first = compare(models, Purchase("7d"), split, log, CUTOFFS, folder=tmp_path, **QUICK)
    end = CUTOFFS[-1] + pd.Timedelta("7D")
    later = log[log["timestamp"] < end].copy()
    more = later.assign(timestamp=later["timestamp"] + pd.Timedelta("90D"), behavior="buy")
    grown = pd.concat([later, more])
    for other in (later, grown):
        again = compare(models, Purchase("7d"), split, other, CUTOFFS, log_end=end, folder=tmp_path, **QUICK)
        assert again.cells["kept"].all()
        pd.testing.assert_frame_equal(again.scores, first.scores)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), share=st.floats(0.01, 1.0))
def test_what_a_model_sees_are_the_histories_and_nothing_else(asked, seed, share):
    rng = np.random.default_rng(seed)
    index = rng.permutation(len(asked))[: max(1, int(share * len(asked)))]
    some, seen = asked[index], reports._visible(asked[index], asked.classes)
    pd.testing.assert_frame_equal(seen.histories(), some.histories())
    assert len(seen.log) == len(some.fit_log()) and (seen.log["timestamp"] < some.cutoff.max()).all()
    blind = reports._unlabelled(seen)
    assert not np.any(blind.label) and (blind.label_end == blind.cutoff).all()


def test_a_model_that_looks_for_the_future_finds_none(log):
    class Peeks(Lengths):
        def table(self, X):
            bought = X.log[X.log["behavior"] == "buy"]
            last = bought.groupby("user_id")["timestamp"].max().reindex(X.ids).to_numpy()
            return np.column_stack([last >= X.cutoff, X.label, X.label_end > X.cutoff]).astype(float)

    examples = Purchase("7d").examples(log, CUTOFFS)
    train, test = one_split(examples)
    honest = compare({"peeks": Peeks()}, examples, [(train, test)], **QUICK)
    assert honest.scores.query("metric == 'roc_auc'")["value"].item() == pytest.approx(0.5, abs=0.02)
    naive = Peeks().fit(examples[train], examples.label[train]).predict_proba(examples[test])
    assert classification_metrics(examples.label[test], naive, min_count=5)["roc_auc"] > 0.95


# ---- compare: cells are kept


def fits(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_kept_cell_is_not_run_again_and_a_changed_one_is(log, asked, tmp_path):
    noted, split = tmp_path / "noted", TimeSplit("2024-02-03")

    def run(examples=asked, split=split, name="a", **params):
        model = Lengths(noted=str(noted), **params)
        before = fits(noted)
        found = compare({name: model}, examples, split, folder=tmp_path / "cells", **QUICK)
        assert found.cells["kept"].item() == (fits(noted) == before)
        return fits(noted) - before

    assert (run(), run(), run(name="another name")) == (1, 0, 0)
    assert (run(power=2.0), run(power=2.0), run()) == (1, 0, 0)
    changed = log.copy()
    at = changed.index[(changed["timestamp"] < CUTOFFS[0]) & (changed["behavior"] == "view")][5]
    changed.loc[at, "price"] = 12345.0
    other = Purchase("7d").examples(changed, CUTOFFS)
    assert (run(other), run(other), run()) == (1, 0, 0)
    assert run(Purchase("6d").examples(log, CUTOFFS)) == 1  # other labels
    assert run(Purchase("7d").examples(log, CUTOFFS[:-1])) == 1  # another test
    assert run(split=TimeSplit("2024-02-10")) == 1
    assert run(split=TimeSplit(validation=True, test_from="2024-02-03")) == 1
    assert (run(), run(asked[np.arange(len(asked))])) == (0, 0)


def test_another_source_is_another_model(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for share in (0.1, 0.2, 0.1):
        text = f"class Constant:\n    share = {share}\n    def fit(self, X, y):\n        return self\n"
        (tmp_path / "constants.py").write_text(text)
        sys.modules.pop("constants", None)
        importlib.invalidate_caches()
        digests.append(reports._model_digest("c", importlib.import_module("constants").Constant()))
    assert digests[0] == digests[2] != digests[1]


def test_other_versions_are_another_cell(asked, tmp_path, monkeypatch):
    options = dict(folder=tmp_path, **QUICK)
    compare({"a": Lengths()}, asked, TimeSplit(), **options)
    now = run_environment()
    later = now | {"versions": now["versions"] | {"numpy": "99.0"}}
    monkeypatch.setattr(reports, "run_environment", lambda *_: later)
    assert not compare({"a": Lengths()}, asked, TimeSplit(), **options).cells["kept"].any()


def test_what_changes_no_number_is_the_same_cell(asked, tmp_path):
    forest = {"random_state": 0, "n_estimators": 5}
    ways = [
        RandomForestClassifier(n_jobs=jobs, verbose=verbose, **forest) for jobs, verbose in ((1, 0), (2, 0))
    ]
    digests = {
        reports._model_digest("f", make_pipeline(FunctionTransformer(long_enough), way)) for way in ways
    }
    assert len(digests) == 1


def long_enough(X):
    return X.lengths[:, None]


@pytest.mark.parametrize("harm", ["cut", "flip", "no json", "other shape", "no answer", "not an object"])
def test_a_damaged_cell_is_run_again_and_said(asked, tmp_path, harm):
    cells, noted = tmp_path / "cells", tmp_path / "noted"
    models = {"a": Lengths(noted=str(noted))}
    first = compare(models, asked, TimeSplit(), folder=cells, **QUICK)
    (answer,), (facts,) = cells.glob("*.npy"), cells.glob("*.json")
    content = answer.read_bytes()
    if harm == "cut":
        answer.write_bytes(content[: len(content) // 2])
    elif harm == "flip":
        answer.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif harm == "other shape":
        np.save(answer, np.zeros((3, 2)))
    elif harm == "no answer":
        answer.unlink()
    else:
        facts.write_text("{" if harm == "no json" else "[1]")
    again = compare(models, asked, TimeSplit(), folder=cells, **QUICK)
    assert fits(noted) == 2 and "damaged" in again.notes[0] and "a on TimeSplit" in again.notes[0]
    pd.testing.assert_frame_equal(again.scores, first.scores)
    healed = compare(models, asked, TimeSplit(), folder=cells, **QUICK)
    assert fits(noted) == 2 and healed.notes == []


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from test_reports import *


class Kills(Lengths):
    "Kills its process in the fourth fit of all."

    def fit(self, X, y):
        super().fit(X, y)
        if fits(Path({noted!r})) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return self


if __name__ == "__main__":
    asked = Purchase("7d").examples(simulate_shop(n_users=500, days=60, seed=3).events, CUTOFFS)
    models = {{name: Kills(power, {noted!r}) for name, power in (("a", 1.0), ("b", 2.0), ("c", 3.0))}}
    found = compare(models, asked, RollingSplit(n_splits=2), folder={cells!r}, **QUICK)
    found.to_json({out!r})
"""


def test_a_killed_comparison_goes_on_and_gives_the_same_table(asked, tmp_path):
    noted, cells, script, out = (tmp_path / name for name in ("noted", "cells", "script.py", "out"))
    where = {"noted": str(noted), "cells": str(cells), "out": str(out)}
    script.write_text(KILLED.format(tests=str(Path(__file__).parent), **where))

    def run():
        return subprocess.run([sys.executable, str(script)], capture_output=True, text=True).returncode

    assert run() == -signal.SIGKILL
    assert fits(noted) == 4 and len(list(cells.glob("*.json"))) == 3 and not out.exists()
    assert run() == 0
    assert fits(noted) == 4 + 3  # three of six cells were done
    killed = Comparison.from_json(out)
    models = {name: Lengths(power) for name, power in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    whole = compare(models, asked, RollingSplit(n_splits=2), **QUICK)
    assert killed.cells["kept"].tolist() == [True, False, True, False, True, False]
    pd.testing.assert_frame_equal(killed.scores, whole.scores)
    columns = ["model", "split", "roc_auc", "log_loss"]
    pd.testing.assert_frame_equal(killed.cells[columns], whole.cells[columns])


def test_a_model_that_cannot_be_told_from_others_is_refused_only_with_a_folder(asked, tmp_path):
    model = Lengths()
    model.power, model.extra = 1.0, None
    unclear = make_pipeline(FunctionTransformer(lambda X: X.lengths[:, None]), LogisticRegression())
    assert len(compare({"a": unclear}, asked, TimeSplit(), **QUICK).scores)
    with pytest.raises(EvaluationError, match="folder=None"):
        compare({"a": unclear}, asked, TimeSplit(), folder=tmp_path, **QUICK)


# ---- compare: what goes wrong


@pytest.mark.parametrize("how", ["fit", "nan", "short", "sums", "wide"])
def test_a_broken_model_is_named_and_the_others_go_on(asked, found, how):
    models = {"short": Lengths(), "bad": Bad(how), "long": Lengths(3.0)}
    partly = compare(models, asked, RollingSplit(n_splits=2), **QUICK)
    pd.testing.assert_frame_equal(partly.scores, found.scores)
    assert len(partly.notes) == 2 and all(
        note.startswith("bad failed on RollingSplit") for note in partly.notes
    )
    assert (partly.cells.query("model == 'bad'")["error"] != "").all()
    assert partly.cells.query("model != 'bad'")["error"].eq("").all()
    assert (
        "bad failed" in partly.to_markdown()
        and "bad failed" in partly.to_html()
        and "bad failed" in partly.to_latex()
    )


def test_a_broken_model_is_tried_again(asked, tmp_path):
    models = {"bad": Bad(), "short": Lengths()}
    for _ in range(2):
        again = compare(models, asked, TimeSplit(), folder=tmp_path, **QUICK)
        assert "out of luck" in again.notes[0]
    assert again.cells.set_index("model")["kept"].to_dict() == {"bad": False, "short": True}


def test_a_broken_baseline_is_replaced_and_said(asked):
    models = {"bad": Bad(), "short": Lengths()}
    partly = compare(models, asked, TimeSplit(), baseline="bad", **QUICK)
    assert partly.baseline == "short" and "The baseline bad failed" in partly.notes[-1]


def test_wrong_arguments_are_refused_in_a_sentence(asked, log):
    models = {"a": Lengths()}
    for wrong, words in (
        (({}, asked, TimeSplit()), "dict"),
        (({"a": Lengths}, asked, TimeSplit()), "no method fit"),
        (({"a": 5}, asked, TimeSplit()), "no method fit"),
        ((models, asked, "time"), "splitter"),
        ((models, asked, [(1, 2, 3, 4)]), "splitter"),
        ((models, asked, []), "splitter"),
        ((models, asked, TimeSplit(), None, CUTOFFS), "drop them"),
        ((models, asked, TimeSplit(), None, None, CUTOFFS[-1]), "drop them"),
        (({"bad": Bad()}, asked, TimeSplit()), "every model failed; bad failed on TimeSplit: RuntimeError"),
    ):
        with pytest.raises(EvaluationError, match=words):
            compare(*wrong, **QUICK)
    for options, words in (({"baseline": "b"}, "'b'"), ({"metric": "mae"}, "choose one of accuracy")):
        with pytest.raises(EvaluationError, match=words):
            compare(models, asked, TimeSplit(), **QUICK, **options)
    tags = TagPurchased().examples(log)
    with pytest.raises(EvaluationError, match="prefixes"):
        compare(models, tags, TimeSplit(), **QUICK)
    with pytest.raises(EvaluationError, match="splits once, and this one splits 2 times"):
        learning_curve(models, asked, RollingSplit(n_splits=2), **QUICK)
    with pytest.raises(EvaluationError, match="splits once"):
        compare_splits(models, asked, {"time": TimeSplit("2024-02-03")}, RollingSplit(n_splits=2), **QUICK)


def test_too_few_positives_give_reasons_and_no_number(asked):
    few = compare(
        {"a": Lengths(), "b": Lengths(2.0)}, asked, RollingSplit(n_splits=2), **QUICK | {"min_count": 10_000}
    )
    assert few.scores["value"].isna().all() and few.scores["reason"].str.contains("too few groups").all()
    assert "too few" in few.to_html() and "–" in few.to_markdown() and few.to_latex()
    with pytest.raises(EvaluationError, match="no difference"):
        few.plot()


def test_too_few_users_of_lists_give_reasons_and_no_number(log):
    views = log[log["behavior"] == "view"]
    examples = NextItem().examples(views[views["user_id"].isin(pd.unique(views["user_id"])[:3])])
    few = compare({"popular": Popular()}, examples, TimeSplit(), **QUICK)
    assert few.scores["value"].isna().all()
    assert few.scores["reason"].str.contains("too few groups: [1-3], where").all()


def test_networks_go_one_by_one_and_others_as_memory_allows(asked, monkeypatch):
    class Network(Lengths):
        epochs = 3

    inside = make_pipeline(FunctionTransformer(long_enough), Network())
    assert (
        reports._is_network(Network()) and reports._is_network(inside) and not reports._is_network(Lengths())
    )
    sent, side_by_side = [], reports._side_by_side
    monkeypatch.setattr(
        reports, "_side_by_side", lambda models, *rest: sent.extend(models) or side_by_side(models, *rest)
    )
    models = {"network": Network(), "short": Lengths(), "long": Lengths(3.0)}
    assert set(compare(models, asked, TimeSplit(), **QUICK | {"n_jobs": 2}).scores["model"]) == set(models)
    assert sent == ["short", "long"]
    fold = reports._fold(asked, "s", one_split(asked))
    monkeypatch.setattr(reports.os, "cpu_count", lambda: 16)
    memory = SimpleNamespace(available=64 * 2**30)
    monkeypatch.setattr(reports.psutil, "virtual_memory", lambda: memory)
    assert reports._workers(None, fold, 100) == 8 and reports._workers(None, fold, 3) == 3
    memory.available = 0
    assert reports._workers(None, fold, 100) == 1 and reports._workers(5, fold, 100) == 5


class Vandal(Lengths):
    """Writes into everything that it is given."""

    def fit(self, X, y):
        super().fit(X, y)
        X.log["behavior"], X.label[:] = "view", 0
        X.log.loc[:, "timestamp"] = pd.Timestamp("2000-01-01")
        return self


class Exits(Lengths):
    """Takes its process with it."""

    def fit(self, X, y):
        os._exit(1)


class Shy(Lengths):
    """Cannot be sent to another process."""

    def __reduce__(self):
        raise TypeError("no")


def test_a_model_that_writes_into_its_examples_spoils_nothing(asked, found):
    before = asked.log.copy()
    models = {"vandal": Vandal(), "short": Lengths(), "long": Lengths(3.0)}
    spoiled = compare(models, asked, RollingSplit(n_splits=2), baseline=found.baseline, **QUICK)
    left = spoiled.scores[spoiled.scores["model"] != "vandal"].reset_index(drop=True)
    pd.testing.assert_frame_equal(left, found.scores)
    pd.testing.assert_frame_equal(asked.log, before)


def test_a_process_that_dies_is_named_and_the_comparison_goes_on(asked):
    models = {"shy": Shy(), "exits": Exits(), "short": Lengths()}
    options = QUICK | {"n_jobs": 2}
    partly = compare(models, asked, TimeSplit(), **options)
    assert any(note.startswith("exits failed on TimeSplit: its process was killed") for note in partly.notes)
    assert set(partly.scores["model"]) == {"shy", "short"} and len(partly.notes) == 1
    models.pop("exits")
    assert set(compare(models, asked, TimeSplit(), **options).scores["model"]) == {"shy", "short"}


def test_a_model_that_other_processes_cannot_read_is_run_in_this_one(asked, found, monkeypatch):
    class Here(Lengths):
        pass

    here = ModuleType("known_here")
    here.Here, Here.__module__, Here.__qualname__ = Here, "known_here", "Here"
    monkeypatch.setitem(sys.modules, "known_here", here)
    models = {"short": Here(), "long": Lengths(3.0)}
    together = compare(models, asked, RollingSplit(n_splits=2), **QUICK | {"n_jobs": 2})
    pd.testing.assert_frame_equal(together.scores, found.scores)


@pytest.mark.parametrize("every", ["0d", "-7d", "soon", "", "1s", "7", "0.1us"])
def test_periods_that_cannot_be_are_refused(found, every):
    with pytest.raises(EvaluationError, match="duration|longer"):
        found.over_time(every)
    with pytest.raises(EvaluationError, match="no answer"):
        Comparison.from_json(found.to_json()).over_time("7d")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_value_is_other_data(asked, data):
    some = reports._visible(asked[np.arange(40)], asked.classes)
    digest = reports._examples_digest(some)
    assert reports._examples_digest(dataclasses.replace(some, log=some.log.copy())) == digest
    row = data.draw(st.integers(0, len(some.log) - 1))
    name = data.draw(st.sampled_from(list(some.log.columns)))
    log = some.log.copy()
    value = log[name].iloc[row]
    if name == "timestamp":
        other = value - pd.Timedelta("1us")
    else:
        other = value + 1 if pd.api.types.is_number(value) else "x"
    log.iloc[row, log.columns.get_loc(name)] = other
    assert reports._examples_digest(dataclasses.replace(some, log=log)) != digest
    labels = some.label.copy()
    i = data.draw(st.integers(0, len(labels) - 1))
    labels[i] = 1 - labels[i]
    assert reports._examples_digest(dataclasses.replace(some, label=labels)) != digest


# ---- compare: how it is told


def test_a_comparison_goes_through_json(found, tmp_path):
    text = found.to_json(tmp_path / "c.json")
    for again in (Comparison.from_json(text), Comparison.from_json(tmp_path / "c.json")):
        pd.testing.assert_frame_equal(again.scores, found.scores)
        pd.testing.assert_frame_equal(again.cells, found.cells)
        assert (again.protocol, again.notes, again.baseline) == (found.protocol, found.notes, found.baseline)
        assert again.to_json() == text and again.to_html() == found.to_html()
    assert "NaN" not in text


def test_every_form_has_the_protocol(found):
    facts = found.protocol
    assert {
        "data",
        "task",
        "cutoffs",
        "split",
        "parts",
        "models",
        "seeds",
        "intervals",
        "versions",
        "machine",
    } <= set(facts)
    assert facts["split"]["by"] == "RollingSplit" and len(facts["parts"]) == 2 and facts["data"]["events"] > 0
    for text in (
        found.to_markdown(),
        found.to_latex(),
        found.to_html(),
        found._repr_html_(),
        found.to_json(),
    ):
        assert "RollingSplit" in text and facts["data"]["sha256"] in text and np.__version__ in text


EVIL_NAMES = [
    "a|b",
    "50% & $9",
    r"back\slash",
    "under_score^2~{x}#",
    EVIL,
    "line\nbreak",
    "<b>*bold*</b> `code`",
]


def test_names_from_outside_stay_text(asked):
    models = {name: Lengths(1.0 + i / 10) for i, name in enumerate(EVIL_NAMES)}
    found = compare(models, asked, TimeSplit(), protocol={"data": EVIL, "note": "a_b & c"}, **QUICK)
    lines = [line for line in found.to_markdown().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(models)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<script" not in found.to_markdown().replace(r"\<", "")
    body = found.to_latex().split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(models)
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1
    assert not re.search(r"(?<!\\)[%$#_^~]", re.sub(r"\\text\w+\{\}", "", found.to_latex()))
    Page(found.to_html())
    Page(found._repr_html_())


def test_a_page_is_not_written_over(found, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("mine")
    with pytest.raises(ReportExistsError):
        found.to_html(path)
    assert path.read_text() == "mine" and [p.name for p in tmp_path.iterdir()] == ["page.html"]
    found.to_html(path, overwrite=True)
    assert "Which model is better?" in path.read_text(encoding="utf-8")
    assert not plt.get_fignums()


def test_the_forest_shows_the_differences(found):
    ax = found.plot()
    rows = found.scores.query("metric == 'roc_auc'").dropna(subset="difference")
    assert [text.get_text() for text in ax.get_yticklabels()] == list(rows["model"])
    points = [line.get_xdata() for line in ax.get_lines() if line.get_marker() in "osD^vP"]
    assert [point[0] for point in points] == rows["difference"].tolist()
    assert found.baseline in ax.get_title("left") and "right is better" in ax.get_xlabel()
    assert "left is better" in found.plot("log_loss").get_xlabel()


def test_p_values_agree_with_the_intervals(found):
    rows = found.scores.dropna(subset="difference_low")
    assert len(rows) and rows["p_value"].between(2 / 101, 1).all()
    assert rows.loc[rows["p_value"] < 0.03, "verdict"].isin(["better", "worse"]).all()
    assert (rows.loc[rows["p_value"] > 0.09, "verdict"] == "not clear").all()
    assert found.scores.loc[found.scores["model"] == found.baseline, "p_value"].isna().all()


def test_the_forest_counts_with_corrected_p_values(found):
    rows = found.scores.dropna(subset="difference")
    many = pd.concat([rows.assign(model=f"model {i}") for i in range(20)], ignore_index=True)
    many["verdict"], many["p_value"] = "better", 0.03
    title = dataclasses.replace(found, scores=many).plot().get_title("left")
    assert title.startswith("0 of 20 differ clearly")
    many.loc[many["model"] == "model 7", "p_value"] = 0.002
    title = dataclasses.replace(found, scores=many).plot().get_title("left")
    assert title.startswith("1 of 20 differ clearly")


def test_the_worst_bias_is_the_one_furthest_from_0():
    columns = ["segment", "metric", "value", "difference", "difference_low", "difference_high", "verdict"]
    rows = [("b", "bias", 0.1, 0.08, 0.05, 0.1, "worse"), ("c", "bias", 0.01, -0.01, -0.02, 0.0, "better")]
    table = pd.DataFrame(rows, columns=columns)
    assert fairness_gaps(table, ["bias"])["segment"].tolist() == ["b"]


def test_every_table_carries_its_protocol(asked, found):
    halves = np.arange(sum(map(len, found.tests.values()))) % 2
    tables = [
        found.by_segment(halves, n_resamples=110, seed=3),
        found.over_time("30d", n_resamples=110, seed=3),
    ]
    for told in (table.attrs["protocol"] for table in tables):
        assert told["intervals"].startswith("95%, 110 ") and told["seeds"]["bootstrap"] == 3
        assert found.best() in told["scored"] and told["data"] == found.protocol["data"]
        assert json.loads(json.dumps(told)) == told
    assert found.protocol["seeds"]["bootstrap"] == 0
    one, future = {"a": Lengths()}, TimeSplit("2024-02-10")
    curve = learning_curve(one, asked, future, shares=(0.5, 1.0), **QUICK)
    assert curve.attrs["protocol"]["users in training"] == sorted(set(curve["users"]))
    table = compare_splits(one, asked, {"time": TimeSplit("2024-02-03")}, future, **QUICK)
    assert set(table.attrs["protocol"]) == {"time", "came"}


def test_the_protocol_says_how_the_test_was_asked(asked, found, monkeypatch):
    assert found.protocol["test asked"] == "cutoff by cutoff"
    monkeypatch.setattr("seqbook.evaluation.reports.MOMENTS", 0)
    crowd = compare({"short": Lengths()}, asked, TimeSplit("2024-02-10"), **QUICK)
    assert crowd.protocol["test asked"] == "all cutoffs at once"


# ---- segments, time, splits and curves


def test_a_segment_is_scored_as_if_it_were_alone(found):
    test = {split: part for split, part in found.tests.items()}
    y = np.concatenate([part.label for part in test.values()])
    proba = np.concatenate([found.answers["short", split] for split in test])
    lengths = np.concatenate([part.lengths for part in test.values()])
    segment = np.where(lengths > np.median(lengths), "heavy", "light")
    table = found.by_segment(segment, "short", n_resamples=100)
    for name in ("heavy", "light"):
        alone = classification_metrics(y[segment == name], proba[segment == name], min_count=5)
        values = table[table["segment"] == name].set_index("metric")
        assert values["value"]["roc_auc"] == pytest.approx(alone["roc_auc"])
        assert values["value"]["brier"] == pytest.approx(alone["brier"])
        assert values["base"].iloc[0] == pytest.approx(y[segment == name].mean())
        assert values["examples"].iloc[0] == (segment == name).sum()
    gap = table.query("metric == 'brier'").set_index("segment")
    reference = gap["difference"].isna().idxmax()
    other = ({"heavy", "light"} - {reference}).pop()
    assert gap["difference"][other] == pytest.approx(gap["value"][other] - gap["value"][reference])


def test_the_line_among_segments_is_the_one_that_all_are_compared_with(found):
    halves = np.where(np.arange(sum(map(len, found.tests.values()))) % 2, "odd", "even")
    table = found.by_segment(halves, reference="odd", n_resamples=100)
    lines = [list(one.get_xdata()) for one in plot_segments(table, "brier").get_lines()]
    (upright,) = [x for x in lines if len(x) == 2 and x[0] == x[1]]
    assert upright[0] == table.query("segment == 'odd' and metric == 'brier'")["value"].item()


def test_segments_of_one_user_have_no_number_but_a_reason(found):
    users = np.concatenate([np.asarray(part.ids) for part in found.tests.values()])
    segment = np.where(users == users[0], "alone", "all others")
    table = found.by_segment(segment, "short", n_resamples=100)
    alone = table[table["segment"] == "alone"]
    assert alone[["value", "low", "high"]].isna().all(axis=None) and (alone["reason"] != "").all()
    assert table.loc[table["segment"] == "all others", "value"].notna().any()
    assert (alone["examples"] == (users == users[0]).sum()).all()
    plot_segments(table, "roc_auc")
    assert fairness_gaps(table).empty


def test_segments_know_the_history_only(log, asked):
    table = history_segments(asked)
    later = asked.log["timestamp"] >= asked.cutoff.max()
    changed = asked.log.assign(category=asked.log["category"].where(~later, "another"))
    pd.testing.assert_frame_equal(history_segments(dataclasses.replace(asked, log=changed)), table)
    assert set(table["age"]) == {"new", "old"} and len(table) == len(asked)
    assert history_segments(dataclasses.replace(asked, log=asked.log.drop(columns="category"))).shape[1] == 2
    first = log.groupby("user_id")["timestamp"].min().reindex(asked.ids).to_numpy()
    assert ((asked.cutoff - first < np.timedelta64(30, "D")) == (table["age"] == "new")).all()


def test_wrong_segments_are_refused(found):
    n = sum(map(len, found.tests.values()))
    for segments, options, words in (
        (np.zeros(n - 1), {}, "segments"),
        (np.full(n, None), {}, "segments is missing"),
        (np.zeros(n), {"reference": 7}, "reference"),
        (np.zeros(n), {"model": "nobody"}, "nobody"),
    ):
        with pytest.raises(EvaluationError, match=words):
            found.by_segment(segments, **options)
    with pytest.raises(EvaluationError, match="nothing"):
        plot_segments(found.by_segment(np.zeros(n), n_resamples=100), "nothing")


def test_a_week_without_examples_is_a_gap_not_a_zero(log):
    cutoffs = [CUTOFFS[0], CUTOFFS[1], CUTOFFS[2], CUTOFFS[4]]  # the fourth week is not asked
    asked = Purchase("7d").examples(log, cutoffs)
    found = compare({"short": Lengths()}, asked, TimeSplit(str(CUTOFFS[1])), **QUICK)
    table = found.over_time("7d", n_resamples=100).query("metric == 'roc_auc'")
    assert table["start"].tolist() == list(CUTOFFS[1:]) and table["examples"].tolist()[2] == 0
    empty = table.iloc[2]
    assert np.isnan(empty["value"]) and np.isnan(empty["low"]) and "no example" in empty["reason"]
    assert table["value"].notna().tolist() == [True, True, False, True]
    assert np.isnan(table["difference"].iloc[0]) and table["difference"].notna().sum() == 2
    line = plot_drift(table, "roc_auc").get_lines()[0]
    assert np.isnan(np.asarray(line.get_ydata(), float)).tolist() == [False, False, True, False]


def test_a_learning_curve_ends_at_the_whole_and_its_parts_are_nested(asked):
    seen = []

    class Sees(Lengths):
        def fit(self, X, y):
            seen.append(set(X.ids))
            return super().fit(X, y)

    curve = learning_curve({"a": Sees()}, asked, TimeSplit("2024-02-10"), shares=(0.2, 0.5, 1.0), **QUICK)
    assert seen[0] < seen[1] < seen[2] and curve["users"].unique().tolist() == [len(part) for part in seen]
    whole = compare({"a": Lengths()}, asked, TimeSplit("2024-02-10"), **QUICK).scores["value"]
    np.testing.assert_array_equal(curve[curve["users"] == len(seen[2])]["value"], whole)
    ax = plot_learning_curve(curve, "roc_auc")
    assert [text.get_text() for text in ax.get_xticklabels()] == [f"{len(part):,}" for part in seen]


def test_flattery_is_promise_less_truth_and_turned_for_losses(asked):
    splits = {"by user": UserSplit(0.3), "time": TimeSplit("2024-02-03")}
    for metric, sign in (("roc_auc", 1), ("log_loss", -1)):
        table = compare_splits(
            {"a": Lengths()}, asked, splits, TimeSplit("2024-02-10"), metric=metric, **QUICK
        )
        assert table["split"].tolist() == list(splits)
        assert np.allclose(table["flattery"], sign * (table["promised"] - table["came"]))
    final = next(TimeSplit("2024-02-10").split(asked))
    came = compare({"a": Lengths()}, asked, [final], metric="log_loss", **QUICK).scores
    assert (table["came"] == came.query("metric == 'log_loss'")["value"].item()).all()
    assert len(plot_splits(table).axes) == 1


def test_no_split_of_the_past_sees_the_future(log, asked):
    splits = {"by user": UserSplit(0.3), "time": TimeSplit("2024-02-03")}
    final = TimeSplit("2024-02-10")
    first = compare_splits({"a": Lengths()}, asked, splits, final, **QUICK)
    other = asked.label.copy()
    other[asked.cutoff >= pd.Timestamp("2024-02-10")] = 1 - other[asked.cutoff >= pd.Timestamp("2024-02-10")]
    turned = compare_splits({"a": Lengths()}, dataclasses.replace(asked, label=other), splits, final, **QUICK)
    assert turned["promised"].tolist() == first["promised"].tolist()
    assert turned["came"].tolist() != first["came"].tolist()


@pytest.mark.parametrize("folder", ["seqbook/results", "benchmarks/results"])
def test_saved_results_are_read_from_the_package_or_the_repository(folder, tmp_path, monkeypatch, capsys):
    table = pd.DataFrame({"model": ["a", "b"], "AUC": ["0.7", "0.8"]})
    saved = {
        "date": "2026-01-02",
        "machine": {"processor": "abacus", "cores": 2},
        "versions": {"keras": "3.1", "duckdb": "1.4"},
        "settings": {"seed": 0},
        "tables": {
            "Shop one": table.to_dict("split", index=False),
            "Shop two": {"columns": ["m"], "data": []},
        },
    }
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "some.json").write_text(json.dumps(saved))
    monkeypatch.setattr(reports.seqbook, "__file__", str(tmp_path / "seqbook" / "__init__.py"))
    pd.testing.assert_frame_equal(saved_table("some", "Shop one"), table.set_index("model"))
    assert (
        capsys.readouterr().out == "Shop one\nmeasured on 2026-01-02; abacus, cores: 2; keras 3.1; seed: 0\n"
    )
    assert saved_result("some") == saved
    with pytest.raises(EvaluationError, match="no table that begins with 'Shop three'"):
        saved_table("some", "Shop three")
    with pytest.raises(EvaluationError, match="no saved result 'next_item'"):
        saved_result("next_item")
