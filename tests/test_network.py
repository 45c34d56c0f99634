"""With local models no command reaches for the network, whether there is one or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.jobs import ALL, build_parts

# Runs the commands and reports every name that is looked up and every address that is called.
# An audit hook hears of them whatever library they come from, and whether or not they succeed.
RUN_ALL = """
import contextlib, json, sys
from pathlib import Path
tried = []
def listen(event, arguments):
    if event == "socket.getaddrinfo":
        tried.append(str(arguments[0]))
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if isinstance(address, tuple) and not str(address[0]).startswith(("127.", "::1")):
            tried.append(str(address))
sys.addaudithook(listen)
import torch
from medart_cli.cli import main
from tests.jobs import ALL, command
torch.set_num_threads(1)
parts, out = map(Path, sys.argv[1:3])
codes = {}
with contextlib.redirect_stdout(sys.stderr):
    for stage in ALL:
        try:
            main(command(stage, parts, out))
        except SystemExit as ended:
            codes[stage] = ended.code
    here = len(tried)
    try:
        main(["sample", "PixArt-alpha/none-such", "--prompt", "a", "--out", str(out / "none")])
    except SystemExit as ended:
        codes["hub"] = ended.code
print(json.dumps({"codes": codes, "tried": tried[:here], "hub": tried[here:]}))
"""


def test_no_command_reaches_for_the_network(tmp_path):
    allowed = subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0
    wrapper = ["unshare", "-n"] if allowed else []  # the watch alone sees attempts as well
    parts = build_parts(tmp_path / "parts")
    hidden = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"MEDART_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", RUN_ALL, str(parts), str(tmp_path)],
        capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {stage: found["codes"][stage] for stage in ALL} == dict.fromkeys(ALL, 0)
    assert found["tried"] == []
    assert found["codes"]["hub"] == 4  # a model that is not here: one clear error,
    assert found["hub"] != []  # and the proof that the watch works
