"""What to show whom: rules that hold, agreement with peers, no look ahead, no bias, bad input."""

import re
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mlxtend.frequent_patterns import association_rules, fpgrowth
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from seqbook.applications.recommendation import (
    FEATURES,
    REASON,
    ItemIndex,
    LiveGRU,
    LiveRecommender,
    PairLift,
    ThompsonItems,
    _best_of,
    _examples,
    best_first,
    choose_slate,
    compare_arms,
    content_vectors,
    cuped,
    due_dates,
    off_policy,
    page_features,
    recommend_cart,
    recommend_report,
    sample_size,
    sequential_z,
)
from seqbook.data.datasets import simulate_shop
from seqbook.data.events import LogError
from seqbook.data.sequences import SequenceEncoder
from seqbook.evaluation.reports import ReportExistsError
from seqbook.models.next_item import GRU4Rec, ItemCooccurrence

worths = st.lists(st.floats(0, 1e6), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def shop():
    return simulate_shop(n_users=300, n_items=60, n_categories=4, days=60, seed=1)


@pytest.fixture(scope="module")
def histories(shop):
    views = shop.events[shop.events["behavior"] == "view"]
    return SequenceEncoder(fields=("item_id",)).fit(views).encode(views)


@pytest.fixture(scope="module")
def gru(histories):
    return GRU4Rec(units=8, epochs=2, learning_rate=0.01, progress=False).fit(histories)


@pytest.fixture(scope="module")
def live(shop, histories, gru):
    return LiveRecommender(gru, ItemCooccurrence().fit(histories), shop.items, n=15)


# Live


def test_step_by_step_the_network_says_what_it_says_of_the_whole_history(gru, histories):
    kept = LiveGRU(gru)
    some = histories[np.flatnonzero((histories.lengths > 0) & (histories.lengths <= gru.max_length))[:30]]
    for row, (start, stop) in enumerate(zip(some.offsets[:-1], some.offsets[1:], strict=True)):
        state = kept.start()
        for code in some.fields["item"][start:stop] - 2:
            state = kept.step(state, code)
        scores = kept.query(state) @ gru.vectors_
        found = gru.recommend(some[np.array([row])], k=len(scores), exclude_seen=False)
        np.testing.assert_allclose(np.sort(scores)[::-1], found.scores[0], rtol=1e-3, atol=1e-4)


def test_a_state_is_not_changed_by_the_steps_that_are_tried_from_it(gru):
    kept = LiveGRU(gru)
    before = kept.step(kept.start(), 3)
    copy = before[0].copy()
    kept.step(before, 5)
    np.testing.assert_array_equal(before[0], copy)


def test_candidates_are_different_known_and_not_the_page_itself(live, shop):
    rows = np.arange(0, len(shop.events), 50)
    listed, X = page_features(live, shop.events, rows)
    assert listed.shape == (len(rows), live.n) and X.shape == (*listed.shape, len(FEATURES))
    assert np.isfinite(X).all()
    assert all(len(set(page)) == live.n for page in listed.tolist())
    viewed = shop.events["behavior"].to_numpy()[rows] == "view"
    here = shop.events["item_id"].to_numpy()[rows][:, None]
    assert not (listed == here)[viewed].any()


def test_nothing_after_a_page_is_read(live, shop):
    rows = np.array([100, 400, 700])
    changed = shop.events.copy()
    changed.loc[701:, "item_id"] = 7
    changed.loc[701:, "behavior"] = "view"
    for one, other in zip(
        page_features(live, shop.events, rows), page_features(live, changed, rows), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_rows_in_any_order_give_the_same_pages(live, shop):
    rows = np.array([700, 100, 400])
    listed, X = page_features(live, shop.events, rows)
    in_order, X_in_order = page_features(live, shop.events, np.sort(rows))
    np.testing.assert_array_equal(listed, in_order[[2, 0, 1]])
    np.testing.assert_array_equal(X, X_in_order[[2, 0, 1]])


def test_a_page_is_the_same_whoever_else_is_asked(live, shop):
    rows = np.array([100, 400, 700])
    some, everyone = (page_features(live, shop.events, r) for r in (rows, np.arange(800)))
    for one, whole in zip(some, everyone, strict=True):
        np.testing.assert_array_equal(one, whole[rows])


def test_a_new_visit_empties_the_cart_and_unknown_items_change_nothing_else(live):
    visitor = live.start()
    first, second = live.ids[:2].tolist()
    live.update(visitor, first, "view", session=1)
    live.update(visitor, second, "cart", session=1)
    assert len(visitor.cart) == 1 and visitor.steps == 2
    hidden, recent = visitor.hidden[0].copy(), list(visitor.recent)
    live.update(visitor, 10**9, "view", session=2)
    assert not visitor.cart and visitor.steps == 1 and visitor.recent == recent
    np.testing.assert_array_equal(visitor.hidden[0], hidden)


def test_two_visitors_share_nothing(live):
    one, other = live.start(), live.start()
    for item in live.ids[:12].tolist():
        live.update(one, item)
    assert not other.recent and other.interest.sum() == 0 and not other.hidden[0].any()
    assert len(one.recent) == live.memory


def test_the_reasons_of_an_item_add_up_to_its_score(live):
    visitor = live.start()
    items = live.ids[[4, 9, 4, 2]].tolist()
    for item in items:
        live.update(visitor, item)
    table, code = live.coview.similarity_, {item: i for i, item in enumerate(live.ids.tolist())}
    for item in live.candidates(visitor)[:10]:
        parts = {}
        for age, viewed in enumerate(reversed(items)):
            parts[viewed] = parts.get(viewed, 0) + live.coview.decay**age * table[code[viewed], item]
        because, share = live.explain(visitor, live.ids[item])
        total = sum(parts.values())
        assert (because is None) == (total == 0)
        assert share == pytest.approx(max(parts.values()) / total if total else 0)


def test_the_ranker_orders_the_list(live):
    class Dear:
        def predict_proba(self, X):
            chance = 1 / (1 + np.exp(-X[:, FEATURES.index("price")].astype("float64")))
            return np.column_stack([1 - chance, chance])

    visitor, dear = live.start(), live.ranker
    live.update(visitor, live.ids[0])
    live.ranker = Dear()
    try:
        shown = live.recommend(visitor, 5)
    finally:
        live.ranker = dear
    price = dict(zip(live.ids.tolist(), live.price, strict=True))
    among = sorted((price[item] for item in live.ids[live.candidates(visitor)].tolist()), reverse=True)
    assert [price[item] for item in shown.tolist()] == pytest.approx(among[:5], rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 1000))
def test_the_exact_index_sorts_by_the_product(n, k, seed):
    rng = np.random.default_rng(seed)
    vectors, query = rng.normal(size=(n, 4)).astype("float32"), rng.normal(size=4).astype("float32")
    found, scores = ItemIndex(vectors).search(query, k), vectors @ query
    assert len(found) == len(set(found.tolist())) == min(k, n)
    np.testing.assert_allclose(scores[found], np.sort(scores)[::-1][:k])


def test_the_graph_finds_nearly_all():
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(3000, 16)), rng.normal(size=(100, 16))
    exact, graph = ItemIndex(vectors), ItemIndex(vectors, exact_below=1)
    found = np.mean([np.isin(graph.search(q, 10), exact.search(q, 10)).mean() for q in queries])
    assert graph.graph is not None and found > 0.9


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 8), st.integers(0, 10**6))
def test_best_first_never_shows_what_must_not_be_shown(pages, n, k, seed):
    rng = np.random.default_rng(seed)
    listed = rng.permuted(np.tile(np.arange(n), (pages, 1)), axis=1)
    scores = np.where(rng.random((pages, n)) < 0.6, rng.random((pages, n)), -np.inf)
    allowed = np.isfinite(scores)
    if (allowed.sum(axis=1) < k).any():
        with pytest.raises(LogError, match="may be shown"):
            best_first(listed, scores, k)
        return
    for row, shown in enumerate(best_first(listed, scores, k)):
        assert set(shown) <= set(listed[row][allowed[row]]) and len(set(shown.tolist())) == k
        score = dict(zip(listed[row].tolist(), scores[row].tolist(), strict=True))
        assert [score[i] for i in shown.tolist()] == sorted(score.values(), reverse=True)[:k]


