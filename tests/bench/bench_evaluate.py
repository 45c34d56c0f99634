"""`medart evaluate` beside what else gives FID, KID and PRDC: whole processes, the same images.

    pip install --no-deps --target PEERS torch-fidelity prdc      # clean-fid comes with medart
    OMP_NUM_THREADS=1 python -m tests.bench.bench_evaluate IMAGES --peers PEERS --count 300

Of the images in a folder `count` are taken for real ones and as many others for drawn ones. FID is
by clean-fid, KID by torch-fidelity, PRDC by prdc on features that clean-fid extracts, each as its
documentation has it; what is not installed is left out. medart, with cold caches, measures all that
and intervals, the real-vs-real baseline, colors, diversity and near-copies, and writes its report.

The network is one Inception with random weights, which take as long as trained ones. Times are wall
clock and CPU seconds of each process with its children; parts follow each other in turn, so that
other work on the machine slows all of them. With `--tree` other trees of medart run as well. First
comes what a network alone takes of an image, in batches of 32 as the weights lie, and by medart.
"""

import argparse
import contextlib
import copy
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torchvision.models import Inception3

from medart_cli.metrics.features import INCEPTION_NAME, Extractor, embed_images, load_inception
from medart_cli.models.backbone import EMBEDDED_BACKBONE, load_backbone

CPU = torch.device("cpu")
FIDELITY_NAME = "fidelity.pth"
# Each peer's module, and what is taken from it.
PEERS = {
    "clean-fid": ("cleanfid", "FID"),
    "torch-fidelity": ("torch_fidelity", "KID"),
    "prdc": ("prdc", "PRDC"),
}
NEAREST = 5
BATCH = 32


