import pytest

from medart_cli.errors import ConfigError
from medart_cli.study.arms import ARMS, Arm, find_reference, read_arms
from medart_cli.study.options import DEFAULT_ARMS


def test_the_default_arms_are_the_papers_ablation():
    arms = read_arms(DEFAULT_ARMS)
    assert [arm.name for arm in arms] == DEFAULT_ARMS.split(",")
    assert "full" in ARMS and "full" not in DEFAULT_ARMS
    hldf = {arm.name for arm in arms if "--hldf-loss" in (arm.finetune or ())}
    assert hldf == {"hldf", "score"}  # all others differ from LoRA in one thing, and it is not HLDF


def test_a_file_defines_arms_and_takes_default_ones_by_name(tmp_path):
    file = tmp_path / "arms.toml"
    file.write_text(
        '[lora]\n[wide]\ntitle = "rank 16"\nfinetune = "--rank 16 --hldf-every 0"\n'
        'captions = "simple"\nsample = "--guidance 3"\n[base]\ntrain = false\n'
    )
    lora, wide, base = read_arms(str(file))
    assert lora == ARMS["lora"]
    rank = ("--rank", "16", "--hldf-every", "0")
    assert wide == Arm("wide", "rank 16", rank, "simple", ("--guidance", "3"))
    assert base == Arm("base", "base", None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lora,lara", "--arms lara: there are before, lora,"),
        ("lora,lora", "names one twice"),
        ("before", "at least one arm must be fine-tuned"),
        ("", "at least one arm must be fine-tuned"),
        ("gone.toml", "gone.toml: cannot be read as TOML: No such file"),
    ],
)
def test_wrong_arms_are_refused_in_one_line(text, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=told):
        read_arms(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lora = 3\n", "is no table"),
        ("[data]\ntitle = 'x'\n", "cannot name a folder"),
        ("['Über/x']\n", "cannot name a folder"),
        ("[a]\nrank = 16\n", "rank = 16: an arm has title, finetune, sample"),
        ("[a]\nfinetune = 16\n", "finetune = 16: an arm has"),
        ("[a]\ncaptions = 'long'\n", "captions must be own or simple, not 'long'"),
        ("[a]\ntrain = false\nfinetune = '--rank 2'\n", "no effect with train = false"),
        ('[a]\nfinetune = "--base \'tiny"\n', "cannot be split into options: No closing"),
        ("[a\n", "cannot be read as TOML"),
    ],
)
def test_a_wrong_table_is_refused_with_its_name(text, told, tmp_path):
    (tmp_path / "arms.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        read_arms(str(tmp_path / "arms.toml"))


def test_the_reference_is_lora_alone_else_the_first_that_is_trained():
    assert find_reference(read_arms("before,dora,lora")).name == "lora"
    assert find_reference(read_arms("before,dora,score")).name == "dora"
