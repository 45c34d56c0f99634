import errno
import json
import os
import resource
import shutil
import signal
import subprocess

import pytest
import torch
from safetensors.torch import save_file

from medart_cli.data import checkpoint
from medart_cli.errors import ConfigError, RunError
from medart_cli.finetune.state import (
    flatten_optimizer,
    load_tensors,
    restore_optimizer,
    save_tensors,
)


def fill(folder):
    (folder / "transformer").mkdir()
    for name in ("transformer/weights.safetensors", checkpoint.OPTIMIZER_NAME):
        save_file({"a": torch.ones(3)}, folder / name)
    state = {"step": 1, "run": {"trained": ["transformer"]}, "sums": checkpoint.SUMS_NAME}
    (folder / checkpoint.STATE_NAME).write_text(json.dumps(state))
    checkpoint.write_sums(folder)


def fill_as_before_there_were_hashes(folder):
    fill(folder)
    (folder / checkpoint.SUMS_NAME).unlink()
    state = {"step": 1, "run": {"trained": ["transformer"]}}
    (folder / checkpoint.STATE_NAME).write_text(json.dumps(state))


def test_a_kill_in_the_middle_of_a_save_leaves_the_last_checkpoint(tmp_path):
    checkpoint.write_folder(checkpoint.checkpoint_folder(tmp_path, 1), fill)

    def fill_and_die(folder):
        fill(folder)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        checkpoint.write_folder(checkpoint.checkpoint_folder(tmp_path, 2), fill_and_die)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert [path.name for path in checkpoint.find_checkpoints(tmp_path)] == ["step-000001"]
    checkpoint.write_folder(checkpoint.checkpoint_folder(tmp_path, 2), fill)
    checkpoint.prune_checkpoints(tmp_path, 2, 2)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000001", "step-000002"]


def test_a_full_disk_is_one_error_and_keeps_the_old_folder(tmp_path):
    folder = tmp_path / "transformer"
    checkpoint.write_folder(folder, fill)

    def fail(draft):
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            tensor = {"a": torch.zeros(10_000)}
            save_tensors(draft / "a.safetensors", tensor, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, before)

    with pytest.raises(RunError, match="could not be written .*File too large.*intact"):
        checkpoint.write_folder(folder, fail)
    assert (folder / checkpoint.STATE_NAME).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["transformer"]


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for step in (5, 10, 1000):
        checkpoint.write_folder(checkpoint.checkpoint_folder(tmp_path, step), fill)
    checkpoint.prune_checkpoints(tmp_path, 2, 1000)
    names = [path.name for path in checkpoint.find_checkpoints(tmp_path)]
    assert names == ["step-000010", "step-001000"]
    checkpoint.prune_checkpoints(tmp_path, 1, 10)  # a torn one of a later step takes no place
    names = [path.name for path in checkpoint.find_checkpoints(tmp_path)]
    assert names == ["step-000010", "step-001000"]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


WEIGHTS = "transformer/weights.safetensors"
TEARS = {
    "state gone": (lambda it: (it / "state.json").unlink(), "state.json is missing"),
    "state torn": (
        lambda it: (it / "state.json").write_text('{"step'),
        "state.json is corrupt or truncated",
    ),
    "state edited": (
        lambda it: (it / "state.json").write_text((it / "state.json").read_text() + " "),
        "state.json is not the file that was saved",
    ),
    "sums gone": (lambda it: (it / "sha256sums.txt").unlink(), "sha256sums.txt is missing"),
    "another key in the state": (
        lambda it: (it / "state.json").write_text(
            (it / "state.json").read_text().replace('"sums"', '"rums"')
        ),
        "state.json is not the file that was saved",
    ),
    "a line of the sums gone": (
        lambda it: (it / "sha256sums.txt").write_text(
            "\n".join((it / "sha256sums.txt").read_text().splitlines()[1:])
        ),
        "is missing",
    ),
    "weights gone": (lambda it: (it / WEIGHTS).unlink(), f"{WEIGHTS} is missing"),
    "half deleted": (lambda it: shutil.rmtree(it / "transformer"), "is missing"),
    "a bit of the weights": (
        lambda it: flip_a_bit(it / WEIGHTS),
        f"{WEIGHTS} is not the file that was",
    ),
    "a bit of the optimizer": (
        lambda it: flip_a_bit(it / "optimizer.safetensors"),
        "optimizer.safetensors is not the file that was saved",
    ),
}


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_checkpoint_is_passed_over_for_an_older_one_and_said(
    tmp_path, caplog, monkeypatch, tear
):
    monkeypatch.setattr(checkpoint.log, "propagate", True)
    folders = [checkpoint.checkpoint_folder(tmp_path, step) for step in (1, 2)]
    for folder in folders:
        checkpoint.write_folder(folder, fill)
    damage, told = TEARS[tear]
    assert checkpoint.find_last(tmp_path)[0] == folders[1]
    damage(folders[1])
    assert checkpoint.find_last(tmp_path)[0] == folders[0]
    assert told in caplog.text and "resuming from step-000001 instead" in caplog.text
    damage(folders[0])
    with pytest.raises(ConfigError, match="this run has no intact checkpoint: restore one"):
        checkpoint.find_last(tmp_path)


def test_the_hashes_are_those_of_sha256sum(tmp_path):
    checkpoint.write_folder(tmp_path / "step", fill)
    command = ["sha256sum", "--check", "--strict", checkpoint.SUMS_NAME]
    subprocess.run(command, cwd=tmp_path / "step", check=True, capture_output=True)
    assert len((tmp_path / "step" / checkpoint.SUMS_NAME).read_text().splitlines()) == 3


