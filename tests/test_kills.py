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
from contextlib import suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from medart_cli.cli import main
from tests.jobs import COMMANDS, build_parts, command, outcome
from tests.small_study import build_study, study_words

ANSWER = 10.0  # seconds in which a run has to answer SIGTERM
# Imports everything once (many seconds), then forks children for each line it is told: one for each
# of the commands, which run at the same time.
ZYGOTE = """
import json, os, sys
import matplotlib.backends.backend_agg, torch
from medart_cli.cli import main
from tests.jobs import COMMANDS
for name in (*COMMANDS, "study"):
    __import__(f"medart_cli.{name}.run")
import medart_cli.study.report
torch.set_num_threads(1)

def start(job, words, cache):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ["MEDART_CACHE"] = cache
            os.chdir(job["folder"])
            main(words)
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child

print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    children = [start(job, *command) for command in job["commands"]]
    print(json.dumps(children), flush=True)
    ended = [os.wait4(child, 0) for child in children]
    print(json.dumps([(code, use.ru_utime + use.ru_stime) for _, code, use in ended]), flush=True)
"""


class Zygote:
    """A process that forks one command at a time, or some that run at the same time."""

    def __init__(self, log):
        self.log = log
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        here = Path(__file__).parents[1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE], bufsize=1, cwd=here, **pipes
        )
        assert self.process.stdout.readline() == "ready\n"

    def start(self, words, cache):
        return self.start_all([(words, cache)])[0]

    def start_all(self, commands, folder="."):
        """Start commands, each with its cache, in a folder; return their numbers."""
        self.log.write_text("")
        commands = [(words, str(cache)) for words, cache in commands]
        job = {"commands": commands, "folder": str(folder), "log": str(self.log)}
        self.process.stdin.write(json.dumps(job) + "\n")
        return json.loads(self.process.stdout.readline())

    def wait(self):
        """Return the exit code; minus the signal where one ended the command."""
        return self.wait_all()[0][0]

    def wait_all(self):
        """Return the exit codes, and how many seconds of a processor each command has used."""
        ended = json.loads(self.process.stdout.readline())
        return [os.waitstatus_to_exitcode(code) for code, _ in ended], [used for _, used in ended]


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
    last = {}
    for name in found:
        run, inside, rest = name.partition("/checkpoints/")
        if inside:
            last[run] = max(last.get(run, ""), rest.partition("/")[0])
    return {name: digest for name, digest in found.items() if not is_on_the_way(name, last)}


def is_on_the_way(name, last):
    run, inside, rest = name.partition("/checkpoints/")
    return bool(inside) and rest.partition("/")[0] != last[run]


def list_steps(stage, parts, out):
    """Return the one step of a stage's command, for `kill_often`."""
    return [[(command(stage, parts, out), out.with_name(f"{out.name}-cache"))]]


class Killer:
    """Starts commands, kills some at a random moment, and resumes them until all are done.

    Attributes:
        chance: Says when, and which of them; the signals take turns.
        left: How many more runs are to be killed.
        counts: How many each signal has ended.
    """

    def __init__(self, zygote, name, kills):
        self.zygote, self.left = zygote, kills
        self.chance = random.Random(f"{name} {kills}")
        self.counts = {signal.SIGKILL: 0, signal.SIGTERM: 0}

    def finish(self, commands, folder, work):
        """Run commands at the same time.

        Args:
            commands: The commands, with their caches.
            folder: Where they run.
            work: Seconds of a processor that the longest needs when nothing kills it. Moments are
                told by them: however busy the machine is, they are spread over the whole work.
        """
        while commands:
            children = self.zygote.start_all(commands, folder)
            codes = self.kill_some(children, work) if self.left > 0 else self.zygote.wait_all()[0]
            assert {*codes} <= {0, 75, -signal.SIGKILL, -signal.SIGTERM}, (
                self.zygote.log.read_text()
            )
            commands = [it for it, code in zip(commands, codes, strict=True) if code]

    def kill_some(self, children, work):
        moment = self.chance.uniform(0, work)
        while 0 <= max(map(read_work, children)) < moment:
            time.sleep(0.005)
        name = min(self.counts, key=self.counts.get)
        some = self.chance.randint(1, min(self.left, len(children)))
        for child in self.chance.sample(children, some):
            with suppress(ProcessLookupError):
                os.kill(child, name)
        killed = time.monotonic()
        codes, _ = self.zygote.wait_all()
        if some == len(children):
            assert time.monotonic() - killed < ANSWER
        ended = sum(code != 0 for code in codes)
        assert ended <= some and all(code in (0, 75, -name) for code in codes), (
            self.zygote.log.read_text()
        )
        self.counts[name] += ended
        self.left -= ended
        return codes


