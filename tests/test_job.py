"""The main job: right numbers, no leak, and a result that survives a kill."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    mean_absolute_error,
    roc_auc_score,
    root_mean_squared_error,
)
from sklearn.pipeline import make_pipeline

import seqbook.job as job
from seqbook.data.datasets import simulate_shop
from seqbook.data.events import BEHAVIOR, BUY, ITEM, TIME, USER, LogError
from seqbook.data.features import FeatureBuilder
from seqbook.data.selection import FeatureSelector
from seqbook.data.sequences import SequenceEncoder
from seqbook.data.tasks import NextItem, TimeSplit
from seqbook.job import RunConfig, compare_job, predict_job, run_job

SMALL = dict(model="counts", resamples=100)


@pytest.fixture(scope="module")
def log():
    """A log of a small simulated shop."""
    return simulate_shop(n_users=900, days=90, seed=5).events


@pytest.fixture(scope="module")
def done(log, tmp_path_factory):
    """The main job on that log with the counts model."""
    return run_job(RunConfig(log, out=tmp_path_factory.mktemp("done") / "r", **SMALL))


@pytest.fixture
def unexplained(monkeypatch):
    """No plots and made-up importances, where they are not what is tested."""

    def importances(model, examples, seed):
        names = model[0].get_feature_names_out()[:2]
        return pd.DataFrame({"feature": names, "importance": [0.2, 0.1], "low": 0.0, "high": 0.3})

    monkeypatch.setattr(job, "feature_importances", importances)
    monkeypatch.setattr(job, "_figures", lambda *_: ())


@pytest.fixture
def briefly(unexplained, monkeypatch):
    """The same, and few features, where it does not matter which."""
    kind = job._features

    def features(name):
        builder = FeatureBuilder(families=("frequency",), windows=("7d", None))
        if kind(name) == "features":
            return builder
        return make_pipeline(builder, FeatureSelector(k=10)).set_output(transform="pandas")

    monkeypatch.setattr(job, "_features", features)


def same_results(one, other):
    """Assert that two jobs came to the same result, number for number."""
    pd.testing.assert_frame_equal(one.comparison, other.comparison)
    pd.testing.assert_frame_equal(one.predictions, other.predictions)
    assert (one.importances is None) == (other.importances is None)
    if one.importances is not None:
        pd.testing.assert_frame_equal(one.importances, other.importances)
    assert one.thresholds == other.thresholds and one.cleaning.to_dict() == other.cleaning.to_dict()


# ---- what is written


def test_everything_is_written(done):
    found = {path.name for path in done.report.parent.iterdir()}
    assert found >= {
        "report.html",
        "metrics.json",
        "predictions.parquet",
        "predictions.csv",
        "cleaned.parquet",
        "removed.parquet",
        "cleaning.json",
        "model",
        "job.json",
    }
    assert not any(".part" in name for name in found)


def test_the_report_is_self_contained(done):
    page = done.report.read_text(encoding="utf-8")
    assert "Who will buy within 7d?" in page
    for title in ("Funnel", "ROC", "Precision and recall", "Calibration", "Scores", "Cleaning", "Comparison"):
        assert f">{title}<" in page
    assert 'src="http' not in page and 'href="http' not in page and "url(http" not in page


def test_predictions_are_those_of_the_test_part(done):
    test = done.examples[done.index["test"]]
    table = done.predictions
    assert list(table) == ["user_id", "cutoff", "label", "predicted", "probability"]
    assert np.array_equal(table["user_id"], test.ids) and np.array_equal(table["label"], test.label)
    assert np.array_equal(table["predicted"], table["probability"] >= done.thresholds["counts"])
    folder = done.report.parent
    pd.testing.assert_frame_equal(table, pd.read_parquet(folder / "predictions.parquet"))
    csv = pd.read_csv(folder / "predictions.csv", parse_dates=["cutoff"])
    pd.testing.assert_frame_equal(table, csv, check_dtype=False)


def test_the_metrics_agree_with_scikit_learn(done):
    found = done.comparison.query("model == 'counts'").set_index("metric")["value"]
    y, p = done.predictions["label"], done.predictions["probability"]
    assert found["roc_auc"] == pytest.approx(roc_auc_score(y, p))
    assert found["average_precision"] == pytest.approx(average_precision_score(y, p))
    assert found["brier"] == pytest.approx(brier_score_loss(y, p))
    assert found["accuracy"] == pytest.approx((y == done.predictions["predicted"]).mean())


def test_each_number_has_an_interval_around_it(done):
    scored = done.comparison.dropna(subset=["value", "low"])
    assert set(scored["model"]) == {"majority", "counts"}
    assert ((scored["low"] <= scored["value"]) & (scored["value"] <= scored["high"])).all()
    assert (scored.query("model == 'counts'")["low"] < scored.query("model == 'counts'")["high"]).all()


def test_metrics_json_is_strict_json(done):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    saved = json.loads((done.report.parent / "metrics.json").read_text(), parse_constant=refuse)
    assert len(saved["comparison"]) == len(done.comparison)


def test_the_truth_stands_beside_the_models_on_the_simulated_shop(tmp_path):
    result = run_job(RunConfig(users=1500, out=tmp_path / "r", **SMALL))
    loss = result.comparison.query("metric == 'log_loss'").set_index("model")["value"]
    assert loss[job.TRUTH] < loss["counts"] < loss["majority"]


def test_the_result_shows_itself(done):
    assert "Who will buy" in done._repr_html_() and "ROC AUC" in done.summary()


# ---- nothing from the future


@pytest.mark.parametrize(
    "config", [RunConfig(), RunConfig(task="churn", horizon="10d"), RunConfig(task="next-behavior")]
)
def test_labels_of_a_part_are_known_before_the_next_part(log, config):
    examples, index = job._split(config, log)
    for one, other in (("training", "validation"), ("validation", "test")):
        assert examples.label_end[index[one]].max() <= examples.cutoff[index[other]].min()


def test_the_border_of_a_part_does_not_drop_the_sessions_that_are_over(log):
    examples, index = job._split(RunConfig(task="next-behavior", gap="10h"), log)
    near = np.timedelta64(10, "h")
    for part, following in (("training", "validation"), ("validation", "test")):
        border = examples.cutoff[index[following]].min()
        last = index[part][examples.cutoff[index[part]] > border - 2 * near]
        assert len(last) and (examples.label[last] == "end").mean() > 0.1
        assert examples.cutoff[last].max() <= border - near


def test_changing_the_test_labels_changes_no_model_no_threshold_and_no_probability(log, done, tmp_path):
    test = done.examples[done.index["test"]].cutoff.min()
    other = log.copy()
    late = other[TIME] >= test
    other.loc[late, BEHAVIOR] = np.where(other.loc[late, BEHAVIOR] == BUY, "view", BUY)
    result = run_job(RunConfig(other, out=tmp_path / "r", **SMALL))
    assert (result.predictions["label"] != done.predictions["label"]).any()
    assert np.array_equal(result.predictions["probability"], done.predictions["probability"])
    assert result.thresholds == done.thresholds


def test_vocabularies_know_nothing_after_the_last_training_cutoff(log, done, tmp_path):
    cutoff = done.examples.train_cutoff(done.index["training"])
    other = log.copy()
    late = other[TIME] >= cutoff
    other.loc[late, ITEM] = 10_000_000 + other.loc[late, ITEM]
    result = run_job(RunConfig(other, out=tmp_path / "r", **SMALL))
    for name in ("behavior", "price_bucket"):
        one, two = (
            SequenceEncoder.load(r.report.parent / "model" / "encoder").vocabularies_.get(name)
            for r in (done, result)
        )
        assert one == two
    coefficients = (r.models["counts"].regression_.coef_ for r in (done, result))
    assert np.array_equal(*coefficients)
    known = SequenceEncoder.load(result.report.parent / "model" / "encoder").vocabularies_
    assert all(np.max(vocabulary.values) < 10_000_000 for name, vocabulary in known.items() if name == "item")


def test_the_threshold_is_chosen_on_the_validation_part(log, done):
    valid = done.examples[done.index["validation"]]
    encoder = SequenceEncoder.load(done.report.parent / "model" / "encoder")
    proba = done.models["counts"].predict_proba(encoder.encode(valid))
    assert done.thresholds["counts"] == job.choose_threshold(valid.label, proba, valid.classes)


# ---- a kill at any moment


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_job_killed_at_every_rename_comes_to_the_same_result(log, done, tmp_path, monkeypatch):
    replace, config, attempts = os.replace, RunConfig(log, out=tmp_path / "r", resume=True, **SMALL), 0

    def dying(budget):
        left = iter(range(budget))

        def rename(*names):
            if next(left, None) is None:
                raise Killed
            return replace(*names)

        return rename

    while True:
        attempts += 1
        monkeypatch.setattr(os, "replace", dying(attempts))
        try:
            result = run_job(config)
            break
        except Killed:
            assert attempts < 30
    assert attempts > 3
    same_results(result, done)


SCRIPT = """
import os, signal, sys
import seqbook.job as job