def test_a_search_that_finds_too_few_gives_no_other_item():
    class Poor:
        def search(self, query, k):
            return None, np.array([[4, 2, -1, -1]])

    index = ItemIndex(np.eye(6))
    index.graph = Poor()
    assert index.search(np.ones(6), 4).tolist() == [4, 2]


def test_without_a_ranker_the_highest_co_view_comes_first(live, shop):
    visitor, table = live.start(), live.coview.similarity_
    for item in live.ids[[3, 11, 3]].tolist():
        live.update(visitor, item)
        scores = sum(live.coview.decay**age * table[[code]] for age, code in enumerate(visitor.recent[::-1]))
        scores = scores.toarray()[0]
        scores[visitor.recent[-1]] = -1
        assert live.code[live.recommend(visitor, 1)[0]] == scores.argmax()


def test_only_what_was_viewed_together_is_a_candidate_for_it(live, histories):
    lonely = ItemCooccurrence().fit(histories)
    lonely.similarity_ = lonely.similarity_.copy()
    lonely.similarity_.data[:] = 0
    rest = LiveRecommender.__new__(LiveRecommender)
    vars(rest).update({**vars(live), "coview": lonely})
    visitor = rest.start()
    rest.update(visitor, rest.ids[3])
    near = rest.index.search(rest.gru.query(visitor.hidden), rest.n // 2 + 1)
    near = [code for code in near.tolist() if code != 3]
    assert rest.candidates(visitor).tolist()[: len(near)] == near


def test_co_views_are_scored_as_the_fitted_model_scores_them(live, histories):
    some = histories[np.flatnonzero((histories.lengths > 1) & (histories.lengths <= live.memory))[:20]]
    listed = live.coview.recommend(some, k=5, exclude_seen=False)
    for row, (start, stop) in enumerate(zip(some.offsets[:-1], some.offsets[1:], strict=True)):
        visitor = live.start()
        for code in some.fields["item"][start:stop] - 2:
            live.update(visitor, live.ids[code])
        codes = [live.code[item] for item in listed.items[row] if item is not None]
        found = live.features(visitor, codes)[:, FEATURES.index("coview")]
        np.testing.assert_allclose(found, listed.scores[row][: len(codes)], rtol=1e-4)


@pytest.mark.parametrize("memory", [1, 3])
def test_so_many_views_are_kept_and_no_more(shop, histories, gru, memory):
    short = LiveRecommender(gru, ItemCooccurrence().fit(histories), shop.items, n=5, memory=memory)
    visitor = short.start()
    for item in short.ids[:8].tolist():
        short.update(visitor, item)
    assert visitor.recent == list(range(8))[-memory:]


class Cheap:
    "A ranker that gives every item the same chance."

    def predict_proba(self, X):
        return np.full((len(X), 2), 0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.booleans())
def test_a_live_list_keeps_the_rules(live, seed, k, ranked):
    rng, ids = np.random.default_rng(seed), live.ids.tolist()
    visitor, exclude = live.start(), rng.choice(ids, 20, replace=False)
    for item in rng.choice(ids, 4):
        live.update(visitor, item.item())
    for item in rng.choice(ids, 3):
        live.update(visitor, item.item(), "cart")
    live.ranker = Cheap() if ranked else None
    worth = pd.Series(rng.random(len(ids)), rng.permutation(ids)) if ranked else None
    shown = live.recommend(visitor, k, exclude, worth).tolist()
    live.ranker = None
    among = set(live.ids[live.candidates(visitor)].tolist())
    free = among - set(exclude.tolist()) - set(live.ids[[*visitor.cart]].tolist())
    assert len(shown) == len(set(shown)) == min(k, len(free)) and set(shown) <= free
    if ranked:  # equal chances: money alone decides
        assert worth[shown].tolist() == sorted(worth[[*free]], reverse=True)[:k]


# Rules and carts


@settings(max_examples=200, deadline=None)
@given(worths, st.integers(1, 15), st.floats(0, 1), st.integers(0, 10**6))
@example([0.0, 2.0, 5e-324], 1, 0.0, 1)  # the least number there is
def test_a_slate_keeps_its_rules(scores, k, variety, seed):
    rng, n = np.random.default_rng(seed), len(scores)
    allowed, similarity = rng.random(n) < 0.7, rng.random((n, n))
    slate = choose_slate(scores, k, allowed, similarity, variety)
    assert len(slate) == len(set(slate.tolist())) == min(k, allowed.sum())
    assert allowed[slate].all()
    plain = choose_slate(scores, k, allowed)
    best = np.sort(np.asarray(scores)[allowed])[::-1][: len(plain)]
    np.testing.assert_array_equal(np.asarray(scores)[plain], best)


@settings(max_examples=200, deadline=None)
@given(worths, st.integers(1, 6), st.floats(0, 0.99), st.floats(1, 100), st.integers(0, 10**6))
def test_what_is_worth_more_never_drops_out(scores, k, variety, factor, seed):
    rng, n = np.random.default_rng(seed), len(scores)
    similarity, one = rng.random((n, n)), int(rng.integers(n))
    before = choose_slate(scores, k, similarity=similarity, variety=variety).tolist()
    raised = [*scores]
    raised[one] = raised[one] * factor + 1
    after = choose_slate(raised, k, similarity=similarity, variety=variety).tolist()
    if one in before:
        assert one in after and after.index(one) <= before.index(one)


def test_variety_is_maximal_marginal_relevance():
    rng = np.random.default_rng(3)
    scores, similarity = rng.random(9), rng.random((9, 9))
    chosen = [int(np.argmax(scores))]
    while len(chosen) < 5:
        rest = [i for i in range(9) if i not in chosen]
        gain = [0.6 * scores[i] / scores.max() - 0.4 * max(similarity[j, i] for j in chosen) for i in rest]
        chosen.append(rest[int(np.argmax(gain))])
    assert choose_slate(scores, 5, similarity=similarity, variety=0.4).tolist() == chosen


baskets = st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4), min_size=2, max_size=30)


