"""Several processes and shards make what one process makes; they stop, fail and resume together."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from medart_cli import ranks
from medart_cli.data.dataset import read_data
from medart_cli.data.manifest import MANIFEST_NAME, PARTS_NAME
from medart_cli.errors import ConfigError
from tests.finetune.test_buckets import save_images
from tests.small_captioner import build_llava

ROOT = Path(__file__).parents[1]
TRAIN = (
    *("--resolution", 16, "--preview-every", 0, "--hldf-every", 2, "--hldf-steps", 4),
    *("--hldf-grad-steps", 2, "--hldf-draws", 3, "--hldf-grad-draws", 2),
    *("--caption-dropout", 0.3, "--device", "cpu"),
)
DRAW = ("--resolution", 16, "--steps", 3, "--batch-size", 2, "--count", 7, "--device", "cpu")


def words(*items):
    return [str(item) for item in items]


def start(*arguments, cache):
    """Start two processes with torchrun."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    port = ("--master-port", str(29600 + os.getpid() % 300))
    return subprocess.Popen(
        [*launcher, *port, "-m", *words(*arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MEDART_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_steps(run, count, process):
    """Wait until a run has made so many steps."""
    deadline = time.monotonic() + 600
    path = run / "metrics.jsonl"
    while not path.is_file() or path.read_text().count("\n") < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def last_checkpoint(run):
    return max((run / "checkpoints").glob("step-*"))


def weights(run):
    return {
        f"{path.parent.name}:{name}": tensor
        for path in sorted(run.glob("t*/*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def files_of(folder):
    """Everything a run has drawn and written, but for its summary, which counts what it drew."""
    paths = [path for path in folder.iterdir() if path.is_file() and path.name != "sample.json"]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def place(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("ranks")
    build_llava(folder / "llava")
    for name in ("one", "two", "three"):
        shutil.copytree(images, folder / "captions" / name)
    return folder


@pytest.fixture(scope="module")
def interrupted(place, small_base, images):
    """A run that was stopped by a signal, then lost a process; what was said of it."""
    run, cache = place / "interrupted", place / "cache"
    command = ("medart_cli", "finetune", images, "--base", small_base, "--out", run, *TRAIN,
               "--batch-size", 1, "--steps", 2000, "--save-every", 2)  # fmt: skip
    stopped = start(*command, "--save-every", 1000, cache=cache)
    wait_for_steps(run, 3, stopped)
    workers = psutil.Process(stopped.pid).children()
    [second] = [item for item in workers if item.environ().get("RANK") == "1"]
    second.send_signal(signal.SIGUSR1)  # to one of them alone
    _, said_of_stop = stopped.communicate(timeout=600)
    after_stop = last_checkpoint(run).name, (run / "metrics.jsonl").read_text().count("\n")

    broken = start(*command, cache=cache)
    wait_for_steps(run, after_stop[1] + 4, broken)
    workers = psutil.Process(broken.pid).children()
    [second] = [item for item in workers if item.environ().get("RANK") == "1"]
    second.kill()
    _, said_of_loss = broken.communicate(timeout=600)
    return {
        "run": run, "said_of_stop": said_of_stop, "after_stop": after_stop,
        "said_of_loss": said_of_loss, "code_of_loss": broken.returncode,
        "step": int(last_checkpoint(run).name.removeprefix("step-")) + 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def mixed(place):
    """Nine images, six of them wide and three of them high."""
    return save_images(place / "mixed", [(40, 30), (40, 30), (30, 40)] * 3)


@pytest.fixture(scope="module")
def together(place, small_base, images, mixed, interrupted):
    """What two processes make with each command; their common standard output and error."""
    train = ("finetune", images, "--base", small_base, *TRAIN, "--batch-size", 1)
    commands = [
        words(*train, "--out", place / "two", "--steps", 4),
        words(*train, "--out", interrupted["run"], "--steps", interrupted["step"]),
        words(*train, "--out", place / "whole", "--steps", interrupted["step"]),
        words("finetune", mixed, "--base", small_base, *TRAIN, "--batch-size", 2, "--buckets",
              "--out", place / "shapes-2", "--steps", 4),
        words("caption", place / "captions" / "two", "--model", place / "llava", "--base",
              small_base, "--attempts", 1, "--device", "cpu", "--batch-size", 1),
        words("sample", place / "two", "--from", images, "--out", place / "drawn-2", *DRAW),
        words("evaluate", images, place / "drawn-2", "--out", place / "report-2", "--bootstrap", 0,
              "--workers", 0, "--device", "cpu", "--no-copies", "--overall"),
    ]  # fmt: skip
    (place / "commands.json").write_text(json.dumps(commands))
    process = start("tests.several", place / "commands.json", cache=place / "cache")
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors
    return output, errors


def test_several_processes_print_one_result_each_and_warn_once(together, place, interrupted):
    output, errors = together
    assert output.splitlines() == words(
        place / "two", interrupted["run"], place / "whole", place / "shapes-2",
        place / "captions" / "two" / MANIFEST_NAME, place / "drawn-2", place / "report-2",
    )  # fmt: skip
    assert errors.count("8 of 8 images have no caption") == 3  # once in each training
    assert errors.count("rows have no caption") == 1, errors
    assert errors.count("training lora: steps 1 to 4\n") == 2  # one of them with buckets
    assert errors.count("buckets: 2, height x width") == 1


def test_two_processes_train_as_one_with_a_batch_of_two(
    together, place, medart, small_base, images
):
    code, _, errors = medart(
        "finetune", images, "--base", small_base, "--out", place / "one", *TRAIN,
        "--batch-size", 2, "--steps", 4,
    )  # fmt: skip
    assert code == 0, errors
    one, two = weights(place / "one"), weights(place / "two")
    assert one.keys() == two.keys()
    assert {name.split(":")[0] for name in one} == {"transformer", "text_encoder"}
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)


def test_two_processes_train_with_buckets_as_one_that_accumulates_two_batches(
    together, place, medart, small_base, mixed
):
    code, _, errors = medart(
        "finetune", mixed, "--base", small_base, "--out", place / "shapes-1", *TRAIN, "--buckets",
        "--batch-size", 2, "--accumulate", 2, "--steps", 4,
    )  # fmt: skip
    assert code == 0, errors
    one, two = weights(place / "shapes-1"), weights(place / "shapes-2")
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)


def test_a_signal_to_one_process_stops_all_at_one_step_with_a_checkpoint(interrupted):
    name, steps = interrupted["after_stop"]
    assert name == f"step-{steps:06d}"
    said = interrupted["said_of_stop"]
    assert said.count("run the same command again to resume") == 1
    assert "exitcode  : 75" in said
    assert "Traceback" not in said.split("torch/distributed", 1)[0]


def test_a_process_that_dies_ends_the_others_with_a_clear_message(interrupted):
    said = interrupted["said_of_loss"]
    assert interrupted["code_of_loss"] != 0
    assert "medart finetune: another rank failed" in said
    assert "resuming after step" in said


def test_what_was_stopped_and_broken_ends_as_if_nothing_had_been(together, place, interrupted):
    resumed, whole = weights(interrupted["run"]), weights(place / "whole")
    assert resumed.keys() == whole.keys()
    for name in whole:
        assert torch.equal(resumed[name], whole[name]), name


@pytest.fixture
def draw(place, together, medart, images):
    def run(out, *options):
        ended = medart("sample", place / "two", "--from", images, "--out", out, *DRAW, *options)
        assert ended[0] == 0, ended[2]
        return files_of(out)

    return run


def test_processes_and_shards_draw_what_one_process_draws_to_the_byte(place, draw, medart):
    whole = draw(place / "drawn-1")
    assert sum(name.endswith(".png") for name in whole) == 7 + 1  # and the contact sheet
    shards = place / "drawn-3"
    for number in (2, 1, 3):
        draw(shards, "--shard", f"{number}/3")
    assert not (shards / MANIFEST_NAME).exists()
    assert len(list((shards / PARTS_NAME).iterdir())) == 3
    with pytest.raises(ConfigError, match="is still in parts"):
        list(read_data(shards))
    joined = draw(shards)
    for made in (joined, files_of(place / "drawn-2")):
        assert made.keys() == whole.keys()
        for name in whole.keys() - {"settings.toml"}:  # it names the folder
            assert made[name] == whole[name], name


def test_a_shard_that_was_left_out_is_drawn_when_the_parts_are_joined(place, draw):
    out = place / "drawn-4"
    draw(out, "--shard", "2/3")
    first = (out / "000002.png").stat().st_mtime_ns
    made = draw(out)
    assert (out / "000002.png").stat().st_mtime_ns == first
    assert made[MANIFEST_NAME] == draw(place / "drawn-1")[MANIFEST_NAME]


def test_processes_and_shards_write_the_captions_of_one_process(
    together, place, medart, small_base
):
    def caption(name, *options):
        ended = medart(
            "caption", place / "captions" / name, "--model", place / "llava", "--base", small_base,
            "--attempts", 1, "--device", "cpu", "--batch-size", 1, *options,
        )  # fmt: skip
        assert ended[0] == 0, ended[2]
        return (place / "captions" / name / MANIFEST_NAME).read_bytes()

    whole = caption("one")
    assert whole.count(b'"text"') == 8
    assert (place / "captions" / "two" / MANIFEST_NAME).read_bytes() == whole
    for number in (3, 1, 2):
        assert b'"text"' not in caption("three", "--shard", f"{number}/3")
    assert caption("three") == whole
    left = [path.name for path in (place / "captions" / "three").iterdir()]
    assert not [name for name in left if "journal" in name]


def test_several_processes_measure_what_one_measures(together, place, medart, images, monkeypatch):
    monkeypatch.setenv("MEDART_CACHE", str(place / "cache-2"))
    common = ("evaluate", images, place / "drawn-2", "--bootstrap", 0, "--workers", 0, "--device",
              "cpu", "--no-copies", "--overall", "--out", place / "report-1")  # fmt: skip
    for shard in ("2/2", "1/2"):
        code, output, errors = medart(*common, "--shard", shard)
        assert (code, output) == (0, f"{place / 'cache-2'}\n"), errors
    assert not (place / "report-1").exists()
    code, _, errors = medart(*common)
    assert code == 0, errors
    assert "computing features" not in errors
    one, two = (json.loads((place / name / "metrics.json").read_text())["comparisons"]
                for name in ("report-1", "report-2"))  # fmt: skip
    assert one[0]["frechet"]["value"] == pytest.approx(two[0]["frechet"]["value"], rel=1e-5)


def test_several_processes_refuse_what_they_cannot_share(monkeypatch, medart, tmp_path):
    set_launch(monkeypatch, RANK=0, WORLD_SIZE=2, LOCAL_RANK=0, MASTER_ADDR="::1", MASTER_PORT=1)
    code, _, errors = medart("sample", "base", "--out", tmp_path / "syn", "--prompts", "-")
    assert (code, errors) == (
        2, "medart sample: -: several processes cannot share standard input; use a file\n"
    )  # fmt: skip
    code, _, errors = medart("classify", "data", "--out", tmp_path / "clf")
    assert code == 2
    assert errors.startswith("medart classify: runs as one process only; ")


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2", "1/2/3", "²/3"])
def test_a_shard_is_a_number_of_a_number(medart, text, tmp_path):
    code, _, errors = medart(
        "sample", "base", "--out", tmp_path / "syn", "--prompt", "cell", "--shard", text
    )
    assert (code, errors) == (
        2, f"medart sample: --shard {text}: must be I/N, such as 2/3 for the second of three\n"
    )  # fmt: skip


def test_the_parts_of_all_shards_and_processes_are_all_rows_once(monkeypatch):
    rows = list(range(23))
    for shards in (1, 2, 5):
        for count in (1, 3):
            monkeypatch.setenv("WORLD_SIZE", str(count))
            found = []
            for shard in range(1, shards + 1):
                for rank in range(count):
                    monkeypatch.setenv("RANK", str(rank))
                    found += ranks.own_part((shard, shards)).take(rows)
            assert sorted(found) == rows


def set_launch(monkeypatch, **values):
    """Set what launchers set, and nothing else of theirs."""
    for name in (*ranks.LAUNCH, *ranks.MPI_SIZES):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


WHOLE = {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "MASTER_ADDR": "::1", "MASTER_PORT": 29500}


@pytest.mark.parametrize("missing", WHOLE)
def test_half_a_launch_in_the_environment_is_refused_by_its_names(
    monkeypatch, medart, images, missing, tmp_path
):
    left = {name: value for name, value in WHOLE.items() if name != missing}
    set_launch(monkeypatch, **left)
    code, output, errors = medart("evaluate", images, images, "--out", tmp_path / "report")
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"medart evaluate: {', '.join(left)} in the environment without ")
    assert f"without {missing}: " in errors and f"`unset {' '.join(left)}`" in errors


@pytest.mark.parametrize(
    "left",
    [{"RANK": 0}, {"RANK": 1}, {"LOCAL_RANK": 0}, {"WORLD_SIZE": 2}, {"RANK": 1, "WORLD_SIZE": 1},
     {"RANK": ""}, {"RANK": 1, "MASTER_ADDR": "node"}, WHOLE | {"RANK": 2}, WHOLE | {"RANK": "a"},
     WHOLE | {"LOCAL_RANK": -1}, WHOLE | {"WORLD_SIZE": 0}, {"OMPI_COMM_WORLD_SIZE": 4},
     {"PMI_SIZE": 2, "PMI_RANK": 1}, {"MV2_COMM_WORLD_SIZE": 2, "WORLD_SIZE": 1}],
    ids=str,
)  # fmt: skip
def test_what_launchers_left_is_refused_with_how_to_unset_it(monkeypatch, left):
    set_launch(monkeypatch, **left)
    with pytest.raises(ConfigError) as refused:
        ranks.check_environment()
    assert "`unset " in str(refused.value) and "torchrun" in str(refused.value)
    assert all(name in str(refused.value) for name in left if name in ("RANK", "LOCAL_RANK"))


@pytest.mark.parametrize(
    "left", [{"MASTER_ADDR": "node"}, {"WORLD_SIZE": 1}, {"WORLD_SIZE": 1, "RANK": 0}], ids=str
)
def test_where_one_process_is_certain_what_was_left_is_passed_over_and_said(monkeypatch, left):
    set_launch(monkeypatch, **left)
    assert all(name in ranks.check_environment() for name in left)


@pytest.mark.parametrize(
    "launch",
    [{}, WHOLE, WHOLE | {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0},
     WHOLE | {"PMI_SIZE": 2, "PMI_RANK": 1}, {"SLURM_PROCID": 0, "SLURM_NTASKS": 1},
     {"SLURM_PROCID": 3, "SLURM_NTASKS": 4, "SLURM_LOCALID": 3}, {"PMI_SIZE": 1, "PMI_RANK": 0}],
    ids=str,
)  # fmt: skip
def test_launches_and_slurm_tasks_that_know_nothing_of_each_other_pass(monkeypatch, launch):
    set_launch(monkeypatch, **launch)
    assert ranks.check_environment() is None


def test_processes_of_accelerates_mpirun_pass(monkeypatch):
    launch = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500, "OMPI_COMM_WORLD_SIZE": 2}
    set_launch(monkeypatch, **launch)
    ranks.check_environment()


def test_what_process_0_finds_is_what_all_get(monkeypatch):
    assert ranks.ask_first(lambda: "found") == "found"

    def refuse():
        raise AssertionError("process 1 looks by itself")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda found: ["heard"])
    assert ranks.ask_first(refuse) == "heard"


def test_one_process_alone_waits_for_nobody_and_loads_nothing_for_it():
    code = "import sys; from medart_cli import ranks; ranks.wait_for_all(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "accelerate"} & {*done.stdout.split()}