finish = job._Folder.finish

def dying(self, stage, *files, **facts):
    if stage == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
    finish(self, stage, *files, **facts)

job._Folder.finish = dying
job.run_job(log=sys.argv[1], out=sys.argv[2], model="counts", resamples=100, resume=True)
"""


def test_sigkill_between_the_stages(log, done, tmp_path):
    path = tmp_path / "log.parquet"
    log.to_parquet(path, index=False)
    for stage in ("clean", "fit", "report"):
        command = [sys.executable, "-c", SCRIPT, path, tmp_path / "r", stage]
        assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
        assert stage not in json.loads((tmp_path / "r" / "job.json").read_text())["stages"]
    same_results(run_job(log=path, out=tmp_path / "r", resume=True, **SMALL), done)


def test_sigkill_during_training(log, tmp_path):
    path = tmp_path / "log.parquet"
    log[log[USER] <= 300].to_parquet(path, index=False)
    options = dict(log=str(path), model="gru", epochs=3, resamples=100, max_length=20)
    code = f"from seqbook.job import run_job; run_job(**{options!r}, out={str(tmp_path / 'r')!r})"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        checkpoint, end = tmp_path / "r" / "checkpoint" / "training.npz", time.monotonic() + 120
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "r" / "model").exists()
    resumed = run_job(**options, out=tmp_path / "r", resume=True, progress=False)
    whole = run_job(**options, out=tmp_path / "whole", progress=False)
    pd.testing.assert_frame_equal(resumed.models["gru"].history_, whole.models["gru"].history_)
    same_results(resumed, whole)


def test_a_finished_job_is_shown_again_without_being_done_again(log, done, monkeypatch):
    for stage in ("clean_events", "compare_models", "_save_models"):
        monkeypatch.setattr(job, stage, None)
    same_results(run_job(done.config, resume=True), done)


def test_a_damaged_result_is_made_again(log, done, tmp_path):
    config = RunConfig(log, out=tmp_path / "r", **SMALL)
    run_job(config)
    (tmp_path / "r" / "metrics.json").write_text("{}")
    same_results(run_job(config, resume=True), done)


# ---- whose folder it is


def test_a_folder_that_is_not_empty_is_left_alone(log, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(LogError, match="not empty; pass --overwrite .* or --resume"):
        run_job(RunConfig(log, out=tmp_path, **SMALL))
    with pytest.raises(LogError, match="no whole job.json"):
        run_job(RunConfig(log, out=tmp_path, resume=True, **SMALL))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_overwrite_removes_only_what_the_job_wrote(done, log, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "metrics.json").write_text("old")
    same_results(run_job(RunConfig(log, out=tmp_path, overwrite=True, **SMALL)), done)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_resume_refuses_another_job_and_names_what_changed(done, log):
    for change, message in (
        (dict(horizon="5d"), "horizon was None and is '5d'"),
        (dict(seed=1, max_length=7), "max_length was 100 and is 7; seed was 0 and is 1"),
        (dict(log=log.iloc[:-1]), "the log has changed"),
    ):
        with pytest.raises(LogError, match=message):
            run_job(done.config, resume=True, **change)


def test_resume_refuses_a_changed_file(log, tmp_path):
    path = tmp_path / "log.csv"
    log.to_csv(path, index=False)
    run_job(RunConfig(path, out=tmp_path / "r", **SMALL))
    log.iloc[:-5].to_csv(path, index=False)
    with pytest.raises(LogError, match="the log has changed"):
        run_job(RunConfig(path, out=tmp_path / "r", resume=True, **SMALL))


def test_resume_refuses_another_version(done, monkeypatch):
    monkeypatch.setattr("seqbook.__version__", "9.9.9")
    with pytest.raises(LogError, match="seqbook was '.*' and is '9.9.9'"):
        run_job(done.config, resume=True)


# ---- the log


def test_a_file_and_any_dataframe_give_the_same_result(log, done, tmp_path):
    path = tmp_path / "log.csv"
    log.rename(columns={USER: "who", TIME: "when"}).to_csv(path, index=False)
    columns = {"who": USER, "when": TIME}
    from_file = run_job(RunConfig(path, columns=columns, out=tmp_path / "a", **SMALL))
    from_polars = run_job(RunConfig(pl.from_pandas(log), out=tmp_path / "b", **SMALL))
    pd.testing.assert_frame_equal(from_polars.comparison, done.comparison)
    value = lambda result: result.comparison.set_index(["model", "metric"])["value"]  # noqa: E731
    pd.testing.assert_series_equal(value(from_file), value(done))


def test_removed_rows_are_kept_with_their_reason(log, tmp_path):
    dirty = pd.concat([log, log.iloc[:7], log.iloc[:3].assign(behavior="dance")])
    result = run_job(RunConfig(dirty, out=tmp_path / "r", **SMALL))
    removed = pd.read_parquet(tmp_path / "r" / "removed.parquet")
    assert removed["reason"].value_counts().to_dict() == {"duplicate": 7, "unknown_behavior": 3}
    assert json.loads((tmp_path / "r" / "cleaning.json").read_text())["n_kept"] == len(log)
    assert "removed: unknown behavior" in result.report.read_text(encoding="utf-8")


def test_bots_are_removed_when_asked(log, tmp_path):
    bot = pd.DataFrame(
        {USER: -1, TIME: pd.Timestamp("2024-02-01") + pd.to_timedelta(range(500), "s"), BEHAVIOR: "view"}
    )
    result = run_job(RunConfig(pd.concat([log, bot]), out=tmp_path / "r", max_events_per_day=400, **SMALL))
    assert result.cleaning.counts["bot"] >= 500 and -1 not in set(result.events[USER])


# ---- too little


def test_a_horizon_that_does_not_fit_names_the_longest_that_does(log, tmp_path):
    with pytest.raises(LogError, match="--horizon") as error:
        run_job(RunConfig(log, horizon="60d", out=tmp_path / "r", **SMALL))
    longest = str(error.value).rsplit(" ", 1)[-1]
    examples, index = job._split(RunConfig(horizon=longest), log)
    assert all(len(rows) for rows in index.values())
    longer = f"{int(longest.rstrip('d')) + 2}d"
    with pytest.raises(LogError, match="does not fit"):
        job._split(RunConfig(horizon=longer), log)


def test_short_logs_get_horizons_in_their_own_units(log):
    minutes = pd.DataFrame(
        {USER: range(200), TIME: pd.date_range("2024-01-01", periods=200, freq="min"), BEHAVIOR: "view"}
    )
    with pytest.raises(LogError, match=r"the log spans 3.32 hours.*--horizon \d+min"):
        job._split(RunConfig(), minutes)


def test_more_cutoffs_than_fit_are_refused(log):
    with pytest.raises(LogError, match="at most"):
        job._split(RunConfig(cutoffs=50), log)


def test_a_test_part_too_small_gives_a_report_but_no_number(log, tmp_path):
    few = log[log[USER] <= 60]
    result = run_job(RunConfig(few, horizon="10d", out=tmp_path / "r", **SMALL))
    assert result.comparison["value"].isna().all() and "too small to score" in result.notes[-1]
    page = result.report.read_text(encoding="utf-8")
    assert "too small to score" in page and "ROC AUC" not in page
    assert len(result.predictions) and result.predictions["probability"].between(0, 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[x[BEHAVIOR] != BUY], "no positive label.*no 'buy' event"),
        (lambda x: x[x[USER] == x[USER].mode()[0]], "one user_id|no positive label|only one class"),
        (lambda x: x.iloc[:1], "does not fit.*too short for any"),
    ],
)
def test_a_log_from_which_nothing_can_be_learned_is_refused(log, tmp_path, change, message):
    with pytest.raises(LogError, match=message):
        run_job(RunConfig(change(log), out=tmp_path / "r", **SMALL))


def test_wrong_options_are_refused_before_anything_is_written(tmp_path):
    for options in (
        dict(task="fly"),
        dict(model="oracle"),
        dict(task="spend", model="majority"),
        dict(task="churn", model="mean"),
        dict(dataset="mine", log="x"),
        dict(dataset="rees46"),
        dict(horizon="soon"),
        dict(horizon="-3d"),
        dict(epochs=0),
        dict(overwrite=True, resume=True),
        dict(log=str(tmp_path / "nothing.csv")),
        dict(log="x", dataset="rees46", columns={"a": "b"}),
    ):
        with pytest.raises(LogError):
            run_job(**options, out=tmp_path / "r")
        assert not (tmp_path / "r").exists()


# ---- a new log


def test_predict_gives_the_probabilities_of_the_test(log, done):
    test = done.examples[done.index["test"]]
    scores = predict_job(done.report.parent / "model", log, at=test.cutoff.max())
    last = done.predictions[done.predictions["cutoff"] == test.cutoff.max()].drop(columns="label")
    pd.testing.assert_frame_equal(scores, last.reset_index(drop=True), check_dtype=False)


def test_predict_reads_nothing_at_or_after_the_moment(log, done):
    moment = log[TIME].iloc[len(log) // 2]
    past = log[log[TIME] < moment]
    future = log[log[TIME] >= moment].assign(behavior=BUY)
    scores = predict_job(done.report.parent, pd.concat([past, future]), at=moment)
    pd.testing.assert_frame_equal(scores, predict_job(done.report.parent, past, at=moment))
    assert set(scores[USER]) == set(past[USER])


def test_predict_takes_users_and_items_never_seen(log, done, tmp_path):
    strangers = log.assign(user_id=log[USER] + 1_000_000, item_id=log[ITEM] + 1_000_000)
    out = tmp_path / "scores.parquet"
    scores = predict_job(done.report.parent / "model", strangers, out)
    assert len(scores) == strangers[USER].nunique() and scores["probability"].between(0, 1).all()
    assert scores["cutoff"].unique() == strangers[TIME].max() + pd.Timedelta(1, "us")
    pd.testing.assert_frame_equal(pd.read_parquet(out), scores)


def test_predict_does_not_overwrite(log, done, tmp_path):
    out = tmp_path / "scores.csv"
    out.write_text("mine")
    with pytest.raises(LogError, match="--overwrite"):
        predict_job(done.report.parent, log, out)
    assert out.read_text() == "mine"
    predict_job(done.report.parent, log, out, overwrite=True)
    assert out.read_text().startswith("user_id,cutoff,predicted,probability")
    with pytest.raises(LogError, match="ending"):
        predict_job(done.report.parent, log, tmp_path / "scores.xls")


def test_predict_of_the_next_behavior_asks_the_sessions_in_progress(log, tmp_path):
    result = run_job(RunConfig(log, task="next-behavior", out=tmp_path / "r", **SMALL))
    scores = predict_job(tmp_path / "r", log)
    live = log[log[TIME] >= log[TIME].max() - pd.Timedelta("30min")]
    assert set(scores[USER]) == set(live[USER])
    each = scores.filter(like="p_")
    assert list(each) == [f"p_{name}" for name in result.examples.classes]
    assert np.allclose(each.sum(axis=1), 1) and np.allclose(each.max(axis=1), scores["probability"])


# ---- classical models


@pytest.fixture(scope="module")
def few(log):
    """A log of fewer shoppers, whom a model reads in a moment."""
    return log[log[USER] <= 450]


@pytest.fixture(scope="module")
def explained(few, tmp_path_factory):
    """A job with features and their importances in full."""
    return run_job(RunConfig(few, model="logistic", out=tmp_path_factory.mktemp("e") / "r", resamples=100))


@pytest.mark.parametrize("model", job.CLASSIFIERS)
def test_every_classifier_from_log_to_prediction(few, tmp_path, briefly, model):
    result = run_job(RunConfig(few, model=model, horizon="14d", out=tmp_path / "r", resamples=100))
    table, auc = (
        result.predictions,
        result.comparison.query("metric == 'roc_auc'").set_index("model")["value"],
    )
    assert list(result.models) == ["majority", "counts", model] and auc[model] > 0.5
    assert np.array_equal(table["predicted"], table["probability"] >= result.thresholds[model])
    last = table[table["cutoff"] == table["cutoff"].max()].drop(columns="label").reset_index(drop=True)
    scores = predict_job(tmp_path / "r", few, at=last["cutoff"][0])
    pd.testing.assert_frame_equal(scores, last, check_dtype=False)


@pytest.mark.parametrize("model", job.REGRESSORS)
def test_every_regressor_from_log_to_prediction(few, tmp_path, briefly, model):
    result = run_job(
        RunConfig(few, task="spend", model=model, horizon="14d", out=tmp_path / "r", resamples=100)
    )
    table = result.predictions
    assert list(table) == ["user_id", "cutoff", "label", "predicted"] and result.thresholds == {}
    assert (
        set(result.models) == {"mean", "rfm", model} and not (tmp_path / "r" / "model" / "encoder").exists()
    )
    last = table[table["cutoff"] == table["cutoff"].max()].drop(columns="label").reset_index(drop=True)
    scores = predict_job(tmp_path / "r", few, tmp_path / "s.csv", at=last["cutoff"][0])
    pd.testing.assert_frame_equal(scores, last, check_dtype=False)
    assert (tmp_path / "s.csv").read_text().startswith("user_id,cutoff,predicted\n")


@pytest.mark.parametrize("task", ["purchase", "spend"])
@pytest.mark.parametrize("model", job.NETWORKS)
def test_every_network_from_log_to_prediction(few, tmp_path, briefly, model, task):
    options = dict(task=task, model=model, horizon="14d", epochs=2, max_length=20, resamples=100)
    result = run_job(RunConfig(few, out=tmp_path / "r", **options), progress=False)
    answer = "predicted" if task == "spend" else "probability"
    told = result.predictions[answer]
    assert result.models[model].encoder == model and (told >= 0).all() and told.nunique() > 20
    if task == "purchase":
        assert roc_auc_score(result.predictions["label"], told) > 0.5
    last = result.predictions[result.predictions["cutoff"] == result.predictions["cutoff"].max()]
    scores = predict_job(tmp_path / "r", few, at=last["cutoff"].iloc[0])
    np.testing.assert_allclose(scores[answer], last[answer], atol=1e-5)
    again = run_job(RunConfig(few, out=tmp_path / "r", resume=True, **options), progress=False)
    pd.testing.assert_frame_equal(again.predictions, result.predictions)


def test_the_next_behavior_by_features(few, tmp_path, unexplained):
    options = dict(task="next-behavior", model="naive-bayes", resamples=100)
    result = run_job(RunConfig(few, out=tmp_path / "r", **options))
    auc = result.comparison.query("metric == 'roc_auc'").set_index("model")["value"]
    assert auc["naive-bayes"] > 0.55
    scores = predict_job(tmp_path / "r", few)
    assert np.allclose(scores.filter(like="p_").sum(axis=1), 1)


def test_a_task_without_a_model_gets_its_own(few, tmp_path, briefly):
    assert (
        run_job(RunConfig(few, task="spend", horizon="14d", out=tmp_path / "r", resamples=100)).config.model
        == "two-part"
    )


@pytest.fixture(scope="module")
def spent(few, tmp_path_factory):
    """A job that predicts amounts, with its report in full."""
    out = tmp_path_factory.mktemp("s") / "r"
    return run_job(RunConfig(few, task="spend", model="ridge", horizon="14d", out=out, resamples=100))


def test_spend_is_the_money_after_the_cutoff(few, spent):
    row = spent.predictions.loc[spent.predictions["label"].idxmax()]
    paid = few[(few[USER] == row[USER]) & (few[BEHAVIOR] == BUY) & (few[TIME] >= row["cutoff"])]
    paid = paid[paid[TIME] < row["cutoff"] + pd.Timedelta(14, "D")]
    assert row["label"] == pytest.approx((paid["price"] * paid["quantity"]).sum())


def test_the_metrics_of_spend_agree_with_scikit_learn_and_scipy(spent):
    found = spent.comparison.query("model == 'ridge'").set_index("metric")["value"]
    y, said = spent.predictions["label"], spent.predictions["predicted"]
    assert found["mae"] == pytest.approx(mean_absolute_error(y, said))
    assert found["rmse"] == pytest.approx(root_mean_squared_error(y, said))
    assert found["spearman"] == pytest.approx(spearmanr(y, said).statistic)
    assert found["bias"] == pytest.approx(said.sum() / y.sum() - 1)


def test_the_report_of_spend(spent):
    page = spent.report.read_text(encoding="utf-8")
    assert "How much will they spend within 14d?" in page and "decision threshold" not in page
    for title in ("Gains", "Deciles", "Importances", "The parts", "label above 0"):
        assert f">{title}<" in page
    verdict = spent.comparison.set_index(["model", "metric"])["verdict"]
    assert verdict["rfm", "mae"] == "" != verdict["ridge", "mae"]  # compared with rfm


@pytest.mark.parametrize(
    ("task", "model"),
    [("purchase", "knn"), ("spend", "two-part")],
)
def test_a_changed_test_part_leaves_the_saved_model_as_it_is(few, tmp_path, unexplained, task, model):
    options = dict(task=task, model=model, horizon="14d", resamples=100)
    one = run_job(RunConfig(few, out=tmp_path / "a", **options))
    test = one.predictions["cutoff"].min()
    other = few.copy()
    late = other[TIME] >= test
    other.loc[late, BEHAVIOR] = np.where(other.loc[late, BEHAVIOR] == BUY, "view", BUY)
    other.loc[late, "price"] = 1000.0
    two = run_job(RunConfig(other, out=tmp_path / "b", **options))
    assert not one.predictions["label"].equals(two.predictions["label"]) and one.thresholds == two.thresholds
    first = one.predictions["cutoff"] == test  # whose history is before the change
    answer = "predicted" if task == "spend" else "probability"
    assert np.array_equal(one.predictions.loc[first, answer], two.predictions.loc[first, answer])
    scores = [predict_job(tmp_path / name, few, at=test) for name in "ab"]
    pd.testing.assert_frame_equal(*scores)


def test_a_classical_job_goes_on_after_a_kill_at_every_rename(few, tmp_path, briefly, monkeypatch):
    options = dict(task="spend", model="lightgbm", horizon="14d", resamples=100)
    whole = run_job(RunConfig(few, out=tmp_path / "whole", **options))
    rename, fits = os.replace, []
    fit = job._estimators
    monkeypatch.setattr(job, "_estimators", lambda *a: fits.append(a) or fit(*a))
    for name in ("model", "predictions.parquet", "metrics.json", "importances.csv", "report.html"):

        def dying(source, target, name=name):
            if os.path.basename(target) == name:
                raise Killed
            return rename(source, target)

        monkeypatch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            run_job(RunConfig(few, out=tmp_path / "r", resume=True, **options))
    monkeypatch.setattr(os, "replace", rename)
    same_results(run_job(RunConfig(few, out=tmp_path / "r", resume=True, **options)), whole)
    assert len(fits) == 2, "fitted again after the kill while the model was saved, and never since"


def test_a_finished_classical_job_is_shown_again(explained, monkeypatch):
    for stage in ("clean_events", "compare_models", "_save_models", "feature_importances"):
        monkeypatch.setattr(job, stage, None)
    same_results(run_job(explained.config, resume=True), explained)


def test_events_are_encoded_only_for_models_that_read_them(few, tmp_path, briefly, monkeypatch):
    monkeypatch.setattr(job, "SequenceEncoder", None)
    run_job(RunConfig(few, task="spend", model="ridge", horizon="14d", out=tmp_path / "r", resamples=100))
    predict_job(tmp_path / "r", few)


def test_spend_needs_prices_and_spenders(few, tmp_path):
    for change, says in (
        (lambda log: log.drop(columns="price"), "column 'price' is missing"),
        (lambda log: log.assign(price=np.nan), "purchases have no price"),
        (lambda log: log.assign(price=0.0), "is 0 for all"),
        (lambda log: log[log[BEHAVIOR] != BUY], "no 'buy' event"),
    ):
        with pytest.raises(LogError, match=says):
            run_job(
                RunConfig(change(few), task="spend", horizon="14d", out=tmp_path / says[:9], resamples=100)
            )


def test_too_few_spenders_give_a_report_but_no_number(few, tmp_path, briefly):
    config = RunConfig(
        few[few[USER] <= 90], task="spend", model="ridge", horizon="14d", out=tmp_path / "r", resamples=100
    )
    result = run_job(config)
    assert result.comparison["value"].isna().all() and "too few users have an amount" in result.notes[-1]
    assert "too small to score" in result.report.read_text(encoding="utf-8") and len(result.predictions)


# ---- lists of items


@pytest.fixture(scope="module")
def viewed(log):
    """A log of some shoppers, whose items are known to the training part and in part are not."""
    return log[log[USER] <= 400]


LISTED = dict(task="next-item", max_length=20, resamples=100)


@pytest.fixture(scope="module")
def listed(viewed, tmp_path_factory):
    """A job that ranks items, with its report in full."""
    out = tmp_path_factory.mktemp("l") / "r"
    return run_job(RunConfig(viewed, model="markov", out=out, **LISTED))


def test_each_view_of_the_test_part_is_asked_with_what_was_viewed_before(viewed, listed):
    views = viewed[viewed[BEHAVIOR] == "view"]
    row = listed.predictions.iloc[len(listed.predictions) // 2]
    mine = views[views[USER] == row[USER]]
    assert mine.loc[mine[TIME] >= row["cutoff"], ITEM].iloc[0] == row["label"]
    test = listed.examples[listed.index["test"]]
    assert list(listed.predictions) == [*"user_id cutoff label rank predicted recommended".split()]
    before = views.groupby(USER)[TIME].shift()
    asked = (before + pd.Timedelta(1, "us") >= test.cutoff.min()) & (views[TIME] > before)
    assert len(test) == asked.sum() > 500
    assert set(test.log[BEHAVIOR]) == {"view"} and test.lengths.max() == LISTED["max_length"]


def test_ranks_are_those_of_counted_steps(viewed, listed):
    views = viewed[viewed[BEHAVIOR] == "view"].sort_values([USER, TIME], kind="stable")
    known = views[views[TIME] < listed.examples.label_end[listed.index["training"]].max()]
    items = known[ITEM].value_counts().loc[lambda n: n >= job.MIN_ITEM_COUNT]
    known = known[known[ITEM].isin(items.index)]
    following = known.groupby(USER)[ITEM].shift(-1)
    test, table = listed.examples[listed.index["test"]], listed.predictions
    assert np.array_equal(table["rank"] == np.inf, ~table["label"].isin(items.index))
    for i in range(0, len(test), 97):
        history = test[i].histories()[ITEM]
        steps = following[known[ITEM] == history[history.isin(items.index)].iloc[-1]].value_counts()
        scores = steps.reindex(items.index, fill_value=0) + items / items.sum()
        if np.isfinite(table["rank"][i]):
            others = scores.drop(table["label"][i]) - scores[table["label"][i]]
            tied = (others.abs() < 1e-6).sum()
            assert table["rank"][i] == 1 + (others >= 1e-6).sum() + tied / 2
        shown = [int(item) for item in table["recommended"][i].split()]
        assert shown[0] == table["predicted"][i] and len(shown) == job.SHOWN
        assert np.allclose(scores[shown], scores.nlargest(job.SHOWN), atol=1e-5)


def test_the_metrics_of_lists_are_those_of_the_ranks(listed):
    found = listed.comparison.query("model == 'markov'").set_index("metric")
    rank = listed.predictions["rank"]
    assert found["value"]["hit@10"] == pytest.approx((rank <= 10).mean())
    assert found["value"]["ndcg@10"] == pytest.approx(((rank <= 10) / np.log2(1 + rank)).mean())
    assert found["value"]["mrr@10"] == pytest.approx(((rank <= 10) / rank).mean())
    assert (found["difference_low"] > 0).all() and set(found["verdict"]) == {"better"}


def test_the_report_of_lists(viewed, listed):
    page = listed.report.read_text(encoding="utf-8")
    assert "Which item comes next?" in page and "decision threshold" not in page
    for title in ("Hit rate", "The parts", "label unknown", "items seen before"):
        assert f">{title}<" in page
    assert "Hit rate at 10" in page and ">ROC<" not in page and listed.thresholds == {}
    assert len(listed.notes) == 1 and f"{(viewed[BEHAVIOR] == 'view').sum():,} views" in listed.notes[0]
    assert listed.notes[0] in page


@pytest.mark.parametrize("model", job.ITEM_COUNTS)
def test_every_counting_recommender_from_log_to_prediction(viewed, tmp_path, unexplained, model):
    result = run_job(RunConfig(viewed, model=model, out=tmp_path / "r", **LISTED))
    hits = result.comparison.query("metric == 'hit@10'").set_index("model")["value"]
    assert list(hits.index) == [*dict.fromkeys(("popularity", "markov", model))] and hits.min() > 0.05
    same_as_predicted(result, viewed, tmp_path)


def same_as_predicted(result, log, tmp_path):
    """Assert that a saved model gives the list of the last test example again."""
    row = result.predictions.iloc[[result.predictions["cutoff"].argmax()]]
    scores = predict_job(tmp_path / "r", log, tmp_path / "s.csv", at=row["cutoff"].iloc[0])
    assert set(scores[USER]) == set(log.loc[log[TIME] < row["cutoff"].iloc[0], USER])
    mine = scores[scores[USER] == row[USER].iloc[0]]
    assert mine["recommended"].tolist() == row["recommended"].tolist()
    assert (tmp_path / "s.csv").read_text().startswith("user_id,cutoff,predicted,recommended\n")


@pytest.mark.parametrize("model", job.ITEM_NETWORKS)
def test_every_item_network_from_log_to_prediction(viewed, tmp_path, model):
    log, options = viewed[viewed[USER] <= 250], {**LISTED, "model": model, "epochs": 2, "max_length": 10}
    result = run_job(RunConfig(log, out=tmp_path / "r", **options), progress=False)
    assert list(result.models) == ["popularity", "markov", model]
    assert (tmp_path / "r" / "checkpoint").exists() and "val_ndcg@10" in result.models[model].history_
    assert ">Training<" in result.report.read_text(encoding="utf-8")
    same_as_predicted(result, log, tmp_path)
    for name in ("predictions.parquet", "report.html"):
        (tmp_path / "r" / name).unlink()
    again = run_job(RunConfig(log, out=tmp_path / "r", resume=True, **options), progress=False)
    same_results(again, result)
    assert ">Training<" in again.report.read_text(encoding="utf-8")


@pytest.mark.parametrize("model", ["cooccurrence", "gru4rec"])
def test_changed_test_items_leave_models_and_validation_as_they_are(viewed, tmp_path, unexplained, model):
    options = {**LISTED, "model": model, "epochs": 1, "max_length": 10}
    log = viewed[viewed[USER] <= 250]
    one = run_job(RunConfig(log, out=tmp_path / "a", **options), progress=False)
    first = one.predictions["cutoff"].min()
    other = log.copy()
    other.loc[other[TIME] >= first, ITEM] += 10_000_000
    two = run_job(RunConfig(other, out=tmp_path / "b", **options), progress=False)
    assert (two.predictions["rank"] == np.inf).all(), "an item that training never saw is a miss"
    assert two.comparison["value"].eq(0).all() and np.isfinite(one.predictions["rank"]).any()
    assert two.models[model].n_items_ == one.models[model].n_items_
    if model == "gru4rec":
        pd.testing.assert_frame_equal(one.models[model].history_, two.models[model].history_)
    scores = [predict_job(tmp_path / name, log, at=first) for name in "ab"]
    pd.testing.assert_frame_equal(*scores)


def test_lists_for_strangers_and_for_those_who_viewed_nothing(viewed, listed):
    folder = listed.report.parent
    strangers = viewed.assign(user_id=viewed[USER] + 1_000_000)
    one, two = predict_job(folder, viewed), predict_job(folder, strangers)
    assert one["recommended"].equals(two["recommended"]) and set(two[USER]) == set(strangers[USER])
    popular = " ".join(map(str, listed.models["popularity"].recommend([[]]).items[0]))
    odd = viewed.assign(item_id=viewed[ITEM] + 10_000_000)
    assert set(predict_job(folder, odd)["recommended"]) == {popular}
    buyer = viewed.head(1).assign(user_id=-1, behavior=BUY)
    scores = predict_job(folder, pd.concat([viewed, buyer])).set_index(USER)
    assert scores.loc[-1, "recommended"] == popular


def test_lists_read_nothing_at_or_after_the_moment(viewed, listed):
    moment = viewed[TIME].iloc[len(viewed) // 2]
    past = viewed[viewed[TIME] < moment]
    scores = predict_job(listed.report.parent, viewed, at=moment)
    pd.testing.assert_frame_equal(scores, predict_job(listed.report.parent, past, at=moment))


def test_a_log_without_views_is_read_whole(viewed, tmp_path, unexplained):
    carts = viewed.assign(behavior="cart", item_id="item " + viewed[ITEM].astype(str))
    result = run_job(RunConfig(carts, model="popularity", out=tmp_path / "r", **LISTED))
    assert len(result.examples.log) == len(carts) and "no views" in result.notes[0]
    assert result.predictions["predicted"].str.startswith("item ").all()
    verdicts = result.comparison.set_index(["model", "metric"])["verdict"]
    assert verdicts["markov", "hit@10"] == "better"  # a baseline stands against the floor


def test_few_of_many_examples_are_drawn_and_the_report_says_so(viewed, listed, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "ASKED", 150)
    configs = (RunConfig(viewed, model="markov", out=tmp_path / name, **LISTED) for name in "ab")
    one, two = map(run_job, configs)
    same_results(one, two)
    assert [len(one.index[part]) for part in job.PARTS[1:]] == [150, 150]
    assert np.array_equal(one.index["training"], listed.index["training"])
    whole = listed.predictions.set_index([USER, "cutoff"])["rank"]
    drawn = one.predictions.set_index([USER, "cutoff"])["rank"]
    pd.testing.assert_series_equal(drawn, whole.loc[drawn.index])
    page = one.report.read_text(encoding="utf-8")
    assert f"Of {len(listed.index['test']):,} test examples, 150 were drawn" in page


def test_a_job_of_lists_goes_on_after_a_kill_at_every_rename(viewed, listed, tmp_path, monkeypatch):
    rename, config = os.replace, RunConfig(viewed, model="markov", out=tmp_path / "r", resume=True, **LISTED)
    for name in ("cleaned.parquet", "model", "predictions.parquet", "metrics.json", "report.html"):

        def dying(source, target, name=name):
            if os.path.basename(target) == name:
                raise Killed
            return rename(source, target)

        monkeypatch.setattr(os, "replace", dying)
        with pytest.raises(Killed):
            run_job(config)
    monkeypatch.setattr(os, "replace", rename)
    same_results(run_job(config), listed)
    for stage in ("clean_events", "compare_rankings", "_save_models"):
        monkeypatch.setattr(job, stage, None)
    same_results(run_job(config), listed)


def test_counted_lists_come_without_tensorflow(viewed, tmp_path):
    path = tmp_path / "log.parquet"
    viewed.to_parquet(path, index=False)
    code = f"""