def flat(baskets):
    return zip(*((n, item) for n, basket in enumerate(baskets) for item in basket), strict=True)


@settings(max_examples=60, deadline=None)
@given(baskets)
def test_lift_is_that_of_mlxtend(some):
    owner, thing = flat(some)
    lift = PairLift(owner, thing, shrink=1e-12)
    grid = pd.crosstab(pd.Series(owner), pd.Series(thing)) > 0
    sets = fpgrowth(grid, min_support=1e-9, use_colnames=True, max_len=2)
    rules = association_rules(sets, metric="support", min_threshold=0, num_itemsets=len(grid))
    known = {(*rule.antecedents, *rule.consequents): rule.lift for rule in rules.itertuples()}
    table = lift.table(least=1)
    assert len(table) * 2 == len(known)
    for pair in table.itertuples():
        assert pair.lift == pytest.approx(known[pair.one, pair.other], rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    baskets,
    st.lists(st.sampled_from("abcdefxy"), max_size=4),
    st.lists(st.sampled_from("abcdef"), max_size=2),
)
def test_a_cart_is_never_offered_what_it_has_or_what_is_excluded(some, cart, exclude):
    lift = PairLift(*flat(some))
    chances = lift.chances(cart)
    assert chances.sum() == pytest.approx(1) and (chances > 0).all()
    shown = recommend_cart(lift, cart, 6, exclude=exclude)
    assert set(shown) == set(lift.things) - set(cart) - set(exclude)


