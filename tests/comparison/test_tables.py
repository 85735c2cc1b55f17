"""Tables of runs whose numbers are known by hand, and their three forms to the letter."""

import csv
import io
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_symcere.comparison.rendering import to_csv, to_latex, to_markdown
from recbole_symcere.comparison.statistics import compare_users
from recbole_symcere.comparison.tables import Run, Table, make_ablation, make_table
from recbole_symcere.errors import RunsError
from recbole_symcere.metrics import label_of

USERS = [f"u{number}" for number in range(8)]


def make_run(
    model: str, seed: int = 1, dataset: str = "toy", seconds: float = 1.0, valid: float = 0.5, **metrics: Any
) -> Run:
    """Metrics are named ``hit`` for hit@10: one value for each user, or a number that is no mean over users."""
    per_user = {f"{name}@10": values for name, values in metrics.items() if isinstance(values, list)}
    means = {name: float(np.nanmean(values)) for name, values in per_user.items()}
    others = {f"{name}@10": value for name, value in metrics.items() if not isinstance(value, list)}
    n_users = len(next(iter(per_user.values()), USERS))
    users = pl.DataFrame({"user_id": USERS[:n_users]} | per_user)
    return Run(dataset, model, seed, means | others, users, valid, seconds)


def known_runs(dataset: str = "toy") -> list[Run]:
    """Every user of a model has the same value, so every difference, interval and p-value is plain."""

    def of(model: str, seed: int, hit: float, ndcg: float, gini: float, seconds: float) -> Run:
        return make_run(model, seed, dataset, seconds, hit=[hit] * 8, ndcg=[ndcg] * 8, giniindex=gini)

    return [
        of("SymCERE", 1, 0.5, 0.25, 0.75, 20),
        of("SymCERE", 2, 0.5, 0.25, 0.5, 21),
        of("Pop", 1, 0.25, 0.5, 0.875, 0),
        of("Pop", 2, 0.25, 0.5, 0.875, 0.5),
        of("LightGCN", 2, 0.25, 0.5, 0.5, 4),
        of("LightGCN", 1, 0.5, 0.5, 0.5, 3),
    ]


METRICS = ["hit@10", "ndcg@10", "giniindex@10"]

MARKDOWN = """\
| model | HR@10 | NDCG@10 | Gini@10 | seconds |
| --- | ---: | ---: | ---: | ---: |
| Pop | 0.2500 ± 0.0000 | **0.5000 ± 0.0000** | 0.8750 ± 0.0000 | 0.2 |
| LightGCN | <u>0.3750 ± 0.1768</u> | **0.5000 ± 0.0000** | 0.5000 ± 0.0000 | 3.5 |
| SymCERE | **0.5000 ± 0.0000** | <u>0.2500 ± 0.0000</u> | 0.6250 ± 0.1768 | 20.5 |
| compared | SymCERE vs LightGCN | SymCERE vs Pop |  |  |
| improvement | +33.33%\\* | -50.00%\\* |  |  |
| 95% interval of the difference | [+0.1250, +0.1250] | [-0.2500, -0.2500] |  |  |
| p (Holm) | 0.0156 | 0.0156 |  |  |

Mean ± standard deviation over the seeds 1, 2. Test users: toy 8. In columns where higher or lower is better, the \
best value is bold and the second best underlined. Seconds are training time. \\* p < 0.05: two-sided paired \
randomisation test over users, Holm-corrected (comparisons in this table: 2). The interval is a bootstrap interval \
over users. Compared: of our models the best on validation, and of the baselines the best in this column.
"""

ABLATION = """\
| model | HR@10 | NDCG@10 | seconds |
| --- | ---: | ---: | ---: |
| SymCERE | **0.5000** | **0.5000** | 1.0 |
| SymCERE, no text | <u>0.3750</u> (-25.00%\\*) | <u>0.2500</u> (-50.00%\\*) | 1.0 |
| SymCERE, InfoNCE | **0.5000** (+0.00%) | **0.5000** (+0.00%) | 1.0 |

One seed, 1. Test users: toy 8. In columns where higher or lower is better, the best value is bold and the second best \
underlined. Seconds are training time. \\* p < 0.05: two-sided paired randomisation test over users, Holm-corrected \
(comparisons in this table: 4). In brackets: the change against SymCERE. The CSV file has bootstrap intervals of the \
differences.
"""