def test_a_checkpoint_of_before_there_were_hashes_is_taken_if_it_opens(tmp_path):
    folder = checkpoint.checkpoint_folder(tmp_path, 1)
    checkpoint.write_folder(folder, fill_as_before_there_were_hashes)
    assert checkpoint.find_last(tmp_path)[0] == folder
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ConfigError, match="weights.safetensors is corrupt or truncated"):
        checkpoint.find_last(tmp_path)


def test_a_file_that_cannot_be_read_is_not_taken_for_a_torn_one(tmp_path, monkeypatch):
    checkpoint.write_folder(checkpoint.checkpoint_folder(tmp_path, 1), fill)

    def fail(path):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(checkpoint, "hash_file", fail)
    with pytest.raises(OSError, match="Stale file handle"):
        checkpoint.find_last(tmp_path)


def test_drawing_needs_no_optimizer(tmp_path):
    folder = checkpoint.checkpoint_folder(tmp_path, 1)
    checkpoint.write_folder(folder, fill)
    (folder / checkpoint.OPTIMIZER_NAME).unlink()
    assert checkpoint.find_run(folder)[0] == folder
    flip_a_bit(folder / WEIGHTS)
    with pytest.raises(ConfigError, match="is not the file that was saved"):
        checkpoint.find_run(folder)
    (folder / checkpoint.STATE_NAME).unlink()
    with pytest.raises(ConfigError, match="state.json is missing"):
        checkpoint.find_run(folder)
    base = tmp_path / checkpoint.CHECKPOINTS / "my-base"  # a folder of that name may hold others
    base.mkdir()
    assert checkpoint.find_run(base) is None


@pytest.mark.parametrize("left", ["a result", "the facts of a saved step"])
def test_a_trained_folder_without_checkpoints_is_not_begun_anew(tmp_path, left):
    checkpoint.refuse_lost(tmp_path)
    if left == "a result":
        (tmp_path / "transformer").mkdir()
    else:
        (tmp_path / checkpoint.RUN_NAME).write_text('{"step": 7}')
    with pytest.raises(
        ConfigError, match="was trained to step .*, and its checkpoints are missing"
    ):
        checkpoint.refuse_lost(tmp_path)
    checkpoint.write_folder(checkpoint.checkpoint_folder(tmp_path, 7), fill)
    checkpoint.refuse_lost(tmp_path)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad])
def test_an_optimizer_survives_the_way_through_safetensors(tmp_path, kind):
    def train(parameter, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (parameter**4).sum().backward()
            optimizer.step()

    whole, parts = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    train(whole, kind([whole], lr=0.1), 4)
    first = kind([parts], lr=0.1)
    train(parts, first, 2)
    path = tmp_path / "optimizer.safetensors"
    save_tensors(path, *flatten_optimizer(first))
    second = kind([parts], lr=99.0)
    restore_optimizer(second, *load_tensors(path))
    train(parts, second, 2)
    assert torch.equal(whole, parts)


class Nested(torch.optim.SGD):
    """Keeps a part of its state one level down when it is saved, as bitsandbytes does."""

    def state_dict(self):
        state = super().state_dict()
        nested = {
            index: {"__quant_state__": {"absmax": values["momentum_buffer"]}}
            for index, values in state["state"].items()
        }
        return {**state, "state": nested}

    def load_state_dict(self, state):
        for values in state["state"].values():
            values["momentum_buffer"] = values.pop("absmax")
        super().load_state_dict(state)


def test_state_that_lies_one_level_down_survives_too(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = Nested([parameter], lr=0.1, momentum=0.9)
    (parameter**2).sum().backward()
    optimizer.step()
    path = tmp_path / "optimizer.safetensors"
    save_tensors(path, *flatten_optimizer(optimizer))
    restored = Nested([parameter], lr=0.1, momentum=0.9)
    restore_optimizer(restored, *load_tensors(path))
    kept = optimizer.state[parameter]["momentum_buffer"]
    assert torch.equal(restored.state[parameter]["momentum_buffer"], kept)


def test_the_log_loses_the_steps_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"st')
    checkpoint.trim_log(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_an_unfinished_run_names_its_checkpoint(tmp_path):
    (tmp_path / checkpoint.RUN_NAME).write_text('{"status": "running"}')
    with pytest.raises(ConfigError, match="it has no checkpoint"):
        checkpoint.find_run(tmp_path)
    checkpoint.write_folder(checkpoint.checkpoint_folder(tmp_path, 1), fill)
    with pytest.raises(ConfigError, match="step-000001"):
        checkpoint.find_run(tmp_path)
    assert checkpoint.find_run(checkpoint.checkpoint_folder(tmp_path, 1)) is not None
    assert checkpoint.find_run(tmp_path / "checkpoints") is None


def test_a_run_without_all_it_trained_is_never_taken_for_the_base(tmp_path):
    fill_as_before_there_were_hashes(tmp_path)
    facts = {"status": "done", "trained": ["transformer", "text_encoder"]}
    (tmp_path / checkpoint.STATE_NAME).write_text(json.dumps({"step": 1, "run": facts}))
    with pytest.raises(ConfigError, match="text_encoder/ is missing"):
        checkpoint.find_run(tmp_path)
    (tmp_path / checkpoint.STATE_NAME).unlink()
    facts["checkpoint"] = checkpoint.hash_trained(tmp_path)
    facts["trained"] = ["transformer"]
    (tmp_path / checkpoint.RUN_NAME).write_text(json.dumps(facts))
    assert checkpoint.find_run(tmp_path) is not None
    (tmp_path / "transformer" / "weights.safetensors").write_bytes(b"others")
    with pytest.raises(ConfigError, match="do not match those in run.json"):
        checkpoint.find_run(tmp_path)