@settings(max_examples=60, deadline=None)
@given(baskets, st.sampled_from("abcdef"), st.floats(1, 50))
def test_a_larger_margin_never_moves_an_item_down(some, item, factor):
    lift = PairLift(*flat(some))
    worth = pd.Series(1.0, index=list("abcdef"))
    before = recommend_cart(lift, ["a"], 6, worth=worth)
    worth[item] = factor
    after = recommend_cart(lift, ["a"], 6, worth=worth)
    if item in before:
        assert after.index(item) <= before.index(item)


def test_what_is_in_the_cart_twice_counts_once():
    lift = PairLift([1, 1, 2, 2, 3], list("abacb"))
    np.testing.assert_array_equal(lift.chances(["a", "a", "b"]), lift.chances(["a", "b"]))


def test_independent_things_have_a_lift_of_one():
    rng = np.random.default_rng(0)
    owner, thing = np.nonzero(rng.random((20_000, 30)) < 0.2)
    table = PairLift(owner, thing).table()
    assert len(table) == 30 * 29 / 2 and table["lift"].between(0.9, 1.1).all()


# Repeat purchases


def log_of_gaps(gaps_by_user, start="2024-01-01"):
    rows = [
        (user, pd.Timestamp(start) + pd.Timedelta(days=float(day)))
        for user, gaps in enumerate(gaps_by_user)
        for day in np.concatenate([[0], np.cumsum(gaps)])
    ]
    log = pd.DataFrame(rows, columns=["user_id", "timestamp"]).assign(item_id="tea", behavior="buy")
    return log.sort_values("timestamp", ignore_index=True)


@pytest.fixture(scope="module")
def tea():
    rng = np.random.default_rng(2)
    pace = np.exp(rng.normal(3, 0.4, 200))
    return log_of_gaps(pace[:, None] * np.exp(rng.normal(0, 0.25, (200, 12))))


def test_due_dates_read_nothing_from_then_on(tea):
    at = pd.Timestamp("2024-06-01")
    cut = tea[tea["timestamp"] < at]
    pd.testing.assert_frame_equal(due_dates(tea, at), due_dates(cut, at))


def test_a_longer_horizon_never_has_a_smaller_chance(tea):
    one, two, ten = (
        due_dates(tea, "2024-06-01", f"{days}D").set_index("user_id")["chance"].sort_index()
        for days in (7, 14, 1000)
    )
    assert (one >= 0).all() and (one <= two + 1e-12).all() and (two <= ten + 1e-12).all()
    assert ten.max() > 0.95 and (ten > two).any()


