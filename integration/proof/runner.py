"""Runs steps side by side: those that builds wait on first, then the longest; those that judge times with nothing beside them."""
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from budget import Cost, Ran
from steps import Step

KILL_AFTER = 60  # seconds between the limit's SIGTERM and SIGKILL
SKIPPED = 77
# Most checks wait some of the time; what gives way to them has the rest. Some judge how soon an answer comes, so that no more run.
BESIDE = 1.25
# What a step that is not in the budget yet is taken for.
UNKNOWN = Cost(seconds=60, cpu=60)


@dataclass
class Running:
    step: Step
    # Held until it is waited for: `subprocess` waits for those that nobody holds, and their end would be lost here.
    child: subprocess.Popen
    begun: float
    ended_by_limit: bool = False
    killed: bool = False


class Runner:
    """Starts steps as what they need has passed, and ends all of them when it is stopped."""

    def __init__(self, out: Path, scratch: Path, costs: dict[str, Cost]):
        self.out, self.scratch, self.costs = out, scratch, costs
        self.running: dict[int, Running] = {}
        self.verdicts: dict[str, str] = {}
        self.ran: list[Ran] = []
        self.load_max = BESIDE * (os.cpu_count() or 1)

    def run(self, steps: list[Step]) -> list[Ran]:
        waiting = sorted(steps, key=self.urgency)
        while waiting or self.running:
            waiting = self.start_ready(waiting)
            if not self.running and waiting:
                waiting = self.give_up(waiting)
                continue
            self.conclude_next()
        return self.ran

    def cost(self, step: Step) -> Cost:
        return self.costs.get(step.name, UNKNOWN)

    def urgency(self, step: Step):
        """Builds first; then the longest first, so that none is left alone at the end."""
        return (step.alone, not step.build, step.nice, -self.cost(step).seconds, step.name)

    def cores(self, step: Step) -> float:
        """How many processors the step keeps busy. What gives way to others counts little."""
        cost = self.cost(step)
        busy = min(max(cost.cpu / max(cost.seconds, 1), 0.1), float(os.cpu_count() or 1))
        return 0.1 * busy if step.nice else busy

    def start_ready(self, waiting: list[Step]) -> list[Step]:
        left = []
        for step in waiting:
            if self.is_ready(step, left) and self.has_room(step):
                self.start(step)
            else:
                left.append(step)
        return left

    def is_ready(self, step: Step, before: list[Step]) -> bool:
        if step.alone and (self.running or any(not other.alone for other in before)):
            return False
        over = all(name in self.verdicts for name in step.after)
        return over and all(self.verdicts.get(name) == "passed" for name in step.needs)

    def has_room(self, step: Step) -> bool:
        busy = [running.step for running in self.running.values()]
        if any(other.alone for other in busy):
            return False
        return step.build or not busy or sum(map(self.cores, busy)) + self.cores(step) <= self.load_max

    def give_up(self, waiting: list[Step]) -> list[Step]:
        """Nothing runs and nothing can start: what needs a failed step has failed too, one generation at a time."""
        lost = [step for step in waiting if any(self.verdicts.get(name, "passed") != "passed" for name in step.needs)]
        for step in lost or waiting:
            failed = [name for name in step.needs if self.verdicts.get(name) != "passed"]
            self.note(step, "failed", f"not run: needs {' '.join(failed)}", 0.0, 0.0)
        return [step for step in waiting if step.name not in self.verdicts]

    def start(self, step: Step) -> None:
        folder, logs = self.scratch / step.name, self.out / step.name
        folder.mkdir(mode=0o711, exist_ok=True)
        folder.chmod(0o711)
        logs.mkdir(exist_ok=True)
        env = {**os.environ, "WINDLASS_TMP": str(folder), "WINDLASS_LOGS": str(logs), **dict(step.env)}
        command = [*give_way(step.nice), *step.command] if step.nice else step.command
        with open(self.log(step), "wb") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, start_new_session=True)
        self.running[child.pid] = Running(step, child, time.monotonic())

    def log(self, step: Step) -> Path:
        return self.out / f"{step.name}.log"

    def conclude_next(self) -> None:
        """Waits until one step has ended, and ends those that are over their limits meanwhile."""
        while True:
            for pid in list(self.running):
                # `wait4` tells what the step and all that it waited for took of the processors.
                found, status, usage = os.wait4(pid, os.WNOHANG)
                if found:
                    self.conclude(pid, os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime)
                    return
                self.heed_limit(pid, self.running[pid])
            time.sleep(0.05)

    def heed_limit(self, pid: int, running: Running) -> None:
        over = time.monotonic() - running.begun - running.step.limit
        if over > 0 and not running.ended_by_limit:
            running.ended_by_limit = True
            signal_group(pid, signal.SIGTERM)
        if over > KILL_AFTER and not running.killed:
            running.killed = True
            signal_group(pid, signal.SIGKILL)

    def conclude(self, pid: int, code: int, cpu: float) -> None:
        running = self.running.pop(pid)
        running.child.returncode = code
        step, log = running.step, self.log(running.step)
        text = log.read_text(errors="replace")
        verdict, remark = "failed", f"exit {code}"
        if running.ended_by_limit:
            remark = f"took longer than {step.limit} s"
        elif code == 0:
            verdict, remark = "passed", counted(text)
        elif code == SKIPPED:
            verdict, remark = "skipped", (re.findall(r"^SKIP: (.*)$", text, re.M) or [""])[-1]
        left = left_behind(pid, self.scratch / step.name)
        if left:
            verdict, remark = "failed", f"{remark}; left something behind".lstrip("; ")
            with open(log, "a") as out:
                out.writelines(line + "\n" for line in left)
        self.note(step, verdict, remark, time.monotonic() - running.begun, cpu)

    def note(self, step: Step, verdict: str, remark: str, seconds: float, cpu: float) -> None:
        self.verdicts[step.name] = verdict
        self.ran.append(Ran(step.name, verdict, remark, Cost(seconds, cpu)))
        print(f"== {step.name:<14} {verdict}{f' ({remark})' if remark else ''}, {seconds:.0f} s", flush=True)
        if verdict == "failed" and self.log(step).exists():
            for line in excerpt(self.log(step).read_text(errors="replace")):
                print("   |", line)
            sys.stdout.flush()

    def stop(self) -> None:
        """Ends what still runs: all of a step's group gets SIGTERM and time to clean up, then SIGKILL."""
        for pid in self.running:
            signal_group(pid, signal.SIGTERM)
        limit = time.monotonic() + KILL_AFTER
        while self.running and time.monotonic() < limit:
            for pid, running in list(self.running.items()):
                if running.child.poll() is not None:
                    left_behind(pid, self.scratch / self.running.pop(pid).step.name)
            time.sleep(0.05)
        for pid in self.running:
            signal_group(pid, signal.SIGKILL)


