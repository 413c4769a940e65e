"""Sessions, vocabularies, ragged sequences, encoder, batches: alike for every frame, blind for the future."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import duckdb
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from seqbook.data import sequences as module
from seqbook.data.datasets import simulate_shop
from seqbook.data.events import LogError, clean_events, read_events
from seqbook.data.sequences import (
    PAD,
    UNKNOWN,
    SequenceEncoder,
    Sequences,
    Vocabulary,
    batches,
    plan_batches,
    sessionize,
)

ALL = (*SequenceEncoder().fields, "timestamp")
KINDS = {
    "pandas": lambda frame: frame,
    "polars": pl.from_pandas,
    "polars lazy": lambda frame: pl.from_pandas(frame).lazy(),
    "arrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False),
    "duckdb": lambda frame: duckdb.connect().from_df(frame),
}
START = pd.Timestamp("2024-03-01 23:50:00")
quick = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def log():
    return simulate_shop(n_users=150, n_items=200, n_categories=6, days=60, seed=3).events


def logs(max_size=40):
    """Small logs with ties, in any order: users, seconds since the start, behaviours, items, prices."""
    row = st.tuples(
        st.integers(0, 4),
        st.integers(0, 40),
        st.sampled_from(["view", "cart", "buy"]),
        st.integers(1, 6),
        st.sampled_from([1.0, 2.5, 9.0, np.nan]),
    )
    return st.lists(row, max_size=max_size).map(frame_of)


def frame_of(rows):
    columns = ["user_id", "timestamp", "behavior", "item_id", "price"]
    frame = pd.DataFrame(rows, columns=columns).astype(
        {"user_id": "int64", "item_id": "int64", "price": "float64"}
    )
    times = np.datetime64(START, "us") + 60_000_000 * frame["timestamp"].to_numpy("int64") * np.timedelta64(
        1, "us"
    )
    return frame.assign(timestamp=times, behavior=frame["behavior"].astype("str"))


def assert_same(a: Sequences, b: Sequences):
    assert list(a.fields) == list(b.fields)
    for name, values in a.fields.items():
        assert values.dtype == b.fields[name].dtype, name
        np.testing.assert_array_equal(values, b.fields[name], err_msg=name)
    np.testing.assert_array_equal(a.offsets, b.offsets)
    assert a.ids.dtype == b.ids.dtype
    assert a.ids.tolist() == b.ids.tolist()
    assert a.vocabularies == b.vocabularies


# what is imported


def test_importing_the_module_imports_no_engine():
    heavy = {"keras", "tensorflow", "torch", "jax", "matplotlib", "sklearn"}
    code = f"import sys, seqbook.data.sequences; print(*({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# vocabularies

IDS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.lists(st.integers(0, 2**64 - 1)),
    st.lists(st.integers(0, 50)),
    st.lists(st.text()),
    st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    st.lists(st.booleans()),
)


@quick
@given(IDS)
@example([2**63 - 1])
@example([-(2**63)])
def test_ids_come_back_and_the_most_frequent_have_the_lowest_codes(ids):
    vocabulary = Vocabulary.fit(ids)
    codes = vocabulary.encode(ids)
    assert codes.dtype == np.int32
    assert len(vocabulary) == len(set(ids)) + 2
    assert vocabulary.decode(codes).tolist() == ids
    if ids:
        counts = np.bincount(codes)[2:]
        assert codes.min() >= 2 and (np.diff(counts) <= 0).all()


@quick
@given(IDS, st.randoms())
def test_a_vocabulary_does_not_depend_on_the_order_of_rows(ids, random):
    shuffled = random.sample(ids, len(ids))
    assert Vocabulary.fit(shuffled) == Vocabulary.fit(ids)


@quick
@given(IDS)
def test_a_vocabulary_survives_json_and_parquet(tmp_path, ids):
    vocabulary = Vocabulary.fit(ids)
    assert Vocabulary.from_dict(json.loads(json.dumps(vocabulary.to_dict()))) == vocabulary
    assert Vocabulary.load(vocabulary.save(tmp_path / "v.parquet")) == vocabulary


@quick
@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_every_id_that_was_not_fitted_is_unknown(fitted, others):
    vocabulary, known = Vocabulary.fit(fitted), set(fitted)
    assert [code == UNKNOWN for code in vocabulary.encode(others)] == [i not in known for i in others]


def test_rare_ids_and_ids_beyond_the_size_are_unknown():
    ids = ["a"] * 3 + ["b"] * 2 + ["c"] * 2 + ["d"]
    assert Vocabulary.fit(ids, min_count=2).values.tolist() == ["a", "b", "c"]
    assert Vocabulary.fit(ids, max_size=2).values.tolist() == ["a", "b"]
    assert Vocabulary.fit(ids, min_count=2).encode(["d", "a"]).tolist() == [UNKNOWN, 2]


COLUMNS = {
    "categories": pd.Series(["b", "a", None, "b"], dtype="category"),
    "categories never used": pd.Series(pd.Categorical(["b", "a", None, "b"], ["zz", "b", "a"])),
    "categories of numbers": pd.Series([7, 3, None, 7], dtype="category"),
    "objects": pd.Series(["b", "a", None, "b"], dtype=object),
    "nullable integers": pd.Series([7, 3, None, 7], dtype="Int64"),
    "integers as floats": pd.Series([7.0, 3.0, np.nan, 7.0]),
    "small integers": pd.Series([7, 3, None, 7], dtype="Int8"),
    "arrow": pd.Series([7, 3, None, 7], dtype="int64[pyarrow]"),
    "polars categories": pl.Series(["b", "a", None, "b"], dtype=pl.Categorical),
    "polars text": pl.Series(["b", "a", None, "b"]),
    "arrow chunks": pa.chunked_array([["b", "a"], [None, "b"]]),
    "arrow dictionaries": pa.chunked_array(
        [pa.array(["b", "a"]).dictionary_encode(), pa.array([None, "b"]).dictionary_encode()]
    ),
    "decimals": pa.array([7, 3, None, 7]).cast(pa.decimal128(38, 0)),
    "times": pd.Series(pd.to_datetime(["2024-01-02", "2024-01-01", None, "2024-01-02"])),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_a_column_of_any_type_is_coded_and_missing_ids_are_unknown(column):
    vocabulary = Vocabulary.fit(column)
    assert len(vocabulary) == 4
    assert vocabulary.encode(column).tolist() == [2, 3, UNKNOWN, 2]


def test_integers_are_found_whatever_type_they_come_in():
    vocabulary = Vocabulary.fit(pd.Series([7, 3, 7]))
    for column in (
        pd.Series([3.0, np.nan]),
        pd.Series([3, None], dtype="Int16"),
        pl.Series([3, None], dtype=pl.UInt8),
    ):
        assert vocabulary.encode(column).tolist() == [3, UNKNOWN]
    assert vocabulary.encode(np.array([3, 2**64 - 7], "uint64")).tolist() == [3, UNKNOWN]


def test_text_is_not_looked_up_among_numbers():
    with pytest.raises(LogError, match="the ids are text, such as '3'.*give the column the type it had"):
        Vocabulary.fit([7, 3]).encode(["3"])
    with pytest.raises(LogError, match="the ids are numbers"):
        Vocabulary.fit(["a"]).encode([1])


def test_reserved_codes_decode_to_none_and_wrong_codes_are_refused():
    vocabulary = Vocabulary.fit(["a"])
    assert vocabulary.decode([PAD, UNKNOWN, 2]).tolist() == [None, None, "a"]
    for wrong in (3, -1):
        with pytest.raises(LogError, match="codes run from 0 to 2"):
            vocabulary.decode([2, wrong])


# ragged sequences


@st.composite
def ragged(draw, ids=None):
    lengths = np.array(draw(st.lists(st.integers(0, 6), max_size=8)), "int64")
    n = int(lengths.sum())
    types = {
        "item": "int32",
        "log_gap": "float32",
        "far": "int64",
        "exact": "float64",
        "flag": "bool",
        "tiny": "uint8",
    }
    seed = draw(st.integers(0, 2**32 - 1))
    noise = np.random.default_rng(seed).integers(0, 255, (len(types), n))
    fields = {
        name: (noise[i] / (3 if kind[0] == "f" else 1)).astype(kind)
        for i, (name, kind) in enumerate(types.items())
    }
    fields["when"] = (noise[0] * 10**9).astype("datetime64[us]")
    kind = draw(st.sampled_from(["number", "text", "huge"])) if ids is None else ids
    values = {
        "number": np.arange(len(lengths)) * 7,
        "text": np.array([f"{i} \U0001f6d2" for i in range(len(lengths))], object),
        "huge": np.arange(len(lengths), dtype="uint64") + np.uint64(2**63),
    }[kind]
    vocabularies = {"item": Vocabulary.fit(noise[0] if n else []), "tiny": Vocabulary.fit(["a", "b"])}
    keep = draw(st.lists(st.sampled_from([*fields]), unique=True))
    return Sequences(
        {k: fields[k] for k in keep},
        module._offsets(lengths),
        values,
        {k: v for k, v in vocabularies.items() if k in keep},
    )


def rows_of(X):
    """Each sequence as (id, field -> list): the plain form."""
    return [
        (
            X.ids[i],
            {name: values[X.offsets[i] : X.offsets[i + 1]].tolist() for name, values in X.fields.items()},
        )
        for i in range(len(X))
    ]


@quick
@given(ragged())
def test_a_file_gives_back_exactly_what_was_saved(tmp_path, X):
    assert_same(Sequences.load(X.save(tmp_path / "x.parquet")), X)


@quick
@given(ragged(), st.data())
def test_choosing_is_as_with_a_list(X, data):
    plain, n = rows_of(X), len(X)
    cut = data.draw(st.slices(n))
    assert rows_of(X[cut]) == plain[cut]
    flags = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool)
    assert rows_of(X[flags]) == [row for row, flag in zip(plain, flags, strict=True) if flag]
    if n:
        numbers = data.draw(st.lists(st.integers(-n, n - 1)))
        assert rows_of(X[numbers]) == [plain[i] for i in numbers]
        assert rows_of(X[numbers[0] if numbers else 0]) == [plain[numbers[0] if numbers else 0]]
    for wrong in (n, -n - 1):
        with pytest.raises(IndexError):
            X[wrong]


@quick
@given(ragged(), st.integers(0, 8), st.sampled_from(["left", "right"]))
def test_truncating_and_padding_are_as_with_lists(X, n, side):
    for (_, short), (_, whole) in zip(rows_of(X.truncate(n)), rows_of(X), strict=True):
        assert short == {name: values[max(len(values) - n, 0) :] for name, values in whole.items()}
    padded = X.pad(n, side)
    assert padded["mask"].sum(axis=1).tolist() == np.minimum(X.lengths, n).tolist()
    for name, values in X.truncate(n).fields.items():
        assert padded[name].dtype == values.dtype and padded[name].shape == (len(X), n)
        np.testing.assert_array_equal(padded[name][padded["mask"]], values)
        assert not padded[name][~padded["mask"]].astype("int64").any()
    holes = np.diff(padded["mask"].astype(int), axis=1)
    assert (holes <= 0).all() if side == "right" else (holes >= 0).all()


@quick
@given(ragged(ids="number"), st.integers(0, 8))
def test_parts_put_together_are_the_whole(X, cut):
    assert_same(Sequences.concat([X[:cut], X[cut:]]), X)


@quick
@given(ragged())
def test_counts_are_as_with_a_loop(X):
    for name, vocabulary in X.vocabularies.items():
        X.fields[name] = X.fields[name] % np.array(len(vocabulary), X.fields[name].dtype)
        table = X.counts(name)
        assert table.index.tolist() == X.ids.tolist() and table.columns.tolist() == vocabulary.values.tolist()
        for row, (_, sequence) in zip(table.to_numpy(), rows_of(X), strict=True):
            assert row.tolist() == [sequence[name].count(code) for code in range(2, len(vocabulary))]


def test_parts_of_different_encoders_are_refused():
    X = Sequences({"item": np.array([2])}, [0, 1], [1], {"item": Vocabulary.fit([5])})
    Y = Sequences({"item": np.array([2])}, [0, 1], [1], {"item": Vocabulary.fit([6])})
    with pytest.raises(LogError, match="same encoder"):
        Sequences.concat([X, Y])


def test_what_does_not_fit_together_is_refused():
    for fields, offsets, ids, message in (
        ({}, [1, 2], [1], "starts at 0"),
        ({}, [0, 2, 1], [1, 2], "never falls"),
        ({}, [0, 2], [1, 2], "1 sequences but 2 ids"),
        ({"item": [1]}, [0, 2], [1], "has 1 values; the offsets ask for 2"),
    ):
        with pytest.raises(LogError, match=message):
            Sequences(fields, offsets, ids)


def test_a_file_that_is_none_is_refused_with_its_name(tmp_path):
    X = Sequences({"item": np.array([2])}, [0, 1], [1])
    (tmp_path / "text.parquet").write_text("user_id,timestamp")
    with pytest.raises(LogError, match=r"text\.parquet cannot be read"):
        Sequences.load(tmp_path / "text.parquet")
    with pytest.raises(LogError, match="cannot be read"):
        Sequences.load(tmp_path / "missing.parquet")
    pd.DataFrame({"item": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(LogError, match="but no seqbook.sequences file"):
        Sequences.load(tmp_path / "other.parquet")
    Vocabulary.fit([1]).save(tmp_path / "vocabulary.parquet")
    with pytest.raises(LogError, match="but no seqbook.sequences file"):
        Sequences.load(tmp_path / "vocabulary.parquet")
    whole = X.save(tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LogError, match="cannot be read"):
        Sequences.load(tmp_path / "x.parquet")


def test_a_file_of_a_newer_format_is_refused(tmp_path, monkeypatch):
    X = Sequences({"item": np.array([2])}, [0, 1], [1], {"item": Vocabulary.fit([5])})
    encoder = SequenceEncoder().fit(frame_of([(1, 1, "view", 1, 1.0)]))
    monkeypatch.setattr(module, "FORMAT_VERSION", 2)
    (
        X.save(tmp_path / "x.parquet"),
        X.vocabularies["item"].save(tmp_path / "v.parquet"),
        encoder.save(tmp_path / "e"),
    )
    monkeypatch.undo()
    for load, name in (
        (Sequences.load, "x.parquet"),
        (Vocabulary.load, "v.parquet"),
        (SequenceEncoder.load, "e"),
    ):
        with pytest.raises(LogError, match="is of format 2; this seqbook reads formats up to 1"):
            load(tmp_path / name)


@pytest.mark.parametrize(
    "header", ["{", "[]", '{"version": 1}', '{"version": 1, "types": {"gone": "<i4"}, "id_type": "<i8"}']
)
def test_a_damaged_header_is_refused(tmp_path, header):
    path = Sequences({"item": np.array([2])}, [0, 1], [1]).save(tmp_path / "x.parquet")
    pq.write_table(pq.read_table(path).replace_schema_metadata({"seqbook.sequences": header}), path)
    with pytest.raises(LogError, match="damaged"):
        Sequences.load(path)


# plots and tables


@quick
@given(ragged(), st.integers(1, 4))
def test_transitions_are_as_with_a_loop(X, top):
    if "tiny" not in X.fields:
        return
    X.fields["tiny"] = X.fields["tiny"] % 4
    names = {code: str(v) for code, v in enumerate(X.vocabularies["tiny"].values[:top], 2)}
    counts = {}
    for _, sequence in rows_of(X.select("tiny")):
        walk = [names.get(code, "other") for code in sequence["tiny"]]
        for pair in zip(walk, [*walk[1:], "end"], strict=True) if walk else ():
            counts[pair] = counts.get(pair, 0) + 1
    table = X.transitions("tiny", top)
    found = {(a, b): int(table.loc[a, b]) for a in table.index for b in table.columns if table.loc[a, b]}
    assert found == counts


def test_the_flow_counts_every_sequence_at_each_step(log):
    X = SequenceEncoder().fit(log).encode(log, by="session_id")
    flow = X.flow(steps=4)
    assert (flow.groupby("step")["sequences"].sum() == len(X)).all()
    assert (
        flow.loc[(flow["step"] == 1) & (flow["target"] == "end"), "sequences"].sum() == (X.lengths == 1).sum()
    )
    assert set(flow.loc[flow["source"] == "end", "target"]) == {"end"}


def test_plots_are_drawn_also_of_nothing(log):
    matplotlib.use("agg")
    X = SequenceEncoder().fit(log).encode(log)
    for some in (X, X[:1], X[[]]):
        for draw in (some.plot_lengths, some.plot_transitions, some.plot_flow):
            ax = draw()
            assert ax.get_title() and ax.get_xlabel() and ax.get_ylabel()
            ax.figure.canvas.draw()
            plt.close(ax.figure)
    assert X.plot_transitions().texts[0].get_text().endswith("%")
    plt.close("all")


def test_describe_counts(log):
    X = SequenceEncoder(min_count=10).fit(log).encode(log)
    value = X.describe()["value"]
    assert value["events"] == len(log) and value["longest"] == X.lengths.max()
    assert value["unknown item (%)"] == pytest.approx(100 * (X.fields["item"] == 1).mean())
    assert X[[]].describe().loc["sequences", "value"] == 0


# sessions


def sessions_by_loop(frame, gap):
    """The session of each row, one row at a time."""
    last, session, found, begun = {}, {}, [0] * len(frame), 0
    users, times = frame["user_id"].tolist(), frame["timestamp"].tolist()
    for row in sorted(range(len(frame)), key=lambda i: (times[i], users[i])):
        if users[row] not in last or times[row] - last[users[row]] > gap:
            begun += 1
            session[users[row]] = begun
        last[users[row]], found[row] = times[row], session[users[row]]
    return found


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=logs(), minutes=st.integers(1, 12))
def test_sessions_are_those_of_a_plain_loop(kind, frame, minutes):
    if frame.empty:
        return
    found = sessionize(KINDS[kind](frame.assign(row=range(len(frame)))), gap=f"{minutes}min")
    assert isinstance(found, type(KINDS[kind](frame)))
    if kind in ("pandas", "polars", "arrow"):
        assert np.asarray(found["row"]).tolist() == list(range(len(frame)))  # rows stay where they were
    plain = {"polars lazy": lambda f: f.collect().to_pandas(), "duckdb": lambda f: f.df()}.get(
        kind, lambda f: pl.DataFrame(f).to_pandas()
    )
    found = plain(found).sort_values("row")
    assert found["session_id"].tolist() == sessions_by_loop(frame, pd.Timedelta(minutes=minutes))


def test_a_gap_exactly_as_long_as_the_limit_goes_on():
    times = START + pd.to_timedelta([0, 30 * 60_000_000, 60 * 60_000_000 + 1], unit="us")
    frame = pd.DataFrame({"user_id": 1, "timestamp": times, "behavior": "view"})
    assert sessionize(frame)["session_id"].tolist() == [1, 1, 2]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=logs(), minutes=st.integers(1, 12), cut=st.integers(0, 40))
def test_sessions_do_not_see_the_future(frame, minutes, cut):
    past = frame[frame["timestamp"] < START + pd.Timedelta(minutes=cut)]
    if past.empty:
        return
    whole = sessionize(frame, gap=f"{minutes}min")
    assert (
        whole.loc[past.index, "session_id"].tolist()
        == sessionize(past, gap=f"{minutes}min")["session_id"].tolist()
    )


def test_sessions_are_not_cut_at_midnight_and_given_ones_stay():
    times = pd.to_datetime(["2024-03-01 23:55", "2024-03-02 00:05"])
    frame = pd.DataFrame({"user_id": 1, "timestamp": times, "behavior": "view"})
    assert sessionize(frame)["session_id"].nunique() == 1
    given_ones = frame.assign(session_id=["b", "a"])
    assert sessionize(given_ones) is given_ones
    assert sessionize(given_ones, overwrite=True)["session_id"].tolist() == [1, 1]


@pytest.mark.parametrize("gap", ["soon", "0min", "-1h", 30, "30", None])
def test_a_limit_that_is_no_duration_is_refused(gap):
    with pytest.raises(LogError, match="give a duration above zero with its unit"):
        sessionize(frame_of([(1, 1, "view", 1, 1.0)]), gap=gap)


# the encoder


def encode_by_loop(frame, encoder):
    """The sequences of each user, one event at a time."""
    rows = frame.assign(row=range(len(frame))).sort_values(["user_id", "timestamp", "row"])
    edges = encoder.price_edges_
    found = {}
    for user, part in rows.groupby("user_id"):
        events, before = [], None
        for event in part.itertuples():
            gap = 0 if before is None else (event.timestamp - before).total_seconds()
            price = UNKNOWN if np.isnan(event.price) else 2 + sum(event.price >= edge for edge in edges)
            item = encoder.vocabularies_["item"].encode([event.item_id])[0]
            events.append(
                (event.behavior, int(item), round(float(np.log1p(gap)), 4), price, event.timestamp.hour + 2)
            )
            before = event.timestamp
        found[user] = events
    return found


@quick
@given(frame=logs(), train=logs())
def test_sequences_are_those_of_a_plain_loop(frame, train):
    if frame.empty or train.empty:
        return
    encoder = SequenceEncoder(price_buckets=3, min_count=2).fit(train)
    X = encoder.encode(frame)
    names = X.vocabularies["behavior"].decode(X.fields["behavior"])
    codes = [X.fields[name].tolist() for name in ("item", "log_gap", "price_bucket", "hour")]
    events = [(n, i, round(g, 4), p, h) for n, i, g, p, h in zip(names, *codes, strict=True)]
    found = {int(u): events[a:b] for u, a, b in zip(X.ids, X.offsets[:-1], X.offsets[1:], strict=True)}
    known = {b: b for b in train["behavior"].unique()}
    expected = {
        u: [(known.get(e[0]), *e[1:]) for e in part] for u, part in encode_by_loop(frame, encoder).items()
    }
    assert [*found] == sorted(expected)
    assert found == pytest.approx(expected) if not expected else found == expected


@pytest.mark.parametrize("by", ["user_id", "session_id"])
@pytest.mark.parametrize("kind", [*KINDS, "file", "files"])
def test_every_kind_of_frame_gives_the_same_sequences(tmp_path, log, kind, by):
    shuffled = log.sample(frac=1, random_state=0).assign(
        user_id=lambda f: "u" + f["user_id"].astype(str), price=lambda f: f["price"].where(f["price"] > 20)
    )
    encoder = SequenceEncoder(fields=ALL).fit(shuffled)
    expected = encoder.encode(shuffled, by=by)
    if kind == "file":
        shuffled.to_parquet(tmp_path / "log.parquet")
        other = tmp_path / "log.parquet"
    elif kind == "files":
        other = [tmp_path / f"{i}.parquet" for i in range(3)]
        for part, path in zip(np.array_split(np.arange(len(log)), 3), other, strict=True):
            shuffled.iloc[part].to_parquet(path)
    else:
        other = KINDS[kind](shuffled)
    assert_same(encoder.encode(other, by=by), expected)
    fitted = SequenceEncoder(fields=ALL).fit(other)
    assert fitted.vocabularies_ == encoder.vocabularies_
    np.testing.assert_array_equal(fitted.price_edges_, encoder.price_edges_)


def test_batches_from_duckdb_may_end_anywhere(log, monkeypatch):
    encoder = SequenceEncoder(fields=ALL).fit(log)
    for size, by in ((7, "user_id"), (64, "session_id")):
        monkeypatch.setattr(module, "_BATCH", size)
        assert_same(encoder.encode(duckdb.from_df(log), by=by), encoder.encode(log, by=by))


def test_a_log_is_sorted_on_disk_where_memory_is_short(tmp_path, log):
    big = pd.concat([log.assign(user_id=log["user_id"] + 1000 * i) for i in range(60)], ignore_index=True)
    big.sample(frac=1, random_state=0).to_parquet(tmp_path / "log.parquet")
    encoder = SequenceEncoder().fit(log)
    X = encoder.encode(tmp_path / "log.parquet", memory_limit="150MB")
    assert X.offsets[-1] == len(big)
    np.testing.assert_array_equal(X.lengths, encoder.encode(big).lengths)


@pytest.mark.parametrize("kind", ["pandas", "duckdb"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=logs())
def test_events_at_the_same_moment_stay_as_they_came(kind, frame):
    if frame.empty:
        return
    frame = frame.assign(item_id=range(len(frame)))
    X = SequenceEncoder(fields=("item_id", "timestamp")).fit(frame).encode(KINDS[kind](frame))
    place = X.vocabularies["item"].decode(X.fields["item"])
    for i in range(len(X)):
        part = slice(X.offsets[i], X.offsets[i + 1])
        pairs = [*zip(X.fields["timestamp"][part], place[part], strict=True)]
        assert pairs == sorted(pairs)


@pytest.mark.parametrize("kind", ["pandas", "file"])
def test_many_events_at_the_same_moment_in_a_long_log_stay_as_they_came(tmp_path, kind):
    rng = np.random.default_rng(0)
    n = 300_000  # sorts of short arrays happen to be stable
    users, minutes = rng.integers(0, 9, n), rng.integers(0, 50, n)
    times = START + pd.to_timedelta(minutes, unit="min")
    frame = pd.DataFrame({"user_id": users, "timestamp": times, "item_id": np.arange(n)})
    frame.to_parquet(tmp_path / "log.parquet", row_group_size=50_000)
    X = (
        SequenceEncoder(fields=("item_id",))
        .fit(frame)
        .encode(frame if kind == "pandas" else tmp_path / "log.parquet")
    )
    place = X.vocabularies["item"].decode(X.fields["item"])
    np.testing.assert_array_equal(place, np.lexsort((np.arange(n), minutes, users)))


def test_one_session_number_of_two_users_gives_two_sequences():
    frame = frame_of([(1, 0, "view", 1, 1.0), (2, 0, "view", 2, 1.0), (1, 1, "buy", 1, 1.0)]).assign(
        session_id=5
    )
    for log in (frame, duckdb.from_df(frame)):
        X = SequenceEncoder().fit(frame).encode(log, by="session_id")
        assert X.ids.tolist() == [5, 5] and X.lengths.tolist() == [2, 1]


def test_sessions_are_made_where_the_log_has_none(log):
    bare = log.drop(columns="session_id")
    encoder = SequenceEncoder(gap="10min").fit(bare)
    assert_same(
        encoder.encode(bare, by="session_id"), encoder.encode(sessionize(bare, "10min"), by="session_id")
    )
    assert_same(encoder.encode(duckdb.from_df(bare), by="session_id"), encoder.encode(bare, by="session_id"))


def test_the_last_events_stay(log):
    encoder = SequenceEncoder(fields=ALL).fit(log)
    short = SequenceEncoder(fields=ALL, max_length=3).fit(log)
    for each in (log, duckdb.from_df(log)):
        assert_same(short.encode(each), encoder.encode(log).truncate(3))


def test_fields_whose_column_is_missing_are_left_out(log):
    bare = log[["user_id", "timestamp", "behavior"]]
    encoder = SequenceEncoder().fit(bare)
    assert encoder.fields_ == ("behavior", "log_gap", "log_age", "hour")
    assert [*encoder.encode(log).fields] == ["behavior", "log_gap", "hour"]
    with pytest.raises(LogError, match="column 'item_id' is missing; the log has"):
        SequenceEncoder().fit(log).encode(bare)


@pytest.mark.parametrize("kind", KINDS)
def test_missing_users_and_times_are_refused(log, kind):
    encoder = SequenceEncoder().fit(log)
    text = log.assign(user_id=log["user_id"].astype(str))
    for name, broken in {
        "user_id": text.assign(user_id=text["user_id"].where(text.index > 2)),
        "timestamp": log.assign(timestamp=log["timestamp"].where(log.index > 2)),
    }.items():
        with pytest.raises(LogError, match=f"column '{name}' is missing in 3 of .* rows; clean the log"):
            encoder.encode(KINDS[kind](broken))


def test_an_empty_log_gives_no_sequences(log):
    encoder = SequenceEncoder().fit(log)
    for empty in (log[:0], pl.from_pandas(log[:0]), duckdb.from_df(log[:0])):
        assert len(encoder.encode(empty)) == 0
    nothing = SequenceEncoder().fit(log[:0])
    assert set(nothing.encode(log).fields["item"]) == {UNKNOWN}


def test_times_of_any_unit_and_zone_are_the_same_moments(log):
    encoder = SequenceEncoder(fields=ALL).fit(log)
    expected = encoder.encode(log)
    for unit in ("s", "ms", "ns"):
        assert_same(
            encoder.encode(log.assign(timestamp=log["timestamp"].astype(f"datetime64[{unit}]"))), expected
        )
    zoned = log.assign(timestamp=log["timestamp"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"))
    assert_same(encoder.encode(zoned), expected)
    assert_same(encoder.encode(pl.from_pandas(zoned)), expected)


def test_wrong_parameters_are_refused(log):
    for params, message in (
        ({"fields": ("colour",)}, "field 'colour' is unknown"),
        ({"price_buckets": 0}, "price_buckets is 0"),
        ({"max_length": 0}, "max_length is 0"),
        ({"min_count": 0}, "min_count is 0"),
    ):
        with pytest.raises(LogError, match=message):
            SequenceEncoder(**params).fit(log)
    with pytest.raises(LogError, match="call fit with the training log first"):
        SequenceEncoder().encode(log)
    with pytest.raises(LogError, match="by is 'item_id'"):
        SequenceEncoder().fit(log).encode(log, by="item_id")
    with pytest.raises(LogError, match="'size' is no parameter"):
        SequenceEncoder().set_params(size=3)


def test_an_encoder_survives_saving(tmp_path, log):
    from sklearn.base import clone

    encoder = SequenceEncoder(fields=ALL, min_count=2, max_items=50, max_length=20, price_buckets=4).fit(log)
    back = SequenceEncoder.load(encoder.save(tmp_path / "encoder"))
    assert back.get_params() == encoder.get_params() and back.fields_ == encoder.fields_
    assert_same(back.encode(log), encoder.encode(log))
    assert not hasattr(clone(encoder), "fields_") and clone(encoder).get_params() == encoder.get_params()
    assert not [path for path in (tmp_path / "encoder").iterdir() if path.suffix not in (".json", ".parquet")]


def test_a_folder_that_is_no_encoder_is_refused(tmp_path, log):
    with pytest.raises(LogError, match="holds no saved encoder: it has no encoder.json"):
        SequenceEncoder.load(tmp_path)
    folder = SequenceEncoder().fit(log).save(tmp_path / "encoder")
    whole = json.loads((folder / "encoder.json").read_text())
    for text in ("", "[]", "{}", '"x"', json.dumps({**whole, "format": "seqbook.Other"})):
        (folder / "encoder.json").write_text(text)
        with pytest.raises(LogError, match="is not a saved encoder, or it is damaged"):
            SequenceEncoder.load(folder)
    (folder / "encoder.json").write_text(json.dumps(whole))
    (folder / "item.parquet").unlink()
    with pytest.raises(LogError, match="item.parquet cannot be read"):
        SequenceEncoder.load(folder)


# the future stays unseen


def corrupt_after(log, cutoff):
    """Another future: other items, behaviours, prices and users, and a thousand more events."""
    future = log["timestamp"] >= cutoff
    changed = log.assign(
        item_id=log["item_id"].where(~future, 999_999),
        category=log["category"].where(~future, "nonsense"),
        behavior=log["behavior"].where(~future, "stolen"),
        price=log["price"].where(~future, 1e6),
    )
    return pd.concat([changed, *[changed[future]] * 3], ignore_index=True)


@pytest.mark.parametrize("kind", ["pandas", "duckdb"])
def test_what_is_fitted_on_the_past_does_not_change_with_the_future(log, kind):
    cutoff = log["timestamp"].quantile(0.6)
    encoders = []
    for whole in (log, corrupt_after(log, cutoff)):
        past = whole[whole["timestamp"] < cutoff]
        encoders.append(SequenceEncoder(fields=ALL, min_count=2).fit(KINDS[kind](past)))
    assert encoders[0].vocabularies_ == encoders[1].vocabularies_
    np.testing.assert_array_equal(encoders[0].price_edges_, encoders[1].price_edges_)
    past = log[log["timestamp"] < cutoff]
    assert_same(encoders[0].encode(past), encoders[1].encode(past))
    leaky = SequenceEncoder(min_count=2).fit(corrupt_after(log, cutoff))  # the test can fail
    assert leaky.vocabularies_ != encoders[0].vocabularies_
    assert leaky.price_edges_.tolist() != encoders[0].price_edges_.tolist()


def test_past_events_of_a_sequence_do_not_change_with_the_future(log):
    cutoff = log["timestamp"].quantile(0.6)
    encoder = SequenceEncoder(fields=ALL).fit(log[log["timestamp"] < cutoff])
    one, two = encoder.encode(log), encoder.encode(corrupt_after(log, cutoff))
    edge = np.datetime64(cutoff, "us").view("int64")
    for name in one.fields:
        past = [X.fields[name][X.fields["timestamp"] < edge] for X in (one, two)]
        np.testing.assert_array_equal(*past, err_msg=name)


# examples of a task


def make_examples(log, cutoffs):
    """Every user at every cutoff, with no event (empty) where the user was not seen yet."""
    rows = log.sort_values(["user_id", "timestamp"], kind="stable", ignore_index=True)
    users, first = np.unique(rows["user_id"], return_index=True)
    ends = np.append(first[1:], len(rows))
    parts = [(u, a, b, c) for c in cutoffs for u, a, b in zip(users, first, ends, strict=True)]
    stop = [a + int((rows["timestamp"].iloc[a:b] < c).sum()) for _, a, b, c in parts]
    return SimpleNamespace(
        log=rows,
        start=np.array([p[1] for p in parts]),
        stop=np.array(stop),
        ids=np.array([p[0] for p in parts]),
        cutoff=np.array([p[3] for p in parts], "datetime64[us]"),
    )


def test_examples_are_what_a_log_cut_at_the_cutoff_gives(log):
    encoder = SequenceEncoder(fields=ALL, max_length=15).fit(log)
    cutoffs = [log["timestamp"].quantile(q) for q in (0.3, 0.8)]
    X = encoder.encode(make_examples(log, cutoffs))
    n = log["user_id"].nunique()
    assert len(X) == 2 * n and (X.lengths == 0).any()
    for k, cutoff in enumerate(cutoffs):
        part = X[k * n : (k + 1) * n]
        seen = part[part.lengths > 0]
        names = [name for name in seen.fields if name != "log_age"]
        assert_same(seen.select(names), encoder.encode(log[log["timestamp"] < cutoff]))
        age = np.datetime64(cutoff, "us").view("int64") - seen.fields["timestamp"]
        np.testing.assert_allclose(seen.fields["log_age"], np.log1p(age / 1e6), rtol=1e-6)


def test_examples_do_not_see_rows_after_their_end(log):
    cutoff = log["timestamp"].quantile(0.5)
    encoder = SequenceEncoder(fields=ALL).fit(log[log["timestamp"] < cutoff])
    one = make_examples(log, [cutoff])
    future = one.log["timestamp"] >= cutoff
    broken = one.log.assign(
        item_id=one.log["item_id"].where(~future, 7), price=one.log["price"].where(~future, -1),
        timestamp=one.log["timestamp"].where(~future, one.log["timestamp"] + pd.Timedelta("9d")),
    )  # fmt: skip
    two = SimpleNamespace(**{**vars(one), "log": broken})
    assert_same(encoder.encode(one), encoder.encode(two))


def test_the_tasks_of_the_next_chapter_are_understood(log):
    tasks = pytest.importorskip("seqbook.data.tasks", reason="the chapter on tasks is not there yet")
    examples = tasks.Purchase(horizon="7d").examples(log)
    X = SequenceEncoder().fit(log).encode(examples)
    assert len(X) == len(examples) and "log_age" in X.fields
    assert X.lengths.tolist() == (examples.stop - examples.start).tolist()
    assert np.isfinite(X.fields["log_age"]).all() and (X.fields["log_age"] >= 0).all()


# batches

LENGTHS = st.lists(st.integers(0, 300), max_size=150).map(np.array)


@quick
@given(LENGTHS, st.integers(1, 40), st.booleans(), st.integers(0, 5), st.integers(0, 3), st.booleans())
def test_each_example_comes_once_and_the_plan_can_be_made_again(lengths, size, shuffle, seed, epoch, bucket):
    plan = plan_batches(lengths, size, shuffle, seed, epoch, bucket)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    assert len(plan) == -(-len(lengths) // size)
    assert sum(len(batch) < size for batch in plan) <= 1
    again = plan_batches(lengths, size, shuffle, seed, epoch, bucket)
    assert [b.tolist() for b in plan] == [b.tolist() for b in again]


def test_the_order_changes_with_seed_and_epoch_and_not_without_shuffling():
    lengths = np.random.default_rng(0).integers(0, 50, 500)
    orders = {
        tuple(np.concatenate(plan_batches(lengths, 32, seed=seed, epoch=epoch)))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9
    fixed = [
        np.concatenate(plan_batches(lengths, 32, False, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)
    ]
    assert all((order == fixed[0]).all() for order in fixed)


def test_ties_and_the_smaller_batch_fall_anywhere():
    """Examples of equal length meet others each epoch, and any of them may be in the smaller batch."""
    lengths = np.repeat([3, 50], 100)
    company, small = set(), set()
    for epoch in range(40):
        plan = plan_batches(lengths, 64, epoch=epoch)
        company.add(frozenset(next(b for b in plan if 0 in b).tolist()))
        small.add(int(np.bincount(lengths[next(b for b in plan if len(b) < 64)]).argmax()))
    assert len(company) > 30 and small == {3, 50}


def test_buckets_hold_little_padding():
    lengths = np.random.default_rng(0).lognormal(np.log(12), 0.9, 20_000).astype(int).clip(1, 100)
    cells = {
        bucket: sum(len(b) * lengths[b].max() for b in plan_batches(lengths, bucket=bucket))
        for bucket in (True, False)
    }
    assert lengths.sum() / cells[True] > 0.9 > 0.5 > lengths.sum() / cells[False]


@quick
@given(st.integers(0, 5000), st.integers(1, 5000))
def test_widths_are_rounded_up_by_at_most_a_quarter(length, longest):
    width = int(module._round_up(np.array([min(length, longest)]), longest)[0])
    assert max(min(length, longest), 1) <= width <= min(longest, max(1.25 * length, 1))
    every = module._round_up(np.arange(longest + 1), longest)
    assert len(set(every)) <= 8 + 4 * max(np.log2(longest), 1)


@pytest.fixture(scope="module")
def keras():
    return module.import_keras()


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(X=ragged(ids="number"), size=st.integers(1, 4), shuffle=st.booleans(), bucket=st.booleans())
def test_batches_hold_what_the_sequences_hold(keras, X, size, shuffle, bucket):
    n = len(X)
    y, weight = np.arange(n), np.arange(n) / 2
    data = batches(X, y, size, shuffle, 3, weight, bucket)
    assert isinstance(data, keras.utils.PyDataset)
    for _ in range(2):
        seen = []
        for i in range(len(data)):
            inputs, labels, weights = data[i]
            assert inputs.keys() == {*X.fields, "mask"} and inputs["mask"].shape[1] >= 1
            np.testing.assert_array_equal(weights, labels / 2)
            expected = X[labels].pad(inputs["mask"].shape[1])
            for name in inputs:
                assert inputs[name].dtype == expected[name].dtype
                np.testing.assert_array_equal(inputs[name], expected[name])
            seen += labels.tolist()
        assert seen == data.order.tolist() and sorted(seen) == list(range(n))
        data.on_epoch_end()


def test_wrong_arguments_of_batches_are_refused():
    X = Sequences({}, [0, 1, 1], [1, 2])
    for arguments, message in (
        ({"y": [1]}, "2 sequences, but 1 values of y"),
        ({"y": [1, 2], "sample_weight": [1]}, "2 sequences, but 1 values of sample_weight"),
        ({"sample_weight": [1, 2]}, "pass y too"),
        ({"batch_size": 0}, "batch_size is 0"),
    ):
        with pytest.raises(LogError, match=message):
            batches(X, **arguments)


@pytest.fixture(scope="module")
def network(keras):
    """A network whose answer depends on every event and on the mask."""
    item, mask = (
        keras.Input((None,), dtype="int32", name="item"),
        keras.Input((None,), dtype="bool", name="mask"),
    )
    vectors = keras.layers.Embedding(9, 3)(item) * keras.ops.cast(mask, "float32")[..., None]
    outputs = keras.layers.Dense(1)(keras.ops.tanh(keras.ops.sum(vectors, axis=1)))
    network = keras.Model({"item": item, "mask": mask}, outputs)
    network.compile("adam", "mse", jit_compile=False)
    return network


CASES = {  # lengths, and whether they are bucketed
    "one": ([3], True),
    "all empty": ([0] * 70, True),
    "one long": ([2] * 100 + [90], True),
    "many": (list(range(100)), True),
    "mixed": (list(range(100)), False),
}


@pytest.mark.parametrize(("lengths", "bucket"), CASES.values(), ids=CASES)
def test_a_network_trains_and_predicts_on_batches_of_many_widths(keras, network, lengths, bucket):
    items = np.random.default_rng(0).integers(2, 9, sum(lengths)).astype("int32")
    X = Sequences({"item": items}, module._offsets(np.array(lengths)), np.arange(len(lengths)))
    network.fit(batches(X, np.ones(len(X)), 16, bucket=bucket), epochs=2, verbose=0, shuffle=False)
    data = batches(X, batch_size=16, shuffle=False, bucket=bucket)
    p = np.empty((len(X), 1))
    p[data.order] = network.predict(data, verbose=0)
    alone = network(X.pad(max(X.lengths.max(), 1)), training=False)
    np.testing.assert_allclose(p, keras.ops.convert_to_numpy(alone), atol=1e-5)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_batches_work_on_the_other_engines(tmp_path, backend):
    pytest.importorskip(backend, reason=f"{backend} is not installed")
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, numpy as np\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "import keras\n"
        "from seqbook.data.sequences import Sequences, batches, _offsets\n"
        "lengths = np.arange(60)\n"
        "X = Sequences({'item': np.full(lengths.sum(), 2, 'int32')}, _offsets(lengths), np.arange(60))\n"
        "item = keras.Input((None,), dtype='int32', name='item')\n"
        "mask = keras.Input((None,), dtype='bool', name='mask')\n"
        "state = keras.layers.GRU(4)(keras.layers.Embedding(9, 3)(item), mask=mask)\n"
        "network = keras.Model({'item': item, 'mask': mask}, keras.layers.Dense(1)(state))\n"
        "network.compile('adam', 'mse')\n"
        "network.fit(batches(X, np.ones(60), 16), verbose=0, shuffle=False)\n"
        "assert network.predict(batches(X, batch_size=16, shuffle=False), verbose=0).shape == (60, 1)\n"
    )
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# real logs


@pytest.mark.parametrize(
    "name",
    ["rees46_2019oct_head.csv.gz", "taobao_userbehavior_sample.csv.gz"],
)
def test_real_logs_become_sequences(real_data, name):
    raw = read_events(real_data(name))
    events, _ = clean_events(raw, behaviors=tuple(raw["behavior"].dropna().unique()))
    encoder = SequenceEncoder(min_count=2).fit(events)
    X = encoder.encode(events)
    assert X.offsets[-1] == len(events) and len(X) == events["user_id"].nunique()
    assert X.counts("behavior").sum().sum() == len(events)
    assert_same(encoder.encode(duckdb.from_df(events)), X)