LATEX = r"""% Mean ± standard deviation over the seeds 1, 2.
% Test users: toy_set 8, b&w 8.
% In columns where higher or lower is better, the best value is bold and the second best underlined.
% Seconds are training time.
% * p < 0.05: two-sided paired randomisation test over users, Holm-corrected (comparisons in this table: 2).
% The interval is a bootstrap interval over users. Compared: of our models the best on validation, and of the baselines the best in this column.
\begin{tabular}{lrrrr}
\toprule
 & \multicolumn{2}{c}{toy\_set} & \multicolumn{2}{c}{b\&w} \\
\cmidrule(lr){2-3}\cmidrule(lr){4-5}
model & HR@10 & seconds & HR@10 & seconds \\
\midrule
Pop & 0.2500 $\pm$ 0.0000 & 0.2 & 0.2500 $\pm$ 0.0000 & 0.2 \\
LightGCN & \underline{0.3750 $\pm$ 0.1768} & 3.5 & \underline{0.3750 $\pm$ 0.1768} & 3.5 \\
SymCERE & \textbf{0.5000 $\pm$ 0.0000} & 20.5 & \textbf{0.5000 $\pm$ 0.0000} & 20.5 \\
\midrule
compared & SymCERE vs LightGCN &  & SymCERE vs LightGCN &  \\
improvement & +33.33\%* &  & +33.33\%* &  \\
95\% interval of the difference & [+0.1250, +0.1250] &  & [+0.1250, +0.1250] &  \\
p (Holm) & 0.0156 &  & 0.0156 &  \\
\bottomrule
\end{tabular}
"""  # noqa: E501 - a note is one line

CSV = """\
dataset,model,metric,mean,sd,n_seeds,n_users,seconds,baseline,difference,low,high,improvement_percent,p,p_holm
toy,Pop,hit@10,0.25,0.0,2,8,0.25,,,,,,,
toy,LightGCN,hit@10,0.375,0.1767766952966369,2,8,3.5,,,,,,,
toy,SymCERE,hit@10,0.5,0.0,2,8,20.5,LightGCN,0.125,0.125,0.125,33.333333333333336,0.0078125,0.0078125
toy,Pop,giniindex@10,0.875,0.0,2,8,0.25,,,,,,,
toy,LightGCN,giniindex@10,0.5,0.0,2,8,3.5,,,,,,,
toy,SymCERE,giniindex@10,0.625,0.1767766952966369,2,8,20.5,,,,,,,
"""


def markdown(table: Table) -> str:
    """The table without the spaces that align its columns."""
    lines = []
    for line in to_markdown(table).splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            cells = [re.sub(r"^:-+$", "---", re.sub(r"^-+:$", "---:", cell)) for cell in cells]
            line = f"| {' | '.join(cells)} |"
        lines.append(line)
    return "\n".join([*lines, ""])


def test_markdown_to_the_letter() -> None:
    assert markdown(make_table(known_runs(), METRICS, {"SymCERE"})) == MARKDOWN


def test_latex_of_two_datasets_to_the_letter() -> None:
    runs = known_runs("toy_set") + known_runs("b&w")
    assert to_latex(make_table(runs, ["hit@10"], {"SymCERE"})) == LATEX


def test_csv_to_the_letter() -> None:
    assert to_csv(make_table(known_runs(), ["hit@10", "giniindex@10"], {"SymCERE"})) == CSV


def test_several_datasets_stand_in_the_heads_of_markdown() -> None:
    table = make_table(known_runs("a|b") + known_runs("c"), ["hit@10"], {"SymCERE"})
    assert markdown(table).splitlines()[:3] == [
        r"| model | a\|b: HR@10 | a\|b: seconds | c: HR@10 | c: seconds |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| Pop | 0.2500 ± 0.0000 | 0.2 | 0.2500 ± 0.0000 | 0.2 |",
    ]


