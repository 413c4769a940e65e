"""The command line: fast help, exit codes, and a message for each bad input."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from seqbook.cli import app, copy_chapters
from seqbook.data.datasets import simulate_shop
from seqbook.data.events import BEHAVIOR, BUY, TIME, USER
from seqbook.job import RUN_MODELS

HEADER = "user_id,timestamp,behavior,item_id\n"
ROW = "u1,2024-01-01 10:00:00,view,i1\n"


def call(*arguments):
    """Run a command in this process; what came of it."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def mistake(*arguments):
    """Run a command that must end in exit code 2; its message, one line without a traceback."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output and result.stderr.startswith("Error: ")
    return result.stderr


@pytest.fixture(scope="module")
def log():
    return simulate_shop(n_users=1000, days=90, seed=7).events


@pytest.fixture(scope="module")
def path(log, tmp_path_factory):
    """The log as a CSV file."""
    path = tmp_path_factory.mktemp("log") / "log.csv"
    log.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def report(path, tmp_path_factory):
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("run") / "r"
    assert call("run", path, "--model", "counts", "--out", out, "--quiet").exit_code == 0
    return out


# ---- it is quick


def seconds(code):
    """The processor time of a fresh interpreter, the best of five, so that a busy machine does not count."""

    def once(code):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    return min(once(code) for _ in range(5))


def test_help_is_quick():
    assert seconds("import sys; sys.argv = ['seqbook', '--help']; from seqbook.cli import app; app()") < 0.5


def test_help_of_run_is_quick():
    assert (
        seconds("import sys; sys.argv = ['seqbook', 'run', '--help']; from seqbook.cli import app; app()")
        < 0.5
    )


def test_import_is_quick():
    assert seconds("import seqbook") < 0.3


def heavy(code):
    """The heavy packages that some code imports."""
    names = ("tensorflow", "keras", "pandas", "numpy", "matplotlib", "sklearn", "lightgbm")
    code += f"; import sys; print([n for n in {names} if n in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_nothing_heavy_is_imported_too_early():
    assert heavy("import seqbook") == "[]"
    assert heavy("import seqbook.cli") == "[]"
    shown = "from typer.testing import CliRunner; from seqbook.cli import app"
    shown += "; CliRunner().invoke(app, ['run', '--help'])"
    assert heavy(shown) == "[]" == heavy(shown.replace("'run'", "'compare'"))
    assert not {"tensorflow", "keras", "matplotlib", "lightgbm"} & set(eval(heavy("import seqbook.job")))


# ---- run


def test_run_tells_its_stages(path, tmp_path):
    result = call("run", path, "--model", "counts", "--out", tmp_path / "r")
    assert result.exit_code == 0
    for words in (
        "Cleaning",
        "Split by time",
        "validation",
        "Test part",
        "ROC AUC",
        f"Report: {tmp_path / 'r'}",
    ):
        assert words in result.stdout
    assert "Traceback" not in result.output


def test_help_names_every_model():
    shown = call("run", "--help").stdout
    words = set(re.findall(r"[a-z0-9]+(?:-[a-z]+)*", shown.replace("│", " ")))
    assert {name for names in RUN_MODELS.values() for name in names} <= words


def test_spend_by_features_and_predict(path, tmp_path):
    out = ("--out", tmp_path / "r")
    result = call("run", path, "--task", "spend", "--model", "rfm", "--horizon", "14d", *out)
    assert result.exit_code == 0, result.output
    assert (
        "Normalised Gini" in result.stdout and "above 0" in result.stdout and "Warning" not in result.output
    )
    result = call("predict", tmp_path / "r", path, "--out", tmp_path / "s.csv")
    assert result.exit_code == 0 and "Warning" not in result.output
    assert list(pd.read_csv(tmp_path / "s.csv")) == ["user_id", "cutoff", "predicted"]


def test_spend_without_prices(log, tmp_path):
    log.drop(columns="price").to_csv(tmp_path / "log.csv", index=False)
    out = ("--out", tmp_path / "r")
    options = ("--task", "spend", "--horizon", "14d", *out)
    assert "column 'price' is missing" in mistake("run", tmp_path / "log.csv", *options)


def test_next_item_and_predict(log, path, tmp_path):
    options = ("--task", "next-item", "--model", "markov", "--max-length", "20")
    result = call("run", path, *options, "--out", tmp_path / "r")
    assert result.exit_code == 0, result.output
    for words in ("the next item", "unknown", "views of items are read", "Hit rate at 10", "NDCG at 10"):
        assert words in result.stdout
    assert (
        "Warning" not in result.output
        and "Which item comes next?" in (tmp_path / "r/report.html").read_text()
    )
    result = call("predict", tmp_path / "r", path, "--out", tmp_path / "s.csv")
    scores = pd.read_csv(tmp_path / "s.csv")
    assert result.exit_code == 0 and list(scores) == ["user_id", "cutoff", "predicted", "recommended"]
    assert len(scores) == log[USER].nunique() and (scores["recommended"].str.split().str.len() == 10).all()


def test_next_item_without_items_or_with_another_model(log, path, tmp_path):
    log.drop(columns="item_id").to_csv(tmp_path / "log.csv", index=False)
    options = ("--task", "next-item", "--out", tmp_path / "r")
    assert "--columns theirs=item_id" in mistake("run", tmp_path / "log.csv", "--model", "markov", *options)
    message = mistake("run", path, "--model", "transformer", "--task", "next-item", "--out", tmp_path / "s")
    assert "choose one of sasrec, gru4rec, bert4rec, popularity" in message and not (tmp_path / "s").exists()


def test_quiet_prints_nothing(path, tmp_path):
    result = call("run", path, "--model", "majority", "--out", tmp_path / "r", "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_columns_behaviors_and_delimiter(log, tmp_path):
    other = log.rename(columns={USER: "who", TIME: "when"}).replace({BEHAVIOR: {BUY: "got it"}})
    other.to_csv(tmp_path / "log.txt", sep="|", index=False)
    result = call(
        *("run", tmp_path / "log.txt", "--model", "counts", "--out", tmp_path / "r", "--delimiter", "|"),
        *("--columns", "who=user_id, when=timestamp", "--behaviors", "got it=buy"),
    )
    assert result.exit_code == 0, result.output
    assert (
        pd.read_parquet(tmp_path / "r" / "cleaned.parquet")[BEHAVIOR].eq(BUY).sum()
        == log[BEHAVIOR].eq(BUY).sum()
    )


def test_a_log_without_behaviors(log, tmp_path):
    bought = log.loc[log[BEHAVIOR] == BUY, [USER, TIME]]
    bought.to_csv(tmp_path / "orders.csv", index=False)
    out = tmp_path / "r"
    options = ("--behavior", "buy", "--horizon", "20d", "--model", "counts")
    assert call("run", tmp_path / "orders.csv", *options, "--out", out).exit_code == 0
    assert set(pd.read_parquet(out / "cleaned.parquet")[BEHAVIOR]) == {BUY}


def test_times_with_a_format_and_a_zone(log, tmp_path):
    log.assign(timestamp=log[TIME].dt.strftime("%d.%m.%Y %H:%M:%S")).to_csv(tmp_path / "log.csv", index=False)
    options = ("--time-format", "%d.%m.%Y %H:%M:%S", "--time-zone", "Asia/Tokyo", "--model", "majority")
    assert call("run", tmp_path / "log.csv", *options, "--out", tmp_path / "r").exit_code == 0
    moved = pd.read_parquet(tmp_path / "r" / "cleaned.parquet")[TIME]
    assert moved.min() == log[TIME].min() - pd.Timedelta(hours=9)


def test_several_files(log, tmp_path):
    half = len(log) // 2
    log.iloc[:half].to_csv(tmp_path / "a.csv", index=False)
    log.iloc[half:].to_csv(tmp_path / "b.csv", index=False)
    assert call("run", tmp_path / "*.csv", "--model", "majority", "--out", tmp_path / "r").exit_code == 0
    assert len(pd.read_parquet(tmp_path / "r" / "cleaned.parquet")) == len(log)
    names = (tmp_path / "a.csv", tmp_path / "b.csv")
    assert call("run", *names, "--model", "majority", "--out", tmp_path / "s").exit_code == 0
    assert len(pd.read_parquet(tmp_path / "s" / "cleaned.parquet")) == len(log)


def test_a_folder_that_is_not_empty(path, report):
    assert "--overwrite" in mistake("run", path, "--model", "counts", "--out", report)
    assert call("run", path, "--model", "counts", "--out", report, "--resume", "--quiet").exit_code == 0
    message = mistake("run", path, "--model", "counts", "--out", report, "--resume", "--horizon", "3d")
    assert "horizon was None and is '3d'" in message
    assert "exclude each other" in mistake("run", path, "--out", report, "--resume", "--overwrite")
    assert call("run", path, "--model", "counts", "--out", report, "--overwrite", "--quiet").exit_code == 0


def test_an_error_of_ours_is_not_hidden(path, tmp_path, monkeypatch):
    monkeypatch.setattr("seqbook.job.run_job", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("run", path, "--out", tmp_path / "r")


def test_an_out_that_cannot_be_made(path, tmp_path):
    (tmp_path / "file").write_text("x")
    assert "file" in mistake("run", path, "--model", "counts", "--out", tmp_path / "file")
    assert "file" in mistake("run", path, "--model", "counts", "--out", tmp_path / "file" / "r")


def test_ctrl_c_ends_in_130_and_names_resume(tmp_path):
    code = "from seqbook.cli import app; app()"
    command = [sys.executable, "-c", code, "run", "--model", "counts", "--users", "40000", "--out", "r"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 60
        while not (tmp_path / "r" / "job.json").exists() and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        message = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "--resume" in message and "Traceback" not in message


# ---- compare

MODELS = "majority,counts"


@pytest.fixture(scope="module")
def compared(path, tmp_path_factory):
    """The folder of a finished comparison, and what was printed."""
    out = tmp_path_factory.mktemp("compare") / "c"
    result = call("compare", path, "--models", MODELS, "--cutoffs", 5, "--out", out)
    assert result.exit_code == 0, result.output
    return out, result.stdout


def again(path, out, models=MODELS, *options):
    """Take a comparison up again; its JSON."""
    options = ("--cutoffs", 5, "--out", out, "--resume", "--quiet", *options)
    result = call("compare", path, "--models", models, *options)
    assert result.exit_code == 0, result.output
    return json.loads((out / "comparison.json").read_text(encoding="utf-8"))


def scores(saved):
    return {(row["model"], row["metric"]): row["value"] for row in saved["scores"]}


def test_compare_prints_and_writes_one_table(compared):
    out, printed = compared
    for words in ("Cleaning", "Split by time", "ROC AUC", "majority", "counts", "fit (s)", f"Report: {out}"):
        assert words in printed
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert not any(word in page for word in ("<script", "<link", "http:", "https:", "url("))
    assert 'id="protocol"' in page and "counts" in page and "Cleaning" in page
    assert "| counts |" in (out / "comparison.md").read_text(encoding="utf-8")
    assert r"\toprule" in (out / "comparison.tex").read_text(encoding="utf-8")
    saved = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert [row["model"] for row in saved["cells"]] == ["majority", "counts"]
    assert saved["protocol"]["task"]["horizon"] == "7d" and saved["protocol"]["data"]["log"][0].endswith(
        "log.csv"
    )


def test_compare_gives_the_numbers_of_run(path, compared, tmp_path):
    assert (
        call("run", path, "--model", "counts", "--cutoffs", 5, "--out", tmp_path / "r", "-q").exit_code == 0
    )
    alone = json.loads((tmp_path / "r" / "metrics.json").read_text())["comparison"]
    together = scores(json.loads((compared[0] / "comparison.json").read_text()))
    for row in alone:
        if row["model"] == "counts":
            assert together["counts", row["metric"]] == pytest.approx(row["value"], rel=1e-6)


def test_compare_leaves_a_folder_alone_and_goes_on_with_resume(path, compared, tmp_path):
    out = shutil.copytree(compared[0], tmp_path / "c")
    before = {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}
    words = mistake("compare", path, "--models", MODELS, "--cutoffs", 5, "--out", out)
    assert "--overwrite" in words and "--resume" in words
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()} == before
    saved = again(path, out)
    assert all(row["kept"] for row in saved["cells"])
    assert scores(saved) == scores(json.loads(before["comparison.json"]))
    more = again(path, out, MODELS + ",tree", "--baseline", "majority")
    assert {row["model"]: row["kept"] for row in more["cells"]} == {
        "majority": True,
        "counts": True,
        "tree": False,
    }
    assert more["baseline"] == "majority"
    assert "belongs to another job: seed was 0 and is 1" in mistake(
        "compare", path, "--models", MODELS, "--cutoffs", 5, "--out", out, "--resume", "--seed", 1
    )


def test_compare_refuses_a_changed_log_and_the_folder_of_a_run(log, path, compared, report, tmp_path):
    out = shutil.copytree(compared[0], tmp_path / "c")
    log.iloc[:-1].to_csv(tmp_path / "log.csv", index=False)
    changed = ("compare", tmp_path / "log.csv", "--models", MODELS, "--cutoffs", 5, "--out", out, "--resume")
    assert "the log has changed" in mistake(*changed)
    run = shutil.copytree(report, tmp_path / "r")
    assert "belongs to another job" in mistake("compare", path, "--out", run, "--resume")


def test_compare_killed_goes_on_and_gives_the_same_table(path, compared, tmp_path):
    code = "from seqbook.cli import app; app()"
    options = ["--models", MODELS + ",forest", "--cutoffs", "5", "--out", str(tmp_path / "c"), "--quiet"]
    command = [sys.executable, "-c", code, "compare", str(path), *options]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + 120
        while not list(tmp_path.glob("c/cells/*.json")) and time.monotonic() < end and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "c" / "comparison.html").exists()
    kept = len(list(tmp_path.glob("c/cells/*.json")))
    saved = again(path, tmp_path / "c")
    assert 1 <= kept < 3 and sum(row["kept"] for row in saved["cells"]) == min(kept, 2)
    assert scores(saved) == scores(json.loads((compared[0] / "comparison.json").read_text()))


def test_compare_names_what_is_wrong(path, tmp_path):
    out = tmp_path / "c"
    for options, words in (
        (["--models", "counts,gur"], "purchase has no model 'gur'; choose one of gru"),
        (["--models", "mean"], "purchase has no model 'mean'"),
        (["--models", "counts,,majority"], "no model ''"),
        (["--task", "buying"], "task 'buying' is unknown"),
        (["--models", MODELS, "--baseline", "svm"], "baseline 'svm' is not among the models"),
        (["--models", MODELS, "--baseline", "best possible"], "'best possible' is not among the models"),
        (["--horizon", "soon"], "horizon 'soon' is no duration"),
        (["--resume", "--overwrite"], "exclude each other"),
    ):
        message = mistake("compare", path, "--out", out, *options)
        assert words in message and len(message.strip().splitlines()) == 1 and not out.exists()
    assert "there is no such file" in mistake("compare", tmp_path / "none.csv", "--out", out)


def test_compare_goes_on_where_a_model_fails(path, tmp_path, monkeypatch):
    def fails(self, X, y):
        raise RuntimeError("out of luck")

    monkeypatch.setattr("seqbook.models.classical.MajorityClassifier.fit", fails)
    result = call("compare", path, "--models", MODELS, "--cutoffs", 5, "--out", tmp_path / "c")
    assert result.exit_code == 0 and "majority failed" in result.stdout and "counts" in result.stdout
    message = mistake("compare", path, "--models", "majority", "--cutoffs", 5, "--out", tmp_path / "d", "-q")
    assert "every model failed" in message and "out of luck" in message


@pytest.mark.parametrize(("task", "models"), [("spend", "mean,rfm"), ("next-item", "popularity,markov")])
def test_compare_amounts_and_items(path, tmp_path, task, models):
    options = ("--task", task, "--models", models, "--out", tmp_path / "c")
    result = call("compare", path, *options, *(("--horizon", "14d") if task == "spend" else ()))
    assert result.exit_code == 0, result.output
    saved = json.loads((tmp_path / "c" / "comparison.json").read_text())
    values = scores(saved)
    first, second = models.split(",")
    if task == "spend":
        assert values[second, "gini"] > values[first, "gini"] == 0
    else:
        assert values[second, "hit@10"] > values[first, "hit@10"] > 0


def test_compare_on_the_simulated_shop_knows_the_best_possible(tmp_path):
    options = ("--users", 900, "--models", MODELS, "--cutoffs", 5, "--out", tmp_path / "c", "--quiet")
    assert call("compare", *options).exit_code == 0
    saved = json.loads((tmp_path / "c" / "comparison.json").read_text())
    values = scores(saved)
    assert values["best possible", "log_loss"] < values["counts", "log_loss"] < values["majority", "log_loss"]


def test_compare_help_is_quick_and_names_its_options():
    code = "import sys; sys.argv = ['seqbook', 'compare', '--help']; from seqbook.cli import app; app()"
    assert seconds(code) < 0.5
    shown = call("compare", "--help").stdout
    for option in ("--models", "--baseline", "--resume", "--jobs", "--task", "--out"):
        assert option in shown


# ---- pages to decide by

PAGES = {
    "recommend": (("--places", 5, "--lists", 3, "--test", "10d"), "NDCG at 5"),
    "forecast": (("--items", 7, "--origins", 3), "Forecast and order"),
    "churn": (("--horizon", "20d", "--alerts", 4), "Alerts"),
}


@pytest.mark.parametrize("command", PAGES)
def test_a_page_to_decide_by(command, path, tmp_path):
    options, words = PAGES[command]
    page = tmp_path / "folder" / "page.html"
    result = call(command, path, *options, "--out", page)
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert words in text and "<script" not in text and not re.search(r"src=.(?!data:)", text)
    assert "rows kept" in result.stdout and str(page) in result.stdout.replace("\n", "")
    message = mistake(command, path, *options, "--out", page)
    assert "exists" in message and "--overwrite" in message and page.read_text() == text
    again = call(command, path, *options, "--out", page, "--overwrite", "--quiet")
    assert again.exit_code == 0 and again.output == ""


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("recommend", ("--test", "soon"), "'soon', which is no duration"),
        ("recommend", ("--due", "7"), "'7', which is no duration"),
        ("recommend", ("--test", "900d"), "hold out"),
        ("forecast", ("--every", "soon"), "'soon', which is no duration"),
        ("forecast", ("--every", "80d"), "take shorter ones"),
        ("forecast", ("--shortage", 0, "--holding", 0), "above 0"),
        ("forecast", ("--stock", "nowhere.csv"), "nowhere.csv: no such file"),
        ("churn", ("--horizon", "soon"), "'soon', which is no duration"),
        ("churn", ("--value-for", "-1d"), "above 0"),
        ("churn", ("--horizon", "900d"), "longer than the log"),
    ],
)
def test_a_page_says_what_is_wrong(command, options, words, path, tmp_path):
    assert words in mistake(command, path, *options, "--out", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_orders_know_the_stock(path, log, tmp_path):
    strongest = log.loc[log["behavior"] == "buy", "item_id"].value_counts().index[0]
    stock, page = tmp_path / "stock.csv", tmp_path / "page.html"
    stock.write_text(f"item_id,stock\n{strongest},90001\n")
    assert call("forecast", path, "--origins", 3, "--stock", stock, "--out", page).exit_code == 0
    assert "90,001" in page.read_text()
    stock.write_text("item,stock\n1,2\n")
    assert "not ['item_id']" in mistake(
        "forecast", path, "--origins", 3, "--stock", stock, "--out", page, "--overwrite"
    )
    stock.write_text("item_id,stock\nnone such,2\n")
    assert "none of the items" in mistake(
        "forecast", path, "--origins", 3, "--stock", stock, "--out", page, "--overwrite"
    )


@pytest.mark.parametrize("command", PAGES)
def test_a_page_of_a_log_that_is_too_short(command, tmp_path):
    file = tmp_path / "log.csv"
    file.write_text(HEADER + ROW)
    mistake(command, file, "--out", tmp_path / "page.html")
    mistake(command, tmp_path / "none.csv", "--out", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("command", PAGES)
def test_help_of_a_page_is_quick_and_names_its_options(command):
    code = f"import sys; sys.argv = ['seqbook', '{command}', '--help']; from seqbook.cli import app; app()"
    assert seconds(code) < 0.5
    shown = call(command, "--help").stdout
    for option in ("--columns", "--max-events-per-day", "--out", "--overwrite", *PAGES[command][0][::2]):
        assert option in shown


# ---- bad logs

BAD = {
    "empty": (b"", "the file is empty"),
    "only a header": (HEADER.encode(), "no event"),
    "a column missing": (b"user_id,behavior\nu1,view\n", "'timestamp' is missing"),
    "torn last line": ((HEADER + ROW + "u2,2024-01").encode(), "row 3"),
    "mixed encodings": (
        (HEADER + ROW).encode() + "ü2,2024-01-01 11:00:00,view,é\n".encode("latin-1"),
        "row 3",
    ),
    "ten megabytes on one line": (b"x" * 10_000_000, "row 1"),
    "times that are text": ((HEADER + ROW.replace("2024-01-01 10:00:00", "yesterday")).encode(), "yesterday"),
    "a gzip cut short": (gzip.compress((HEADER + ROW * 5000).encode())[:-20], "cut short"),
    "one event": ((HEADER + ROW).encode(), "does not fit"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(tmp_path, name):
    content, words = BAD[name]
    file = tmp_path / ("log.csv.gz" if "gzip" in name else "log.csv")
    file.write_bytes(content)
    message = mistake("run", file, "--model", "counts", "--out", tmp_path / "r")
    assert words in message
    if name != "one event":
        assert str(file) in message or "the log has" in message


def test_a_wrong_delimiter(path, tmp_path):
    assert "delimiter ';'" in mistake("run", path, "--delimiter", ";", "--out", tmp_path / "r")


def test_bad_rows_can_be_skipped(log, tmp_path):
    file = tmp_path / "log.csv"
    file.write_text(log.to_csv(index=False) + "torn,row")
    options = ("run", file, "--model", "majority", "--out")
    assert f"row {len(log) + 2}" in mistake(*options, tmp_path / "a")
    result = call(*options, tmp_path / "b", "--skip-bad-rows")
    assert result.exit_code == 0 and "bad row" in (
        result.output + (tmp_path / "b" / "report.html").read_text()
    )


def test_odd_ids_are_kept(log, tmp_path):
    odd = {0: "a user, with a space", 1: "\N{SHOPPING TROLLEY} é", 2: str(2**63)}
    users = log[USER].astype(str)
    known = users.unique()[:3]
    log.assign(user_id=users.replace(dict(zip(known, odd.values(), strict=True)))).to_csv(
        tmp_path / "log.csv", index=False
    )
    assert call("run", tmp_path / "log.csv", "--model", "counts", "--out", tmp_path / "r").exit_code == 0
    cleaned = pd.read_parquet(tmp_path / "r" / "cleaned.parquet")
    assert set(odd.values()) <= set(cleaned[USER])
    call("predict", tmp_path / "r" / "model", tmp_path / "log.csv", "--out", tmp_path / "s.csv")
    assert set(odd.values()) <= set(pd.read_csv(tmp_path / "s.csv", dtype=str)[USER])


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda log: log[log[USER] == log[USER].mode()[0]], (), ("user_id", "positive", "class")),
        (lambda log: log[log[BEHAVIOR] == "view"], (), ("no 'buy' event",)),
        (lambda log: log[log[BEHAVIOR] != BUY], (), ("no positive label",)),
        (lambda log: log, ("--horizon", "1y"), ("no duration",)),
        (lambda log: log, ("--horizon", "400d"), ("does not fit", "--horizon")),
    ],
    ids=["one user", "one behaviour", "no positive label", "no horizon", "horizon longer than the log"],
)
def test_logs_from_which_nothing_can_be_learned(log, tmp_path, change, options, words):
    change(log).to_csv(tmp_path / "log.csv", index=False)
    message = mistake("run", tmp_path / "log.csv", "--model", "counts", *options, "--out", tmp_path / "r")
    assert any(word in message for word in words)


def test_bad_options(path, tmp_path):
    out = ("--out", tmp_path / "r")
    assert "choose one of purchase" in mistake("run", path, "--task", "fly", *out)
    assert "choose one of gru" in mistake("run", path, "--model", "oracle", *out)
    assert "choose one of mean, " in mistake("run", path, "--task", "spend", "--model", "majority", *out)
    assert "purchase has no model 'mean'" in mistake("run", path, "--model", "mean", *out)
    assert "choose one of" in mistake("run", path, "--dataset", "mine", *out)
    assert "theirs=ours" in mistake("run", path, "--columns", "user_id", *out)
    assert "no such file" in mistake("run", tmp_path / "nothing.csv", *out)
    assert "no file matches" in mistake("run", tmp_path / "*.nothing", *out)
    assert call("run", path, "--epochs", "0", *out).exit_code == 2
    assert call("run", path, "--no-such-option").exit_code == 2
    assert not (tmp_path / "r").exists()


# ---- predict


def test_predict(log, path, report, tmp_path):
    for name in ("scores.csv", "scores.parquet"):
        result = call("predict", report / "model", path, "--out", tmp_path / name)
        assert result.exit_code == 0 and "scored" in result.stdout
    one, two = pd.read_csv(tmp_path / "scores.csv"), pd.read_parquet(tmp_path / "scores.parquet")
    assert len(one) == len(two) == log[USER].nunique()
    assert list(one) == list(two) == ["user_id", "cutoff", "predicted", "probability"]
    before = call("predict", report / "model", path, "--at", "2024-02-01", "--out", tmp_path / "early.csv")
    assert before.exit_code == 0
    assert len(pd.read_csv(tmp_path / "early.csv")) == log.loc[log[TIME] < "2024-02-01", USER].nunique()


def test_predict_never_writes_over_a_file(path, report, tmp_path):
    out = tmp_path / "scores.csv"
    out.write_text("mine")
    assert "--overwrite" in mistake("predict", report / "model", path, "--out", out)
    assert out.read_text() == "mine"
    assert call("predict", report / "model", path, "--out", out, "--overwrite").exit_code == 0


def test_a_model_that_is_none(path, report, tmp_path):
    out = ("--out", tmp_path / "s.csv")
    assert "not a saved seqbook model" in mistake("predict", tmp_path, path, *out)
    assert "not a saved seqbook model" in mistake("predict", path, path, *out)
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text("[]")
    assert "damaged" in mistake("predict", other, path, *out)
    assert "not a seqbook.Predictor" in mistake("predict", report / "model" / "counts", path, *out)


def test_a_model_of_another_version_or_damaged(path, report, tmp_path):
    manifest = json.loads((report / "model" / "manifest.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99, "seqbook": "7.0"}))
    message = mistake("predict", other, path, "--out", tmp_path / "s.csv")
    assert "7.0" in message and "install" in message
    (other / "manifest.json").write_text(json.dumps(manifest))
    assert "not whole" in mistake("predict", other, path, "--out", tmp_path / "s.csv")


def test_predict_names_what_is_wrong_with_the_moment_and_the_log(path, report, tmp_path):
    out = ("--out", tmp_path / "s.csv")
    assert "no time" in mistake("predict", report / "model", path, "--at", "soon", *out)
    assert "no event is before" in mistake("predict", report / "model", path, "--at", "1999-01-01", *out)
    assert "no such file" in mistake("predict", report / "model", tmp_path / "no.csv", *out)
    assert not (tmp_path / "s.csv").exists()


# ---- lab


def test_lab_copies_every_chapter_and_keeps_changes(tmp_path):
    book = tmp_path / "book"
    result = call("lab", book, "--no-open")
    assert result.exit_code == 0
    chapters = sorted(path.relative_to(book) for path in book.rglob("*.ipynb"))
    nbs = Path(__file__).parents[1] / "nbs"
    assert chapters and all((book / name).read_bytes() == (nbs / name).read_bytes() for name in chapters)
    (book / chapters[0]).write_text("my notes")
    (book / chapters[1]).unlink()
    result = call("lab", book, "--no-open")
    assert f"kept as you changed it: {chapters[0].as_posix()}" in result.stdout and "1 new" in result.stdout
    assert (book / chapters[0]).read_text() == "my notes" and (book / chapters[1]).exists()


def test_lab_updates_an_older_copy_that_was_not_changed(tmp_path):
    shelf, mine = tmp_path / "shelf", tmp_path / "mine"
    (shelf / "data").mkdir(parents=True)
    chapter = shelf / "data" / "a.ipynb"
    chapter.write_text("first")
    assert copy_chapters(mine, shelf)["copied"] == ["data/a.ipynb"]
    chapter.write_text("second")
    assert copy_chapters(mine, shelf)["updated"] == ["data/a.ipynb"]
    assert (mine / "data" / "a.ipynb").read_text() == "second"
    (mine / ".seqbook.json").write_text("no json")
    chapter.write_text("third")
    assert copy_chapters(mine, shelf)["kept"] == ["data/a.ipynb"]
    assert (mine / "data" / "a.ipynb").read_text() == "second"


def test_lab_where_a_file_is_in_the_way(tmp_path):
    (tmp_path / "book").write_text("x")
    assert "book" in mistake("lab", tmp_path / "book", "--no-open")


@pytest.mark.skipif(os.name == "nt", reason="opens a process")
def test_lab_opens_jupyterlab_in_the_folder(tmp_path, monkeypatch):
    called = {}

    def run(command, cwd):
        called.update(command=command, cwd=cwd)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert call("lab", tmp_path / "book").exit_code == 0
    assert (
        called["command"][:3] == [sys.executable, "-m", "jupyterlab"] and called["cwd"] == tmp_path / "book"
    )
