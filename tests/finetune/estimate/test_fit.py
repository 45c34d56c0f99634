from dataclasses import replace
from pathlib import Path

import pytest

from medart_cli.errors import ConfigError
from medart_cli.finetune.estimate import fit
from medart_cli.finetune.estimate.footprint import Footprint
from medart_cli.finetune.options import FinetuneConfig


@pytest.fixture
def needs(monkeypatch):
    """Let each option take off some of the memory, so that rungs can be told apart; in GB."""

    class Small:
        def __init__(self, *_, **__):
            pass

        def reckon(self, config, precision, mode):
            peak = {"none": 40, "block": 20, "step": 16}[mode]
            peak -= 4 * config.gradient_checkpointing
            peak -= {None: 0, "int8": 1, "nf4": 1.5}[config.base_format]
            peak += 2 * (config.batch_size - 1)
            saved = {"none": 0, "text-encoder-layers": 4, "text-encoder": 5}[config.offload]
            if config.train_text_encoder or not config.use_cache:  # it is there in each step
                return Footprint({}, None, 1e9, (peak - saved) * 1e9, 0)
            reading = {0: 30e9, 4: 2e9, 5: None}[saved]
            return Footprint({}, reading, 1e9, peak * 1e9, 0)

    monkeypatch.setattr(fit, "Reckoner", Small)


def choose(card, **options):
    config = FinetuneConfig(data="-", out=Path("run"), base="tiny", fit=card, **options)
    found = fit.fit_card(config)
    names = "hldf_checkpoint", "gradient_checkpointing", "batch_size", "accumulate", "offload"
    return tuple(getattr(found, name) for name in names)


def test_the_fastest_options_that_fit_are_chosen(needs, said):
    assert choose(48) == ("none", False, 1, 1, "none")
    assert choose(24) == ("block", False, 1, 1, "none")
    assert choose(18) == ("step", False, 1, 1, "none")
    assert choose(14) == ("step", True, 1, 1, "none")
    assert choose(8) == ("step", True, 1, 1, "text-encoder")
    assert "--freeze-text-encoder is faster" in said[-1]
    assert said[-2].startswith(
        "--fit 8: --hldf-checkpoint step --gradient-checkpointing --offload text-encoder; an "
        "estimated 7.0 GB; results stay the same, but for rounding"
    )


def test_what_changes_results_comes_last_and_says_so(needs, said):
    pytest.importorskip("bitsandbytes")
    config = FinetuneConfig(data="-", out=Path("run"), base="tiny", fit=7)
    assert fit.fit_card(config).base_format == "int8"
    told = next(line for line in said if line.startswith("--fit 7: "))
    assert "--base-format int8; an estimated 6.0 GB; the quantized base changes results" in told
    with pytest.raises(ConfigError, match="1.8 GB more"):
        fit.fit_card(replace(config, fit=4))
    full = replace(config, method="full", train_text_encoder=False, use_cache=False)
    with pytest.raises(ConfigError, match="7.0 GB is needed"):
        fit.fit_card(full)


def test_captions_that_are_read_once_go_by_layers_before_training_is_made_slower(needs):
    frozen = {"train_text_encoder": False}
    assert choose(48, **frozen) == ("none", False, 1, 1, "none")
    assert choose(24, **frozen) == ("block", False, 1, 1, "text-encoder-layers")
    assert choose(14, **frozen) == ("step", True, 1, 1, "text-encoder-layers")


def test_a_frozen_text_encoder_that_stays_goes_by_layers_first(needs):
    stays = {"train_text_encoder": False, "use_cache": False}
    assert choose(14, **stays) == ("step", True, 1, 1, "none")
    assert choose(9, **stays) == ("step", True, 1, 1, "text-encoder-layers")
    assert choose(8, **stays) == ("step", True, 1, 1, "text-encoder")


def test_nf4_which_cannot_go_by_layers_takes_the_text_encoder_to_the_cpu(needs, monkeypatch):
    pytest.importorskip("bitsandbytes")
    words = {"data": "-", "out": Path("run"), "base": "tiny", "train_text_encoder": False}
    config = FinetuneConfig(**words, fit=12)  # 11.2 GB of which are given
    found = fit.fit_card(config)
    assert (found.base_format, found.offload) == ("int8", "text-encoder-layers")
    monkeypatch.setattr(fit, "USABLE", 0.9e9)  # 10.8 GB
    found = fit.fit_card(config)
    assert (found.base_format, found.offload) == ("nf4", "text-encoder")
    with pytest.raises(ConfigError, match="11.0 GB is needed"):  # what is given stays
        fit.fit_card(replace(config, offload="text-encoder-layers"))
    with pytest.raises(ConfigError, match="GB is needed"):  # also where each step needs it
        fit.fit_card(replace(config, fit=4, offload="text-encoder-layers", use_cache=False))
    found = fit.fit_card(replace(config, base_format="nf4"))
    assert (found.base_format, found.offload) == ("nf4", "text-encoder")


def test_given_options_stay(needs):
    assert choose(24, hldf_checkpoint="step")[0] == "step"
    with pytest.raises(ConfigError, match="35.5 GB is needed.*--batch-size 1"):
        choose(8, batch_size=4, hldf_checkpoint="none")


def test_a_batch_from_a_settings_file_becomes_gradient_accumulation(needs, tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("batch_size = 4\n")
    assert choose(14, batch_size=4, config=str(file)) == ("step", True, 1, 4, "none")


def test_what_does_not_fit_says_how_much_is_missing(needs):
    with pytest.raises(ConfigError) as error:
        choose(4)
    assert error.value.exit_code == 2
    assert str(error.value) == (
        "--fit 4: an estimated 5.5 GB is needed with the most frugal options, 1.8 GB more than "
        "such a GPU has to give; use --freeze-text-encoder or a smaller --resolution"
    )


def test_a_fitted_run_resumes_and_holds_the_resolved_options(medart, images, tmp_path):
    words = ["finetune", images, "--base", "tiny", "--steps", 2, "--resolution", 32, "--fit", 12]
    words += ["--hldf-every", 2, "--hldf-steps", 2, "--out", tmp_path / "run"]
    words += ["--preview-every", 0]
    code, _, errors = medart(*words)
    assert code == 0, errors
    assert 'hldf_checkpoint = "none"' in (tmp_path / "run" / "settings.toml").read_text()
    words[words.index("--steps") + 1] = 3
    code, _, errors = medart(*words)
    assert code == 0 and "resuming after step 2" in errors


def test_nf4_alone_is_enough_where_the_captions_can_then_be_read_on_the_gpu(monkeypatch):
    pytest.importorskip("bitsandbytes")

    class Small:
        def __init__(self, *_, **__):
            pass

        def reckon(self, config, precision, mode):
            reading = {None: 9e9, "int8": 6e9, "nf4": 4e9}[config.base_format]
            reading = {"none": reading, "text-encoder-layers": 2e9, "text-encoder": 0}[
                config.offload
            ]
            step = {None: 9e9, "int8": 7e9, "nf4": 5e9}[config.base_format]
            return Footprint({}, reading, step, None, 0)

    monkeypatch.setattr(fit, "Reckoner", Small)
    monkeypatch.setattr(fit, "USABLE", 1e9)
    words = {"data": "-", "out": Path("run"), "base": "tiny", "train_text_encoder": False}
    found = fit.fit_card(FinetuneConfig(**words, fit=6))
    assert (found.base_format, found.offload) == ("nf4", "none")
