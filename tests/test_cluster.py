"""The scripts of docs/cluster.md do what the page says, with stand-ins for SLURM's commands."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from medart_cli import cli

PAGE = Path(__file__).parents[1] / "docs" / "cluster.md"
SCRIPTS = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
# Starts the tasks as srun does, hands USR1 on to them, and returns the highest exit code.
SRUN = """#!/bin/bash
[[ $1 == --kill-on-bad-exit=1 ]] && shift
export SLURM_PROCID SLURM_LOCALID
for ((SLURM_PROCID = 0; SLURM_PROCID < SLURM_NTASKS; SLURM_PROCID++)); do
  SLURM_LOCALID=$SLURM_PROCID
  "$@" & tasks+=($!)
done
trap 'kill -USR1 "${tasks[@]}"' USR1
echo $$ > "$STAND_INS/srun.pid"
highest=0
for task in "${tasks[@]}"; do
  while true; do
    wait "$task"; code=$?
    kill -0 "$task" 2> /dev/null || break
  done
  ((code > highest)) && highest=$code
done
exit $highest
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then echo 127.0.0.1; else echo "$@" >> "$STAND_INS/scontrol.log"; fi
"""


def take(taken, name, options, _):
    """Stand in for the command's work: keep its options."""
    taken.append(cli.COMMANDS[name](**options))
    return 0


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A place with the stand-ins on the path; returns a function that starts a script there."""
    folder = tmp_path / "stand-ins"
    folder.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "STAND_INS": str(folder),
        "SLURM_NTASKS": "2", "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "here",
        "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_CPUS_PER_TASK": "1", "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "3",
    }  # fmt: skip

    def start(script, **more):
        return subprocess.Popen(
            ["bash", "-c", script], cwd=tmp_path, env={**environment, **more}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def test_the_page_has_the_scripts_to_try():
    assert len(SCRIPTS) == 2
    for script in SCRIPTS:
        subprocess.run(["bash", "-n", "-c", script], check=True)
        assert "#SBATCH --signal=USR1@" in script


def test_a_training_that_slurm_stops_saves_and_queues_itself_again(
    slurm, small_base, images, tmp_path
):
    command = "medart finetune images --config paper --out run"
    assert command in SCRIPTS[0]
    small = shlex.join(map(str, (
        sys.executable, "-m", "medart_cli", "finetune", images, "--base", small_base, "--out",
        "run", "--device", "cpu", "--resolution", 16, "--steps", 100_000, "--preview-every", 0,
        "--hldf-every", 0, "--quiet",
    )))  # fmt: skip
    job = slurm(SCRIPTS[0].replace(command, small))
    steps = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not steps.is_file() or steps.read_text().count("\n") < 2:
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(int((tmp_path / "stand-ins" / "srun.pid").read_text()), signal.SIGUSR1)
    _, errors = job.communicate(timeout=600)
    assert job.returncode == 75, errors
    assert errors.count("stopped by a signal; run the same command again to resume") == 1
    asked = (tmp_path / "stand-ins" / "scontrol.log").read_text()
    assert asked == f"requeue {os.getpid()}\n"
    [saved] = (tmp_path / "run" / "checkpoints").iterdir()
    assert int(saved.name.removeprefix("step-")) == steps.read_text().count("\n")


def test_a_job_of_the_array_does_its_part_and_queues_itself_again_when_stopped(
    slurm, tmp_path, monkeypatch
):
    medart = tmp_path / "stand-ins" / "medart"
    medart.write_text('#!/bin/bash\necho "$@"\nexit $MEDART_CODE\n')
    medart.chmod(0o755)
    log = tmp_path / "stand-ins" / "scontrol.log"
    for code, requeued in ((0, False), (1, False), (75, True)):
        job = slurm(SCRIPTS[1], SLURM_NTASKS="1", MEDART_CODE=str(code))
        said, _ = job.communicate(timeout=60)
        assert job.returncode == code
        assert log.is_file() == requeued
    assert log.read_text() == "requeue 77_3\n"
    taken = []
    monkeypatch.setattr(cli, "run_command", partial(take, taken))
    with pytest.raises(SystemExit):
        cli.main(shlex.split(said))
    assert taken[0].shard == "3/8"


def test_a_job_that_is_stopped_again_and_again_gives_up(slurm, tmp_path):
    medart = tmp_path / "stand-ins" / "medart"
    medart.write_text("#!/bin/bash\nexit 75\n")
    medart.chmod(0o755)
    job = slurm(SCRIPTS[1], SLURM_NTASKS="1", SLURM_RESTART_COUNT="50")
    job.communicate(timeout=60)
    assert job.returncode == 75
    assert not (tmp_path / "stand-ins" / "scontrol.log").exists()


def test_commands_for_launchers_are_ones_that_medart_takes(monkeypatch):
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"-m medart_cli (\w+ [^.`\n]*?)\n", text)
    assert len(lines) >= 3
    taken = []
    monkeypatch.setattr(cli, "run_command", partial(take, taken))
    for line in lines:
        with pytest.raises(SystemExit) as ended:
            cli.main(shlex.split(line))
        assert not ended.value.code, line
    assert len(taken) == len(lines)
