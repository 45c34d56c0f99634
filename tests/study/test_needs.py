import pytest

from medart_cli.study import units
from tests.small_study import build_study, study_words


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return build_study(tmp_path_factory.mktemp("study"))


@pytest.fixture
def study(parts, tmp_path, medart, monkeypatch):
    """Call a study whose commands are replaced: exit code, last line of standard error, output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(units, "type_command", lambda *_: pytest.fail("a command ran"))

    def call(*more, finetune=""):
        words = study_words(parts, tmp_path / "out", "--offline", *more, finetune=finetune)
        code, _, err = medart(*words)
        return code, err.splitlines()[-1], tmp_path / "out"

    return call


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--evaluate", "--features inception --cache here", "arm before: medart evaluate: "),
        ("--evaluate", "--features timm:resnet18.a1", "timm/resnet18.a1: no such folder"),
        ("--evaluate", "--captioner lost/model", "lost/model: no such folder, not in the local"),
        ("--evaluate", "--classifier lost", "--classifier lost: no such folder"),
        ("--classify", "--backbone dinov2", "arm before: medart classify: facebook/dinov2-base: "),
        ("--sample", "--base lost/base", "arm lora: medart sample: lost/base: no such"),
    ],
)
def test_a_missing_model_is_said_before_anything_is_trained_or_written(study, option, value, told):
    code, line, out = study(option, value, *_without_base(option))
    assert code == 4 and told in line, line
    assert not out.exists()


def _without_base(option):
    """Leave out the arm before fine-tuning where its own base cannot be another."""
    return ("--arms", "lora") if option == "--sample" else ()


def test_a_missing_base_or_package_too(study, monkeypatch):
    code, line, _ = study(finetune="--base lost/base")
    assert code == 4 and "arm before: medart sample: lost/base: no such folder" in line
    monkeypatch.setattr("medart_cli.models.optimizers.find_spec", lambda _: None)
    code, line, out = study(finetune="--optimizer prodigy")
    assert code == 2 and "arm lora: medart finetune: --optimizer prodigy: prodigyopt is" in line
    assert not out.exists()


def test_what_is_there_is_passed_over(study):
    with pytest.raises(pytest.fail.Exception, match="a command ran"):
        study()