def test_a_regular_customer_is_due_after_the_usual_gap():
    log = log_of_gaps([[10] * 8, [20] * 8, [40] * 4])
    due = due_dates(log, "2024-08-01", least=5).set_index("user_id")
    gap = (due["due"] - due["last"]) / pd.Timedelta("1D")
    np.testing.assert_allclose(gap.sort_index(), [10, 20, 40], rtol=0.1)


def test_one_purchase_takes_the_gap_of_the_others(tea):
    once = pd.DataFrame({"user_id": [999], "timestamp": [pd.Timestamp("2024-05-20")], "item_id": "tea"})
    due = due_dates(pd.concat([tea, once.assign(behavior="buy")]), "2024-06-01").set_index("user_id").loc[999]
    assert 12 < (due["due"] - due["last"]) / pd.Timedelta("1D") < 30


@pytest.mark.parametrize("stop", [0.0, 0.1])
def test_chances_hold_whether_customers_stop_or_not(stop):
    rng, n = np.random.default_rng(7), 1500
    pace = np.exp(rng.normal(3, 0.4, n))
    gaps = pace[:, None] * np.exp(rng.normal(0, 0.25, (n, 30)))
    bought = rng.geometric(stop, n) if stop else np.full(n, 31)
    log = log_of_gaps([row[: b - 1] for row, b in zip(gaps, bought, strict=True)])
    at = pd.Timestamp("2024-05-01")
    told = due_dates(log, at, "14D")
    came = log[(log["timestamp"] >= at) & (log["timestamp"] < at + pd.Timedelta("14D"))]["user_id"]
    told["came"] = told["user_id"].isin(came)
    assert told["chance"].mean() == pytest.approx(told["came"].mean(), abs=0.03)
    for _, part in told.groupby(pd.cut(told["chance"], [-0.1, 0.2, 0.5, 0.8, 1.1]), observed=True):
        if len(part) > 100:
            assert part["chance"].mean() == pytest.approx(part["came"].mean(), abs=0.1)


def test_with_one_gap_each_a_customer_is_as_uncertain_as_all():
    rng, at = np.random.default_rng(3), pd.Timestamp("2024-03-01")
    gaps = np.exp(rng.normal(3, 0.5, 400))
    told = due_dates(log_of_gaps(gaps[:, None]), at, "14D")
    spread = np.log((told["due"] - told["last"]) / pd.Timedelta("1D")).std()
    assert spread < 0.1  # one gap says little of the customer
    early = told[(at - told["last"]) / pd.Timedelta("1D") < 20]
    assert len(early) > 20 and early["chance"].between(0.05, 0.95).all()


def test_few_second_gaps_do_not_make_all_sure():
    gaps = [[8], [15], [30], [60], [12], [22], [41], [18], [26], [35, 35], [20, 20]]
    told = due_dates(log_of_gaps(gaps), "2024-03-10", "14D", least=5)
    assert told["chance"].between(0.01, 0.99).all()


def test_who_was_silent_for_long_is_less_likely_to_come_back():
    jitter = np.random.default_rng(0).normal(0, 0.4, (50, 12))
    numbers = [11] * 30 + [5] * 10 + [8] * 10
    gaps = [(10 * np.exp(row))[:number] for row, number in zip(jitter, numbers, strict=True)]
    chance = due_dates(log_of_gaps(gaps), "2024-05-01", "10D").set_index("user_id")["chance"].sort_index()
    assert chance[:30].mean() > chance[40:].mean() > chance[30:40].mean()


def test_things_with_few_gaps_are_left_out(tea):
    assert due_dates(tea[tea["user_id"] < 1], "2024-12-01", least=50).empty


# Off policy


def test_on_average_over_all_logs_the_estimates_are_right():
    old, new = np.array([0.5, 0.3, 0.2]), np.array([0.1, 0.2, 0.7])
    click, model = np.array([0.1, 0.5, 0.3]), np.array([0.4, 0.4, 0.1])
    total = {"IPS": 0.0, "doubly robust": 0.0, "model alone": 0.0}
    for (a, b), (y, z) in product(product(range(3), repeat=2), product((0, 1), repeat=2)):
        weight = old[a] * old[b] * np.prod([click[i] if c else 1 - click[i] for i, c in ((a, y), (b, z))])
        shown = np.array([a, b])
        found = off_policy(
            [y, z], old[shown], new[shown], model[shown], np.full(2, new @ model), n_resamples=100
        )["value"]
        for name in total:
            total[name] += weight * found[name]
    assert total["IPS"] == pytest.approx(new @ click)
    assert total["doubly robust"] == pytest.approx(new @ click)
    assert total["model alone"] == pytest.approx(new @ model)


