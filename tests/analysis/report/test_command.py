"""The report of comparisons that are written by hand, so that all it must say is known."""

import argparse
import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from recbole_symcere.analysis import compared as figures
from recbole_symcere.analysis.__main__ import main
from recbole_symcere.analysis.report import analyses, page, plots
from recbole_symcere.analysis.report import settings as report_settings
from recbole_symcere.comparison.results import read_results
from recbole_symcere.comparison.tables import NEEDED, Contrast, make_table
from recbole_symcere.errors import AnalysisError, RunsError
from recbole_symcere.provenance import without_folders
from tests.analysis import chromium

N_USERS = 12
LEVELS = {"Pop": 0.1, "LightGCN": 0.2, "SymCERE": 0.4, "SymCERE, no text": 0.3}  # of NDCG@10 and its like
PER_USER = ("hit@10", "ndcg@10", "hit@20", "ndcg@20", "headndcg@10", "middlendcg@10", "tailndcg@10")
OVER_ITEMS = {"itemcoverage@10": 0.5, "averagepopularity@10": 20.0, "giniindex@10": 0.75}
USER, HOME = "a-user-s-token", "/home/somebody"
CURVES = [
    {"cross_modal": 2.0, "bpr": 1.0, "valid_score": 0.125},
    {"cross_modal": 1.0, "bpr": 0.5},
    {"cross_modal": 0.5, "bpr": 0.25, "valid_score": 0.375},
]


def write_run(folder: Path, dataset: str, row: str, seed: int, **changes: Any) -> Path:
    """As ``test_run`` would: every user of a row has its level, but of head items Pop is best and SymCERE is worst."""
    path = folder / "runs" / "strict" / dataset / row / f"seed-{seed}"
    path.mkdir(parents=True)
    level = LEVELS.get(row, 0.25) + 0.01 * (seed - 2020)
    users = {name: np.full(N_USERS, level) for name in PER_USER}
    users["headndcg@10"] = 1 - users["headndcg@10"]
    pl.DataFrame({"user_id": [f"{USER}-{number}" for number in range(N_USERS)]} | users).write_parquet(
        path / "users.parquet"
    )
    record = {
        "metrics": {name: float(values.mean()) for name, values in users.items()} | OVER_ITEMS,
        "best_valid_score": level,
        "seconds": {"fit": 2.0, "test": 0.5},
        "epochs": 3,
        "best_epoch": 2,
        "curves": CURVES if row.startswith("SymCERE") else CURVES[:1],
        "settings": {
            "model": row.partition(",")[0],
            "dataset": dataset,
            "seed": seed,
            "protocol": "strict",
            "valid_metric": "NDCG@10",
            "learning_rate": 0.0125,
            "text_encoder": f"{HOME}/models/an-encoder",
            "data_path": f"{HOME}/data",
            "checkpoint_file": f"{HOME}/model.pth",
        },
        "versions": {"recbole_symcere": "0.0.1", "numpy": "9.8.7"},
        "commit": "c0ffee",
    }
    (path / "run.json").write_text(json.dumps(record | changes), encoding="utf-8")
    return path


def write_comparison(folder: Path, datasets: Sequence[str] = ("toy",), rows: Sequence[str] = tuple(LEVELS)) -> Path:
    for dataset in datasets:
        for row in rows:
            for seed in (2020, 2021):
                write_run(folder, dataset, row, seed)
    return folder


def write_geometry(folder: Path) -> Path:
    """Two checkpoints, as ``geometry`` writes them."""
    folder.mkdir()
    values = {"users": 12, "cosine of user and item, mean": 0.0625, "modality gap, after training": None}
    checkpoints = [{"label": label, "settings": {"normalize": True}, "values": values} for label in ("a b", "c")]
    (folder / "geometry.json").write_text(json.dumps({"part": "train", "checkpoints": checkpoints}))
    for name in ("figure-1-a-b", "figure-1-c", "figure-4", "figure-cosines"):
        (folder / f"{name}.svg").write_text(SVG)
    return folder


def write_evidence(folder: Path) -> None:
    """Of one user, as ``evidence`` writes it with ``--show-text``."""
    weights = {"trend": {"weight": 0.5, "error": 0.125}, "graph": {"weight": 0.0, "error": 0.0}}
    item = {"item": "i<1>", "score": 1.25, "added": {"trend": 1.5, "graph": -0.25}}
    sentence = {"source": "the user's own", "cosine": 0.5, "text": "Fits <b>well</b>."}
    recommended = [{"user": "user 1", "items": [item], "sentences": [sentence]}]
    content = {"checkpoint": "plus", "weights": {"weights of strangers": weights}, "recommended": recommended}
    (folder / "evidence.json").write_text(json.dumps(content))
    (folder / "figure-evidence.svg").write_text(SVG)


SVG = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="72pt" height="36pt"
  viewBox="0 0 72 36" version="1.1" onload="alert(1)">
