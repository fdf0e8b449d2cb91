"""The steps of the proof: what each runs, what it waits for, and how much of a processor it keeps busy."""
import platform
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKS = ROOT / "integration/checks"
# What checks wait for goes first, and the checks themselves: all else takes what they leave of the processors.
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
    # Others wait for it, or for what it builds: it comes before what is only judged.
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
    needs = ("build", "packages", *header("needs", file).split())
    return Step(file.name, [str(file)], limit, needs, alone=bool(header("alone", file)))


def cargo(*args: str) -> list[str]:
    return ["cargo", *args, "--locked"]


def both(first: list[str], second: list[str]) -> list[str]:
    return ["sh", "-c", f"{shlex.join(first)} && {shlex.join(second)}"]


# Each layer's unit tests are compiled by a wrapper of rustc: the layer with debug assertions and not optimized, what it stands on
# as shipped, which is there already.
UNIT_TESTS = cargo("test", "--release", "--workspace", "--lib")
WRAPPER = ("RUSTC_WRAPPER", str(ROOT / "integration/proof/rustc_for_unit_tests"))
OTHER_TESTS = cargo("test", "--release", "--workspace", "--bin", "mount-windlass", "--test", "*")
# Nothing is linked: what C code these would have built is not made, five minutes of a processor.
AWS_LC = "aws_lc_" + re.search(r'name = "aws-lc-sys"\nversion = "(.+)"', (ROOT / "Cargo.lock").read_text())[1].replace(".", "_")
UNBUILT = [
    f"--config=target.{platform.machine()}-unknown-linux-gnu.{says}"
    for says in (
        'jemalloc.rustc-cfg=["prefixed"]',
        "zstd.rustc-cfg=['feature=\"std\"']",
        f'{AWS_LC}.rustc-cfg=["universal"]',
        f'{AWS_LC}.include="none"',
    )
]
CLIPPY = [*cargo("clippy", "--workspace", "--all-targets"), *UNBUILT, "--", "-D", "warnings"]


def packages() -> Step:
    return Step("packages", ["integration/packages"], 1800)


def linker() -> tuple[str, ...]:
    """What a build needs: only a machine without a linker needs the packages first."""
    return () if shutil.which("cc") else ("packages",)


def build() -> Step:
    """The programs as shipped, and the examples, which some checks use."""
    command = both(cargo("build", "--release", "--timings"), cargo("build", "--release", "--examples"))
    return Step("build", command, 5000, linker(), build=True)


def test_build() -> Step:
    """All tests that are linked with the library as shipped; a check runs some of them against a real server."""
    return Step("test-build", [*OTHER_TESTS, "--no-run"], 4000, ("build",), after=("demo",), nice=GIVES_WAY, build=True)


def whole() -> list[Step]:
    """All steps but packages and checks. Two builds can't use one folder at once, so those in target/release come in turn."""
    return [
        Step("format", ["cargo", "fmt", "--all", "--check"], 60),
        Step("scripts", ["integration/proof/scripts"], 120, ("packages",), nice=GIVES_WAY),
        build(),
        # While the last crate of the release build takes one processor.
        Step("lints", CLIPPY, 5000, linker(), nice=GIVES_WAY, build=True),
        # Tests use more than the program does: what only they need is told as unused by its own build.
        Step("unused", ["sh", "-c", "! grep -A 12 ^warning target/integration/build.log"], 10, ("build",)),
        Step("no-simulation", ["integration/proof/no_simulation"], 60, ("build", "packages")),
        Step("demo", [*cargo("run", "--release"), "--", "demo"], 120, ("build",), build=True),
        test_build(),
        Step("simulation", [*OTHER_TESTS, "--no-fail-fast"], 4000, ("test-build", "packages"), nice=GIVES_WAY),
        Step(
            "unit-tests",
            [*UNIT_TESTS, "--no-fail-fast"],
            5000,
            after=("test-build",),
            nice=GIVES_WAY,
            build=True,
            env=(WRAPPER,),
        ),
    ]
