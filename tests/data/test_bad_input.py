"""Whatever a file holds: a frame, or a LogError that says what is wrong, where, and what to do."""

import bz2
import gzip
import json
import lzma
import warnings

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from seqbook.data.events import LogError, clean_events, read_events

HEADER = "user_id,timestamp,behavior,item_id,price\n"
ROWS = [
    f"u{i % 7},2024-05-0{i % 8 + 1} 10:00:00,{b},{i},{i}.5\n"
    for i, b in enumerate(["view", "cart", "buy"] * 20)
]
GOOD = HEADER + "".join(ROWS)


@pytest.fixture
def write(tmp_path):
    """A function that writes text or bytes to a file and returns its path."""

    def write(content, name="log.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def refused(path, *parts, **options):
    """Read the file, expect a LogError that names it and holds all the parts."""
    with pytest.raises(LogError) as caught:
        read_events(path, **options)
    for part in (str(path), *parts):
        assert part in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["log.csv", "log.tsv", "log.jsonl", "log.txt"])
@pytest.mark.parametrize("content", ["", "\n\n  \n", "\ufeff"])
def test_empty_file(write, name, content):
    refused(write(content, name), "the file is empty")


def test_empty_files_of_other_forms(write, tmp_path):
    refused(write(b"", "log.parquet"), "cannot be read")
    refused(write(gzip.compress(b""), "log.csv.gz"), "the file is empty")
    pd.DataFrame({"user_id": ["a"], "timestamp": ["2024"], "behavior": ["view"]}).iloc[:0].to_parquet(
        tmp_path / "p.parquet"
    )
    refused(tmp_path / "p.parquet", "no row")


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n\n"])
def test_only_headers(write, end):
    refused(write(HEADER.strip() + end), "a header and no row")


def test_missing_column(write):
    refused(
        write("uid,timestamp,what\na,2024-05-01,view\n"),
        "column 'behavior' is missing",
        "'uid'",
        "behavior='view'",
    )
    refused(
        write("who,timestamp,event\na,2024-05-01,view\n"),
        "column 'user_id' is missing",
        "columns={'who': 'user_id'}",
    )


def test_wrong_delimiter(write):
    refused(write(GOOD), "delimiter ';' is not in the first line", "looks like ','", delimiter=";")
    refused(
        write(HEADER + "a;2024-05-01;view;1;2\n"),
        "row 2",
        "1 columns where 5 are expected",
        "bad_rows='skip'",
    )
    refused(write("user_id\na\n"), "one column only", "pass delimiter=")
    for delimiter in [",,", "\n", "é", '"']:
        with pytest.raises(LogError, match="is none"):
            read_events(write(GOOD), delimiter=delimiter)


def test_mixed_encodings(write):
    path = write((GOOD + "J").encode() + "örg,2024-05-01,view,1,2\n".encode("latin-1"))
    refused(path, f"row {len(ROWS) + 2}", "not UTF-8", "encoding='latin-1'", "Jörg")
    with pytest.warns(UserWarning, match="1 bad rows left out"):
        assert len(read_events(path, bad_rows="skip")) == len(ROWS)
    torn = write(GOOD.encode() + "ü\n".encode("latin-1") + ROWS[0].encode(), "torn.csv")
    refused(torn, f"row {len(ROWS) + 2}", "1 columns where 5")
    with pytest.warns(UserWarning, match="1 bad rows left out"):
        assert len(read_events(torn, bad_rows="skip")) == len(ROWS) + 1
    assert read_events(path, encoding="latin-1").user_id.iloc[-1] == "Jörg"


def test_wrong_encoding(write):
    refused(write(GOOD.encode("utf-16")), "pass encoding='utf-16'")
    refused(write(GOOD.replace("u1", "ü1")), "encoding", encoding="ascii")
    refused(write(GOOD), "encoding", encoding="klingon")
    assert len(read_events(write(GOOD.encode("utf-16")), encoding="utf-16")) == len(ROWS)


def test_torn_last_line(write):
    refused(
        write(GOOD + "u1,2024-0"),
        f"row {len(ROWS) + 2}",
        "2 columns where 5",
        "'u1,2024-0'",
        "bad_rows='skip'",
    )
    refused(
        write('{"user_id": 1, "timestamp": 0, "behavior": "view"}\n{"user_id": 1, "ti', "log.jsonl"),
        "row 2",
        "no JSON object",
    )
    refused(write('[{"user_id": 1, "timestamp": 0, "behavior": "view"}, {"us', "log.json"), "no JSON list")