def give_way(nice: int) -> list[str]:
    """What a command is put behind to give way. Where the kernel shares processors among sessions first (autogroups), niceness
    counts only within one: the session itself gives way there, and each step has one of its own."""
    return ["sh", "-c", f'echo {nice} 2>/dev/null >/proc/self/autogroup; exec nice -n {nice} "$@"', "sh"]


def signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def left_behind(group: int, folder: Path) -> list[str]:
    """Names processes and mounts that a step should have ended, and ends them."""
    left = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgid = stat.read_text().rsplit(")", 1)[1].split()[:3]
            name = (stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if int(pgid) == group and state != "Z":
            left.append(f"left running: {stat.parent.name} {name}")
    if left:
        signal_group(group, signal.SIGKILL)
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in (mount for mount in mounts if mount.startswith(f"{folder}/")):
        left.append(f"left mounted: {mount}")
        if subprocess.run(["umount", "-l", mount], check=False, stderr=subprocess.DEVNULL).returncode:
            subprocess.run(["fusermount3", "-uz", mount], check=False)
    return left


def counted(log: str) -> str:
    """What cargo's test runners counted."""
    found = re.findall(r"^test result: .*? (\d+) passed; \d+ failed; (\d+) ignored", log, re.M)
    passed, ignored = (sum(int(row[i]) for row in found) for i in (0, 1))
    return f"{passed} tests" + (f", {ignored} ignored" if ignored else "") if passed else ""


def excerpt(log: str) -> list[str]:
    """What tests that failed said stands in the middle of a log, what scripts said at its end."""
    lines = log.splitlines()
    panics = [i for i, line in enumerate(lines) if " panicked at " in line]
    middle = [line for i in panics[:12] for line in lines[i : i + 7]]
    return [*middle[:80], *(["..."] if middle else []), *lines[-40:]]
