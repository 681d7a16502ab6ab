"""The table a run of the suite ends with: a line for each scenario, printed and written to `out/table.md`."""

from __future__ import annotations

import platform
from pathlib import Path

from chaos.stage import Played

HEAD = (
    "fault", "seed", "events", "requests", "unknown (stored)", "lost", "doubled", "reordered", "redelivered",
    "first answer", "recovered", "verdict",
)  # fmt: skip
LOST = ("C1 lost", "C2 group lost", "C11 hole", "C11 trimmed early")
DOUBLED = ("C5 duplicate", "C6 inconsistent position")
REORDERED = ("C7 order stored", "C7 key moved", "C8 order delivered")


class Table:
    """Grows while scenarios are played."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def add(self, played: Played) -> None:
        figures, recovery = played.report.figures, played.recovery
        again = sum(number for name, number in figures.items() if name.startswith("again["))
        calm = played.scenario.calm
        self.rows.append(
            (
                played.scenario.name,
                str(played.seed),
                f"{figures['ok'] + figures['fail'] + figures['unknown']:,}",
                f"{played.requests:,}",
                f"{figures['unknown']:,} ({figures['unknown_stored']:,})",
                *(f"{_count(played, rules):,}" for rules in (LOST, DOUBLED, REORDERED)),
                f"{again:,}",
                "-" if calm else _seconds(recovery.first_ok_s),
                "-" if calm else _seconds(recovery.whole_s),
                "; ".join(played.wrong) or "kept",
            )
        )

    def __str__(self) -> str:
        lines = [HEAD, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
        text = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
            for line in lines
        ]
        text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join(text)

    def write(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{self}\n\n{platform.platform()}, Python {platform.python_version()}\n")


def _count(played: Played, rules: tuple[str, ...]) -> int:
    return sum(one.count for one in played.report.violations if one.rule in set(rules) - played.excused)


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"