def test_row_numbers_stay_right_over_many_bad_rows(write):
    lines = [HEADER] + [ROWS[0]] * 200_000
    torn, latin = {5, 6, 70_000, 190_000}, {8, 130_000, 190_001}
    data = [
        b"u\n" if i in torn else b"\xff" + x.encode() if i in latin else x.encode()
        for i, x in enumerate(lines, 1)
    ]
    target = write(b"".join(data)).with_name("bad.csv")
    with pytest.warns(UserWarning, match="7 bad rows left out; the first: .*row 5"):
        read_events(target.with_name("log.csv"), bad_rows=target)
    assert set(pd.read_csv(target).row) == torn | latin


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lzma.compress, lambda b: pa.Codec("zstd").compress(b, asbytes=True)],
)
@pytest.mark.parametrize("name", ["log.csv.gz", "log.jsonl.gz"])
def test_compressed_file_cut_short(write, compress, name):
    text = (
        GOOD if "csv" in name else read_events(write(GOOD, "good.csv")).to_json(orient="records", lines=True)
    )
    whole = compress(text.encode())
    assert len(read_events(write(whole, name))) == len(ROWS)
    for part in (0.5, 0.9):
        refused(write(whole[: int(len(whole) * part)], name), "cut short")


def test_gzip_with_wrong_bytes(write):
    whole = bytearray(gzip.compress(GOOD.encode()))
    whole[len(whole) // 2] ^= 0xFF
    refused(write(bytes(whole), "log.csv.gz"))


def test_ten_megabytes_on_one_line(write):
    refused(write("x" * 10_000_000), "row 1", "over 1,000,000 bytes")
    refused(
        write(GOOD + "u," + "x" * 10_000_000 + ",view,1,2\n"), f"row {len(ROWS) + 2}", "over 1,000,000 bytes"
    )
    refused(write(GOOD + "x" * 10_000_000 + "\n"), f"row {len(ROWS) + 2}")
    refused(write(GOOD + "x" * 30_000_000 + "\n"), "longer than 8 MB")
    refused(write("[" + "1," * 5_000_000 + "1]", "log.jsonl"))


def test_quote_left_open(write):
    refused(write(HEADER + 'u,2024-05-01,view,"1,2\n' + "".join(ROWS)), "row 2", "quote")
    with pytest.warns(UserWarning, match="quote"):
        assert len(read_events(write(GOOD + 'u,2024-05-01,view,1,"2\n'), bad_rows="skip")) == len(ROWS)


def test_times_that_are_text(write):
    refused(
        write(GOOD.replace("2024-", "day ")),
        "60 of 60 values in column 'timestamp'",
        "['day 05",
        "time_format",
    )
    with pytest.warns(UserWarning, match="1 of 61 values in column 'timestamp' cannot be read as times"):
        log = read_events(write(GOOD + "u,soon,view,1,2\n"))
    assert clean_events(log)[1].counts["missing_time"] == 1


def test_numbers_that_are_text(write):
    with pytest.warns(
        UserWarning, match="1 of 61 values in column 'price' cannot be .* numbers, the first is '9,99 €'"
    ):
        log = read_events(write(GOOD + 'u,2024-05-01,view,1,"9,99 €"\nu,2024-05-01,view,1,NaN\n'))
    assert log.price.isna().sum() == 2


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_strange_ids(write, name):
    ids = ["007", " a b ", "🙂 x", str(2**63), str(2**64 + 1), "a,b", 'say "hi"', "Ωmega", "-1"]
    frame = pd.DataFrame(
        {"user_id": ids, "timestamp": "2024-05-01", "behavior": "view", "item_id": ids[::-1]}
    )
    text = frame.to_csv(index=False) if name == "log.csv" else frame.to_json(orient="records", lines=True)
    log = read_events(write(text, name))
    assert log.user_id.tolist() == ids and log.item_id.tolist() == ids[::-1]
    events, report = clean_events(log)
    assert report.n_kept == len(ids) and sorted(events.user_id) == sorted(ids)


def test_numbers_in_json_too_large_for_64_bits(write):
    rows = [{"user_id": i, "timestamp": 1714557600, "behavior": "view"} for i in (7, 2**63, 2**64 + 1)]
    log = read_events(write("\n".join(map(json.dumps, rows)), "log.jsonl"))
    assert log.user_id.astype(str).tolist() == ["7", str(2**63), str(2**64 + 1)]


def test_one_user_one_event_one_behavior(write):
    log = read_events(write("user_id,timestamp,behavior\na,2024-05-01,view\n"))
    events, report = clean_events(log)
    assert len(events) == report.n_read == report.n_kept == 1 and sum(report.counts.values()) == 0


def test_numbers_beyond_all_calendars(write):
    rows = "".join(f"u,{t},view\n" for t in ["9" * 30, "-" + "9" * 18, "1e300", "nan", "inf", "1714557600"])
    with pytest.warns(UserWarning, match="cannot be read as times"):
        log = read_events(write("user_id,timestamp,behavior\n" + rows + "u,1714557600,view\n" * 9))
    assert log.timestamp.notna().sum() >= 10


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kind": "excel"}, "choose pandas"),
        ({"format": "xml"}, "choose csv"),
        ({"time_zone": "Mars/Olympus"}, "'Mars/Olympus' is unknown"),
        ({"time_unit": "weeks"}, "'weeks' is unknown"),
        ({"columns": {"uid": "user_id"}}, "'uid' is not in the log"),
        ({"columns": {"price": "cost"}}, "'cost' is no column of an event log"),
        ({"columns": {"price": "item_id", "item_id": "item_id"}}, "one column twice"),
        ({"keep": ["brand"]}, "'brand'"),
        ({"dtypes": {"user_id": "NUMBERISH"}}, "cannot be read"),
    ],
)
def test_options_that_cannot_be(write, options, message):
    with pytest.raises(LogError, match=message):
        read_events(write(GOOD), **options)