<metadata>2026</metadata><script>alert(2)</script>
<defs><path id="m" d="M 1.23456 -0.00001 L 9 2.5" style="stroke: #000000"/></defs>
<g id="axes_1" clip-path="url(#m)"><g id="line2d_1"><use xlink:href="#m" style="fill: #ffffff; stroke: #0072b2"/></g>
<image xlink:href="https://example.org/x.png"/><text>1 &lt; 2</text></g></svg>"""


def write_anchoring(folder: Path, text: str | None = None) -> Path:
    """A model and the pre-trained encoder, as ``anchoring`` writes them; with ``text`` as with ``--show-text``."""
    folder.mkdir(exist_ok=True)
    estimate = {"value": 0.5, "low": -0.25, "high": 0.75}
    group = {"examples": ["tuner"], "contribution": "strong", "share_of_words": 0.25, "share_of_mass": 0.5}
    groups = {"objective": group | {"mean": estimate}, "sentiment": group | {"mean": dict.fromkeys(estimate)}}
    towards = [{"word": "tuner", "weight": 0.5, "group": "objective"}]
    review = {"review": USER, "item": "i7", "cosine": 0.75, "signal": "strong", "towards": towards, "away": []}
    if text is not None:
        review |= {"text": text, "words": [["tuner", 0.5], ["bad", -0.25], ["!", 0.5]]}
    less_first = {"value": 0.12, "low": 0.0, "high": 0.25}
    measured = {"reviews": 9, "cosine": 0.125, "index": estimate, "less_first": less_first, "groups": groups}
    common = {"dataset": "toy", **measured, "lime": [review]}
    models = [common | {"label": label} for label in ("SymCERE", "pre-trained encoder")]
    (folder / "anchoring.json").write_text(json.dumps({"part": "valid", "models": models}))
    for name in ("anchoring-index", "anchoring-words"):
        (folder / f"{name}.svg").write_text(SVG)
    return folder


def run_report(comparison: Path, output: Path, *more: str) -> str:
    """The page that the command writes."""
    assert main(["report", "--comparison", str(comparison), "--output", str(output), *more]) == 0
    return output.read_text(encoding="utf-8")


class Parsed(HTMLParser):
    """Tags with their attributes, tables by caption as rows of texts, and the text outside of tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = self._caption = ""
        self._inside: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._caption, self._rows = "", []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
        if tag in ("th", "td", "caption", "style", "script"):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = None
        elif tag == "table":
            self.tables[self._caption] = [[cell.strip() for cell in row] for row in self._rows]

    def handle_data(self, data: str) -> None:
        if self._inside in ("th", "td"):
            self._rows[-1][-1] += data
        elif self._inside == "caption":
            self._caption += data
        elif self._inside is None:
            self.text += data


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    """The page of ``write_comparison`` as it stands, with geometry, anchoring and evidence."""
    folder = tmp_path_factory.mktemp("toy")
    comparison, analysis = write_comparison(folder / "comparison"), write_geometry(folder / "analysis")
    write_anchoring(analysis)
    write_evidence(analysis)
    return Parsed(run_report(comparison, folder / "report.html", "--analysis", str(analysis)))


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    return write_comparison(tmp_path / "comparison")


# What the page says


def test_tables_hold_the_comparisons_own_numbers(comparison: Path, tmp_path: Path) -> None:
    tables = Parsed(run_report(comparison, tmp_path / "report.html")).tables
    head, *rows = tables["Accuracy on toy"]
    assert head == ["model", "HR@10", "NDCG@10", "HR@20", "NDCG@20", "seconds"]
    assert [row[0] for row in rows[:3]] == ["LightGCN", "Pop", "SymCERE (ours)"]
    assert rows[0][2] == "0.2050 ± 0.0071 second" and rows[2][2] == "0.4050 ± 0.0071 best" and rows[0][5] == "2.0"
    runs = read_results(comparison, "strict").of(["Pop", "LightGCN", "SymCERE"])
    table = make_table(runs, NEEDED, ["SymCERE"])
    assert rows[3][1:5] == ["SymCERE vs LightGCN"] * 4 and rows[4][1:5] == ["+97.56%*"] * 4
    assert rows[6][1:5] == [f"{table.p_holm['toy', metric]:.4f}" for metric in NEEDED]
    assert tables["Popularity and coverage on toy"][1][5] == "0.5000 ± 0.0000 best"


def test_the_first_lines_say_who_wins_by_how_much_and_whether_by_chance(toy: Parsed) -> None:
    assert "+97.6%" in toy.text and "ours is ahead, p = 0.0005" in toy.text  # 2 of 2^12 patterns of signs
    assert "SymCERE 0.4050, the best baseline LightGCN 0.2050." in toy.text
    assert "Best of 3 models: SymCERE (0.4050), then LightGCN (0.2050)." in toy.text


