import json

import pytest
import torch

from medart_cli.finetune.estimate import needs
from medart_cli.finetune.estimate.footprint import Footprint
from medart_cli.finetune.options import FinetuneConfig
from medart_cli.finetune.rows import read_training_rows
from medart_cli.models import hub
from medart_cli.models.sizes import BASE_SIZES, HUB_SIZES
from tests.small import build_base


@pytest.fixture
def fetches(monkeypatch):
    """Refuse all fetching, as on a machine without network."""

    def fetch(name, **options):
        assert options["local_files_only"] is True
        raise FileNotFoundError(name)

    monkeypatch.setattr(hub, "snapshot_download", fetch)


def ask(medart, *words):
    code, output, errors = medart("finetune", *words, "--out", "run", "--dry-run", "--json")
    assert code == 0, errors
    return json.loads(output)["estimate"]


def test_a_dry_run_tells_of_the_run_and_writes_nothing(
    medart, small_base, images, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDART_CACHE", str(tmp_path / "cache"))
    words = [images, "--base", small_base, "--epochs", 30, "--batch-size", 2, "--resolution", 32]
    facts = ask(medart, *words, "--hldf-every", 40, "--val-fraction", 0.25)
    assert (facts["images"], facts["steps"], facts["hldf_steps"]) == (6, 90, 2)
    assert facts["memory"]["peak_gb"] > 0 and facts["memory"]["hldf_gb"].keys() >= {"step"}
    assert facts["disk"]["download_gb"] == 0 and facts["disk"]["run_gb"] > 0
    time = facts["time"]
    seconds = 88 * time["step_s"] + 2 * time["hldf_step_s"] + time["preview_s"]  # at the end
    assert time["hours"] == pytest.approx((seconds + 6 * time["encode_s"]) / 3600, abs=2e-3)
    assert list(tmp_path.iterdir()) == []
    slow = {**time, "hours": 117.6, "step_s": 67.94, "hldf_step_s": 2431.7}
    told = needs.format_estimate({**facts, "time": slow})[-1]
    assert "about 118 hours" in told and "step 67.9 s, HLDF step 2432 s" in told
    assert "template captions of" in told


def test_a_dry_run_trains_as_many_images_and_steps_as_the_run(medart, small_base, images, tmp_path):
    words = [images, "--base", small_base, "--epochs", 1, "--val-fraction", 0.25]
    words += ["--resolution", 32, "--hldf-every", 0, "--preview-every", 0]
    facts = ask(medart, *words)
    code, output, errors = medart("finetune", *words, "--out", tmp_path / "run", "--json")
    assert code == 0, errors
    run = json.loads(output)
    assert (facts["images"], facts["steps"]) == (run["data"]["images"], run["step"])
    assert facts["resolution"] == run["resolution"]


def test_a_base_that_is_not_here_is_judged_by_its_published_size(
    medart, images, fetches, monkeypatch
):
    monkeypatch.setattr(needs, "measure_pace", lambda *_: None)  # seconds of the real size
    facts = ask(medart, images, "--config", "low-memory", "--hldf-every", 0)
    assert facts["disk"]["download_gb"] == pytest.approx(21.7)
    assert facts["memory"]["reading_gb"] == pytest.approx(9.8, abs=0.1)
    assert facts["time"] is None and facts["cards"]["12"] is not None


def test_a_base_of_unknown_size_is_refused(medart, images, fetches):
    code, output, errors = medart(
        "finetune", images, "--base", "some/base", "--out", "run", "--dry-run"
    )
    assert (code, output) == (4, "")
    assert "some/base: is not here, and its size is not known" in errors
    assert sorted(HUB_SIZES)[0] in errors


def test_the_fastest_checkpointing_that_fits_a_card_is_named():
    prints = {
        mode: Footprint({}, None, 1e9, peak, 0)
        for mode, peak in (("none", 30e9), ("block", 14e9), ("step", 11e9))
    }
    found = [needs.find_fastest(prints, card) for card in (8, 12, 16, 24, 40)]
    assert found == [None, "step", "block", "block", "none"]


def test_a_run_warns_of_too_little_memory_and_names_what_to_change(
    tmp_path, images, said, monkeypatch
):
    base = build_base(tmp_path / "base")
    config = FinetuneConfig(data=str(images), out=tmp_path, base=str(base), resolution=32)
    data = read_training_rows(config)
    said.clear()
    needs.say_memory(config, data, base, torch.device("cpu"))
    assert said == []  # a small base fits anywhere
    monkeypatch.setattr(needs, "WORTH", 1)
    monkeypatch.setattr(needs, "machine_bytes", lambda: 1000)
    needs.say_memory(config, data, base, torch.device("cpu"))
    assert said[0].startswith("estimated memory: normal step 0.0 GB, HLDF step 0.0 GB")
    assert "will not fit the machine's 0.0 GB" in said[1]
    assert "--gradient-checkpointing" in said[1]


def test_every_published_size_can_be_estimated():
    assert {size.resolution for size in BASE_SIZES.values()} <= {512, 1024}
