import shutil
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import LogitsProcessorList, TopKLogitsWarper

from medart_cli.errors import ConfigError, MissingModelError, RunError
from medart_cli.models.captioner import Captioner, RowDraws, find_captioner, find_revision
from medart_cli.models.questions import Question, Sampling
from tests.small import DAMAGES, damage
from tests.small_captioner import build_llava, build_llava_next

SIZES = [(28, 28), (90, 30), (30, 90), (56, 56), (100, 60)]
COLORS = ["brown", "pink", "white", "black", "purple"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "llava": build_llava(root / "llava"),
        "llava_next": build_llava_next(root / "llava_next"),
    }


def load(folder, batch_size=1, **sampling):
    settings = Sampling(**{"max_new_tokens": 12, **sampling})
    captioner = Captioner(
        folder, device=torch.device("cpu"), dtype=torch.float32, sampling=settings
    ).load()
    captioner.batch_size = batch_size
    return captioner


def questions(seed=0):
    return [
        Question(Image.new("RGB", size, color), "What is this?" + " Look." * index, seed + index)
        for index, (size, color) in enumerate(zip(SIZES, COLORS, strict=True))
    ]


def answers(captioner, asked, **options):
    found = dict(item for item in captioner.ask(asked, **options) if item is not None)
    assert sorted(found) == list(range(len(asked)))
    return [found[index].text for index in range(len(asked))]


@pytest.mark.parametrize("kind", ["llava", "llava_next"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_batch_of_n_says_what_n_batches_of_one_say(folders, kind, temperature):
    captioner = load(folders[kind], temperature=temperature)
    alone = answers(captioner, questions())
    captioner.batch_size = 5
    together = answers(captioner, questions())
    captioner.batch_size = 2
    assert alone == together == answers(captioner, questions())
    assert len(set(alone)) > 1  # the images and prompts differ, and so do the answers


def test_a_question_draws_the_same_whatever_stands_beside_it(folders):
    captioner = load(folders["llava_next"], batch_size=5)
    together = answers(captioner, questions())
    assert answers(captioner, questions()[3:]) == together[3:]
    assert answers(captioner, questions()[1::2][::-1])[::-1] == together[1::2]


def test_another_seed_draws_another_answer_and_greedy_ignores_it(folders):
    captioner = load(folders["llava"], batch_size=5)
    assert answers(captioner, questions(0)) != answers(captioner, questions(100))
    greedy = answers(captioner, questions(0), greedy=True)
    assert greedy == answers(captioner, questions(100), greedy=True)
    assert greedy == answers(load(folders["llava"], temperature=0.0), questions(7))


def test_the_image_changes_the_answer(folders):
    captioner = load(folders["llava"], batch_size=2, temperature=0.0)
    texts = answers(
        captioner,
        [Question(Image.new("RGB", (28, 28), color), "What?", 0) for color in ("red", "blue")],
    )
    assert texts[0] != texts[1]


def test_tokens_are_drawn_with_the_model_s_probabilities():
    count = 4000
    scores = torch.tensor([0.5, 0.3, 0.0, 0.2]).log().expand(count, 4)
    generator = torch.Generator().manual_seed(0)
    drawn = RowDraws(torch.rand(count, 1, generator=generator))(torch.zeros(count, 1), scores)
    assert (drawn.isfinite().sum(dim=1) == 1).all()
    shares = drawn.argmax(dim=1).bincount(minlength=4) / count
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.0, 0.2], abs=0.03)
    assert shares[2] == 0


def test_the_ends_of_the_range_draw_a_possible_token():
    scores = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).expand(2, 4)
    draws = torch.tensor([[0.0], [1 - 2**-24]])
    drawn = RowDraws(draws)(torch.zeros(2, 1), scores).argmax(dim=1)
    assert drawn.tolist() == [1, 2]


