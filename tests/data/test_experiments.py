"""What would have happened: truth against many plays, arms, no look ahead, bad input."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqbook.data import experiments
from seqbook.data.datasets import ShopModel, simulate_shop
from seqbook.data.events import BUY, LogError
from seqbook.data.experiments import (
    CHANNELS,
    OFFERS,
    Channel,
    Offer,
    SlotModel,
    ad_campaign,
    ad_truth,
    assign,
    bass_curve,
    choice_chances,
    daily_demand,
    demand_rate,
    draw_demand,
    draw_slates,
    known_users,
    launch_items,
    offer_campaign,
    offer_truth,
    regions,
    run_auctions,
    sell,
    show_items,
    show_items_at,
    simulate_auctions,
    slot_truth,
    slot_truth_at,
)

CUTOFF = "2024-03-10 20:30"  # in the evening some visits are open; a promotion begins within days


@pytest.fixture(scope="module")
def shop():
    return simulate_shop(n_users=4000, n_items=200, seed=4)


@pytest.fixture(scope="module")
def users(shop):
    return known_users(shop, CUTOFF)


@pytest.fixture(scope="module")
def auctions(shop):
    return simulate_auctions(shop, CUTOFF, 7, horizon="2d", seed=3)


def distance(played, expected, variance):
    """Standard errors between a sum of independent outcomes and its expectation."""
    return (np.sum(played) - np.sum(expected)) / np.sqrt(np.sum(variance))


# What is kept of a cutoff


def test_what_is_kept_of_one_cutoff_is_not_taken_for_another():
    used, later = simulate_shop(n_users=300, seed=1), "2024-03-20"
    for cutoff in (CUTOFF, later, CUTOFF):
        fresh = simulate_shop(n_users=300, seed=1)
        assert ad_truth(used, cutoff).equals(ad_truth(fresh, cutoff))
        assert known_users(used, cutoff).tolist() == known_users(fresh, cutoff).tolist()


def test_what_is_kept_of_a_cutoff_is_not_taken_for_other_shoppers(shop):
    users = shop.truth.users.assign(visit_rate=shop.truth.users["visit_rate"] / 2)
    slower = replace(shop, truth=replace(shop.truth, users=users))
    usual = ad_truth(shop, CUTOFF)["chance"]
    assert ad_truth(slower, CUTOFF)["chance"].mean() < 0.9 * usual.mean()
    assert ad_truth(shop, CUTOFF)["chance"].equals(usual)


# Arms


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=50), st.integers(0, 10**6))
def test_an_id_keeps_its_arm_whoever_else_is_there(ids, seed):
    alone = [assign([one], 0.4, seed)[0] for one in ids]
    assert assign(ids, 0.4, seed).tolist() == alone
    assert (assign(ids, 0.4, seed) <= assign(ids, 0.7, seed)).all()
    assert assign(ids, 1.0, seed).all() and not assign(ids, 0.0, seed).any()


def test_ids_may_be_text_and_of_any_width():
    text = [f"user {k}" for k in range(5000)]
    assert abs(assign(text, 0.3).mean() - 0.3) < 0.03
    assert (assign(pd.Series(text), 0.3) == assign(np.array(text, object), 0.3)).all()
    assert (assign(np.arange(99, dtype="int32")) == assign(np.arange(99, dtype="uint64"))).all()
    assert (assign(np.arange(99)) == assign(np.arange(99).astype(object))).all()


@pytest.mark.parametrize("scores, right", [([50, 0, 0], [1, 0.5, 1]), ([30, 0, 0, 0], [1, 1 / 3, 0.5, 1])])
def test_propensities_are_right_where_one_item_is_nearly_certain(scores, right):
    columns, propensity = draw_slates(choice_chances([scores], temperature=1.0), len(scores))
    assert columns[0, 0] == 0
    np.testing.assert_allclose(propensity[0], right, rtol=1e-9)


def test_arms_of_two_experiments_and_regions_know_nothing_of_each_other():
    ids = np.arange(1, 40_001)
    for one, other in [(assign(ids, seed=0), assign(ids, seed=1)), (assign(ids), regions(ids, 2) == 1)]:
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    counts = np.bincount(regions(ids, 40, seed=9), minlength=40)
    assert ((counts - 1000) ** 2 / 1000).sum() < 39 + 5 * np.sqrt(2 * 39)
    assert abs(assign(ids, np.where(ids % 2, 0.9, 0.1), seed=5)[ids % 2 == 1].mean() - 0.9) < 0.01


# The future of a shopper: computed, played, and in the log


def test_without_an_offer_the_truth_is_that_of_the_shop(shop):
    for horizon in ("12h", "28d"):
        truth = offer_truth(shop, CUTOFF, horizon)
        known = shop.truth.purchase_probability(CUTOFF, horizon)
        np.testing.assert_array_equal(truth["user_id"], known["user_id"])
        np.testing.assert_allclose(truth["chance_without"], known["probability"], atol=1e-12)


def test_chance_and_spend_fit_the_log_that_the_shop_left():
    large = simulate_shop(n_users=20_000, seed=12)
    truth = offer_truth(large, "2024-03-01")
    log = large.events[large.events["behavior"] == BUY]
    log = log[log["timestamp"].between("2024-03-01", pd.Timestamp("2024-03-29"), inclusive="left")]
    log = log[log["user_id"].isin(truth["user_id"])]
    p = truth["chance_without"]
    assert abs(distance(log["user_id"].nunique(), p, p * (1 - p))) < 4
    paid = (log["price"] * log["quantity"]).groupby(log["user_id"]).sum()
    paid = paid.reindex(truth["user_id"], fill_value=0).to_numpy()
    error = (paid - truth["spend_without"]).std() * np.sqrt(len(paid))
    assert abs(paid.sum() - truth["spend_without"].sum()) < 4 * error + 0.03 * paid.sum()


@pytest.mark.parametrize("offer", ["coupon", Offer(lift=1.0, crowd=2.0, annoy=0.3, share=0.2, contact=0.1)])
def test_true_effects_are_the_mean_of_many_campaigns(shop, offer):
    truth = offer_truth(shop, CUTOFF, "14d", offer)
    plays = 30
    for arm, chance, spend in ((1.0, "chance_with", "spend_with"), (0.0, "chance_without", "spend_without")):
        tables = [offer_campaign(shop, CUTOFF, "14d", offer, treated=arm, seed=s) for s in range(plays)]
        bought = np.mean([t["purchase"] for t in tables], axis=0)
        paid, cost = (np.array([t[name] for t in tables]) for name in ("spend", "cost"))
        p = truth[chance].to_numpy()
        for _, rows in truth.groupby(
            ["response", pd.qcut(truth["chance_without"], 3)], observed=True
        ).indices.items():
            assert abs(distance(bought[rows], p[rows], p[rows] * (1 - p[rows]) / plays)) < 4.5
        error = paid.sum(1).std(ddof=1) / np.sqrt(plays)
        assert abs(paid.sum(1).mean() - truth[spend].sum()) < 4.5 * error
        expected = truth["cost"].sum() * arm
        assert abs(cost.sum(1).mean() - expected) <= 4.5 * cost.sum(1).std(ddof=1) / np.sqrt(plays) + 1e-9


def test_shoppers_are_lost_on_the_way_as_computed():
    fickle = simulate_shop(n_users=6000, n_items=50, seed=2, model=ShopModel(churn=(2.0, 1 / 12)))
    truth, plays = offer_truth(fickle, CUTOFF)["chance_without"], 30
    tables = [offer_campaign(fickle, CUTOFF, treated=0.0, seed=s)["purchase"] for s in range(plays)]
    assert abs(distance(np.mean(tables, axis=0), truth, truth * (1 - truth) / plays)) < 4


def test_what_an_offer_keeps_shows_later_as_computed(shop):
    """Spend after the offer has ended: the truth is the mean of many campaigns, in both arms."""
    offer = Offer(lift=1.5, crowd=1.2, annoy=0.8, keep=0.1, lose=3.0)
    truth = offer_truth(shop, CUTOFF, offer=offer, later="40d")
    for arm, name in ((0.0, "without"), (1.0, "with")):
        plays = [
            offer_campaign(shop, CUTOFF, offer=offer, treated=arm, seed=s, later="40d")["later"].sum()
            for s in range(15)
        ]
        error = np.std(plays, ddof=1) / np.sqrt(len(plays))
        assert abs(np.mean(plays) - truth[f"later_{name}"].sum()) < 4 * error


def test_looking_later_changes_nothing_before(shop):
    short, long = (offer_campaign(shop, CUTOFF, seed=2, later=later) for later in (None, "30d"))
    pd.testing.assert_frame_equal(short, long.drop(columns="later"))
    assert (long["later"] >= 0).all() and long["later"].sum() > 0


def test_who_is_lost_spends_nothing_later():
    """With a rate of loss so high that nobody survives the offer, nothing comes after it."""
    doomed = simulate_shop(n_users=500, seed=1, model=replace(ShopModel(), churn=(1e6, 2.0)))
    truth = offer_truth(doomed, "2024-03-01", later="60d")
    assert truth["stay_without"].max() < 1e-9 and truth["later_with"].max() < 1e-6
    assert offer_campaign(doomed, "2024-03-01", later="60d")["later"].sum() == 0


def test_open_visits_go_on_as_computed(shop):
    who, start, end = experiments._people(shop, CUTOFF, "3h")
    who.open, who.there = np.ones(len(who.state), bool), np.ones(len(who.state))  # as if all were in the shop
    world = shop.truth.world
    p, expected = experiments._chance(world, who, start, end), experiments._spend(world, who, start, end)
    plays = [experiments._play(s, world, who, start, end) for s in range(10)]
    count, _, spend = zip(*(experiments._outcomes(world, who, play) for play in plays), strict=True)
    bought = (np.array(count) > 0).mean(axis=0)
    for state in range(3):
        rows = who.state == state
        assert rows.sum() > 50 and abs(distance(bought[rows], p[rows], p[rows] * (1 - p[rows]) / 10)) < 4
    total = np.sum(spend, axis=1)
    assert abs(total.mean() - expected.sum()) < 4.5 * total.std(ddof=1) / np.sqrt(10)


def test_money_is_that_of_the_purchases(shop):
    table = offer_campaign(shop, CUTOFF, treated=0.5, seed=2)
    assert ((table["spend"] > 0) == table["purchase"]).all()
    assert (table.loc[~table["treated"], "cost"] == 0).all()
    treated = table[table["treated"]]
    redeemed = OFFERS["coupon"].contact + OFFERS["coupon"].share * treated["spend"]
    lost = treated["cost"] == OFFERS["coupon"].contact
    assert (lost | np.isclose(treated["cost"], redeemed)).all()


# Offers


def test_the_first_purchase_has_its_time_and_a_test_can_be_read_before_its_end(shop):
    table = offer_campaign(shop, CUTOFF, "14d", seed=2)
    assert (table["bought_at"].notna() == table["purchase"]).all()
    bought_at = table["bought_at"].dropna()
    end = pd.Timestamp(CUTOFF) + pd.Timedelta("14d")
    assert bought_at.between(pd.Timestamp(CUTOFF), end, inclusive="left").all()
    week = pd.Timestamp(CUTOFF) + pd.Timedelta("7d")
    p, arm = offer_truth(shop, CUTOFF, "7d"), table["treated"]
    expected = p["chance_with"].where(arm, p["chance_without"])
    early = table["bought_at"] < week
    assert abs(distance(early, expected, expected * (1 - expected))) < 4


def test_a_campaign_of_several_offers_is_put_together_from_one_of_each(shop, users):
    arm = sum(assign(users, share, seed=4).astype(int) for share in (1 / 3, 2 / 3))
    everyone = [offer_campaign(shop, CUTOFF, offer=o, treated=1.0, seed=4) for o in ("coupon", "message")]
    for k, whole in enumerate(everyone):
        own = offer_campaign(shop, CUTOFF, offer=["coupon", "message"][k], treated=arm == k, seed=4)
        outcomes = ["purchase", "bought_at", "spend", "cost"]
        pd.testing.assert_frame_equal(own.loc[arm == k, outcomes], whole.loc[arm == k, outcomes])


def test_an_offer_without_effect_changes_nothing(shop):
    assert (offer_truth(shop, CUTOFF, offer=Offer())[["uplift", "cost"]] == 0).all(axis=None)
    with_it, without = (offer_campaign(shop, CUTOFF, offer=Offer(), treated=t, seed=7) for t in (1.0, 0.0))
    pd.testing.assert_frame_equal(
        with_it[["purchase", "spend", "cost"]], without[["purchase", "spend", "cost"]]
    )


def test_the_arm_of_one_shopper_changes_nothing_for_the_others(shop, users):
    one = np.random.default_rng(0).random(len(users)) < 0.5
    other = one.copy()
    other[::3] = ~other[::3]
    first, second = (offer_campaign(shop, CUTOFF, treated=arm, seed=1) for arm in (one, other))
    same = first["treated"] == second["treated"]
    pd.testing.assert_frame_equal(
        first[same].drop(columns="propensity"), second[same].drop(columns="propensity")
    )
    assert (first["purchase"] != second["purchase"]).any()


def test_the_response_is_a_trait_and_the_log_shows_some_of_it(shop):
    early, late = (offer_truth(shop, c, offer=o) for c, o in (("2024-02-01", "message"), (CUTOFF, "points")))
    both = early.merge(late, on="user_id")
    assert (both["response_x"] == both["response_y"]).all()
    traits = late.merge(shop.truth.users, on="user_id")
    table = pd.crosstab(traits["type"], traits["response"], normalize="index")
    assert table["persuadable"].idxmax() == "planner" and table["lost cause"].idxmax() == "window shopper"
    assert (table > 0.03).all(axis=None)
    rate = traits.groupby("response")["visit_rate"].mean()
    assert rate["sure thing"] > rate["persuadable"] > rate["lost cause"]


@pytest.mark.parametrize("offer", list(OFFERS))
def test_each_response_means_what_it_says(shop, offer):
    truth = offer_truth(shop, CUTOFF, offer=offer)
    by = {name: group for name, group in truth.groupby("response")}
    assert (by["persuadable"]["uplift"] > 0).all() and (by["sleeping dog"]["uplift"] < 0).all()
    assert (by["persuadable"]["spend_with"] > by["persuadable"]["spend_without"]).all()
    for same in ("sure thing", "lost cause"):
        assert np.allclose(by[same]["uplift"], 0) and np.allclose(
            by[same]["spend_with"], by[same]["spend_without"]
        )
    contact, share = OFFERS[offer].contact, OFFERS[offer].share
    assert np.allclose(by["lost cause"]["cost"], contact)
    for payer in ("persuadable", "sure thing", "sleeping dog"):
        assert np.allclose(by[payer]["cost"], contact + share * by[payer]["spend_with"])


def test_arms_know_nothing_of_the_response(shop, users):
    response = offer_truth(shop, CUTOFF)["response"]
    for seed in range(4):
        share = pd.Series(offer_campaign(shop, CUTOFF, "1d", seed=seed)["treated"]).groupby(response).mean()
        size = response.value_counts()[share.index]
        assert (abs(share - 0.5) < 4.5 * 0.5 / np.sqrt(size)).all()


def test_arms_by_share_by_array_and_by_series(shop, users):
    chance = np.linspace(0, 1, len(users))
    table = offer_campaign(shop, CUTOFF, treated=chance, seed=3)
    np.testing.assert_array_equal(table["propensity"], chance)
    np.testing.assert_array_equal(table["treated"], assign(users, chance, seed=3))
    shuffled = pd.Series(chance, users).sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(table, offer_campaign(shop, CUTOFF, treated=shuffled, seed=3))
    given_arms = offer_campaign(shop, CUTOFF, treated=chance > 0.5, seed=3)
    np.testing.assert_array_equal(given_arms["treated"], chance > 0.5)


def test_a_shop_without_purchases_has_no_uplift():
    never = ((1.0, 0.0, 0.0, 0.0, 0.0),) * 3
    quiet = simulate_shop(n_users=200, days=60, model=ShopModel(emissions=never))
    truth = offer_truth(quiet, "2024-02-15")
    assert np.allclose(truth[["chance_with", "uplift", "spend_with"]], 0)
    assert not offer_campaign(quiet, "2024-02-15")["purchase"].any()
    assert (demand_rate(quiet) == 0).all(axis=None)


# Seeds, and no look ahead


def everything(shop, seed=5):
    """All that one seed gives."""
    users = known_users(shop, CUTOFF)
    slates = np.random.default_rng(0).permuted(np.tile(np.arange(1, 201), (len(users), 1)), axis=1)[:, :3]
    auctions = simulate_auctions(shop, CUTOFF, 7, "1d", seed=seed)
    return [
        offer_campaign(shop, CUTOFF, "7d", seed=seed),
        *ad_campaign(shop, CUTOFF, "7d", holdout=0.3, seed=seed),
        show_items(shop, CUTOFF, users, slates, seed=seed),
        auctions.slots,
        auctions.truth,
    ]


def test_the_same_seed_gives_the_same_and_another_does_not(shop):
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    one, two, other = everything(shop), everything(shop), everything(shop, seed=6)
    assert (np.random.get_state()[1] == before).all()
    for a, b, c in zip(one, two, other, strict=True):
        pd.testing.assert_frame_equal(a, b)
        assert not a.equals(c)


def cut(shop, keep):
    truth = replace(shop.truth, hidden=shop.truth.hidden[keep], when=shop.truth.when[keep])
    return replace(shop, events=shop.events[keep], truth=truth)


def test_nothing_after_the_cutoff_is_read(shop):
    past = (shop.events["timestamp"] < CUTOFF).to_numpy()
    for a, b in zip(everything(shop), everything(cut(shop, past)), strict=True):
        pd.testing.assert_frame_equal(a, b)
    pd.testing.assert_frame_equal(offer_truth(shop, CUTOFF), offer_truth(cut(shop, past), CUTOFF))
    now = (shop.events["timestamp"] < "2024-03-10").to_numpy()
    assert not offer_truth(shop, CUTOFF).equals(offer_truth(cut(shop, now), CUTOFF))


# Advertising


def test_channels_bring_what_is_computed(shop, users):
    channels = {"tv": Channel(0.5, 1.0, 2.5, 0.0), "radio": Channel(0.0, 0.0, 0.4, 0.0)}
    touches, _ = ad_campaign(shop, CUTOFF, "10d", channels=channels, seed=1)
    for some in (touches, touches[touches["channel"] == "radio"]):
        truth = ad_truth(shop, CUTOFF, "10d", some, channels)
        p, plays = truth["chance"].to_numpy(), []
        who, start, end = experiments._people(shop, CUTOFF, "10d")
        boost = experiments._touch_boost(shop, who, some, channels)
        for seed in range(30):
            played = experiments._play(seed, shop.truth.world, who, start, end, *boost)
            plays.append(experiments._outcomes(shop.truth.world, who, played))
        bought = np.mean([count > 0 for count, _, _ in plays], axis=0)
        assert abs(distance(bought, p, p * (1 - p) / len(plays))) < 4
        paid = np.array([spend.sum() for _, _, spend in plays])
        assert abs(paid.mean() - truth["spend"].sum()) < 4 * paid.std() / np.sqrt(len(plays))


def test_a_channel_without_effect_changes_no_outcome(shop):
    silent = {name: replace(channel, crowd=1.0) for name, channel in CHANNELS.items()}
    (touches, seen), (_, unseen) = (
        ad_campaign(shop, CUTOFF, channels=silent, holdout=h, seed=2) for h in (0.0, 1.0)
    )
    assert len(touches) > 1000
    pd.testing.assert_frame_equal(seen.drop(columns="holdout"), unseen.drop(columns="holdout"))
    truth, nothing = ad_truth(shop, CUTOFF, touches=touches, channels=silent), ad_truth(shop, CUTOFF)
    np.testing.assert_allclose(truth["chance"], nothing["chance"], atol=1e-12)


def test_a_holdout_measures_the_true_effect(shop, users):
    region = pd.Series(regions(users, 40), users)
    out = assign(region, 0.5, seed=3)
    effects, truths = [], []
    for seed in range(12):
        touches, outcomes = ad_campaign(shop, CUTOFF, holdout=out, seed=seed)
        np.testing.assert_array_equal(outcomes["holdout"], out)
        bought = outcomes["purchase"].to_numpy()
        effects.append(bought[~out].sum() / (~out).sum() - bought[out].sum() / out.sum())
        chance = ad_truth(shop, CUTOFF, touches=touches)["chance"].to_numpy()
        truths.append(chance[~out].mean() - chance[out].mean())
    gap = np.array(effects) - truths
    assert abs(gap.mean()) < 4 * gap.std(ddof=1) / np.sqrt(len(gap))
    assert np.mean(truths) > 0.005


def test_touches_of_one_channel_do_not_depend_on_the_others(shop):
    all_of_them, _ = ad_campaign(shop, CUTOFF, seed=4)
    alone, _ = ad_campaign(shop, CUTOFF, channels={"email": CHANNELS["email"]}, seed=4)
    part = all_of_them[all_of_them["channel"] == "email"].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, alone)
    end = pd.Timestamp(CUTOFF) + pd.Timedelta(days=14)
    assert all_of_them["timestamp"].between(CUTOFF, end, inclusive="left").all()


def test_search_chases_those_who_come_anyway(shop):
    touches, _ = ad_campaign(shop, CUTOFF, seed=4)
    plain = ad_truth(shop, CUTOFF).set_index("user_id")["chance"]
    reached = {
        c: plain.loc[touches.loc[touches["channel"] == c, "user_id"].unique()].mean() for c in CHANNELS
    }
    assert reached["search"] > reached["email"] > reached["display"]
    assert reached["display"] == pytest.approx(plain.mean(), rel=0.15)


# Slots


def test_clicks_and_purchases_come_as_often_as_computed(shop, users):
    slates = np.random.default_rng(1).permuted(np.tile(np.arange(1, 201), (len(users), 1)), axis=1)[:, :4]
    model = SlotModel(click=(-1.0, 0.7, 1.0, 0.3, 0.6), buy=(-1.0, 0.8, 0.4))
    truth = slot_truth(shop, CUTOFF, users, slates, model)
    tables = [show_items(shop, CUTOFF, users, slates, seed=s, model=model) for s in range(15)]
    for name, p in (("click", truth.click), ("purchase", truth.click * truth.conversion)):
        mean = np.mean([t[name] for t in tables], axis=0).reshape(p.shape)
        for position in range(4):
            a, b = mean[:, position], p[:, position]
            assert abs(distance(a, b, b * (1 - b) / len(tables))) < 4
    money = np.array([t["spend"].sum() for t in tables])
    assert abs(money.mean() - truth.value.sum()) < 4 * money.std(ddof=1) / np.sqrt(len(tables))
    table = pd.concat(tables)
    assert (table["click"] >= table["purchase"]).all() and (table["delay"].notna() == table["purchase"]).all()
    assert table["delay"].mean() == pytest.approx(model.delay, rel=0.1)


def test_the_value_of_a_policy_is_the_mean_of_what_it_earns(shop, users):
    items = np.arange(1, 201)
    truth = slot_truth(shop, CUTOFF, users, np.tile(items, (len(users), 1)))
    scores = np.log(shop.items["popularity"].to_numpy())[None].repeat(len(users), axis=0)
    old, new = choice_chances(scores, epsilon=0.8), choice_chances(scores, temperature=2.0)
    value = {name: (p * truth.attraction).sum(1).mean() for name, p in (("old", old), ("new", new))}
    direct, weighted = [], []
    for seed in range(30):
        columns, propensity = draw_slates(old, seed=seed)
        click = show_items(shop, CUTOFF, users, items[columns], seed=seed)["click"].to_numpy()
        direct.append(click.mean())
        weighted.append((click * np.take_along_axis(new, columns, 1)[:, 0] / propensity[:, 0]).mean())
    for found, true in ((direct, value["old"]), (weighted, value["new"])):
        assert abs(np.mean(found) - true) < 4 * np.std(found, ddof=1) / np.sqrt(len(found))


def test_beside_the_last_page_before_a_cutoff_the_truth_is_that_at_the_cutoff(shop, users):
    before = shop.events[shop.events["timestamp"] < CUTOFF].reset_index()
    rows = before.groupby("user_id")["index"].max().loc[users].to_numpy()
    slates = np.tile([[7, 3, 150]], (len(users), 1))
    at, by = slot_truth_at(shop, rows, slates), slot_truth(shop, CUTOFF, users, slates)
    np.testing.assert_array_equal(at.attraction, by.attraction)
    np.testing.assert_array_equal(at.conversion, by.conversion)
    shown = show_items_at(shop, rows, slates, seed=3)
    again = show_items(shop, CUTOFF, users, slates, seed=3)
    assert (shown["row"].to_numpy() == np.repeat(rows, 3)).all()
    pd.testing.assert_frame_equal(shown[again.columns.drop("spend")], again.drop(columns="spend"))


def test_beside_a_page_the_later_log_plays_no_part(shop):
    rows, slates = np.arange(500), np.tile([[1, 2]], (500, 1))
    cut = replace(shop, events=shop.events.iloc[:500])
    np.testing.assert_array_equal(
        slot_truth_at(shop, rows, slates).value, slot_truth_at(cut, rows, slates).value
    )


def test_attraction_follows_what_moves_the_shopper(shop, users):
    items = np.arange(1, 201)
    truth = slot_truth(shop, CUTOFF, users, np.tile(items, (len(users), 1)))
    assert np.allclose(truth.examination, items**-0.7)
    before = shop.events[shop.events["timestamp"] < CUTOFF]
    last = before.groupby("user_id")["item_id"].last().loc[users].to_numpy()
    own = truth.attraction[np.arange(len(users)), last - 1]
    assert own.mean() > 2 * truth.attraction.mean()
    favourite = shop.truth.users.set_index("user_id").loc[users, "favourite_1"].to_numpy()
    liked = favourite[:, None] == shop.items["category"].to_numpy()[None]
    assert truth.attraction[liked].mean() > 1.5 * truth.attraction[~liked].mean()


def test_near_goes_around_the_ring(shop):
    world = shop.truth.world
    first, size = world.first[0], world.sizes[0]
    assert size > 6
    places = np.arange(first, first + size)
    near = experiments._near(world, np.full(size, first), places)
    assert np.flatnonzero(near).tolist() == [0, 1, 2, size - 2, size - 1]
    other = np.full(len(world.items) - size, first)
    assert not experiments._near(world, other, np.arange(first + size, len(world.items))).any()


def test_slates_are_drawn_with_the_chances_they_name():
    chances = choice_chances([[1.0, 0.0, 0.5, -1.0]], temperature=0.8)
    columns, propensity = draw_slates(np.repeat(chances, 60_000, axis=0), k=3, seed=1)
    whole = propensity.prod(axis=1)
    total = 0
    for slate in permutations(range(4), 3):
        rows = (columns == slate).all(axis=1)
        assert len(set(whole[rows].round(12))) == 1
        total += (p := whole[rows][0])
        assert abs(rows.sum() - 60_000 * p) < 4.5 * np.sqrt(60_000 * p)
    assert total == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(-50, 50), min_size=4, max_size=4), min_size=1, max_size=6),
    st.one_of(
        st.floats(0.05, 50).map(lambda t: {"temperature": t}),
        st.floats(0.01, 1).map(lambda e: {"epsilon": e}),
    ),
)
def test_chances_sum_to_one_and_prefer_the_better(scores, how):
    chances = choice_chances(scores, **how)
    assert np.allclose(chances.sum(axis=1), 1) and (chances >= 0).all()
    best = np.argmax(scores, axis=1)
    assert (chances[np.arange(len(scores)), best] >= chances.max(axis=1) - 1e-12).all()


# Auctions


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 0.3), st.floats(0, 30), st.booleans())
def test_the_budget_is_never_exceeded_and_nobody_pays_more_than_the_bid(auctions, bid, budget, hourly):
    bids = (lambda slots, spent: np.full(len(slots), bid)) if hourly else bid
    result = run_auctions(auctions, bids, budget)
    assert result["cost"].sum() <= budget + 1e-9
    assert (result["cost"] <= bid).all() and (result.loc[~result["won"], "cost"] == 0).all()
    assert not (result["click"] & ~result["won"]).any() and not (result["purchase"] & ~result["click"]).any()
    assert ((result["spend"] > 0) == result["purchase"]).all()


def test_the_account_closes_at_the_first_slot_that_it_cannot_pay(auctions):
    free = run_auctions(auctions, 1.0)
    half = run_auctions(auctions, 1.0, budget=free["cost"].sum() / 2)
    k = half["won"].sum()
    assert half["won"][:k].all() and not half["won"][k:].any()
    hourly = run_auctions(auctions, lambda slots, spent: 1.0 + 0 * slots["user_id"], free["cost"].sum() / 2)
    pd.testing.assert_frame_equal(hourly, half)


def test_no_bid_beats_the_worth_of_the_slot(auctions):
    truth = auctions.truth
    worth = 0.1 * (truth["click"] * truth["conversion"] * truth["price"]).to_numpy()
    rng = np.random.default_rng(0)

    def profit(bids):
        result = run_auctions(auctions, bids)
        return (result["won"] * worth - result["cost"]).sum()

    others = [worth * f for f in (0.3, 0.8, 1.3, 3.0)] + [worth * rng.lognormal(0, 0.5, len(worth))]
    assert all(profit(worth) > profit(bids) for bids in others)


def test_a_higher_bid_never_loses_a_slot(auctions):
    low, high = (run_auctions(auctions, b)["won"] for b in (0.01, 0.02))
    assert (high >= low).all() and high.sum() > low.sum()


def test_a_policy_by_the_hour_sees_what_was_spent_before(auctions):
    seen = []

    def policy(slots, spent):
        assert (
            set(slots) == {"auction_id", "timestamp", "user_id"}
            and slots["timestamp"].dt.floor("h").nunique() == 1
        )
        seen.append(spent)
        return np.full(len(slots), 0.03)

    result = run_auctions(auctions, policy)
    cost = result["cost"].groupby(auctions.slots["timestamp"].dt.floor("h")).sum()
    np.testing.assert_allclose(seen, cost.cumsum().shift(fill_value=0))


def test_slots_follow_the_hours_and_outcomes_their_chances(shop):
    auctions = simulate_auctions(shop, CUTOFF, 7, horizon="6d", slots=10, evening=1.0, spread=0.2, seed=1)
    assert auctions.slots["timestamp"].is_monotonic_increasing
    assert auctions.slots["timestamp"].min() >= pd.Timestamp(CUTOFF)
    hour = auctions.slots["timestamp"].dt.hour
    assert hour.value_counts()[20] > 3 * hour.value_counts()[5]
    other = auctions.truth["other"].groupby(hour).median()
    assert other[20] > 3 * other[8]
    p = auctions.truth["click"]
    assert abs(distance(auctions.truth["clicks"], p, p * (1 - p))) < 4
    assert np.corrcoef(np.log(p), np.log(auctions.truth["other"]))[0, 1] > 0.2


# Demand and stock


def test_the_rate_is_the_mean_of_logs():
    chi, weeks, totals = [], [], []
    for seed in range(6):
        shop = simulate_shop(n_users=6000, n_items=60, n_categories=6, seed=20 + seed)
        rate, demand = demand_rate(shop), daily_demand(shop)
        assert rate.index.equals(demand.index) and rate.columns.equals(demand.columns)
        totals.append((demand.to_numpy().sum() - rate.to_numpy().sum()) / rate.to_numpy().sum())
        by_item = rate.sum()
        chi.append(((demand.sum() - by_item) ** 2 / by_item).mean())
        week = np.arange(len(rate)) // 7
        a, b = demand.sum(axis=1).groupby(week).sum(), rate.sum(axis=1).groupby(week).sum()
        weeks.append(((a - b) / np.sqrt(b)).iloc[:-1])
    assert abs(np.mean(totals)) < 4 * np.std(totals, ddof=1) / np.sqrt(6) + 0.005
    assert np.mean(chi) < 4  # purchases of one shopper come in bunches, so above 1
    assert pd.concat(weeks, axis=1).mean(axis=1).abs().max() < 3


def test_promotions_and_weekends_are_in_the_rate(shop):
    rate = demand_rate(shop).sum(axis=1)
    promoted = np.zeros(len(rate), bool)
    for row in shop.promotions.itertuples():
        promoted |= (rate.index >= row.start) & (rate.index < row.end)
    late = rate.index >= "2024-02-01"
    assert rate[promoted & late].min() > rate[~promoted & late].max()
    usual = rate[~promoted & late].groupby(rate[~promoted & late].index.dayofweek).mean()
    assert usual[5] > usual[1]


def test_without_promotions_the_rate_is_that_of_a_shop_that_has_none(shop):
    quiet = demand_rate(shop, promotions=False)
    never = simulate_shop(n_users=4000, n_items=200, seed=4, promotion_every=0)
    assert len(never.promotions) == 0 < len(shop.promotions)
    same_people = replace(never, truth=replace(never.truth, users=shop.truth.users))
    pd.testing.assert_frame_equal(quiet, demand_rate(same_people))
    effect = demand_rate(shop).sum(axis=1) - quiet.sum(axis=1)
    first = shop.promotions.iloc[0]
    assert (effect[: first["start"] - pd.Timedelta("1d")].abs() < 1e-9).all()
    assert (effect[first["start"] : first["end"] - pd.Timedelta("1d")] > 0).all()


def test_drawn_demand_has_the_mean_and_the_variance_of_small_baskets():
    rate = np.array([[0.2, 3.0], [1.0, 0.0]])
    drawn = np.array([draw_demand(rate, seed=s) for s in range(8000)])
    np.testing.assert_allclose(drawn.mean(axis=0), rate, atol=0.08)
    bunch = (experiments._UNITS @ [1, 4, 9]) / experiments._PIECES
    np.testing.assert_allclose(drawn.var(axis=0), rate * bunch, atol=0.25)
    assert (drawn[:, 1, 1] == 0).all()


@st.composite
def deals(draw):
    days, n = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    pieces = st.lists(st.lists(st.integers(0, 9), min_size=n, max_size=n), min_size=days, max_size=days)
    return np.array(draw(pieces)), np.array(draw(pieces)), draw(st.integers(0, 20)), draw(st.integers(1, 5))


@settings(max_examples=100, deadline=None)
@given(deals())
def test_no_piece_appears_or_vanishes(deal):
    demand, orders, stock, lead = deal
    sold = sell(demand, stock, orders, lead)
    came = np.vstack([np.zeros((lead, demand.shape[1])), orders])[: len(demand)]
    np.testing.assert_array_equal(sold.sales + sold.lost, demand)
    np.testing.assert_array_equal(sold.stock, stock + came.cumsum(0) - sold.sales.cumsum(0))
    assert min(sold.sales.min(), sold.lost.min(), sold.stock.min()) >= 0
    assert not ((sold.lost > 0) & (sold.stock > 0)).any()
    more = sell(demand, stock + 1, orders, lead)
    assert (more.sales.cumsum(0) >= sold.sales.cumsum(0)).all()
    by_function = sell(demand, stock, lambda day, *_: orders[day], lead)
    np.testing.assert_array_equal(by_function.sales, sold.sales)


def test_a_policy_sees_sales_and_never_demand():
    demand, seen = np.random.default_rng(0).poisson(3, (30, 2)), []

    def level(day, stock, coming, sales):
        assert len(sales) == day + 1
        seen.append(sales[-1])
        stock += 99  # its own copy
        return np.maximum(4 - (stock - 99) - coming, 0)

    sold = sell(demand, 4, level, lead_time=2)
    np.testing.assert_array_equal(seen, sold.sales)
    changed = demand + 5 * sold.lost.astype(int)  # more of what was lost anyway
    np.testing.assert_array_equal(sell(changed, 4, level, lead_time=2).ordered, sold.ordered)


@pytest.mark.parametrize("lead_time", [1, 2, 5])
def test_a_policy_knows_what_is_on_order(lead_time):
    orders, seen = np.random.default_rng(1).integers(0, 9, (20, 2)).astype(float), []

    def policy(day, stock, coming, sales):
        seen.append(coming)
        return orders[day]

    sell(np.zeros((20, 2)), 0, policy, lead_time)
    for day, coming in enumerate(seen):  # ordered on an earlier evening, delivered on a later morning
        still = [e for e in range(day) if e + lead_time > day]
        np.testing.assert_array_equal(coming, orders[still].sum(axis=0))


def test_the_curve_of_a_launch_solves_basss_equation():
    t, p, q = np.linspace(0, 60, 6001), 0.02, 0.15
    F = bass_curve(t, p, q)
    assert np.allclose(np.gradient(F, t)[1:-1], ((p + q * F) * (1 - F))[1:-1], atol=1e-5)


def test_new_items_start_on_their_day_and_only_rise_to_the_old_rate(shop):
    rate = demand_rate(shop)
    new = launch_items(rate, {3: "2024-01-20", 5: rate.index[-1]})
    share = (new / rate)[3]
    assert (share[:"2024-01-19"] == 0).all() and (share["2024-01-20":] > 0).all()
    assert (share.diff().iloc[1:] >= 0).all() and share.iloc[-1] > 0.99
    assert (new[5].iloc[:-1] == 0).all() and 0 < new[5].iloc[-1] < rate[5].iloc[-1]
    assert new.drop(columns=[3, 5]).equals(rate.drop(columns=[3, 5]))


# Bad input


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda shop: assign([1, 2], 1.5), "outside 0 to 1"),
        (lambda shop: assign([1, 2], np.nan), "outside 0 to 1"),
        (lambda shop: assign([1], seed=0.5), "whole number"),
        (lambda shop: regions([1], 2.5), "whole number"),
        (lambda shop: known_users(shop, "2023-01-01"), "outside the log"),
        (lambda shop: known_users(shop, "soon"), "not understood"),
        (lambda shop: offer_campaign(shop, CUTOFF, horizon="-1d"), "horizon"),
        (lambda shop: offer_campaign(shop, CUTOFF, offer=None), "name one of"),
        (lambda shop: offer_campaign(shop, CUTOFF, treated="all"), "give numbers"),
        (lambda shop: offer_campaign(shop, CUTOFF, treated=[True]), "one value for each"),
        (lambda shop: offer_campaign(shop, CUTOFF, seed=-2), "seed is -2"),
        (
            lambda shop: offer_campaign(shop, CUTOFF, treated=pd.Series(True, [1, 1, *range(2, 9999)])),
            "twice",
        ),
        (lambda shop: Offer(share=-0.1), "at least 0"),
        (lambda shop: Offer(lift=np.nan), "above 0"),
        (lambda shop: ad_campaign(shop, CUTOFF, channels={}), "channels is empty"),
        (lambda shop: SlotModel(click=(1, 2)), "5 numbers"),
        (lambda shop: simulate_auctions(shop, CUTOFF, 7, follow=np.nan), "finite"),
        (lambda shop: Channel(0.0, 0.0, -1.0, 0.0), "above 0"),
        (lambda shop: Channel(0.0, 0.0, 1.0, np.nan), "at least 0"),
        (lambda shop: SlotModel(delay=-1.0), "at least 0"),
        (lambda shop: ad_campaign(shop, CUTOFF, holdout=2), "outside 0 to 1"),
        (lambda shop: ad_truth(shop, CUTOFF, touches=pd.DataFrame({"channel": ["email"]})), "no column"),
        (lambda shop: show_items(shop, CUTOFF, [1, 2], [[1], [2], [3]]), "row of item ids"),
        (lambda shop: show_items(shop, CUTOFF, [-4], [[1]]), "not seen before"),
        (lambda shop: show_items(shop, CUTOFF, [known_users(shop, CUTOFF)[0]], [[201]]), "no item"),
        (lambda shop: show_items(shop, CUTOFF, [known_users(shop, CUTOFF)[0]], [[2.5]]), "no item"),
        (lambda shop: show_items(shop, CUTOFF, [known_users(shop, CUTOFF)[0]], [[2, 2]]), "twice"),
        (lambda shop: simulate_auctions(shop, CUTOFF, 7, base=0), "above 0"),
        (lambda shop: run_auctions(simulate_auctions(shop, CUTOFF, 7, "6h"), np.nan), "at least 0"),
        (lambda shop: run_auctions(simulate_auctions(shop, CUTOFF, 7, "6h"), 1.0, np.nan), "budget"),
        (lambda shop: choice_chances([[1.0]], temperature=1, epsilon=0.1), "give one of"),
        (lambda shop: choice_chances([[1.0]], epsilon=2), "outside 0 to 1"),
        (lambda shop: draw_slates([0.5, 0.5]), "sum to 1"),
        (lambda shop: draw_slates([[0.5, 0.5]], k=3), "k is 3"),
        (lambda shop: draw_demand([[-1.0]]), "at least 0"),
        (lambda shop: sell([1, 2]), "days x items"),
        (lambda shop: sell([[1]], orders=[[1], [2]]), "is expected"),
        (lambda shop: sell([[1]], orders=lambda *_: -1), "orders must hold"),
    ],
)
def test_bad_input_is_named(shop, call, message):
    with pytest.raises(LogError, match=message):
        call(shop)


def test_touches_of_strangers_are_named(shop, users):
    touches, _ = ad_campaign(shop, CUTOFF, "3d", seed=1)
    strange = touches.assign(user_id=touches["user_id"] + 10**6)
    with pytest.raises(LogError, match="not seen before"):
        ad_truth(shop, CUTOFF, "3d", strange)