import sys
from seqbook.job import predict_job, run_job
run_job(log={str(path)!r}, out="r", model="markov", **{LISTED!r})
predict_job("r", {str(path)!r})
assert not {{"tensorflow", "keras"}} & {{*sys.modules}}
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_logs_from_which_no_list_can_be_learned(viewed, listed, tmp_path):
    for change, says in (
        (lambda log: log.drop(columns=ITEM), "--columns theirs=item_id"),
        (lambda log: log.assign(item_id=None), "missing or empty"),
        (lambda log: log.assign(item_id=5), "only one class"),
        (lambda log: log[log[USER] == log[USER].mode()[0]], "one user_id"),
        (lambda log: log.drop_duplicates(USER), "training, validation and test is empty; take a longer log$"),
        (lambda log: log.assign(item_id=range(len(log))), "no sequence has two known items"),
    ):
        with pytest.raises(LogError, match=says):
            run_job(RunConfig(change(viewed), model="markov", out=tmp_path / "r", overwrite=True, **LISTED))
    with pytest.raises(LogError, match="choose one of sasrec"):
        run_job(RunConfig(viewed, model="gru", out=tmp_path / "r", overwrite=True, **LISTED))
    with pytest.raises(LogError, match="missing or empty"):
        predict_job(listed.report.parent, viewed.drop(columns=ITEM))