def test_the_old_policy_itself_is_its_own_mean():
    rng = np.random.default_rng(0)
    p, y = rng.uniform(0.1, 1, 500), rng.random(500)
    found = off_policy(y, p, p)
    np.testing.assert_allclose(found["value"], y.mean())
    assert found.attrs["pages"] == pytest.approx(500)
    assert ((found["low"] < found["value"]) & (found["value"] < found["high"])).all()


def test_users_as_groups_make_the_interval_wider():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(50), 20)
    y = rng.random(50)[user]
    one, by_user = (off_policy(y, np.ones(1000), np.ones(1000), groups=g) for g in (None, user))
    assert by_user.loc["IPS", "high"] - by_user.loc["IPS", "low"] > 2 * (
        one.loc["IPS", "high"] - one.loc["IPS", "low"]
    )


# The A/B test


@pytest.mark.parametrize("std, effect, power, confidence", [(1, 0.1, 0.8, 0.95), (3.7, -0.5, 0.9, 0.99)])
def test_the_sample_size_is_that_of_statsmodels(std, effect, power, confidence):
    n = NormalIndPower().solve_power(abs(effect) / std, power=power, alpha=1 - confidence)
    assert sample_size(std, effect, power, confidence) == int(np.ceil(n))


def test_the_difference_of_arms_is_that_of_statsmodels():
    rng = np.random.default_rng(1)
    y, treated = rng.exponential(size=300), rng.random(300) < 0.4
    means = CompareMeans(DescrStatsW(y[treated]), DescrStatsW(y[~treated]))
    low, high = means.zconfint_diff(alpha=0.05, usevar="unequal")
    found = compare_arms(y, treated, z=1.959963984540054)
    np.testing.assert_allclose([found.low, found.high], [low, high])


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 60), st.integers(1, 3), st.integers(0, 1000))
def test_cuped_keeps_the_mean_and_never_adds_variance(n, m, seed):
    rng = np.random.default_rng(seed)
    before = rng.normal(size=(n, m))
    y = before[:, 0] + rng.normal(size=n)
    less = cuped(y, before)
    assert less.mean() == pytest.approx(y.mean(), abs=1e-9) and less.var() <= y.var() + 1e-9
    np.testing.assert_allclose(cuped(y, 3 * before - 7), less, atol=1e-8)
    np.testing.assert_allclose(cuped(y, np.ones(n)), y)


def test_cuped_takes_out_the_share_that_the_past_explains():
    rng = np.random.default_rng(0)
    x = rng.normal(size=100_000)
    y = 2 * x + rng.normal(size=100_000)
    assert cuped(y, x).var() / y.var() == pytest.approx(0.2, abs=0.01)


def test_one_may_look_after_every_user():
    rng = np.random.default_rng(0)
    n = np.arange(1, 2001)
    sums = rng.choice([-1.0, 1.0], (1000, 2000)).cumsum(axis=1)
    after = n >= 50
    z = np.abs(sums) / np.sqrt(n)
    assert (z > 1.96)[:, after].any(axis=1).mean() > 0.3
    assert (z > sequential_z(n, 1000))[:, after].any(axis=1).mean() < 0.05


def test_the_sequence_is_narrowest_about_where_it_was_planned():
    n = np.arange(1, 100_000)
    width = sequential_z(n, 1000) / np.sqrt(n)
    for planned in (10, 100_000):
        assert width[999] < (sequential_z(n, planned) / np.sqrt(n))[999]


# Cold start and exploration


def test_vectors_come_back_from_attributes_that_make_them():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"kind": rng.choice(list("abc"), 200), "size": rng.normal(size=200)})
    made = pd.get_dummies(table, dtype=float).to_numpy() @ rng.normal(size=(4, 5))
    known = np.arange(200) < 150
    found = content_vectors(table, np.where(known[:, None], made, 99), known, penalty=1e-6)
    np.testing.assert_allclose(found, made, atol=1e-4)


def test_vectors_of_new_items_are_not_read():
    rng = np.random.default_rng(0)
    table, vectors = pd.DataFrame({"size": rng.normal(size=20)}), rng.normal(size=(20, 3))
    known = np.arange(20) > 4
    other = np.where(known[:, None], vectors, np.nan)
    np.testing.assert_array_equal(
        content_vectors(table, vectors, known), content_vectors(table, other, known)
    )


