"""What an evaluation found: for people a table, for machines plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from facekit.cli.console import count, table
from facekit.evaluate import (
    ROC,
    GroupRates,
    HardPair,
    Interval,
    Intervals,
    PeopleReport,
    SearchReport,
    VerificationReport,
)
from facekit.face import Face
from facekit.threshold import Threshold

__all__ = ["Evaluation", "Run", "figures", "group_rows"]

_LOST = 10  # pictures without a face that the table names

Row = tuple[str, str, str]
"""A figure's name, its value, and its interval."""


@dataclass(frozen=True, slots=True)
class Run:
    """How the pictures were embedded.

    Attributes:
        compared: the file or folder that was evaluated.
        checkpoint: fingerprint of network and preprocessing.
        flip_average: whether each crop was averaged with its mirror image.
        device: where it ran.
        embed_seconds: from files to embeddings.
        compare_seconds: from embeddings to figures.
    """

    compared: str
    checkpoint: str
    flip_average: bool
    device: str
    embed_seconds: float
    compare_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All that was found.

    Attributes:
        run: how.
        report: the figures, of a list of pairs or of all pairs of a folder.
        curve: the ROC.
        search: how well people are found; None where that cannot be told.
        limit: the threshold that the groups share; None where none is known.
        groups: errors by group; None where nobody asked.
        ungrouped: number of pictures that belong to no group.
        false_accepts: the most alike pairs of two people, by the numbers of their pictures.
        false_rejects: the least alike pairs of one person.
        pictures: what was embedded.
        faces: picture -> the face that counted.
        lost: picture -> why it has none.
    """

    run: Run
    report: VerificationReport | PeopleReport
    curve: ROC
    search: SearchReport | None
    limit: Threshold | None
    groups: Sequence[GroupRates] | None
    ungrouped: int
    false_accepts: Sequence[HardPair]
    false_rejects: Sequence[HardPair]
    pictures: Sequence[Path]
    faces: Mapping[Path, Face]
    lost: Mapping[str, str]

    def timed(self, seconds: float) -> Evaluation:
        """The same, with what comparing took."""
        return replace(self, run=replace(self.run, compare_seconds=seconds))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **self.report.to_dict(),
            "search": None if self.search is None else self.search.to_dict(),
            "at_threshold": self._at_threshold(),
            "groups": None if self.groups is None else [group.to_dict() for group in self.groups],
            "pictures_without_group": None if self.groups is None else self.ungrouped,
            "worst": {
                "false_accepts": [self._named(pair) for pair in self.false_accepts],
                "false_rejects": [self._named(pair) for pair in self.false_rejects],
            },
            "pictures": {"total": len(self.pictures), "without_face": dict(self.lost)},
            "seconds": {
                "embed": round(self.run.embed_seconds, 3),
                "compare": round(self.run.compare_seconds, 3),
            },
            "device": self.run.device,
            "checkpoint": self.run.checkpoint,
            "flip_average": self.run.flip_average,
        }

    def to_text(self) -> str:
        """A table for the terminal."""
        known = self.report.intervals
        rows = [(name, f"{value}  {ends}".rstrip()) for name, value, ends in figures(self)]
        parts = [table(rows)]
        if known is not None:
            parts.append(f"  [ ]: {known.confidence:.0%} of tests with {known.people:,} other people")
        if self.groups is not None and self.limit is not None:
            parts.append(f"\nGroups, all at the threshold {self.limit.similarity:.4f}:")
            parts.append(table(group_rows(self.groups)))
        if self.groups is not None and self.ungrouped:
            parts.append(f"  {count(self.ungrouped, 'picture')} of no group")
        lost = [f"lost: {name}: {why}" for name, why in self.lost.items()]
        more = [f"lost: {count(len(lost) - _LOST, 'more picture')}"] if len(lost) > _LOST else []
        return "\n".join([*parts, *(table([(line,)]) for line in [*lost[:_LOST], *more])])

    def _at_threshold(self) -> dict[str, Any] | None:
        if self.limit is None:
            return None
        fmr, tar = self.curve.rates_at(self.limit.similarity)
        known = {"threshold": self.limit.similarity, "calibrated_far": self.limit.far}
        return {**known, "fmr": fmr, "fnmr": 1 - tar}

    def _named(self, pair: HardPair) -> dict[str, Any]:
        a, b = (str(self.pictures[side]) for side in (pair.a, pair.b))
        return {"a": a, "b": b, "similarity": pair.score}


def figures(found: Evaluation) -> list[Row]:
    """The figures with their intervals, one a row."""
    report, run, known = found.report, found.run, found.report.intervals
    total, seconds = len(found.pictures), run.embed_seconds
    speed = f"{total / max(seconds, 1e-3):,.1f} pictures a second"
    mirrored = ", averaged with the mirror image" if run.flip_average else ""
    return [
        *_accuracy(report),
        ("AUC", f"{report.auc:.4f}", _ends(None if known is None else known.auc)),
        ("EER", f"{report.eer:.4f}", _ends(None if known is None else known.eer)),
        *(
            (f"TAR@FAR={far:g}", _rate(tar, 1 / far, "pairs of two people"), _ends(_tar(known, far)))
            for far, tar in report.tar_at_far.items()
        ),
        *_threshold(found),
        *_search(found.search),
        ("pairs", f"{report.genuine:,} of one person, {report.impostor:,} of two", ""),
        (
            "faces",
            f"in {total - len(found.lost):,} of {total:,} pictures; {count(report.missing, 'pair')} without",
            "",
        ),
        ("time", f"{seconds:.1f} s on {run.device}, {speed}; comparing {run.compare_seconds:.1f} s", ""),
        ("checkpoint", run.checkpoint + mirrored, ""),
    ]


def group_rows(groups: Sequence[GroupRates]) -> list[tuple[str, ...]]:
    """The errors by group under headings, one group a row."""
    headings = ("group", "people", "FMR", "", "of pairs", "FNMR", "", "of pairs")
    return [
        headings,
        *(
            (
                group.group,
                f"{group.people:,}",
                _rate(group.fmr, 100, "pairs"),
                _ends(group.fmr_interval, digits=6),
                f"{group.impostor:,}",
                _rate(group.fnmr, 100, "pairs"),
                _ends(group.fnmr_interval),
                f"{group.genuine:,}",
            )
            for group in groups
        ),
    ]


def _accuracy(report: VerificationReport | PeopleReport) -> list[Row]:
    if isinstance(report, PeopleReport):
        return []
    folds = count(len(report.folds), "fold")
    ends = _ends(None if report.intervals is None else report.intervals.accuracy)
    return [
        ("accuracy", f"{report.accuracy:.4f} +- {report.standard_error:.4f} ({folds})", ends),
        ("threshold", f"{report.threshold:.4f} (mean of the folds)", ""),
    ]


def _threshold(found: Evaluation) -> list[Row]:
    if found.limit is None:
        return []
    fmr, tar = found.curve.rates_at(found.limit.similarity)
    promised = "" if found.limit.far is None else f" (calibrated for FAR {found.limit.far:.3g})"
    return [
        (f"at {found.limit.similarity:.4f}", f"FMR {fmr:.4g}, FNMR {1 - tar:.4g}{promised}", ""),
    ]


def _search(search: SearchReport | None) -> list[Row]:
    if search is None:
        return []
    size = f"{count(search.probes, 'search', 'searches')} among {search.gallery:,} people"
    rates = search.tpir_at_fpir.items()
    return [
        ("found first", f"{search.rank1:.4f} of {size}", ""),
        *((f"TPIR@FPIR={fpir:g}", _rate(tpir, 1 / fpir, "searches"), "") for fpir, tpir in rates),
    ]


def _tar(known: Intervals | None, far: float) -> Interval:
    return None if known is None else known.tar_at_far[far]


def _rate(value: float | None, needed: float, of: str) -> str:
    if value is None:
        return f"needs at least {needed:,.0f} {of}"
    return f"{value:.4f}" if value >= 1e-3 or not value else f"{value:.2g}"


def _ends(interval: Interval, *, digits: int = 4) -> str:
    return "" if interval is None else f"[{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"
