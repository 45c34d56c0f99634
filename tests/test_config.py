from pathlib import Path

import pytest

from medart_cli.config import FinetuneConfig, SampleConfig, settings_of
from medart_cli.errors import ConfigError


def test_a_notebook_hears_the_same_sentence_as_the_command_line():
    with pytest.raises(ConfigError, match="^--batch-size must be 1 or more, got 0$"):
        FinetuneConfig(data="d", out=Path("o"), batch_size=0)
    with pytest.raises(ConfigError, match="^--out: missing"):
        SampleConfig(run="r", prompt=["a"])


def test_settings_are_flat_and_leave_unset_options_out():
    settings = settings_of(FinetuneConfig(data="d", out=Path("run"), target=["to_q"]))
    assert settings["out"] == "run"
    assert settings["target"] == ["to_q"]
    assert "steps" not in settings
    assert "config" not in settings
    assert all(isinstance(value, str | int | float | list) for value in settings.values())


def test_a_config_cannot_be_changed_afterwards():
    config = FinetuneConfig(data="d", out=Path("o"))
    with pytest.raises(AttributeError):
        config.rank = 3