def test_lists_of_too_few_users_are_not_scored(viewed, tmp_path):
    few = viewed[viewed[USER] <= 30]
    result = run_job(RunConfig(few, model="markov", out=tmp_path / "r", **LISTED))
    assert result.comparison["value"].isna().all() and "where a score needs 30" in result.notes[-1]
    page = result.report.read_text(encoding="utf-8")
    assert "too small to score" in page and "Hit rate" not in page and len(result.predictions)


# ---- real logs, each in its published form

REAL = {
    "rees46": ("rees46_2019oct_head.csv.gz", dict(task="next-behavior", gap="5min")),
    "taobao": ("taobao_userbehavior_sample.csv.gz", dict(horizon="1d")),
    "yoochoose": ("rsc15_clicks_100k.csv.gz", dict(task="next-behavior")),
    "online_retail": ("online_retail.csv.gz", dict(horizon="30d")),
    "cdnow": ("CDNOW_master.txt.gz", dict(horizon="90d")),
}


@pytest.mark.parametrize("name", REAL)
def test_real_logs(real_data, tmp_path, name):
    file, options = REAL[name]
    result = run_job(RunConfig(str(real_data(file)), dataset=name, out=tmp_path / "r", **options, **SMALL))
    auc = result.comparison.query("metric == 'roc_auc'").set_index("model")["value"]
    assert auc["counts"] > auc["majority"] == 0.5


