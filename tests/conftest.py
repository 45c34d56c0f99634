"""Set-up of the whole suite: offline, small models and images, a cache of its own."""

import io
import os
from pathlib import Path

# One thread for each process, also for those that tests start: `pytest -n 2` runs two at a time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from peft import PeftModel
from PIL import Image

from medart_cli.cli import main
from medart_cli.log import log
from tests.small import build_base


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep caches out of the home folder, and shared over the suite."""
    monkeypatch.setenv("MEDART_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def one_thread():
    """Make results equal to the bit, and leave the other core to others."""
    torch.set_num_threads(1)


SAVE_CHART = Figure.savefig
_file = io.BytesIO()
Image.new("L", (1, 1)).save(_file, "png")
BLANK = {"png": _file.getvalue(), "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>'}


def save_blank(figure, path, *, format, **_):
    path.write_bytes(BLANK[format])


@pytest.fixture(scope="module", autouse=True)
def blank_charts(request):
    """Save blank charts where no test looks at them: drawing takes longer than a small command."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("charts") is None:
            patch.setattr(Figure, "savefig", save_blank)
        yield


@pytest.fixture(scope="session", autouse=True)
def empty_cards():
    """Let peft write its card, which nobody keeps, without reading the card's template anew."""
    with pytest.MonkeyPatch.context() as patch:
        name = "create_or_update_model_card"
        patch.setattr(PeftModel, name, lambda _, folder: Path(folder, "README.md").touch())
        yield


@pytest.fixture
def charts(monkeypatch):
    """Draw the charts of one test in a module that does not look at others."""
    monkeypatch.setattr(Figure, "savefig", SAVE_CHART)


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """Let pytest hear the log, also after a test that has started a command's own."""
    monkeypatch.setattr(log, "propagate", True)


@pytest.fixture
def said(monkeypatch):
    """Collect what is said, steps and warnings alike, whatever handlers other tests have left."""
    lines = []
    for name in ("info", "warning"):
        monkeypatch.setattr(log, name, lambda text, *values: lines.append(text % values))
    monkeypatch.setattr(log, "log", lambda _, text, *values: lines.append(text % values))
    return lines


@pytest.fixture(scope="session")
def small_base(tmp_path_factory):
    return build_base(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Eight reddish images of 40 x 32 pixels in two classes, as an image folder."""
    folder = tmp_path_factory.mktemp("data") / "images"
    generator = np.random.default_rng(0)
    for index in range(8):
        label = ("melanoma", "nevus")[index % 2]
        (folder / label).mkdir(parents=True, exist_ok=True)
        pixels = generator.normal((200, 120, 110), 30, (32, 40, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


@pytest.fixture
def fetched(monkeypatch):
    """The text encoders whose layers are fetched one by one (--offload), as they are loaded."""
    from medart_cli.models import offload

    found, fetch = [], offload.fetch_layers

    def note(text_encoder, device):
        found.append(type(text_encoder).__name__)
        fetch(text_encoder, device)

    monkeypatch.setattr(offload, "fetch_layers", note)
    return found


@pytest.fixture
def medart(capsys):
    """Run a command in this process; returns exit code, standard output, standard error."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return ended.value.code or 0, output.out, output.err

    return run
