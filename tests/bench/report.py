"""What does a person read at the end?  A Markdown table of medians, ratios and requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.bench.figures import FIGURES, Figure, Sample, medians, verdict

OURS = "kopsfs"


def number(value: float | None) -> str:
    if value is None:
        return "–"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return (
        f"{value:.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2g}"
        if value < 1
        else f"{value:.2f}"
    )


def table(samples: Sequence[Sample], peers: Sequence[str], labels: dict[str, str]) -> str:
    """One line a figure: goal, hoped, a column a peer, the ratio to the best other, and the verdict."""
    found = medians(list(samples))
    columns = [peer for peer in peers if any(sample.peer == peer for sample in samples)]
    others = [peer for peer in columns if not peer.startswith(OURS) and peer != "bare"]
    lines = [
        "| what | unit | goal | hoped | " + " | ".join(labels[peer] for peer in columns) + " | best peer / kopsfs | |",
        "|---|---|---|---|" + "---|" * len(columns) + "---|---|",
    ]
    for figure in FIGURES.values():
        if not any(sample.figure == figure.name for sample in samples):
            continue
        cells = [_cell(figure, peer, samples, found) for peer in columns]
        best = [value for peer in others if (value := found.get((figure.name, peer))) is not None]
        ours = found.get((figure.name, OURS))
        ratio = f"{min(best) / ours:.2g} ×" if best and ours else ""
        mine = [sample for sample in samples if sample.figure == figure.name and sample.peer == OURS]
        goal, hoped = number(figure.goal), number(figure.hoped)
        lines.append(
            f"| {figure.label} | {figure.unit} | ≤ {goal} | {hoped} | "
            + " | ".join(cells)
            + f" | {ratio} | {verdict(figure, mine)} |"
            if figure.goal is not None
            else f"| {figure.label} | {figure.unit} | | | " + " | ".join(cells) + f" | {ratio} | |"
        )
    return "\n".join(lines)


def _cell(figure: Figure, peer: str, samples: Sequence[Sample], found: dict[tuple[str, str], float | None]) -> str:
    mine = [sample for sample in samples if sample.figure == figure.name and sample.peer == peer]
    if not mine:
        return ""
    value = found[figure.name, peer]
    if value is None:
        return "no: " + mine[0].note.replace("|", "/")[:60]
    bound = "> " if any("stopped" in sample.note for sample in mine) else ""
    values = sorted(sample.value for sample in mine if sample.value is not None)
    spread = f" ({number(values[0])}–{number(values[-1])})" if len(values) > 1 and values[0] != values[-1] else ""
    return f"{bound}{number(value)}{spread}"


def requests(samples: Sequence[Sample], labels: dict[str, str]) -> str:
    """Requests by verb of every figure that counted them (first run)."""
    lines = ["| what | peer | requests |", "|---|---|---|"]
    done: Counter[tuple[str, str]] = Counter()
    for figure in FIGURES.values():
        for sample in samples:
            which = (sample.figure, sample.peer)
            if sample.figure == figure.name and sample.requests and not done[which]:
                done[which] += 1
                counts = ", ".join(f"{count} {verb.upper()}" for verb, count in sorted(sample.requests.items()))
                lines.append(f"| {figure.label} ({figure.name}) | {labels[sample.peer]} | {counts} |")
    return "\n".join(lines)


def notes(samples: Sequence[Sample], labels: dict[str, str]) -> str:
    """What could not be measured, and what a figure does not say by itself."""
    seen: dict[str, None] = {}
    for sample in samples:
        if sample.note:
            seen[f"* {sample.figure}, {labels[sample.peer]}: {sample.note}"] = None
    return "\n".join(seen)