def test_thompson_finds_the_best_and_shows_only_what_is_allowed():
    rng, rates = np.random.default_rng(0), np.array([0.02, 0.05, 0.2, 0.3])
    items = ThompsonItems(4, seed=1)
    allowed = np.array([True, True, True, False])
    for _ in range(200):
        shown = items.choose(20, allowed)
        assert allowed[shown].all()
        items.learn(shown, rng.random(20) < rates[shown])
    assert (items.choose(500, allowed) == 2).mean() > 0.9
    assert items.belief.sum() == pytest.approx(4 * 21 + 200 * 20)


# The report


def test_the_report_is_one_page_of_what_the_log_holds(shop, tmp_path):
    pairs = [(9000 + i // 2, "buy", 1 + i % 2, 99_000 + i // 2) for i in range(6)]
    pairs = pd.DataFrame(pairs, columns=["user_id", "behavior", "item_id", "session_id"])
    log = pd.concat([shop.events, pairs.assign(timestamp=shop.events["timestamp"].max())])
    path = recommend_report(log, tmp_path / "new" / "page.html", k=5, test="10D", users=7, most=50)
    text = path.read_text()
    for part in (
        "NDCG at 5",
        "Items that are bought together",
        "viewed together",
        "held out",
    ):
        assert part in text
    assert "src=" not in text and "<script" not in text
    with pytest.raises(ReportExistsError):
        recommend_report(shop.events, path, test="10D")
    only_views = shop.events[shop.events["behavior"] == "view"].drop(columns="session_id")
    text = recommend_report(only_views, path, test="10D", overwrite=True).read_text()
    assert "bought together" not in text


def test_a_report_on_items_with_names(shop, tmp_path):
    names = shop.events["item_id"].map(lambda item: f"lamp-{item:02d}")
    named = shop.events.assign(item_id=names)
    text = recommend_report(named, tmp_path / "page.html", test="10D", most=30).read_text()
    shown = set(re.findall(r"lamp-\d\d", text))
    assert len(shown) > 5 and shown <= set(names)


def test_only_lists_that_co_views_made_have_them_as_their_reason(shop):
    views = shop.events[shop.events["behavior"] == "view"]
    assert REASON in _examples(views, "viewed together", 5, 3)
    assert REASON not in _examples(views, "popular", 5, 3)


def test_the_headline_is_the_simple_one_where_none_is_clearly_better():
    found = pd.DataFrame({"value": [0.1, 0.2], "verdict": ["", "not clear"]}, ["popular", "Markov chain"])
    assert _best_of(found) == "popular"
    assert _best_of(found.assign(verdict=["", "better"])) == "Markov chain"


# Bad input


BAD = {
    "scores below 0": (lambda: choose_slate([1, -1], 1), "at least 0"),
    "missing scores": (lambda: choose_slate([1, np.nan], 1), "finite"),
    "half a place": (lambda: choose_slate([1, 2], 1.5), "whole number"),
    "variety without similarity": (lambda: choose_slate([1, 2], 1, variety=0.2), "similarity"),
    "variety above 1": (lambda: choose_slate([1], 1, similarity=np.ones((1, 1)), variety=2), "0 to 1"),
    "numbers for allowed": (lambda: choose_slate([1, 2], 1, [1, 1]), "True or False"),
    "a score for each item but one": (lambda: best_first([[1, 2]], [[0.1]]), "alike"),
    "a score of NaN": (lambda: best_first([[1, 2]], [[0.1, np.nan]], 1), "no NaN"),
    "no place": (lambda: best_first([[1, 2]], [[0.1, 0.2]], 0), "at least 1"),
    "no owners": (lambda: PairLift([], []), "at least one"),
    "a missing owner": (lambda: PairLift([1, None], ["a", "b"]), "is missing"),
    "a missing thing": (lambda: PairLift([1, 2], ["a", None]), "is missing"),
    "text in a cart of numbers": (lambda: recommend_cart(PairLift([1, 1], [5, 6]), ["5"]), "hold numbers"),
    "numbers excluded from text": (
        lambda: recommend_cart(PairLift([1, 1], ["a", "b"]), [], exclude=[1]),
        "hold text",
    ),
    "two worths of one item": (
        lambda: recommend_cart(PairLift([1, 1], ["a", "b"]), [], worth=pd.Series([1, 2, 3], list("aab"))),
        "worth names 'a' twice",
    ),
    "owners and things of two lengths": (lambda: PairLift([1], ["a", "b"]), "as many"),
    "unknown thing": (lambda: PairLift([1], ["a"]).log_lift("z"), "no owner"),
    "worth of some only": (
        lambda: recommend_cart(PairLift([1, 1], ["a", "b"]), [], worth={"a": 1}),
        "worth lacks 1 of 2, such as .'b'",
    ),
    "a propensity of 0": (lambda: off_policy([1], [0], [1]), "above 0"),
    "percent": (lambda: off_policy([1], [50], [1]), "at most 1"),
    "a model without its mean": (lambda: off_policy([1], [1], [1], predicted=[1]), "both"),
    "no effect": (lambda: sample_size(1, 0), "other than 0"),
    "an empty arm": (lambda: compare_arms([1, 2, 3], np.array([True, True, True])), "fewer than two"),
    "a gap in the past": (lambda: cuped([1, 2], [np.nan, 1]), "put 0"),
    "a past of other users": (lambda: cuped([1, 2], [1, 2, 3]), "a row a user"),
    "an outcome that is missing": (
        lambda: compare_arms([1, np.nan, 2, 3], np.array([True, True, False, False])),
        "look for missing",
    ),
    "arms that are numbers": (lambda: compare_arms([1, 2, 3], [0, 1, 1]), "treated must be"),
    "no user yet": (lambda: sequential_z(0, 10), "at least one user"),
    "no item": (lambda: ThompsonItems(0), "at least 1"),
    "no page": (lambda: ThompsonItems(2).choose(0), "at least 1"),
    "an item before the first": (lambda: ThompsonItems(2).learn([-1], [1]), "from 0 to 1"),
    "half an item": (lambda: ThompsonItems(2).learn([0.5], [1]), "whole"),
    "seven clicks": (lambda: ThompsonItems(2).learn([0], [7]), "0 or 1"),
    "one click for two pages": (lambda: ThompsonItems(2).learn([0, 1], [1]), "one item a page"),
    "half a neighbour": (lambda: ItemIndex(np.eye(3)).search(np.ones(3), 0), "at least 1"),
    "a log without behaviours": (
        lambda: due_dates(pd.DataFrame({"user_id": [1]}), "2024-01-01"),
        "no column",
    ),
    "a prior of 0": (lambda: ThompsonItems(3, prior=(0, 1)), "above 0"),
    "no vectors": (lambda: ItemIndex(np.zeros((0, 3))), "at least one item"),
    "no known item": (
        lambda: content_vectors(pd.DataFrame({"a": [1]}), [[1.0]], [False]),
        "at least one known",
    ),
}


@pytest.mark.parametrize("call, message", BAD.values(), ids=BAD)
def test_bad_input_is_named(call, message):
    with pytest.raises(LogError, match=message):
        call()


def test_models_that_do_not_fit_are_named(live, gru, histories, shop):
    with pytest.raises(LogError, match="depth=1"):
        LiveGRU(live.coview)
    fewer = ItemCooccurrence().fit(
        SequenceEncoder(fields=("item_id",))
        .fit(shop.events[shop.events["item_id"] < 30])
        .encode(shop.events[shop.events["item_id"] < 30])
    )
    with pytest.raises(LogError, match="same sequences"):
        LiveRecommender(gru, fewer, shop.items)
    with pytest.raises(LogError, match="items names .* twice"):
        LiveRecommender(gru, live.coview, pd.concat([shop.items, shop.items.iloc[:1]]))
    with pytest.raises(LogError, match="not in training"):
        page_features(live, shop.events, [3], [[10**6]])
    with pytest.raises(LogError, match="sessionize"):
        page_features(live, shop.events.drop(columns="session_id"), [3])
    with pytest.raises(LogError, match="rows of the log"):
        page_features(live, shop.events, [len(shop.events)])
    for rows in ([3, 3], [3.0], [True], []):
        with pytest.raises(LogError, match="each once"):
            page_features(live, shop.events, rows)
    with pytest.raises(LogError, match="order of time"):
        page_features(live, shop.events.iloc[::-1], [3])
    with pytest.raises(LogError, match="memory is 0"):
        LiveRecommender(gru, live.coview, shop.items, memory=0)
    with pytest.raises(LogError, match="n is 0"):
        LiveRecommender(gru, live.coview, shop.items, n=0)
    with pytest.raises(LogError, match="give the recommender one"):
        live.recommend(live.start(), worth={})
    with pytest.raises(LogError, match="hold numbers"):
        live.recommend(live.start(), exclude=["7"])
    with pytest.raises(LogError, match="hold out more"):
        recommend_report(shop.events, "never.html", test="900D")
