"""The whole proof in one command, from a fresh clone with nothing installed by hand: system packages, format, lints, unit
tests with debug assertions, the release build, the tour, the simulation, then every script in integration/checks.

  integration/run                 everything
  integration/run outage cli      these checks only (and the release build)
  integration/run --list          what there is
  integration/run --budget        what each step may take, beside what it took in the last run
  --long                          more rounds, longer loads, and checks that wait by real clocks (hours)
  --no-install                    take the machine as it is

Each step's output is kept in target/integration, with timings.tsv (seconds, processor seconds) and cargo's reports of builds.
The last line is `N passed, N failed, N skipped`; the exit code is 0 when nothing failed. With CI=true a skipped check is a failed one.
"""
import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import budget
import steps
from runner import Runner

OUT = steps.ROOT / "target/integration"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("integration/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checks", nargs="*", metavar="CHECK")
    parser.add_argument("--list", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--budget", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--long", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--no-install", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    known = {file.name for file in steps.check_files()}
    for name in chosen.checks:
        if name not in known:
            parser.error(f"there is no check {name}; integration/run --list names them")
    return chosen


def plan(chosen: argparse.Namespace) -> list[steps.Step]:
    files = steps.check_files()
    planned = [] if chosen.no_install else [steps.packages()]
    if chosen.checks:
        files = [file for file in files if file.name in chosen.checks]
        planned.append(steps.build())
        if any("test-build" in steps.header("needs", file) for file in files):
            planned.append(steps.test_build())
    else:
        files = [file for file in files if chosen.long or not steps.needs_long(file)]
        planned += steps.whole()
    planned += [steps.check(file, chosen.long) for file in files]
    names = {step.name for step in planned}
    for step in planned:
        step.needs = tuple(name for name in step.needs if name in names)
        step.after = tuple(name for name in step.after if name in names)
    return planned


def listed() -> None:
    for file in steps.check_files():
        only = " (--long)" if steps.needs_long(file) else ""
        print(f"{file.name:<18} {steps.header('what', file)}{only}")


def main() -> int:
    chosen = arguments()
    os.chdir(steps.ROOT)
    if chosen.list:
        listed()
        return 0
    if chosen.budget:
        return budget.beside_last_run(OUT / "timings.tsv")
    os.environ.update(WINDLASS_LONG="1" if chosen.long else "", CARGO_TERM_COLOR="never")
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    # Short, because a socket's path may have no more than 107 bytes; open, because some checks act as other users.
    scratch = Path(tempfile.mkdtemp(prefix="wl."))
    scratch.chmod(0o711)
    runner = Runner(OUT, scratch, budget.read())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    begun = time.monotonic()
    try:
        ran = runner.run(plan(chosen))
    finally:
        runner.stop()
        shutil.rmtree(scratch, ignore_errors=True)
    whole = not chosen.checks and not chosen.long
    return budget.summary(ran, time.monotonic() - begun, OUT, whole)


if __name__ == "__main__":
    sys.exit(main())