def test_paths_that_cannot_be(tmp_path, write):
    for path, message in [
        (tmp_path / "none.csv", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "*.csv", "no file matches"),
        ("http://127.0.0.1:9/log.csv", "check the address"),
        ("gopher://host/log.csv", "check the address"),
        ("http://[/log.csv", "check the address"),
        (write(b"PK\x03\x04 and more", "log.zip"), "unpack it"),
        (write(b"PAR1 and no more", "log.parquet"), "cannot be read"),
    ]:
        with pytest.raises(LogError, match=message):
            read_events(path)


def test_bad_rows_are_never_written_over_a_file(write, tmp_path):
    path, target = write(GOOD + "torn\n"), tmp_path / "bad.csv"
    with pytest.warns(UserWarning, match="2 bad rows"):
        read_events([path, path], bad_rows=target)
    assert pd.read_csv(target).row.tolist() == [len(ROWS) + 2] * 2
    before = target.read_bytes()
    with pytest.raises(LogError, match="exists already"):
        read_events(path, bad_rows=target)
    assert target.read_bytes() == before
    with pytest.raises(LogError, match="is no folder"):
        read_events(path, bad_rows=tmp_path / "none" / "bad.csv")
    read_events(write(GOOD), bad_rows=tmp_path / "unused.csv")
    assert not (tmp_path / "unused.csv").exists()


def frame_or_log_error(path, **options):
    """Read and clean; anything but a frame or a LogError is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            log = read_events(path, **options)
        except LogError as e:
            assert str(path) in str(e) or options
            return
        report = clean_events(log)[1]
    assert report.n_read == len(log) == report.n_kept + sum(report.counts.values())


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = st.sampled_from(["f.csv", "f.tsv", "f.txt", "f.jsonl", "f.json", "f.parquet", "f.csv.gz"])


@FUZZ
@given(data=st.binary(max_size=300), name=NAMES)
@example(data=b"\x1f\x8b\x08" + b"x" * 20, name="f.csv")
@example(data=b"BZh9" + b"x" * 20, name="f.csv")
@example(data=b"\xfd7zXZ\x00" + b"x" * 20, name="f.csv")
@example(data=b"\x28\xb5\x2f\xfd" + b"x" * 20, name="f.csv")
@example(data=b"[" * 5000, name="f.json")
def test_random_bytes(tmp_path, data, name):
    (tmp_path / name).write_bytes(data)
    frame_or_log_error(tmp_path / name)


PIECES = [
    b",",
    b"\n",
    b"\r",
    b'"',
    b"\t",
    b";",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b" ",
    b"-1",
    b"9" * 25,
    b"{",
    b"NaN",
    "🙂".encode(),
]
MUTATION = st.tuples(
    st.floats(0, 1, exclude_max=True), st.integers(0, 12), st.sampled_from(PIECES) | st.binary(max_size=4)
)


@FUZZ
@given(mutations=st.lists(MUTATION, min_size=1, max_size=8), bad_rows=st.sampled_from(["error", "skip"]))
def test_mutated_csv(tmp_path, mutations, bad_rows):
    data = (HEADER + "".join(ROWS[:8])).encode()
    for place, cut, new in mutations:
        i = int(place * len(data))
        data = data[:i] + new + data[i + cut :]
    (tmp_path / "m.csv").write_bytes(data)
    frame_or_log_error(tmp_path / "m.csv", bad_rows=bad_rows)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.lists(st.integers(), max_size=2)
)
OBJECTS = st.dictionaries(st.sampled_from(["user_id", "timestamp", "behavior", "price", "a"]), VALUES)


@settings(FUZZ, max_examples=30)
@given(rows=st.lists(OBJECTS | VALUES, min_size=1, max_size=6), cut=st.integers(0, 5))
def test_mutated_json(tmp_path, rows, cut):
    rows = [{"user_id": 1, "timestamp": 1714557600, "behavior": "view"}, *rows]
    text = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "m.jsonl").write_text(text[: len(text) - cut], encoding="utf-8")
    frame_or_log_error(tmp_path / "m.jsonl", bad_rows="skip")