def read_work(child):
    """Return how many seconds of a processor a process has used; -1 if it has ended."""
    try:
        process = psutil.Process(child)
        times = process.cpu_times()
        ended = process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return -1
    return -1 if ended else times.user + times.system


def kill_often(zygote, folder, name, kills, steps):
    """Kill commands so many times, resume them each time, and compare what they leave in the end.

    Args:
        zygote: What starts them.
        folder: For all outputs.
        name: Another name, other moments.
        kills: How many runs are killed.
        steps: Takes an output folder, returns what is run one after another: lists of commands
            with their caches, which run at the same time.

    Returns:
        How many runs were killed by each signal.
    """
    killer, works = Killer(zygote, name, kills), []
    whole = folder / "whole"
    whole.mkdir(parents=True)
    for commands in steps(whole):
        zygote.start_all(commands, whole)
        codes, used = zygote.wait_all()
        assert not any(codes), zygote.log.read_text()
        works.append(max(used))
    expected = lasting(whole)
    for number in range(1000):
        out = folder / f"out{number}"
        out.mkdir()
        for commands, work in zip(steps(out), works, strict=True):
            killer.finish(commands, out, work)
        assert lasting(out) == expected, zygote.log.read_text()
        hidden = [path.name for path in out.rglob(".*")]
        assert hidden == [], "what killed runs leave is gone in the end"
        if killer.left <= 0:
            return killer.counts


@pytest.mark.parametrize("stage", COMMANDS)
def test_killed_runs_go_on_and_end_as_one_that_was_not(zygote, parts, tmp_path, stage):
    counts = kill_often(zygote, tmp_path, stage, 4, partial(list_steps, stage, parts))
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
    counts = kill_often(zygote, tmp_path, stage, 24, partial(list_steps, stage, parts))
    assert sum(counts.values()) == 24 and min(counts.values()) > 4


@pytest.fixture(scope="module")
def study_parts(tmp_path_factory):
    return build_study(tmp_path_factory.mktemp("study"))


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["one", "two"])
def test_a_study_that_is_killed_very_often_does_too(zygote, study_parts, tmp_path, name):
    def job(out, shard=None):
        more = ["--seeds", 1, "--quiet", *(["--shard", shard] if shard else [])]
        finetune = "--steps 6 --save-every 2"
        # Its folder has the same name in all runs, since settings, commands and figures name it.
        words = study_words(study_parts, "study", *more, arms="lora,score", finetune=finetune)
        # Each shard has its own cache: a feature's last bits depend on the batch that it was
        # computed in, and so on what the other shard has computed already.
        return words, out.with_name(f"{out.name}-cache-{(shard or 'all')[0]}")

    def steps(out):
        return [[job(out)]]

    def steps_of_shards(out):
        return [[job(out, "1/2"), job(out, "2/2")], [job(out)]]

    for kind in (steps, steps_of_shards):
        counts = kill_often(zygote, tmp_path / kind.__name__, name, 20, kind)
        assert sum(counts.values()) >= 20 and min(counts.values()) > 8
    one, two = (lasting(tmp_path / kind.__name__ / "whole") for kind in (steps, steps_of_shards))
    assert one.keys() == two.keys()