def test_seconds_can_be_left_out() -> None:
    whole = make_table([*known_runs(), *known_runs("b&w")], ["hit@10"], {"SymCERE"})
    table = replace(whole, seconds={})
    for text, full in ((markdown(table), markdown(whole)), (to_latex(table), to_latex(whole))):
        assert "econds" not in text and "econds" in full
    assert {line.count("|") for line in markdown(table).splitlines() if line.startswith("|")} == {4}
    rows = [line for line in to_latex(table).splitlines() if line.endswith(r"\\") and r"b\&w" not in line]
    assert {line.count("&") for line in rows} == {2}
    assert r"\cmidrule(lr){2-2}\cmidrule(lr){3-3}" in to_latex(table)
    assert pl.read_csv(io.StringIO(to_csv(table)))["seconds"].null_count() == 6


def test_one_seed_has_no_standard_deviation() -> None:
    table = make_table([run for run in known_runs() if run.seed == 1], ["hit@10"], {"SymCERE"})
    assert "| Pop | <u>0.2500</u> | 0.0 |" in markdown(table) and "One seed, 1." in to_markdown(table)
    assert "toy,Pop,hit@10,0.25,,1,8,0.0," in to_csv(table)


def ablation_runs() -> list[Run]:
    """Every user of "no text" loses the same; of the others, the users' gains and losses cancel."""
    even, odd = [0.25, 0.75] * 4, [0.75, 0.25] * 4
    return [
        make_run("SymCERE", hit=even, ndcg=[0.5] * 8),
        make_run("SymCERE, no text", hit=[value - 0.125 for value in even], ndcg=[0.25] * 8),
        make_run("SymCERE, InfoNCE", hit=odd, ndcg=[0.5] * 8),
    ]


def test_each_ablation_is_tested_against_the_whole() -> None:
    table = make_ablation(ablation_runs(), ["hit@10", "ndcg@10"], "SymCERE")
    lost = table.changes["toy", "hit@10", "SymCERE, no text"]
    assert (lost.model, lost.baseline, lost.improvement) == ("SymCERE, no text", "SymCERE", -25)
    assert (lost.users.difference, lost.users.low, lost.users.high) == (-0.125, -0.125, -0.125)
    assert lost.users.p_value == 2 / 2**8  # of all patterns of signs
    assert table.changes["toy", "ndcg@10", "SymCERE, InfoNCE"].users.p_value == 1
    assert table.p_holm["toy", "hit@10", "SymCERE, no text"] == 4 * 2 / 2**8  # four changes in the table
    assert len(table.p_holm) == len(table.changes) == 4 and not table.contrasts
    assert markdown(table) == ABLATION
    assert r"\textbf{0.5000} & 1.0" in to_latex(table) and r"\underline{0.2500} (-50.00\%*)" in to_latex(table)
    rows = {(row["model"], row["metric"]): row for row in csv.DictReader(io.StringIO(to_csv(table)))}
    assert rows["SymCERE", "hit@10"]["baseline"] == ""
    row = rows["SymCERE, no text", "hit@10"]
    assert [float(row[key]) for key in ("difference", "low", "high", "improvement_percent")] == [-0.125] * 3 + [-25]
    assert (row["baseline"], float(row["p"]), float(row["p_holm"])) == ("SymCERE", 2 / 2**8, 4 * 2 / 2**8)


def test_an_ablation_with_other_users_is_refused() -> None:
    whole = ablation_runs()[0]
    fewer = make_run("SymCERE, no text", hit=[0.25] * 7, ndcg=[0.5] * 7)
    with pytest.raises(RunsError, match="differ in test users: u7"):
        make_ablation([whole, fewer], ["hit@10"], "SymCERE")


@pytest.mark.parametrize("ours", [set(), {"SymCERE", "LightGCN", "Pop"}])
def test_without_ours_or_baselines_nothing_is_compared(ours: set[str]) -> None:
    table = make_table(known_runs(), METRICS, ours)
    assert not table.contrasts and not table.p_holm
    assert "improvement" not in markdown(table) and "Holm" not in to_markdown(table)
    assert to_latex(table).count(r"\midrule") == 1


def test_popularity_has_no_best_unless_a_direction_is_named() -> None:
    runs = [
        make_run("Pop", averagepopularity=[8.0, 8.0], giniindex=0.9, itemcoverage=0.1),
        make_run("SymCERE", averagepopularity=[2.0, 6.0], giniindex=0.6, itemcoverage=0.3),
    ]
    metrics = ["averagepopularity@10", "giniindex@10", "itemcoverage@10"]
    places = {
        direction: [
            [cell.place for cell in column.values()]
            for column in make_table(
                runs, metrics, {"SymCERE"}, direction and {"giniindex": direction}
            ).columns.values()
        ]
        for direction in (None, "lower", "higher")
    }
    assert places[None] == [[None, None], [None, None], [2, 1]]
    assert not make_table(runs, metrics, {"SymCERE"}).contrasts
    assert places["lower"] == [[None, None], [2, 1], [2, 1]]
    assert places["higher"] == [[None, None], [1, 2], [2, 1]]