@pytest.mark.parametrize(
    ("name", "file"), [("yoochoose", "rsc15_clicks_100k.csv.gz"), ("rees46", "rees46_2019oct_head.csv.gz")]
)
def test_next_items_in_real_logs(real_data, tmp_path, name, file):
    log = dict(log=str(real_data(file)), dataset=name)
    result = run_job(RunConfig(**log, model="sknn", out=tmp_path / "r", **LISTED))
    hits = result.comparison.query("metric == 'hit@10'").set_index("model")["value"]
    assert min(hits["markov"], hits["sknn"]) > 2 * hits["popularity"] > 0


def test_a_real_log_too_short_for_its_gap_says_so(real_data, tmp_path):
    log = str(real_data("rees46_2019oct_head.csv.gz"))
    with pytest.raises(LogError, match="2.83 hours.*shorter --gap"):
        run_job(RunConfig(log, dataset="rees46", task="next-behavior", out=tmp_path / "r", **SMALL))


def test_a_real_log_too_one_sided_for_its_horizon_says_so(real_data, tmp_path):
    log = str(real_data("rees46_2019oct_head.csv.gz"))
    with pytest.raises(LogError, match="no positive label"):
        run_job(RunConfig(log, dataset="rees46", horizon="30min", out=tmp_path / "r", **SMALL))


