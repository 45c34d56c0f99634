"""Near-copies: which changes of an image are seen through, and how many unseen images are flagged.

    python -m tests.bench.bench_copies FOLDER [FOLDER ...]

Each folder holds real images, and `phantoms` stands for 500 drawn ones. *Found*: half of the images
are training images, each left out for the thresholds; 16 of them are changed in each way, and count
as found if they are flagged and paired with their source. *Rates*: of many draws of training images
(and of held-out ones), the share of other real images that is flagged, beside what is stated.
About 5 minutes a folder on one core.
"""

import argparse
import io
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from medart_cli.data.dataset import open_data
from medart_cli.data.images import load_image
from medart_cli.evaluate.networks import build_networks
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.metrics import copies
from medart_cli.tiny.dataset import choose_phantoms
from medart_cli.tiny.phantoms import draw_phantom

CPU = torch.device("cpu")
PLANTED = 16  # images that are changed in each way


def compress(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


def crop(image, share, random=None):
    """Cut out a square and scale it up: the middle, or a random place."""
    side = round(image.width * share)
    left, top = (random.random(2) if random else np.full(2, 0.5)) * (image.width - side)
    part = image.crop((round(left), round(top), round(left) + side, round(top) + side))
    return part.resize(image.size, Image.Resampling.BICUBIC)


def shrink(image, share, ground, random=None):
    """Put the image into another, smaller: into the middle, or at a random place."""
    side = round(image.width * share)
    left, top = (random.random(2) if random else np.full(2, 0.5)) * (image.width - side)
    canvas = ground.copy()
    canvas.paste(image.resize((side, side), Image.Resampling.LANCZOS), (round(left), round(top)))
    return canvas


def shift(image, share, random):
    """Move the image by a share of its side in a random direction, onto black."""
    angle = random.random() * 2 * np.pi
    canvas = Image.new("RGB", image.size)
    reach = share * image.width
    canvas.paste(image, (round(reach * np.cos(angle)), round(reach * np.sin(angle))))
    return canvas


def cover(image, share, random):
    """Lay a gray square onto a random place."""
    side = round(image.width * share)
    left, top = random.random(2) * (image.width - side)
    canvas = image.copy()
    ImageDraw.Draw(canvas).rectangle((left, top, left + side, top + side), fill=(128, 128, 128))
    return canvas


def bend(image, random):
    """Move pixels by smooth random ways of some pixels."""
    rows, columns = np.mgrid[: image.height, : image.width]
    moves = []
    for _ in range(2):
        coarse = Image.fromarray(random.normal(size=(6, 6)).astype(np.float32))
        moves.append(np.asarray(coarse.resize(image.size, Image.Resampling.BICUBIC)) * 6)
    y = (rows + moves[0]).round().astype(int).clip(0, image.height - 1)
    x = (columns + moves[1]).round().astype(int).clip(0, image.width - 1)
    return Image.fromarray(np.asarray(image)[y, x])


def turn(image, angle):
    return image.rotate(angle, Image.Resampling.BICUBIC)


def black(image):
    return Image.new("RGB", image.size)


# Name -> (image, another image, generator) -> changed image.
CHANGES = {
    "as it is": lambda image, other, random: image,
    "JPEG, quality 30": lambda image, other, random: compress(image),
    "scaled to 100 pixels": lambda image, other, random: image.resize((100, 100)),
    "blurred": lambda image, other, random: image.filter(ImageFilter.GaussianBlur(4)),
    "gray": lambda image, other, random: image.convert("L").convert("RGB"),
    "gamma 1.8": lambda image, other, random: image.point(lambda v: 255 * (v / 255) ** 1.8),
    "brighter by 30 %": lambda image, other, random: ImageEnhance.Brightness(image).enhance(1.3),
    "inverted": lambda image, other, random: ImageOps.invert(image),
    "bent": lambda image, other, random: bend(image, random),
    "mirrored": lambda image, other, random: ImageOps.mirror(image),
    "rotated by 90 degrees": lambda image, other, random: turn(image, 90),
    "rotated by 10 degrees": lambda image, other, random: turn(image, 10),
    "rotated by 45 degrees": lambda image, other, random: turn(image, 45),
    "rotated by any angle": lambda image, other, random: turn(image, random.random() * 360),
    "cropped to 85 %": lambda image, other, random: crop(image, 0.85),
    "cropped to 60 %": lambda image, other, random: crop(image, 0.6),
    "cropped to 60 %, any place": lambda image, other, random: crop(image, 0.6, random),
    "cropped to 45 %, any place": lambda image, other, random: crop(image, 0.45, random),
    "mirrored, cropped to 80 %, JPEG": lambda image, other, random: compress(
        crop(ImageOps.mirror(image), 0.8)
    ),
    "shifted by 15 %": lambda image, other, random: shift(image, 0.15, random),
    "shifted by 30 %": lambda image, other, random: shift(image, 0.3, random),
    "shrunk to 70 % on black": lambda image, other, random: shrink(image, 0.7, black(image)),
    "shrunk to 40 % on black": lambda image, other, random: shrink(image, 0.4, black(image)),
    "in another image, 70 %": lambda image, other, random: shrink(image, 0.7, other, random),
    "in another image, 50 %": lambda image, other, random: shrink(image, 0.5, other, random),
    "covered, 35 % of the side": lambda image, other, random: cover(image, 0.35, random),
    "covered, 50 % of the side": lambda image, other, random: cover(image, 0.5, random),
    "half of it": lambda image, other, random: Image.composite(
        image, other, Image.linear_gradient("L").resize(image.size).point(lambda v: 255 * (v > 127))
    ),
    "averaged with another image": lambda image, other, random: Image.blend(image, other, 0.5),
    "cropped to 80 %, rotated by 20 degrees": lambda image, other, random: turn(
        crop(image, 0.8), 20
    ),
    "shrunk to 80 %, rotated by 20 degrees": lambda image, other, random: turn(
        shrink(image, 0.8, black(image)), 20
    ),
}  # fmt: skip


def read_images(source):
    if source == "phantoms":
        generator = np.random.default_rng(5)
        phantoms = choose_phantoms("shifted", per_label=125, seed=5)
        images = [draw_phantom(item, generator) for item in phantoms]
    else:
        images = [load_image(record.path) for record in open_data(source, root=None, levels=None)]
    return [images[row] for row in np.random.default_rng(0).permutation(len(images))]


def describe(images, networks):
    """Return what `evaluate` computes for copies: five tables of features."""
    tables = []
    for extractor in (*networks.copies, *networks.mirrored):
        parts = []
        for start in range(0, len(images), 32):
            batch = [extractor.prepare(image) for image in images[start : start + 32]]
            with torch.inference_mode():
                parts.append(extractor.embed(torch.stack(batch)).float().numpy())
        tables.append(np.concatenate(parts))
    return tables


def find_nearest(queries, training, groups, likeness=None):
    """As `evaluate/copies.py` does; the likeness of layouts may be known."""
    theirs = np.arange(len(training[0]))
    found = [
        copies.find_nearest_features(queries[a], [training[a], training[b]], groups, theirs)
        for a, b in ((0, 3), (1, 4))
    ]
    if likeness is None:
        return [
            *found,
            copies.find_nearest_layouts(queries[2], training[2], groups, theirs, CPU),
        ]
    best = copies._Best(groups)
    best.update(likeness, theirs, 0)
    return [*found, best.judge()]


def pick(tables, rows):
    return [table[rows] for table in tables]


def count_found(images, tables, networks):
    """Print how many images are found in spite of each change."""
    half = len(images) // 2
    training, unseen = pick(tables, slice(half)), pick(tables, slice(half, None))
    heldout = find_nearest(training, training, np.arange(half))

    def judge(queries):
        nearest = find_nearest(queries, training, np.full(len(queries[0]), -1))
        verdict = copies.judge_copies(nearest, heldout, np.arange(half), rate=0.01, trained=True)
        rows = np.arange(len(queries[0]))
        return verdict, np.stack([item.index for item in nearest])[verdict.space, rows]

    verdict, _ = judge(unseen)
    print(f"unseen images flagged: {verdict.flagged.sum()} of {len(images) - half}, stated at most "
          f"{verdict.false_alarms:.4f}; {verdict.twins} twins")  # fmt: skip
    for name, change in CHANGES.items():
        changed = [
            change(images[row], images[row + PLANTED], np.random.default_rng(row))
            for row in range(PLANTED)
        ]
        verdict, index = judge(describe(changed, networks))
        print(f"{name}: {(verdict.flagged & (index == np.arange(PLANTED))).sum()}", flush=True)


def compare_all(layouts):
    """Return the likeness of each layout to each, (N, N)."""
    views = [
        (copies._look_for(part), copies._look_at(part))
        for part in copies._read_pictures(layouts, CPU).split(64)
    ]
    rows = [
        torch.cat([copies._match_pictures(own, theirs) for _, theirs in views], dim=1)
        for own, _ in views
    ]
    return torch.cat(rows).double().numpy()


def count_flagged(tables, draws):
    """Print the shares of unseen images that are flagged and that are stated."""
    copies.LEAST_HELDOUT = 0  # what would be stated from few
    random = np.random.default_rng(1)
    likeness = compare_all(tables[2])
    for count, heldout in ((8, 0), (20, 0), (50, 0), (100, 0), (200, 0), (20, 50), (200, 100)):
        flagged, stated = [], []
        for _ in range(draws):
            order = random.permutation(len(likeness))
            training, unseen = order[:count], order[count + heldout :][:200]
            others = order[count : count + heldout] if heldout else training
            known = np.full(heldout, -1) if heldout else np.arange(count)
            groups = np.arange(len(others))
            nearest = [
                find_nearest(pick(tables, rows), pick(tables, training), codes,
                             likeness[np.ix_(rows, training)])
                for rows, codes in ((unseen, np.full(len(unseen), -1)), (others, known))
            ]  # fmt: skip
            if copies.find_twins(nearest[1][-1]).all():
                continue  # evaluate looks for no copies then
            verdict = copies.judge_copies(*nearest, groups, rate=0.01, trained=not heldout)
            flagged.append(verdict.flagged.mean())
            stated.append(verdict.false_alarms)
        error = np.std(flagged) / len(flagged) ** 0.5
        print(f"{count} training images, {heldout or 'none'} held out: flagged "
              f"{np.mean(flagged):.3f} +- {error:.3f}, stated {np.mean(stated):.3f}", flush=True
        )  # fmt: skip


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--draws", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as cache:
        config = EvaluateConfig(
            real="real", synthetic=["drawn"], out=Path("out"), features=["efficientnet-lite0"],
            device="cpu", offline=True,
        )  # fmt: skip
        networks = build_networks(config, Path(cache))
    for folder in options.folders:
        images = read_images(folder)
        print(f"{folder}: {len(images)} images")
        tables = describe(images, networks)
        own, started = np.arange(len(images)), time.process_time()
        copies.find_nearest_layouts(tables[2], tables[2], own, own, CPU)
        print(f"layouts against themselves: {time.process_time() - started:.1f} CPU seconds")
        count_found(images, tables, networks)
        count_flagged(tables, options.draws)
        copies.LEAST_HELDOUT = 50


if __name__ == "__main__":
    main()
