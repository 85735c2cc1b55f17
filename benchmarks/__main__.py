"""Runs benchmarks, prints their table and writes it as JSON: ``python -m benchmarks [PART …] [--small]``."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import conversion, gpu, graph, loss, preparation, profile, ranking, service, text, training, whole
from benchmarks.measure import Options, Row
from recbole_symcere.provenance import commit, versions

PARTS: dict[str, Callable[[Options], Iterator[Row]]] = {
    "propagation": graph.propagation,
    "dropped-view": graph.dropped_view,
    "nce": loss.nce,
    "softmax": loss.softmax,
    "loops": training.loops,
    "frozen-encoding": text.frozen_encoding,
    "lora-epoch": text.lora_epoch,
    "lora-step": text.lora_step,
    "lora-memory": text.lora_memory,
    "full-ranking": ranking.full_ranking,
    "lists": ranking.lists,
    "frozen-run": training.frozen_run,
    "second-start": training.second_start,
    "conversion": conversion.conversion,
    "preparation": preparation.preparation,
    "reading": preparation.reading,
    "scaling": training.scaling,
    "epoch-profile": profile.epoch_profile,
    "service": service.service,
    "encoder-step": gpu.encoder_step,
    "runs": gpu.runs,
    "whole": whole.whole,
    "comparison": whole.comparison,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"parts to run, of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--small", action="store_true", help="use tiny inputs, to test that the benchmarks run")
    parser.add_argument("--output", type=Path, default=Path("benchmarks.json"), help="JSON file to write (%(default)s)")
    parser.add_argument("--data-path", type=Path, default=Path("dataset"), help="folder of real datasets (%(default)s)")
    parser.add_argument(
        "--recsysdatasets",
        type=Path,
        help="a clone of https://github.com/RUCAIBox/RecSysDatasets, the peer of the part conversion",
    )
    parser.add_argument(
        "--reviews", type=int, default=Options.reviews, help="number of reviews of the part preparation (%(default)s)"
    )
    parser.add_argument("--spark-master", metavar="URL", help="also prepare the reviews on this Spark, and compare")
    parser.add_argument("--raw", type=Path, default=Options.raw, help="folder of the raw file of whole (%(default)s)")
    parser.add_argument(
        "--older", type=Path, metavar="DIR", help="checkout of an older commit, for comparison and lora-step"
    )
    given = parser.parse_args(arguments)
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    names = ("small", "data_path", "recsysdatasets", "reviews", "spark_master", "raw", "older")
    options = Options(**{name: getattr(given, name) for name in names})
    torch.manual_seed(0)
    rows: list[Row] = []
    print(HEADER)
    for part in tqdm(given.parts or PARTS, desc="benchmarks", unit="part"):
        for row in PARTS[part](options):
            rows.append(row)
            tqdm.write(_line(row), file=sys.stdout)
    machine = {"cpu": platform.processor() or platform.machine(), "cuda": torch.cuda.is_available()}
    record = {"commit": commit(), "versions": versions(), "machine": machine, "rows": [row.as_dict() for row in rows]}
    given.output.write_text(json.dumps(record, indent=2) + "\n")
    return 0


COLUMNS = ("part", "case", "peer", "ours", "peer's", "ratio", "to reach", "over floor", "note")
HEADER = f"| {' | '.join(COLUMNS)} |\n|---|---|---|--:|--:|--:|--:|--:|---|"


def _line(row: Row) -> str:
    theirs = "" if row.theirs is None else f"{row.theirs:.3g} {row.unit}"
    ratio = "" if row.ratio is None else f"{row.ratio:.1f}x"
    target = "" if row.target is None else f"{row.target:.2g}x"
    floor = "" if row.floor is None else f"{row.ours / row.floor:.1f}x"
    cells = (row.part, row.case, row.peer, f"{row.ours:.3g} {row.unit}", theirs, ratio, target, floor, row.note)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
