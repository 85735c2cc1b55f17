"""What a reader must know of the test part to read metrics by the history of users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recbole_symcere.comparison.tables import Run

MEANING = (
    "Known users have an interaction in training, recent users have their first one in validation, and new users have "
    "none before the test part."
)
KINDS = {"known": "trainedndcg@10", "recent": "validonlyndcg@10", "new": "strangerndcg@10"}


def history_notes(runs: Sequence[Run]) -> tuple[str, ...]:
    """Returns sentences on the test part of each dataset: its users by their history, and what no ranking can reach."""
    first_runs = {run.dataset: run for run in reversed(runs)}
    return (MEANING, *(_note(first_runs[dataset]) for dataset in sorted(first_runs)))


def _note(run: Run) -> str:
    counts = [
        f"{run.per_user[name].fill_nan(None).count():,} {kind}"
        for kind, name in KINDS.items()
        if name in run.per_user.columns
    ]
    note = f"Test users of {run.dataset}: {', '.join(counts)}."
    unseen, ceiling = run.metrics.get("unseenrows"), run.metrics.get("ceilingndcg@10")
    if unseen is not None and ceiling is not None:
        note += (
            f" {unseen:.1%} of the test interactions are of items that nobody met before. They count as misses, except "
            f"in the column over seen items, so NDCG@10 can't be above {ceiling:.4f}."
        )
    return note
