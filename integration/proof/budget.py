"""What each step of the proof may take, what it took, and which one has grown."""
import os
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("budget.tsv")
# A run whose sum passes the budget's by so much names the steps that have grown.
GROWN = 1.1
# A step has grown when it took so much more than its budget.
STEP_GROWN, STEP_SECONDS = 1.1, 5


@dataclass
class Cost:
    """How long a step takes, and how long it keeps a processor busy, in seconds."""

    seconds: float
    cpu: float

    @property
    def waiting(self) -> float:
        return max(self.seconds - self.cpu, 0.0)


@dataclass
class Ran:
    name: str
    verdict: str
    remark: str
    cost: Cost


def read(file: Path = FILE) -> dict[str, Cost]:
    """The rows `NAME SECONDS CPU`; lines that begin with # are remarks."""
    if not file.exists():
        return {}
    rows = (line.split("\t") for line in file.read_text().splitlines() if line and not line.startswith("#"))
    return {name: Cost(float(seconds), float(cpu)) for name, seconds, cpu, *_ in rows}


def write(file: Path, ran: list[Ran]) -> None:
    rows = [f"{row.name}\t{row.cost.seconds:.0f}\t{row.cost.cpu:.0f}\t{row.verdict}\n" for row in ran]
    file.write_text("# step\tseconds\tprocessor seconds\tverdict\n" + "".join(rows))


COLUMNS = {"seconds": "s", "cpu": "s of a processor"}


def grown(costs: dict[str, Cost], budget: dict[str, Cost]) -> list[str]:
    """Sentences that name what has grown, the most first: nothing where the sums are within a tenth of the budget's.

    Both columns are judged: a step that waits longer takes no more of a processor, and how long it takes depends on
    what runs beside it."""
    if not budget:
        return [f"there is no {FILE.name}: the first whole run's timings.tsv is to become it"]
    known = [name for name in costs if name in budget]
    out = [f"{name} is not in {FILE.name}: it took {costs[name].seconds:.0f} s" for name in costs if name not in budget]
    for column, unit in COLUMNS.items():
        took = {name: getattr(costs[name], column) for name in known}
        may = {name: getattr(budget[name], column) for name in known}
        if sum(took.values()) <= sum(may.values()) * GROWN:
            continue
        out.append(f"the steps took {sum(took.values()):.0f} {unit}, {sum(may.values()):.0f} are in the budget; grown are:")
        for name in sorted(known, key=lambda name: may[name] - took[name]):
            if took[name] - may[name] >= STEP_SECONDS and took[name] > may[name] * STEP_GROWN:
                out.append(f"  {name}: {took[name]:.0f} {unit} instead of {may[name]:.0f}")
    return out


def table(rows: list[tuple]) -> None:
    for name, verdict, seconds, cpu, waiting, may, remark in rows:
        print(f"{name:<16} {verdict:<8} {seconds:>8} {cpu:>8} {waiting:>8} {may:>8}  {remark}".rstrip())


HEAD = ("step", "verdict", "seconds", "cpu", "waiting", "budget", "")


def summary(ran: list[Ran], seconds: float, out: Path, whole: bool) -> int:
    """Prints and keeps what became of the steps; the exit code of the run."""
    budget = read()
    print()
    rows = [HEAD]
    for row in ran:
        may = f"{budget[row.name].seconds:.0f}" if row.name in budget else "-"
        cost = row.cost
        rows.append((row.name, row.verdict, f"{cost.seconds:.0f}", f"{cost.cpu:.0f}", f"{cost.waiting:.0f}", may, row.remark))
    table(rows)
    write(out / "timings.tsv", ran)
    if whole:
        for line in grown({row.name: row.cost for row in ran if row.verdict == "passed"}, budget):
            print(line)
    print("\nlogs: target/integration; how long each crate took: target/cargo-timings")
    cpu = sum(row.cost.cpu for row in ran)
    print(f"{seconds:.0f} s in all, {cpu:.0f} s of {os.cpu_count()} processors")
    count = {verdict: sum(row.verdict == verdict for row in ran) for verdict in ("passed", "failed", "skipped")}
    print(", ".join(f"{n} {verdict}" for verdict, n in count.items()))
    return 1 if count["failed"] or (os.environ.get("CI") == "true" and count["skipped"]) else 0


def beside_last_run(file: Path) -> int:
    """Prints the budget beside the last run."""
    budget, last = read(), read(file)
    if not last:
        print(f"there was no run yet: {file} is missing")
    print(f"{'step':<16} {'seconds':>8} {'budget':>8} {'cpu':>8} {'budget':>8}")
    for name in sorted({*budget, *last}, key=lambda name: -budget.get(name, last.get(name)).seconds):
        cells = [getattr(costs[name], column) if name in costs else None for column in COLUMNS for costs in (last, budget)]
        print(f"{name:<16} " + " ".join(f"{cell:8.0f}" if cell is not None else f"{'-':>8}" for cell in cells))
    sums = [sum(getattr(cost, column) for cost in costs.values()) for column in COLUMNS for costs in (last, budget)]
    print(f"{'sum':<16} " + " ".join(f"{cell:8.0f}" for cell in sums))
    for line in grown(last, budget) if last else []:
        print(line)
    return 0
