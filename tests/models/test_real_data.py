"""The classical models on real data, from training rows and from the past alone."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import train_test_split

from seqbook.data.datasets import load_cdnow, load_shoppers_intention, load_taobao
from seqbook.data.events import clean_events
from seqbook.data.features import FeatureBuilder
from seqbook.data.tasks import Purchase, Spend, TimeSplit
from seqbook.evaluation.metrics import regression_metrics
from seqbook.models.classical import make_classifier, make_regressor


@pytest.fixture
def visits(real_data):
    X, y = load_shoppers_intention(real_data("online_shoppers_intention.csv.gz"))
    return train_test_split(X, y.to_numpy().astype(int), test_size=0.25, stratify=y, random_state=0)


@pytest.mark.parametrize("name, auc, precision", [("lightgbm", 0.925, 0.72), ("logistic", 0.90, 0.66)])
def test_intention_is_seen_in_a_table_with_text_columns(visits, name, auc, precision):
    train, test, y, truth = visits
    said = make_classifier(name).fit(train, y).predict_proba(test)[:, 1]
    assert roc_auc_score(truth, said) > auc
    assert average_precision_score(truth, said) > precision
    assert abs(said.mean() - truth.mean()) < 0.02  # calibrated in the large


def test_shuffled_labels_of_intention_teach_nothing(visits):
    train, test, y, truth = visits
    y = np.random.default_rng(0).permutation(y)
    said = make_classifier("lightgbm", n_estimators=50).fit(train, y).predict_proba(test)[:, 1]
    assert 0.4 < roc_auc_score(truth, said) < 0.6


@pytest.fixture
def taobao(real_data):
    log = clean_events(load_taobao(real_data("taobao_userbehavior_sample.csv.gz")))[0]
    midnights = pd.date_range("2017-11-28 16:00", "2017-12-02 16:00", freq="D")  # of Beijing
    examples = Purchase("1d").examples(log, midnights, log_end="2017-12-03 16:00")
    train, test = next(TimeSplit(test_from="2017-12-02 16:00").split(examples))
    return examples[train], examples[test]


def test_purchases_of_the_next_day_by_features(taobao):
    train, test = taobao
    assert len(test) == 815 and (train.label_end <= test.cutoff.min()).all()
    model = make_classifier(
        "logistic", FeatureBuilder(families=("frequency", "interval"), windows=("1d", None))
    )
    said = model.fit(train).predict_proba(test)[:, 1]
    assert roc_auc_score(test.label, said) > 0.57
    assert abs(said.mean() - test.label.mean()) < 0.04


@pytest.fixture
def cdnow(real_data):
    log = clean_events(load_cdnow(real_data("CDNOW_sample.txt.gz")))[0]
    task = Spend("90d")
    examples = task.examples(log, task.default_cutoffs(log))
    train, test = next(TimeSplit(test_from=str(examples.cutoff.max())).split(examples))
    return examples[train], examples[test]


def test_spend_in_90_days_orders_customers_better_than_rfm(cdnow):
    train, test = cdnow
    builder = FeatureBuilder(families=("frequency", "interval"))
    table, asked = builder.fit_transform(train, train.label), builder.transform(test)
    rfm = regression_metrics(test.label, make_regressor("rfm").fit(train).predict(test))
    ours = regression_metrics(test.label, make_regressor("gamma").fit(table, train.label).predict(asked))
    mean = regression_metrics(test.label, np.full(len(test), train.label.mean()))
    assert rfm["gini"] > 0.6 and ours["gini"] > rfm["gini"]
    assert ours["rmse"] < rfm["rmse"] < mean["rmse"]
