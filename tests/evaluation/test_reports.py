"""The report: whole, self-contained, safe with strings from outside; plots that show what the metrics say."""

import base64
import re
from html.parser import HTMLParser

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup

from seqbook.evaluation import reports
from seqbook.evaluation.metrics import (
    EvaluationError,
    amount_bins,
    bootstrap_metrics,
    classification_metrics,
    compare_models,
    compare_regressions,
    confusion_table,
    regression_metrics,
)
from seqbook.evaluation.ranking import compare_rankings, ranking_metrics
from seqbook.evaluation.reports import (
    ReportExistsError,
    comparison_table,
    funnel_table,
    plot_calibration,
    plot_confusion,
    plot_deciles,
    plot_funnel,
    plot_gains,
    plot_hits,
    plot_metrics,
    plot_precision_recall,
    plot_roc,
    plot_scores,
    report_html,
    run_environment,
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
    page = report_html("Lists", {}, table)
    assert "Headline: better" in page and page.count("Hit rate at 7") == 2  # on its card and in the table