def test_lower_is_an_improvement_where_lower_is_better() -> None:
    runs = [
        make_run("Pop", averagepopularity=[8.0, 8.0]),
        make_run("LightGCN", averagepopularity=[9.0, 9.0]),
        make_run("SymCERE", averagepopularity=[2.0, 6.0]),
    ]
    table = make_table(runs, ["averagepopularity@10"], {"SymCERE"}, {"averagepopularity": "lower"})
    contrast = table.contrasts["toy", "averagepopularity@10"]
    assert (contrast.model, contrast.baseline, contrast.improvement) == ("SymCERE", "Pop", 50)
    assert contrast.users.difference == -4 and contrast.users.low <= -4 <= contrast.users.high < 0
    assert contrast.users.p_value == 2 / 4


def test_the_best_is_decided_on_means_that_are_not_rounded() -> None:
    runs = [make_run(model, hit=[value] * 8) for model, value in (("Pop", 0.10001), ("NeuMF", 0.10002), ("SGL", 0.1))]
    cells = make_table(runs, ["hit@10"], ()).columns["toy", "hit@10"]
    assert [cells[model].place for model in ("NeuMF", "Pop", "SGL")] == [1, 2, None]


def test_all_that_tie_share_a_place_whatever_the_order_of_seeds() -> None:
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating point."""
    runs = [
        make_run(model, seed, hit=[value] * 8)
        for model, values in {
            "A": (0.1, 0.2, 0.3),
            "B": (0.3, 0.2, 0.1),
            "C": (0.1, 0.1, 0.1),
            "D": (0.1, 0.1, 0.1),
        }.items()
        for seed, value in enumerate(values)
    ]
    cells = make_table(runs, ["hit@10"], ()).columns["toy", "hit@10"]
    assert [cell.place for cell in cells.values()] == [1, 1, 2, 2]


def test_ours_is_chosen_on_validation_and_meets_the_best_baseline_over_seed_means() -> None:
    runs = [
        make_run("Ours1", 1, valid=0.2, hit=[1.0, 0.0, 1.0, 0.0]),
        make_run("Ours1", 2, valid=0.4, hit=[1.0, 0.0, 0.0, 1.0]),
        make_run("Ours2", 1, valid=0.1, hit=[1.0, 1.0, 1.0, 1.0]),
        make_run("Ours2", 2, valid=0.4, hit=[1.0, 1.0, 1.0, 1.0]),
        make_run("BPR", 1, valid=0.9, hit=[0.0, 0.0, 0.0, 0.0]),
        make_run("BPR", 2, valid=0.9, hit=[0.0, 0.0, 0.0, 0.0]),
        make_run("Pop", 1, hit=[0.0, 0.0, 0.0, 0.0]),
        make_run("Pop", 2, hit=[0.0, 0.0, 1.0, 1.0]),
    ]
    contrast = make_table(runs, ["hit@10"], {"Ours1", "Ours2"}).contrasts["toy", "hit@10"]
    ours, pop = (pl.Series(values).to_numpy() for values in ([1.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]))
    assert (contrast.model, contrast.baseline, contrast.improvement) == ("Ours1", "Pop", 100)
    assert contrast.users == compare_users(ours, pop)


def test_holm_counts_all_comparisons_of_the_table() -> None:
    names = [f"set{number}" for number in range(7)]
    one = make_table(known_runs(), ["hit@10", "ndcg@10"], {"SymCERE"})
    many = make_table([run for name in names for run in known_runs(name)], ["hit@10", "ndcg@10"], {"SymCERE"})
    assert set(one.p_holm.values()) == {2 / 256 * 2}
    assert len(many.p_holm) == 14 and set(many.p_holm.values()) == {2 / 256 * 14}
    assert "+33.33%\\*" in markdown(one) and "+33.33% |" in markdown(many)


def test_a_baseline_that_scores_nothing_is_improved_on_by_no_number() -> None:
    runs = [make_run("Pop", hit=[0.0] * 8), make_run("SymCERE", hit=[0.5] * 8)]
    table = make_table(runs, ["hit@10"], {"SymCERE"})
    assert math.isnan(table.contrasts["toy", "hit@10"].improvement)
    assert r"| improvement | –\* |" in markdown(table) and "improvement & --* &" in to_latex(table)


def test_users_without_a_value_are_in_no_pair() -> None:
    ours, pop = [0.5, math.nan, 1.0, 0.25, 0.0, 0.75], [0.25, math.nan, 0.5, 0.5, 0.0, 0.25]
    runs = [make_run("Pop", tailndcg=pop), make_run("SymCERE", tailndcg=ours)]
    runs[1] = replace(runs[1], per_user=runs[1].per_user.fill_nan(None))
    contrast = make_table(runs, ["tailndcg@10"], {"SymCERE"}).contrasts["toy", "tailndcg@10"]
    assert contrast.users == compare_users(np.delete(ours, 1), np.delete(pop, 1))


def test_head_middle_and_tail_are_explained_where_they_stand() -> None:
    runs = [make_run("Pop", headndcg=0.5, hit=[0.5] * 8)]
    note = "Head, middle and tail items are groups by popularity"
    assert note in to_markdown(make_table(runs, ["headndcg@10"], ()))
    assert note not in to_markdown(make_table(runs, ["hit@10"], ()))


def test_the_order_of_users_and_runs_changes_no_number() -> None:
    runs = [
        make_run(model, seed, hit=[float((user * prime + seed) % 3 == 0) for user in range(8)])
        for model, prime in (("Pop", 5), ("SymCERE", 7))
        for seed in (1, 2)
    ]
    table = make_table(runs, ["hit@10"], {"SymCERE"})
    turned = [replace(run, per_user=run.per_user.reverse() if run.seed == 1 else run.per_user) for run in runs]
    assert make_table(turned[::-1], ["hit@10"], {"SymCERE"}) == table


def lacking(run: Run, users: list[str]) -> Run:
    return replace(run, per_user=run.per_user.with_columns(user_id=pl.Series(users)))


RUNS = known_runs()
LAST = RUNS[-1]  # of LightGCN, seed 1


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ([], r"^toy: LightGCN has runs of seeds \[2\], but the table is of \[1, 2\]$"),
        (
            [replace(LAST, seed=3)],
            r"LightGCN has runs of seeds \[2, 3\], but the table is of \[1, 2, 3\]|Pop has",
        ),
        ([LAST, LAST], r"LightGCN has runs of seeds \[1, 1, 2\]"),
        (
            [LAST, replace(LAST, dataset="other")],
            r"^other: Pop has runs of seeds \[\], but the table is of \[1, 2\]$",
        ),
        (
            [lacking(LAST, [*USERS[:7], "w"])],
            "^toy: LightGCN, seed 1 and Pop, seed 1 differ in test users: u7, w$",
        ),
        ([lacking(LAST, [*USERS[:7], "u0"])], "^toy: LightGCN, seed 1 has a test user twice, such as u0$"),
        ([replace(LAST, per_user=LAST.per_user.head(7))], "differ in test users: u7$"),
        ([replace(LAST, per_user=LAST.per_user.head(2))], r"differ in test users: u2, u3, u4, \.\.\.$"),
        ([replace(LAST, per_user=LAST.per_user.drop("ndcg@10"))], "lacks the values per user of ndcg@10"),
        ([replace(LAST, metrics={"hit@10": 0.5, "ndcg@10": 0.5})], "^toy: LightGCN, seed 1 has no giniindex@10"),
        ([replace(LAST, metrics={**LAST.metrics, "giniindex@10": math.nan})], "LightGCN, seed 1 has no giniindex@10"),
        (
            [replace(LAST, metrics={**LAST.metrics, "hit@10": 0.51})],
            "has hit@10 0.51, but the mean over its users is 0.5",
        ),
        (
            [replace(LAST, per_user=LAST.per_user.with_columns(pl.lit(None, pl.Float64).alias("hit@10")))],
            "has hit@10 0.5, but the mean over its users is nan",
        ),
    ],
)
def test_runs_that_are_not_of_one_table_are_named(last: list[Run], message: str) -> None:
    with pytest.raises(RunsError, match=message):
        make_table(RUNS[:-1] + last, METRICS, {"SymCERE"})


def test_metrics_that_recbole_rounded_are_taken() -> None:
    rounded = [replace(run, metrics={name: round(value, 4) for name, value in run.metrics.items()}) for run in RUNS]
    values = [1 / 3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    rounded += [
        replace(make_run("SGL", seed, hit=values, ndcg=values, giniindex=0), metrics=dict.fromkeys(METRICS, 0.1292))
        for seed in (1, 2)
    ]
    assert make_table(rounded, METRICS, {"SymCERE"}).columns["toy", "hit@10"]["SGL"].mean == 0.1292


def test_ours_must_have_runs() -> None:
    with pytest.raises(RunsError, match="there is no run of Symcere, which should be ours"):
        make_table(RUNS, METRICS, {"SymCERE", "Symcere"})


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("hit@10", "HR@10"),
        ("ndcg@10", "NDCG@10"),
        ("recall@20", "Recall@20"),
        ("precision@5", "Precision@5"),
        ("mrr@10", "MRR@10"),
        ("itemcoverage@10", "ItemCoverage@10"),
        ("averagepopularity@10", "AveragePopularity@10"),
        ("giniindex@10", "Gini@10"),
        ("tailndcg@10", "Tail NDCG@10"),
    ],
)
def test_metrics_have_the_names_of_the_field(metric: str, name: str) -> None:
    assert label_of(metric) == name


@given(model=st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1))
def test_any_name_stays_in_its_cell(model: str) -> None:
    """Every LaTeX row has one & a column and braces that close; CSV gives the name back."""
    table = make_table([make_run(model, hit=[0.5] * 8), make_run("another", hit=[0.25] * 8)], ["hit@10"], ())
    rows = to_latex(table).splitlines()
    row = rows[rows.index(r"\midrule") + 1]
    for escaped in (r"\textbackslash{}", r"\&", r"\{", r"\}", r"\%", r"\#", r"\$", "$<$", "$>$", "$|$"):
        row = row.replace(escaped, "")
    assert row.count("&") == 2 and row.count("{") == row.count("}")
    assert not set(row.replace(r"\_", "").replace("$\\pm$", "")) & set("$#%_~")
    assert next(csv.DictReader(io.StringIO(to_csv(table))))["model"] == model


@pytest.mark.parametrize("name", ["itemcoverage", "averagepopularity"])
def test_an_ablation_is_not_tested_on_what_is_not_per_user_or_has_no_direction(name: str) -> None:
    values = {"itemcoverage": 0.5, "averagepopularity": [1.0, 2.0]}
    runs = [make_run(model, hit=[0.5, 0.25], **{name: values[name]}) for model in ("SymCERE", "SymCERE, no text")]
    table = make_ablation(runs, ["hit@10", f"{name}@10"], "SymCERE")
    assert set(table.changes) == {("toy", "hit@10", "SymCERE, no text")}
    assert to_markdown(table)


def test_users_whom_each_seed_draws_anew_are_pooled() -> None:
    """With the seed 2, other users are tested, one of whom had been tested with the seed 1, too."""
    moved = [f"u{number + 7}" for number in range(8)]
    values = {("SymCERE", 1): [0.5] * 8, ("SymCERE", 2): [1.0] * 8, ("Pop", 1): [0.25] * 8, ("Pop", 2): [0.25] * 8}
    runs = [make_run(model, seed, hit=of_users) for (model, seed), of_users in values.items()]
    runs = [
        replace(run, per_user=run.per_user.with_columns(user_id=pl.Series(moved))) if run.seed == 2 else run
        for run in runs
    ]
    table = make_table(runs, ("hit@10",), ours=("SymCERE",))
    assert table.n_users == {"toy": 15}
    # Seven users with 0.5 - 0.25, one with the mean of both seeds, and seven with 1 - 0.25.
    found = table.contrasts["toy", "hit@10"].users
    assert found.difference == pytest.approx((7 * 0.25 + (0.75 - 0.25) + 7 * 0.75) / 15)
    other = [replace(run, per_user=run.per_user[:-1]) if (run.model, run.seed) == ("Pop", 2) else run for run in runs]
    with pytest.raises(RunsError, match="differ in test users: u14"):
        make_table(other, ("hit@10",), ours=("SymCERE",))
