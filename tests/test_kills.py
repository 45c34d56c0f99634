"""Kills at random moments: each command is resumed until it is done, and nothing may show of it."""

import importlib
import json
import os
import pty
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medart_cli.cli import main
from tests.jobs import COMMANDS, build_parts, command, outcome

ANSWER = 10.0  # seconds in which a run has to answer SIGTERM
# Imports everything once (many seconds), then forks a child for each line it is told.
ZYGOTE = """
import json, os, sys
import matplotlib.backends.backend_agg, torch
from medart_cli.cli import main
from medart_cli.cli import main
from tests.jobs import COMMANDS
for name in COMMANDS:
    __import__(f"medart_cli.{name}.run")
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ["MEDART_CACHE"] = job["cache"]
            main(job["words"])
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Zygote:
    """A process that forks one command at a time."""

    def __init__(self, log):
        self.log = log
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        here = Path(__file__).parents[1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE], bufsize=1, cwd=here, **pipes
        )
        assert self.process.stdout.readline() == "ready\n"

    def start(self, words, cache):
        self.log.write_text("")
        job = {"words": words, "cache": str(cache), "log": str(self.log)}
        self.process.stdin.write(json.dumps(job) + "\n")
        return int(self.process.stdout.readline())

    def wait(self):
        """Return the exit code; minus the signal where one ended the command."""
        return os.waitstatus_to_exitcode(int(self.process.stdout.readline()))

    def run(self, words, cache):
        self.start(words, cache)
        return self.wait()


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return build_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    zygote = Zygote(tmp_path_factory.mktemp("zygote") / "log")
    yield zygote
    zygote.process.stdin.close()
    zygote.process.wait()


def lasting(folder):
    """Return the outcome without the checkpoints on the way, which a stop adds to."""
    found = outcome(folder)
    last = max((name for name in found if name.startswith("run/checkpoints/")), default="/")
    on_the_way = [
        name
        for name in found
        if name.startswith("run/checkpoints/") and not name.startswith(last.rsplit("/", 1)[0])
    ]
    return {name: digest for name, digest in found.items() if name not in on_the_way}


def kill_often(zygote, parts, folder, stage, kills):
    """Kill a command so many times, resume it each time, and compare what it leaves in the end.

    Returns:
        How many runs were killed by each signal.
    """
    chance = random.Random(f"{stage} {kills}")
    counts = {signal.SIGKILL: 0, signal.SIGTERM: 0}
    whole = folder / "whole"
    whole.mkdir()
    began = time.monotonic()
    assert zygote.run(command(stage, parts, whole), folder / "whole-cache") == 0
    length, expected = time.monotonic() - began, lasting(whole)
    for number in range(1000):
        out, cache = folder / f"out{number}", folder / f"cache{number}"
        out.mkdir()
        words, code = command(stage, parts, out), None
        while code != 0:
            left = kills - sum(counts.values())
            child = zygote.start(words, cache)
            if left > 0:
                time.sleep(chance.uniform(0, length))
                number_of = chance.choice(list(counts))
                killed = time.monotonic()
                try:
                    os.kill(child, number_of)
                except ProcessLookupError:
                    number_of = None
                code = zygote.wait()
                if number_of == signal.SIGTERM:
                    assert time.monotonic() - killed < ANSWER
                if code in (75, -signal.SIGKILL, -signal.SIGTERM):
                    counts[number_of] += 1
                    continue
            else:
                code = zygote.wait()
            assert code == 0, (code, zygote.log.read_text())
        assert lasting(out) == expected, zygote.log.read_text()
        hidden = [path.name for path in out.rglob(".*")]
        assert hidden == [], "what killed runs leave is gone in the end"
        if sum(counts.values()) >= kills:
            return counts


@pytest.mark.parametrize("stage", COMMANDS)
def test_killed_runs_go_on_and_end_as_one_that_was_not(zygote, parts, tmp_path, stage):
    counts = kill_often(zygote, parts, tmp_path, stage, 4)
    assert sum(counts.values()) == 4


@pytest.mark.parametrize("base", ["small", "tiny"])
def test_sigterm_is_answered_inside_an_hldf_step(zygote, parts, tmp_path, base):
    words = command("finetune", parts, tmp_path)
    words += ["--steps", "500", "--hldf-every", "1", "--hldf-steps", "20", "--preview-every", "0"]
    words += ["--base", "tiny", "--resolution", "64"] if base == "tiny" else []
    child = zygote.start(words, tmp_path / "cache")
    while not (tmp_path / "run" / "run.json").is_file() and is_alive(child):
        time.sleep(0.01)
    time.sleep(1)  # all but a few hundredths of a step are HLDF
    if is_alive(child):
        os.kill(child, signal.SIGTERM)
    killed = time.monotonic()
    code = zygote.wait()
    if code == 4:
        pytest.skip("the embedded base is not there")
    assert code == 75, zygote.log.read_text()
    assert time.monotonic() - killed < ANSWER
    assert "stopped by SIGTERM; run the same command again" in zygote.log.read_text()


def test_a_lost_connection_leaves_a_checkpoint_and_code_75(parts, tmp_path):
    """The terminal goes, as with an ssh connection: its programs get SIGHUP and cannot write."""
    words = command("finetune", parts, tmp_path)
    words[words.index("--quiet")] = "--verbose"  # with a bar, on that terminal
    words += ["--steps", "5000", "--hldf-every", "5000", "--preview-every", "0"]
    importlib.import_module("medart_cli.finetune.train")
    child, terminal = pty.fork()
    if child == 0:
        os.environ["MEDART_CACHE"] = str(tmp_path / "cache")
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        code = 1
        try:
            main(words)
        except SystemExit as ended:
            code = ended.code
        finally:
            os._exit(code)
    metrics = tmp_path / "run/metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().count("\n") > 3):
        if select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 10_000)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 75
    last = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert (tmp_path / f"run/checkpoints/step-{last:06d}/state.json").is_file()


def is_alive(child):
    try:
        os.kill(child, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.nightly
@pytest.mark.parametrize("stage", COMMANDS)
def test_runs_that_are_killed_very_often_do_too(zygote, parts, tmp_path, stage):
    counts = kill_often(zygote, parts, tmp_path, stage, 24)
    assert sum(counts.values()) == 24 and min(counts.values()) > 4
