"""The steps of the proof: what each runs, what it waits for, and how much of a processor it keeps busy."""
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKS = ROOT / "integration/checks"
# Builds of the shipped program and of tests go on at once; the second gives way to the first, on which checks wait.
GIVES_WAY = 10


@dataclass
class Step:
    """One step. `needs` are steps that must have passed; `after` are steps that must only have ended."""

    name: str
    command: list[str]
    limit: int  # seconds, after which the step is ended
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    nice: int = 0
    # The step judges times, so that nothing else may run beside it.
    alone: bool = False
    build: bool = False
    env: tuple[tuple[str, str], ...] = ()


def header(name: str, file: Path) -> str:
    """The value of a line `# NAME: value` at a check's top."""
    found = re.search(rf"^# {name}: (.*)$", file.read_text(), re.M)
    return found[1] if found else ""


def check_files() -> list[Path]:
    return sorted(file for file in CHECKS.iterdir() if file.is_file() and file.stat().st_mode & 0o100)


def needs_long(file: Path) -> bool:
    """The check runs with `--long` only: a simulated twin proves the same in the usual run."""
    return bool(header("long", file))


def check(file: Path, long: bool) -> Step:
    limit = int(header("limit", file) or 300) * (10 if long else 1)
    needs = ["build", "packages"]
    if header("needs", file) == "tests":
        needs.append("test-build")
    return Step(file.name, [str(file)], limit, tuple(needs), alone=bool(header("alone", file)))


def cargo(*args: str) -> list[str]:
    return ["cargo", *args, "--locked"]


TESTS = cargo("test", "--profile", "ci", "--workspace")


def packages() -> Step:
    return Step("packages", ["integration/packages"], 1800)


def linker() -> tuple[str, ...]:
    """What a build needs: only a machine without a linker needs the packages first."""
    return () if shutil.which("cc") else ("packages",)


def build() -> Step:
    return Step("build", cargo("build", "--release", "--timings"), 3000, linker(), build=True)


def test_build() -> Step:
    return Step("test-build", [*TESTS, "--no-run", "--timings"], 3000, linker(), nice=GIVES_WAY, build=True)


def whole() -> list[Step]:
    """All steps but packages and checks."""
    clippy = [*cargo("clippy", "--workspace", "--all-targets"), "--", "-D", "warnings"]
    return [
        Step("format", ["cargo", "fmt", "--all", "--check"], 60),
        build(),
        test_build(),
        # Tests use more than the program does: what only they need is told as unused by its own build.
        Step("unused", ["sh", "-c", "! grep -A 12 ^warning target/integration/build.log"], 10, ("build",)),
        Step("no-simulation", ["integration/proof/no_simulation"], 60, ("build", "packages")),
        Step("demo", cargo("run", "--release") + ["--", "demo"], 120, ("build",)),
        Step("tests", [*TESTS, "--no-fail-fast"], 3000, ("test-build", "packages"), nice=GIVES_WAY),
        Step("lints", clippy, 2400, linker(), after=("build", "test-build"), nice=GIVES_WAY, build=True),
    ]