def test_top_k_stands_before_the_draw(folders):
    chain = load(folders["llava"], top_k=3, top_p=0.5)._sampler([1, 2])
    names = [type(item).__name__ for item in chain]
    assert names == ["TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "RowDraws"]
    only_best = LogitsProcessorList([TopKLogitsWarper(1), RowDraws(torch.tensor([[0.9]]))])
    assert only_best(torch.zeros(1, 1), torch.tensor([[0.0, 3.0, 1.0]])).argmax().item() == 1


def test_an_answer_is_finished_when_the_model_ends_it_and_not_at_the_limit(folders):
    captioner = load(folders["llava"], temperature=0.0)
    inputs = captioner.chat.encode(questions()[:1])
    tokens = captioner.model.generate(**inputs)[0, inputs["input_ids"].shape[1] :].tolist()
    assert not set(captioner.chat.ends) & set(tokens)
    assert not next(iter(captioner.ask(questions()[:1])))[1].finished
    captioner.prepare(replace(captioner.chat, ends=[tokens[3]]))
    assert next(iter(captioner.ask(questions()[:1])))[1].finished


def test_the_batch_is_halved_on_out_of_memory_and_stays_so(folders, monkeypatch):
    captioner = load(folders["llava"], batch_size=5)
    expected = answers(captioner, questions())
    generate, sizes = captioner._generate, []

    def limited(asked, greedy):
        sizes.append(len(asked))
        if len(asked) > 2:
            raise torch.OutOfMemoryError("too large")
        return generate(asked, greedy)

    monkeypatch.setattr(captioner, "_generate", limited)
    assert answers(captioner, questions()) == expected
    assert sizes == [5, 2, 2, 1]
    assert answers(captioner, questions()) == expected
    assert sizes[4:] == [2, 2, 1]


def fail_on(captioner, monkeypatch, size, error):
    """Let the model fail on images of one size, as some processors do on long strips."""
    encode = type(captioner.chat).encode

    def choosy(chat, asked):
        if any(question.image.size == size for question in asked):
            raise error
        return encode(chat, asked)

    monkeypatch.setattr(type(captioner.chat), "encode", choosy)


@pytest.mark.parametrize("error", [ValueError("aspect ratio\nmore"), RuntimeError("shapes")])
def test_one_image_that_cannot_be_read_costs_its_own_row_alone(folders, monkeypatch, error):
    captioner = load(folders["llava"], batch_size=5)
    expected = answers(captioner, questions())
    fail_on(captioner, monkeypatch, SIZES[2], error)
    found = dict(item for item in captioner.ask(questions()) if item is not None)
    reason = str(error).splitlines()[0]
    assert found[2].error == f"the model cannot read it (30 x 90 pixels): {reason}"
    assert [found[index].text for index in (0, 1, 3, 4)] == [
        text for index, text in enumerate(expected) if index != 2
    ]
    assert all(found[index].error is None for index in (0, 1, 3, 4))
    assert captioner.batch_size == 5


def test_a_model_that_answers_to_no_image_ends_the_run(folders, monkeypatch):
    captioner = load(folders["llava"], batch_size=5)

    def broken(*_, **__):
        raise ValueError("no such layer")

    monkeypatch.setattr(captioner.model, "generate", broken)
    with pytest.raises(RunError, match="answers to no image: no such layer; use another model"):
        answers(captioner, questions())


def test_answers_that_do_not_continue_the_prompt_end_the_run(folders, monkeypatch):
    captioner = load(folders["llava"])
    monkeypatch.setattr(captioner.model, "generate", lambda **_: torch.zeros(1, 5, dtype=int))
    with pytest.raises(RunError, match="its answers do not continue the prompt"):
        answers(captioner, questions())


@pytest.mark.parametrize("error", ["CUDA error: out of memory", "DefaultCPUAllocator: can't alloc"])
def test_full_memory_is_no_matter_of_one_image(folders, monkeypatch, error):
    captioner = load(folders["llava"])
    full = RuntimeError(error.replace("alloc", "allocate") if "CPU" in error else error)
    fail_on(captioner, monkeypatch, SIZES[2], full)
    with pytest.raises(RuntimeError, match=error[:10]):
        answers(captioner, questions())


def test_one_image_too_many_for_memory_is_an_error_that_names_the_model(folders, monkeypatch):
    captioner = load(folders["llava"])

    def full(asked, greedy):
        raise torch.OutOfMemoryError("too large")

    monkeypatch.setattr(captioner, "_generate", full)
    with pytest.raises(torch.OutOfMemoryError) as full_memory:
        answers(captioner, questions())
    assert full_memory.value.__notes__ == [f"{captioner.name}, one image at a time"]


def test_the_model_loads_in_the_format_asked_for(folders):
    captioner = Captioner(
        folders["llava"], device=torch.device("cpu"), dtype=torch.bfloat16, sampling=Sampling()
    ).load()
    assert {parameter.dtype for parameter in captioner.model.parameters()} == {torch.bfloat16}
    assert captioner.processor.tokenizer.padding_side == "left"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_on_a_gpu_a_batch_of_n_says_what_n_batches_of_one_say(folders, temperature):
    captioner = Captioner(
        folders["llava_next"],
        device=torch.device("cuda"),
        dtype=torch.float32,
        sampling=Sampling(temperature=temperature, max_new_tokens=12),
    ).load()
    captioner.batch_size = 1
    alone = answers(captioner, questions())
    captioner.batch_size = 5
    assert answers(captioner, questions()) == alone


def test_pickled_weights_are_refused(folders, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(folders["llava"], folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingModelError, match="pickled"):
        find_captioner(str(folder))


def test_a_missing_model_names_itself_its_size_and_what_to_do():
    with pytest.raises(MissingModelError) as caught:
        find_captioner("llava-hf/llama3-llava-next-8b-hf", offline=True)
    assert caught.value.exit_code == 4
    for word in ("llava-hf/llama3-llava-next-8b-hf", "17 GB", "--model", "hf download"):
        assert word in str(caught.value)
    with pytest.raises(MissingModelError, match="no such folder, and not a hub id"):
        find_captioner("../no/such/folder", offline=True)


def test_a_model_without_a_chat_template_is_refused(folders, tmp_path):
    folder = tmp_path / "mute"
    shutil.copytree(folders["llava"], folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="chat template"):
        load(folder)


def test_a_model_that_reads_no_images_is_refused(folders, tmp_path):
    folder = tmp_path / "text"
    shutil.copytree(folders["llava"], folder)
    (folder / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ConfigError, match="not an image-text-to-text model"):
        load(folder)


def test_the_revision_is_the_commit_in_a_cache_and_changes_with_the_weights(folders, tmp_path):
    one, other = find_revision(folders["llava"]), find_revision(folders["llava_next"])
    assert one.startswith("sha256:") and one != other
    assert find_revision(tmp_path / "models--a--b" / "snapshots" / "0123abc") == "0123abc"


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is there")
def test_quantized_loading_without_bitsandbytes_says_what_to_install(folders):
    captioner = Captioner(
        folders["llava"], device=torch.device("cpu"), dtype=torch.float32, sampling=Sampling()
    )
    with pytest.raises(ConfigError, match="pip install"):
        captioner.load("4bit")


@pytest.mark.parametrize("how", DAMAGES)
def test_no_weight_of_a_captioner_is_made_up_or_left_out(folders, tmp_path, how):
    folder = shutil.copytree(folders["llava"], tmp_path / "llava")
    damage(folder, how)
    with pytest.raises(MissingModelError, match=f"llava: {DAMAGES[how]}"):
        load(folder)