SPENT = {
    "cdnow": ("CDNOW_sample.txt.gz", "90d"),
    "online_retail": ("online_retail.csv.gz", "60d"),
}


@pytest.mark.parametrize("name", SPENT)
def test_spend_in_real_logs(real_data, tmp_path, briefly, name):
    file, horizon = SPENT[name]
    config = RunConfig(str(real_data(file)), dataset=name, task="spend", horizon=horizon, model="two-part")
    result = run_job(config, out=tmp_path / "r", resamples=100)
    found = result.comparison.set_index(["model", "metric"])["value"]
    assert found["two-part", "gini"] > 0.3 and found["two-part", "mae"] < found["mean", "mae"]


# ---- several models


def test_a_model_on_examples_is_that_of_the_job(log, done, tmp_path):
    found = compare_job(RunConfig(log, resamples=100, out=tmp_path / "c"), ["counts"], progress=False)
    alone = done.comparison[done.comparison["model"] == "counts"].set_index("metric")["value"]
    assert found.scores.set_index("metric")["value"].to_numpy() == pytest.approx(alone.to_numpy(), rel=1e-6)
    proba = done.predictions["probability"].to_numpy()
    assert found.answers["counts", "split"][:, 1] == pytest.approx(proba, abs=1e-6)


def test_a_model_on_examples_learns_nothing_from_the_test(log, done, tmp_path):
    part, test = done.examples[done.index["training"]], done.examples[done.index["test"]]
    end = part.label_end.max()
    short = job._task(done.config).examples(log[log[TIME] < end], np.unique(part.cutoff), log_end=end)
    model = job._on_examples("counts", done.config, tmp_path, False)
    whole, again = (job.clone(model).fit(some, some.label) for some in (part, short))
    assert len(short) == len(part) and np.array_equal(whole.predict_proba(test), again.predict_proba(test))