def test_a_table_shows_where_ours_loses(toy: Parsed) -> None:
    _, *rows = toy.tables["Where ours is behind"]
    assert [row[:4] for row in rows] == [["toy, Head NDCG@10", "SymCERE", "Pop", "−33.5%"]]
    assert "7 in all, ours is ahead in 6 (6 significantly) and behind in 1 (1 significantly)." in toy.text


def test_ablations_stand_in_a_table_of_their_own(toy: Parsed) -> None:
    _, whole, ablation = toy.tables["SymCERE and its ablations on toy"]
    assert (whole[0], ablation[0]) == ("SymCERE (ours)", "SymCERE, no text")
    assert "%" not in whole[2] and re.fullmatch(r"0\.\d{4} ± 0\.\d{4} [−+]\d+\.\d\d%\*? second", ablation[2])
    assert not any("no text" in row[0] for row in toy.tables["Accuracy on toy"])


def test_probes_and_the_history_of_users_have_tables_of_their_own(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "comparison", rows=("Pop", "SymCERE", "Repurchase"))
    for path in folder.glob("runs/strict/toy/*/seed-*"):
        users = pl.read_parquet(path / "users.parquet")
        users = users.with_columns(pl.col("ndcg@10").alias("strangerndcg@10"))
        users.write_parquet(path / "users.parquet")
        record = json.loads((path / "run.json").read_text(encoding="utf-8"))
        record["metrics"] |= {
            "strangerndcg@10": record["metrics"]["ndcg@10"],
            "unseenrows": 0.25,
            "ceilingndcg@10": 0.75,
        }
        (path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    parsed = Parsed(run_report(folder, tmp_path / "r.html"))
    history, probes = (parsed.tables[f"Accuracy {what} on toy"] for what in ("by the history of users", "of probes"))
    assert [row[0] for row in probes[1:]] == ["Repurchase"]
    assert [row[0] for row in history[1:3]] == ["Pop", "SymCERE (ours)"]
    assert "NDCG@10 of new users" in " ".join(history[0])
    assert (
        "Test users of toy: 12 new. 25.0% of the test interactions are of items that nobody met before" in parsed.text
    )
    assert "NDCG@10 can't be above 0.7500" in parsed.text
    assert "Probes show what the protocol lets through." in parsed.text


def test_several_datasets_share_a_summary(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "comparison", ["toy", "two"])
    tables = Parsed(run_report(folder, tmp_path / "report.html")).tables
    assert tables["NDCG@10 on each dataset"][0] == ["model", "toy: NDCG@10", "two: NDCG@10"]
    assert tables["NDCG@10 on each dataset"][4] == ["compared", "SymCERE vs LightGCN", "SymCERE vs LightGCN"]
    assert {"Accuracy on toy", "Accuracy on two"} < tables.keys()


def test_differences_and_ranks_are_drawn_with_their_numbers(tmp_path: Path) -> None:
    read = Parsed(run_report(write_comparison(tmp_path / "both", ("toy", "other")), tmp_path / "report.html"))
    labels = [str(attributes["aria-label"]) for tag, attributes in read.tags if tag == "svg"]
    for title in (figures.DIFFERENCES_TITLE, figures.RANKS_TITLE):
        assert any(label.startswith(f"{title}. ") for label in labels)
    assert read.tables[figures.RANKS_TITLE][1:] == [["SymCERE (ours)", "1.00"], ["LightGCN", "2.00"], ["Pop", "3.00"]]
    assert ["toy", "SymCERE", "LightGCN", "+0.2000", "[+0.2000, +0.2000]"] in read.tables[figures.DIFFERENCES_TITLE]


def test_probes_and_validation_have_tables_of_their_own(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "comparison", rows=(*LEVELS, "Repurchase"))
    for number, path in enumerate(sorted(folder.glob("runs/strict/toy/*/seed-*"))):
        values = pl.DataFrame({"user_id": ["a", "b"], "ndcg@10": [0.25, 0.5 + number // 2 / 100]})
        values.write_parquet(path / "valid-users.parquet")
    read = Parsed(run_report(folder, tmp_path / "report.html"))
    assert [row[0] for row in read.tables["Accuracy of probes on toy"]] == ["model", "Repurchase"]
    assert "Probes show what the protocol lets through." in read.text
    assert "Repurchase" not in {row[0] for row in read.tables["Accuracy on toy"]}
    assert {row[0] for row in read.tables["Models on validation"][1:]} == {"Pop", "LightGCN", "SymCERE"}


def test_without_ours_the_page_says_that_nothing_is_tested(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "comparison", rows=["Pop", "LightGCN"])
    parsed = Parsed(run_report(folder, tmp_path / "report.html"))
    assert "Nothing is tested" in parsed.text and "Where ours is behind" not in parsed.tables
    assert len(parsed.tables["Accuracy on toy"]) == 3


def test_ours_can_be_named(comparison: Path, tmp_path: Path) -> None:
    text = Parsed(run_report(comparison, tmp_path / "report.html", "--ours", "LightGCN")).text
    assert "LightGCN 0.2050, the best baseline SymCERE 0.4050." in text and "ours is behind" in text
    assert "SymCERE, no text is left out; its model is left out, or not ours." in text


@pytest.mark.parametrize(
    ("difference", "p", "expected"), [(0.1, 0.04, "ahead"), (-0.1, 0.04, "behind"), (0.1, 0.05, ""), (-0.1, 0.5, "")]
)
def test_only_a_significant_difference_is_coloured(difference: float, p: float, expected: str) -> None:
    contrast = Contrast("a", "b", float("nan"), argparse.Namespace(difference=difference))
    assert contrast.verdict(p) == expected


def test_curves_of_each_term_are_drawn_and_in_a_table(toy: Parsed) -> None:
    rows = toy.tables["Learning curves of SymCERE on toy: means over seeds"]
    assert rows[0] == ["epoch", "seeds", "cross modal loss", "BPR loss", "validation NDCG@10"]
    assert rows[1:] == [
        ["1", "2", "2", "1", "0.125"],
        ["2", "2", "1", "0.5", "n/a"],
        ["3", "2", "0.5", "0.25", "0.375"],
    ]
    assert "No curves on toy: LightGCN, Pop trained for one epoch or none." in toy.text


def test_runs_of_older_versions_have_no_curves_and_the_page_says_so(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "comparison", rows=["Pop", "SymCERE"])
    for path in folder.rglob("run.json"):
        record = json.loads(path.read_text())
        del record["curves"]
        path.write_text(json.dumps(record))
    parsed = Parsed(run_report(folder, tmp_path / "report.html"))
    assert "No curves on toy: Pop, SymCERE ran in a version that kept none." in parsed.text


def test_settings_are_those_that_differ_and_versions_all(toy: Parsed) -> None:
    (caption,) = (caption for caption in toy.tables if caption.startswith("Training on toy"))
    assert caption == "Training on toy, means over seeds; all with learning_rate 0.0125, text_encoder an-encoder"
    assert toy.tables[caption][1] == ["LightGCN", "3", "3", "2", "0.2050 ± 0.0071", "none"]
    assert ["numpy", "9.8.7"] in toy.tables["Versions"] and ["commit", "c0ffee"] in toy.tables["Versions"]


def test_a_section_without_its_file_says_how_to_make_it(comparison: Path, tmp_path: Path, toy: Parsed) -> None:
    (tmp_path / "empty").mkdir()
    for more in ([], ["--analysis", str(tmp_path / "empty")]):
        text = Parsed(run_report(comparison, tmp_path / "report.html", *more)).text
        for name in ("geometry", "anchoring"):
            assert f"python -m recbole_symcere.analysis {name} --checkpoint" in text
            assert f"python -m recbole_symcere.analysis {name}" not in toy.text


def test_geometry_is_shown_where_it_was_measured(toy: Parsed) -> None:
    assert toy.tables["Geometry of each checkpoint"] == [
        ["measure", "a b", "c"],
        ["normalize", "True", "True"],
        ["users", "12", "12"],
        ["cosine of user and item, mean", "0.0625", "0.0625"],
        ["modality gap, after training", "n/a", "n/a"],
    ]
    figures = {of["id"] for tag, of in toy.tags if tag == "figure"}
    assert {"figure-1-a-b", "figure-1-c", "figure-4", "figure-cosines"} < figures


def test_evidence_is_shown_only_where_there_is_some(toy: Parsed, comparison: Path, tmp_path: Path) -> None:
    weights = [["evidence", "weights of strangers"], ["trend", "0.50 ± 0.12"], ["graph", "0.00"]]
    assert toy.tables["Weights and their standard errors"] == weights
    assert toy.tables["What the evidence adds for user 1"][1] == ["i<1>", "+1.25", "+1.50", "−0.25"]
    sentences = toy.tables["Sentences near i<1>, the first item for user 1"]
    assert sentences[1] == ["the user's own", "+0.50", "Fits <b>well</b>."]
    assert "figure-evidence" in {of["id"] for tag, of in toy.tags if tag == "figure"}
    assert "Evidence" not in Parsed(run_report(comparison, tmp_path / "report.html")).text


def test_anchoring_is_shown_and_reviews_are_called_by_their_items(toy: Parsed) -> None:
    _, *rows = toy.tables["Anchoring index, and the mean pull of objective and of sentiment words"]
    assert rows[0] == [
        "SymCERE",
        "9",
        "0.125",
        "0.50 [−0.25, 0.75]",
        "0.12 [0.00, 0.25]",
        "0.5000 [−0.2500, 0.7500]",
        "n/a",
    ]
    assert [row[0] for row in rows] == ["SymCERE", "pre-trained encoder"]
    assert toy.tables["Words by type: SymCERE"][1][1:3] == ["tuner", "strong"]
    _, row, _ = toy.tables["Words of single reviews (LIME)"]
    assert row[1:] == ["review 1, of item i7", "strong, cosine 0.75", "tuner +0.50 (objective)", ""]
    assert "where anchoring ran with --show-text" in toy.text and not any(tag == "dd" for tag, _ in toy.tags)


def test_words_are_shaded_in_the_texts_that_may_be_shown(comparison: Path, tmp_path: Path) -> None:
    analysis = write_anchoring(tmp_path / "analysis", "A Tuner, <b>not bad</b>!")
    text = run_report(comparison, tmp_path / "report.html", "--analysis", str(analysis))
    (reading, other) = re.findall(r"<dd>(.*?)</dd>", text)
    assert (
        reading
        == other
        == (
            'A <mark class="towards" style="--strength: 1.00" title="+0.500">Tuner</mark>, &lt;b&gt;not '
            '<mark class="away" style="--strength: 0.50" title="-0.250">bad</mark>&lt;/b&gt;!'
        )
    )
    assert "--show-text" not in text and USER not in text


@given(st.text("aB é.,", max_size=30), st.lists(st.tuples(st.text("aBé.x", max_size=4), st.floats(-1, 1)), max_size=12))
def test_the_parts_of_a_shaded_text_are_the_text(text: str, words: list[tuple[str, float]]) -> None:
    parts = analyses.shaded(text, words)
    assert "".join(part.text for part in parts) == text
    found = iter(words)
    for part in parts:
        if part.weight is not None:
            assert (part.text.lower(), part.weight) in ((word.lower(), weight) for word, weight in found), "in order"
        assert 0 <= part.strength <= 1


def test_words_that_the_tokenizer_writes_otherwise_cost_no_others() -> None:
    otherwise = [(word, 0.5) for word in ("cafe", "creme", "brulee", "ete", "orleans")]
    parts = analyses.shaded("Café crème brûlée, été, Orléans: was good", [*otherwise, ("was", 0.25), ("good", 1.0)])
    assert [(part.text, part.strength) for part in parts if part.weight is not None] == [("was", 0.25), ("good", 1.0)]


# What it must not do


EVIL = "<script>alert(1)"


def test_names_from_files_are_text_and_no_markup(tmp_path: Path) -> None:
    rows = ["Pop", "SymCERE", "SymCERE, <img src=x onerror=alert(1)>"]
    folder = write_comparison(tmp_path / "comparison", [EVIL], rows)
    text = run_report(folder, tmp_path / "report.html")
    parsed = Parsed(text)
    assert "Accuracy on " + EVIL in parsed.tables
    assert Counter(tag for tag, _ in parsed.tags)["script"] == 1 and not any(tag == "img" for tag, _ in parsed.tags)
    assert not any(key.startswith("on") for _, of in parsed.tags for key in of)


def test_one_script_runs_and_nothing_is_loaded(comparison: Path, tmp_path: Path) -> None:
    folder = write_geometry(tmp_path / "analysis")
    text = run_report(comparison, tmp_path / "report.html", "--analysis", str(folder))
    policy = next(of["content"] for tag, of in Parsed(text).tags if of.get("http-equiv"))
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert len(script) == 1 and policy is not None
    assert policy.startswith("default-src 'none'; ") and f"script-src 'sha256-{digest}';" in policy
    addresses = [of.get(key) for _, of in Parsed(text).tags for key in ("src", "href") if key in of]
    assert all(address and address.startswith(("#", "data:")) for address in addresses)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_neither_users_nor_paths_of_this_machine_are_on_the_page(comparison: Path, tmp_path: Path) -> None:
    text = run_report(comparison, tmp_path / "report.html")
    assert USER not in text and HOME not in text and str(tmp_path) not in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/me/models/bert", "bert"),
        (r"C:\Users\me\bert", "bert"),
        ("~/bert", "bert"),
        ("../data/bert", "bert"),
        ("hyp1231/blair-roberta-base", "hyp1231/blair-roberta-base"),
        ({"a": ["/home/me/x", 0.123456]}, "{a: [x, 0.1235]}"),
        (None, "None"),
    ],
)
def test_of_a_path_the_last_part_is_shown(value: Any, expected: str) -> None:
    assert report_settings.shown(without_folders(value)) == expected


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "comparison", rows=["Pop", "SymCERE"])
    more = ["--analysis", str(write_geometry(tmp_path / "analysis"))]
    first = run_report(folder, tmp_path / "a.html", *more, "--figures", str(tmp_path / "figures"))
    assert run_report(folder, tmp_path / "b.html", *more) == first
    names = ("accuracy", "differences", "curves-toy-SymCERE", "groups-toy", "popularity-toy")
    files = {f"{name}.{suffix}" for name in names for suffix in ("svg", "png", "pdf")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == files


def test_a_page_too_large_is_refused_and_the_largest_figures_named(
    comparison: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "MAX_BYTES", 10_000)
    given = ["report", "--comparison", str(comparison), "--output", str(tmp_path / "report.html")]
    assert main(given) == 2
    error = capsys.readouterr().err.splitlines()[-1]  # on a slow machine a progress bar stands before it
    assert error.startswith("error: the page would have") and "curves-toy-SymCERE 0." in error
    assert not (tmp_path / "report.html").exists()
    # how large the figures are depends on the machine's fonts
    sizes = {"small": 1, "medium": 1_000_000, "large": 3_000_000, "larger": 4_000_000}
    with pytest.raises(AnalysisError, match=r"8\.0 MB, the largest larger 4\.0 MB, large 3\.0 MB, medium 1\.0 MB$"):
        page.check_size("x" * 10_001, sizes)


# What is left out is said


def test_rows_that_lack_seeds_are_left_out_with_a_note(comparison: Path, tmp_path: Path) -> None:
    (write_run(comparison, "toy", "BPR", 2020).parent / "seed-2021").mkdir()
    write_run(comparison, "toy", "Pop", 2022)
    write_run(comparison, "late", "Pop", 2020)
    parsed = Parsed(run_report(comparison, tmp_path / "report.html"))
    assert [row[0] for row in parsed.tables["Accuracy on toy"][1:4]] == ["LightGCN", "Pop", "SymCERE (ours)"]
    for note in (
        "BPR is left out; complete runs: toy 1 of 2.",
        "Pop on toy also has runs with the seeds 2022, which are left out.",
        "The dataset late is left out: too few models have all 2 seeds there.",
    ):
        assert note in parsed.text


def test_seeds_that_were_trained_otherwise_are_noted(comparison: Path, tmp_path: Path) -> None:
    path = comparison / "runs/strict/toy/Pop/seed-2021/run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"settings": record["settings"] | {"k": 7}, "commit": "decaf"}))
    text = Parsed(run_report(comparison, tmp_path / "report.html")).text
    assert "The seeds of Pop on toy differ in k." in text and "The runs are of 2 versions of the code" in text


KEYS = [(dataset, row, seed) for dataset in "ab" for row in ("Pop", "BPR", "SymCERE") for seed in (2020, 2021)]


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from(KEYS), min_size=1))
def test_every_run_is_shown_or_named_in_a_note(
    tmp_path_factory: pytest.TempPathFactory, there: set[tuple[str, str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    for dataset, row, seed in there:
        write_run(folder, dataset, row, seed)
    try:
        results = read_results(folder, "strict")
    except RunsError as error:
        assert "no model has runs" in str(error)
        return
    assert results.datasets and results.models and results.seeds
    for dataset, row, seed in there:
        shown = dataset in results.datasets and row in results.models and seed in results.seeds
        named = (f"dataset {dataset} is left", f"{row} is left", f"{row} on {dataset} also")
        assert shown or any(name in note for name in named for note in results.notes)
    assert len(results.runs) == len(results.datasets) * len(results.models)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["report", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_what_a_user_can_mend_is_said(comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--comparison names the --output of" in refused(capsys, "--comparison", tmp_path)
    given: list[str | Path] = ["--comparison", comparison, "--output", tmp_path / "report.html"]
    assert "--protocol strict" in refused(capsys, *given, "--protocol", "paper")
    assert "report reads no settings, so --data_path" in refused(capsys, *given, "--data_path=x")
    assert "no such folder" in refused(capsys, *given, "--analysis", tmp_path / "absent")
    assert "--ours names BPR, but the complete models are" in refused(capsys, *given, "--ours", "BPR")
    analysis = write_geometry(tmp_path / "analysis")
    (analysis / "figure-4.svg").write_text("<svg")
    assert "figure-4.svg: can't be read as an SVG figure" in refused(capsys, *given, "--analysis", analysis)
    (analysis / "geometry.json").write_text('{"part": "train"}')
    assert "geometry.json: not as geometry writes it" in refused(capsys, *given, "--analysis", analysis)
    (analysis / "geometry.json").write_text("{")
    assert "geometry.json: can't be read as JSON" in refused(capsys, *given, "--analysis", analysis)
    (analysis / "geometry.json").unlink()
    (analysis / "evidence.json").write_text('{"weights": {}}')
    assert "evidence.json: not as evidence writes it" in refused(capsys, *given, "--analysis", analysis)
    (analysis / "evidence.json").unlink()
    (analysis / "anchoring.json").write_text('{"models": [{}]}')
    assert "anchoring.json: not as anchoring writes it" in refused(capsys, *given, "--analysis", analysis)
    write_comparison(comparison, rows=["Unheard"])
    assert "no model 'Unheard'" in (error := refused(capsys, *given)) and "--ours" in error
    path = comparison / "runs/strict/toy/Pop/seed-2020"
    (path / "users.parquet").write_bytes(b"no")
    assert f"{path}: can't be read as a run" in refused(capsys, *given)
    (path / "run.json").write_text("[]")
    assert f"{path}: can't be read as a run" in refused(capsys, *given)
    assert not (tmp_path / "report.html").exists()


def test_runs_that_do_not_belong_together_are_an_error(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = comparison / "runs/strict/toy/Pop/seed-2020/users.parquet"
    pl.read_parquet(path).head(5).write_parquet(path)
    error = refused(capsys, "--comparison", comparison, "--output", tmp_path / "report.html")
    assert "error: toy: " in error and "differ in test users" in error


def test_a_folder_without_a_complete_run_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs/strict/toy/Pop/seed-2020").mkdir(parents=True)
    assert "no run is complete" in refused(capsys, "--comparison", tmp_path)


# Figures


def test_an_inlined_figure_has_its_own_ids_and_loads_nothing() -> None:
    text = plots.inlined(SVG, "x", 'a "label"')
    root = ElementTree.fromstring(text)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert ids == ["x-m", "x-axes_1", "x-line2d_1"]
    assert 'href="#x-m"' in text and "url(#x-m)" in text
    assert root.get("role") == "img" and root.get("aria-label") == 'a "label"' and root.get("viewBox") == "0 0 72 36"
    assert "alert" not in text and "example.org" not in text and "2026" not in text and "1 &lt; 2" in text
    assert 'd="M 1.23 0 L 9 2.5"' in text.replace("-0 ", "0 ")


def test_an_inlined_figure_takes_the_pages_colours() -> None:
    plain = SVG.replace('<image xlink:href="https://example.org/x.png"/>', "")
    assert "stroke: currentColor" in (text := plots.inlined(plain, "x", "")) and "fill: var(--paper)" in text
    assert "stroke: var(--accent)" in text
    assert "stroke: #0072b2" in plots.inlined(SVG, "x", ""), "a legend beside pixels, which have no theme"


@given(st.integers(1, 400), st.integers(2, 50))
def test_thinned_values_keep_their_ends(n: int, at_most: int) -> None:
    found = plots.thinned(range(n), at_most)
    assert len(found) == min(n, at_most) and found == sorted(set(found)) and (found[0], found[-1]) == (0, n - 1)


def test_curves_have_a_line_for_each_seed_and_a_dot_where_it_was_kept() -> None:
    later = [{name: value / 2 for name, value in epoch.items()} for epoch in CURVES]
    with plots.curves([CURVES, later[:2]], [2, 0], "validation NDCG@10") as drawn:
        loss, bpr, score = drawn.axes
    assert [axis.get_ylabel() for axis in drawn.axes] == ["cross modal loss", "BPR loss", "validation NDCG@10"]
    assert [line.get_xydata().tolist() for line in loss.lines] == [[[1, 2], [2, 1], [3, 0.5]], [[1, 1], [2, 0.5]]]
    assert [line.get_xydata().tolist() for line in score.lines] == [
        [[1, 0.125], [3, 0.375]],
        [[3, 0.375]],
        [[1, 0.0625]],
        [[1, 0.0625]],
    ]
    assert {axis.get_xlabel() for axis in drawn.axes} == {"epoch"} and len(bpr.lines) == 2


def test_dots_stand_at_the_means_ours_in_their_colour() -> None:
    panel = plots.Panel("toy", "NDCG@10", {"Pop": (0.25, 0.125), "Ours": (0.5, None)})
    with plots.dots([panel], ["Ours", "Pop"], ["Ours"]) as drawn:
        (axis,) = drawn.axes
        names = [label.get_text() for label in axis.get_yticklabels()]
    dots = {tuple(line.get_xydata()[0].tolist()): line.get_color() for line in axis.lines if line.get_marker() == "o"}
    assert dots == {(0.5, 2.0): plots.OURS, (0.25, 1.0): plots.OTHERS}
    assert list(zip(axis.get_yticks(), names, strict=True)) == [(2, "Ours"), (1, "Pop")]
    bars = [segment.tolist() for bar in axis.collections for segment in bar.get_segments()]
    assert [[0.125, 1.0], [0.375, 1.0]] in bars and axis.get_xlim()[0] == 0


def test_figures_whose_names_are_alike_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "a b.svg").write_text(SVG)
    (tmp_path / "a-b.svg").write_text(SVG)
    figures = page.Figures()
    names = [figures.read(tmp_path / name, "", "").name for name in ("a b.svg", "a-b.svg")]
    assert names == ["a-b", "a-b-2"] == list(figures.sizes)


# In a browser


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with a report of two datasets, one of a name that would be a script."""
    folder = tmp_path_factory.mktemp("report")
    rows = [*LEVELS, "SymCERE, <img src=x onerror=alert(1)>"]
    comparison = write_comparison(folder / "comparison", ["toy", EVIL], rows)
    for path in comparison.glob("runs/strict/*/LightGCN/*/run.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"curves": [{"train loss": 1 / n} for n in (1, 2)]}))
    run_report(comparison, folder / "report.html")
    with chromium.browser(folder / "profile") as driver:
        chromium.resize(driver, 1280)
        chromium.prefer(driver, "light")
        driver.get((folder / "report.html").as_uri())
        yield driver


@pytest.mark.slow
def test_chromium_reports_no_error_and_asks_for_nothing_else(opened: Any) -> None:
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert [url.rpartition("/")[2] for url in chromium.requested(opened)] == ["report.html"]


@pytest.mark.slow
def test_tables_sort_by_mouse_and_by_keyboard(opened: Any) -> None:
    table = "[...document.querySelectorAll('table')].find(table => table.caption.innerText == 'Accuracy on toy')"

    def column(number: int) -> list[str]:
        script = f"return [...{table}.tBodies[0].rows].map(row => row.cells[{number}].textContent.trim())"
        return [text.partition(" ")[0] for text in opened.execute_script(script)]

    def order(number: int) -> str | None:
        return opened.execute_script(f"return {table}.tHead.rows[0].cells[{number}].ariaSort")

    button = opened.execute_script(f"return {table}.tHead.rows[0].cells[2].querySelector('button')")
    assert order(2) is None
    button.click()
    assert column(2) == ["0.4050", "0.2050", "0.1050"] and order(2) == "descending"
    button.send_keys("\ue007")  # Enter
    assert column(2) == ["0.1050", "0.2050", "0.4050"] and order(2) == "ascending"
    assert column(0) == ["Pop", "LightGCN", "SymCERE"], "rows move as a whole"
    said = opened.execute_script("return document.querySelector('[role=status]').textContent")
    assert said == "sorted by NDCG@10, ascending"
    opened.execute_script(f"return {table}.tHead.rows[0].cells[0].querySelector('button')").send_keys(" ")
    assert column(0) == ["LightGCN", "Pop", "SymCERE"] and order(0) == "ascending" and order(2) is None


@pytest.mark.slow
def test_every_panel_of_every_plot_has_marks(opened: Any) -> None:
    opened.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
    panels = opened.execute_script("""
        return [...document.querySelectorAll("figure svg")].map(svg =>
          [...svg.querySelectorAll('g[id*="-axes_"]')].map(axes => [...axes.children]
            .filter(group => /-(line2d|LineCollection)_\\d+$/.test(group.id))
            .flatMap(group => [...group.querySelectorAll("path, use, circle")])
            .map(mark => mark.getBBox())
            .filter(box => box.width > 0 || box.height > 0).length))""")
    of_all, of_each = 3, 2 + 2  # accuracy, differences and ranks; groups, popularity and two models' curves
    assert len(panels) == of_all + 2 * of_each
    assert all(of and all(count >= 2 for count in of) for of in panels), panels


@pytest.mark.slow
def test_on_a_phone_only_tables_and_figures_scroll_sideways(opened: Any) -> None:
    chromium.resize(opened, 390)
    try:
        opened.execute_script("for (const part of document.querySelectorAll('details')) part.open = true")
        assert opened.execute_script("return document.documentElement.scrollWidth") == 390
        heights = opened.execute_script("""return [...document.querySelectorAll("figure svg text")]
            .map(text => text.getBoundingClientRect().height)""")
        assert min(heights) >= 9, "pixels"
    finally:
        chromium.resize(opened, 1280)


@pytest.mark.slow
def test_dark_mode_changes_paper_and_ink(opened: Any) -> None:
    script = """const of = (part, key) => getComputedStyle(document.querySelector(part))[key];
        return [of("body", "backgroundColor"), of("body", "color"), of("figure svg text", "fill")]"""
    light = opened.execute_script(script)
    chromium.prefer(opened, "dark")
    try:
        dark = opened.execute_script(script)
    finally:
        chromium.prefer(opened, "light")
    assert all(one != other for one, other in zip(light, dark, strict=True))
    assert light[2] == light[1] and dark[2] == dark[1], "figures have the page's ink"


@pytest.mark.slow
def test_a_table_on_two_sheets_has_its_head_on_both(opened: Any) -> None:
    opened.execute_script("""const body = document.querySelector("table").tBodies[0];
        for (let n = 0; n < 100; n++) body.append(body.rows[0].cloneNode(true), body.rows[1].cloneNode(true))""")
    try:
        sheets = [sheet.extract_text() for sheet in PdfReader(BytesIO(base64.b64decode(opened.print_page()))).pages]
    finally:
        opened.refresh()
    long = [text for text in sheets if text.count("NDCG@10") > 20]
    assert len(long) >= 2 and all(text.count("p (Holm)") == 1 for text in long)