class RandomInception(nn.Module):
    """The interface of the Inception file that clean-fid uses."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor, return_features: bool = True) -> torch.Tensor:
        return self.layers((x - 128) / 128)


def save_inception(place):
    """Write one random network twice: as clean-fid and medart read it, and as torch-fidelity."""
    torch.manual_seed(0)
    network = Inception3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), place / FIDELITY_NAME)
    layers = [item for name, item in network.named_children() if name not in ("fc", "dropout")]
    scripted = torch.jit.script(RandomInception(nn.Sequential(*layers, nn.Flatten(1))).eval())
    scripted.save(str(place / INCEPTION_NAME))


def take_images(images, count, place):
    files = sorted(path for path in Path(images).rglob("*") if path.suffix in (".jpg", ".png"))
    random.Random(0).shuffle(files)
    for index, path in enumerate(files[: 2 * count]):
        folder = place / ("drawn" if index % 2 else "real")
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder / f"{index}{path.suffix}")


def load_cleanfid(place):
    from cleanfid.inception_torchscript import InceptionV3W

    return InceptionV3W(str(place), download=False).eval()


def run_cleanfid(place):
    from cleanfid import fid

    from tests.bench.bench_metrics import mend_sqrtm

    mend_sqrtm()
    value = fid.compute_fid(
        str(place / "real"), str(place / "drawn"), custom_feat_extractor=load_cleanfid(place),
        device=CPU, num_workers=2, use_dataparallel=False, verbose=False,
    )  # fmt: skip
    return {"FID": float(value)}


def run_fidelity(place):
    from torch_fidelity import calculate_metrics

    count = len(list((place / "real").iterdir()))
    found = calculate_metrics(
        input1=str(place / "drawn"), input2=str(place / "real"), cuda=False, kid=True, cache=False,
        feature_extractor_weights_path=str(place / FIDELITY_NAME),
        kid_subset_size=min(1000, count), verbose=False,
    )  # fmt: skip
    return {"KID": found["kernel_inception_distance_mean"]}


def run_prdc(place):
    from cleanfid.fid import get_folder_features
    from prdc import compute_prdc

    model = load_cleanfid(place)
    features = [
        get_folder_features(str(place / name), model, num_workers=2, device=CPU, verbose=False)
        for name in ("real", "drawn")
    ]
    return {name: float(it) for name, it in compute_prdc(*features, nearest_k=NEAREST).items()}


def run_medart(place):
    from medart_cli.cli import app
    from medart_cli.evaluate import networks

    networks.load_inception = partial(load_inception, sha256=hash_inception(place))  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(dir=place) as name:
        arguments = [
            "evaluate", str(place / "real"), str(place / "drawn"), "--out", f"{name}/report",
            "--cache", f"{name}/cache", "--inception", str(place / INCEPTION_NAME),
            "--device", "cpu", "--quiet",
        ]  # fmt: skip
        app(arguments, standalone_mode=False)
        facts = json.loads(Path(name, "report", "metrics.json").read_text())
    found = facts["comparisons"][0]
    values = {name: found[name] for name in ("precision", "recall", "density", "coverage")}
    near = facts["copies"][0]["copies"]
    return {"FID": found["frechet"]["value"], "KID": found["kernel"]["value"], **values} | {
        "near-copies": near
    }


RUNS = {
    "clean-fid": run_cleanfid, "torch-fidelity": run_fidelity, "prdc": run_prdc,
    "medart": run_medart,
}  # fmt: skip


def measure(part, place, path):
    """Run one part as a process of its own: its wall seconds, CPU seconds and figures."""
    command = [sys.executable, __file__, "--run", part, str(place)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    used, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    wall, now = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return wall, cpu, json.loads(done.stdout.splitlines()[-1])


def compare(options, place):
    """Run all parts in turn, print a line each, and the ratios of their sums."""
    here, peers = Path(__file__).resolve().parents[2], [options.peers] if options.peers else []
    sys.path += peers
    parts = [name for name, (module, _) in PEERS.items() if find_spec(module)]
    jobs = [(name, name, [here, *peers]) for name in parts]
    jobs += [("medart", f"medart, {tree}", [tree]) for tree in (here, *options.tree)]
    spent = {name: [] for _, name, _ in jobs}
    for _ in range(options.repeats):
        for part, name, path in jobs:
            wall, cpu, figures = measure(part, place, path)
            spent[name].append((wall, cpu))
            shown = ", ".join(f"{key} {value:.5g}" for key, value in figures.items())
            print(f"{name}: {wall:.0f} s, {cpu:.0f} CPU s; {shown}", flush=True)
    totals = {
        name: [sum(column) for column in zip(*rows, strict=True)] for name, rows in spent.items()
    }
    peer_wall, peer_cpu = (sum(totals[name][place] for name in parts) for place in (0, 1))
    told = ", ".join(f"{PEERS[name][1]} by {name}" for name in parts)
    for name in totals.keys() - {*parts}:
        wall, cpu = totals[name]
        print(f"{name}: {wall / peer_wall:.2f} of the wall time of {told}, {cpu / peer_cpu:.2f} of "
              "the CPU time")  # fmt: skip


def compare_networks(place):
    """Print CPU milliseconds an image of each network: plain, and as medart computes it."""
    inception = load_inception(place / INCEPTION_NAME, CPU, sha256=hash_inception(place))
    backbone = load_backbone(EMBEDDED_BACKBONE, device=CPU)
    facts = backbone.name, backbone.fingerprint, backbone.width, backbone.prepare
    module = copy.deepcopy(backbone.module).to(memory_format=torch.contiguous_format)
    plain = {"inception": load_cleanfid(place), backbone.name: module}
    own = Extractor(*facts, backbone.module)
    for extractor, side in ((inception, 299), (own, backbone.image_size)):
        images = torch.rand(BATCH, 3, side, side)
        embed, spent, found = plain[extractor.name], {}, {}
        for name, function in (("plain", embed), ("medart", partial(embed_images, extractor))):
            with torch.inference_mode():
                function(images)  # the first passes of a script are slow
                function(images)
                start = time.process_time()
                found[name] = torch.as_tensor(function(images))
                spent[name] = 1e3 * (time.process_time() - start) / BATCH
        gap = (found["plain"] - found["medart"]).abs().max() / found["plain"].abs().max()
        print(
            f"{extractor.name}: plain {spent['plain']:.1f} CPU ms an image, medart "
            f"{spent['medart']:.1f}; largest difference {gap:.0e} of the largest feature",
            flush=True,
        )


def hash_inception(place):
    return hashlib.sha256((place / INCEPTION_NAME).read_bytes()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument(
        "--count",
        type=int,
        default=300,
        help="real images, and as many drawn; 0 for networks alone",
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--peers", help="folder with torch-fidelity and prdc")
    parser.add_argument("--tree", type=Path, nargs="*", default=[], help="other trees of medart")
    parser.add_argument("--run", choices=RUNS, help="one part, in the folder of a comparison")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.run:
        with contextlib.redirect_stdout(sys.stderr):
            figures = RUNS[options.run](options.images)
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        save_inception(place)
        compare_networks(place)
        take_images(options.images, options.count, place)
        if options.count:
            compare(options, place)


if __name__ == "__main__":
    main()
