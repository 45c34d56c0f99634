import os

import pytest
import torch
from torch import nn
from torch._inductor import codecache
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from medart_cli.errors import ConfigError
from medart_cli.models import compiled


@pytest.fixture(autouse=True)
def traced_alone(monkeypatch):
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    compiled.check_compiler.cache_clear()
    torch._dynamo.reset()
    yield
    compiled.check_compiler.cache_clear()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, states, scale=None):
        return self.layer(states) * scale


class Stack(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))

    def forward(self, states, scale):
        for block in self.blocks:
            states = block(states, scale=scale)
        return states


def test_all_blocks_share_a_graph_whatever_the_first_is_given(said):
    model = Stack(5)
    states = torch.randn(
        4, 3, requires_grad=True
    ).T  # lies in memory otherwise than what a block gives
    plain = model(states, torch.ones(4))
    names = list(model.state_dict())
    compiled.compile_blocks(model)
    graphs = compiled.Graphs()
    torch.testing.assert_close(model(states, torch.ones(4)), plain)
    graphs.say("step 1")
    torch.testing.assert_close(model(states, torch.ones(4)), plain)
    graphs.say("step 2")
    with torch.no_grad():
        model(states, torch.ones(4))
    graphs.say("step 3")
    assert [line.split(" in ")[0] for line in said] == [
        "step 1: 1 graphs of blocks compiled",
        "step 3: 1 graphs of blocks compiled",
    ]
    assert said[1].endswith("2 in all")
    assert list(model.state_dict()) == names


@pytest.mark.parametrize(("longest", "length"), [(1, 8), (8, 8), (9, 16), (117, 120), (300, 120)])
def test_prompts_get_a_little_more_than_the_longest_needs(longest, length):
    assert compiled.fix_length(longest, 120) == length


@pytest.mark.parametrize("asked", [False, True])  # whether PyTorch has been asked for its place
def test_compiled_code_is_where_nobody_else_may_write(tmp_path, monkeypatch, asked):
    monkeypatch.delenv(compiled.CODE_CACHE, raising=False)
    if asked:
        monkeypatch.setenv(compiled.CODE_CACHE, default_cache_dir())
    monkeypatch.setattr(codecache, "_HEADER_DIR", "")
    monkeypatch.setattr(codecache, "_HEADER_LOCK_DIR", "")
    compiled.check_compiler(torch.device("cpu"), tmp_path / "cache/compiled")
    assert os.environ[compiled.CODE_CACHE] == str(tmp_path / "cache/compiled")
    assert (tmp_path / "cache/compiled").stat().st_mode & 0o777 == 0o700
    assert codecache._HEADER_DIR.startswith(str(tmp_path / "cache/compiled"))
    monkeypatch.setenv(compiled.CODE_CACHE, str(tmp_path / "own"))
    compiled.keep_code_in(tmp_path / "other")
    assert os.environ[compiled.CODE_CACHE] == str(tmp_path / "own")
    assert codecache._HEADER_DIR.startswith(str(tmp_path / "own"))
    assert not (tmp_path / "other").exists()


def test_a_compiler_that_computes_wrongly_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(compiled.CODE_CACHE, str(tmp_path))
    monkeypatch.setattr(compiled, "BACKEND", lambda graph, inputs: lambda *_: (torch.zeros(()),))
    with pytest.raises(ConfigError, match="computes wrongly"):
        compiled.check_compiler(torch.device("cpu"), tmp_path)