def test_a_recommender_on_examples_is_nearly_that_of_the_job_and_is_saved(listed, tmp_path):
    train, valid, test = (listed.examples[listed.index[part]] for part in job.PARTS)
    model = job._on_examples("markov", listed.config, tmp_path, False)
    ranks = model.fit(train, train.label, (valid, valid.label)).target_ranks(test, test.label)
    theirs = listed.predictions["rank"].to_numpy()
    assert len(ranks) == len(theirs) and abs((ranks <= 10).mean() - (theirs <= 10).mean()) < 0.05
    back = job.OnItems.load(model.save(tmp_path / "model"))
    assert np.array_equal(back.target_ranks(test, test.label), ranks)


def test_the_answers_of_training_are_added_once_for_each_user(viewed):
    viewed = viewed[viewed[BEHAVIOR] == "view"]
    examples = NextItem().examples(viewed)
    train, test = next(TimeSplit().split(examples))
    some = examples[train]
    made = job._with_answers(some, some.label)
    assert made[TIME].max() < examples.label_end[train].max()
    for user, rows in list(made.groupby(USER))[:50]:
        own = viewed[viewed[USER] == user].sort_values(TIME, kind="stable")[ITEM].tolist()
        assert rows.sort_values(TIME, kind="stable")[ITEM].tolist() == own[: len(rows)]
    assert set(made[USER]) == set(some.ids)


def test_a_network_is_compared_and_kept(few, tmp_path):
    how = dict(epochs=1, max_length=10, resamples=100, out=tmp_path / "c")
    first = compare_job(RunConfig(few, **how), ["counts", "gru"], progress=False)
    assert not first.cells["error"].any() and first.cells["size"].notna().all()
    again = compare_job(RunConfig(few, resume=True, **how), ["counts", "gru"], progress=False)
    assert again.cells["kept"].all() and again.scores.equals(first.scores)
