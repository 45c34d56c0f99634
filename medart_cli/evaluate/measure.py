"""Measure sets whose images are hashed: features, distances, colors, copies -> the report."""

import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from medart_cli import stop
from medart_cli.data.cache import make_cache
from medart_cli.data.finished import forget_finished, note_finished
from medart_cli.data.manifest import write_manifest
from medart_cli.data.output import Output, open_output, write_json
from medart_cli.errors import RunError
from medart_cli.evaluate.captions import Reteller, find_reteller, measure_captions
from medart_cli.evaluate.colors import compare_colors, tell_gaps, tell_variety
from medart_cli.evaluate.copies import find_copies, list_copies, sum_up, tell_copied, tell_rate
from medart_cli.evaluate.diversity import find_collapsed, measure_diversity
from medart_cli.evaluate.masks import hash_masks
from medart_cli.evaluate.membership import measure_membership, tell_membership
from medart_cli.evaluate.networks import Networks, build_networks, extract
from medart_cli.evaluate.options import EvaluateConfig
from medart_cli.evaluate.page import distance_names, format_short, head_short, write_page
from medart_cli.evaluate.ranking import rank
from medart_cli.evaluate.recognition import Judge, load_judge, measure_recognition
from medart_cli.evaluate.region import compare_parts, find_region, tell_parts
from medart_cli.evaluate.sets import (
    REPORT_FORMAT,
    Hashed,
    ImageSet,
    code_labels,
    describe_work,
    find_training,
    shared_labels,
)
from medart_cli.evaluate.shapes import warn_of_shapes
from medart_cli.evaluate.shortfalls import tell_shortfalls
from medart_cli.evaluate.subgroups import compare_subgroups
from medart_cli.evaluate.training import TrainedRun, describe_run, hash_and_settle
from medart_cli.evaluate.verdict import (
    find_close,
    find_suspected,
    qualify_winner,
    tell_closeness,
    tell_contents,
    tell_patients,
    tell_ranking,
    tell_recall,
)
from medart_cli.log import log, progress, table
from medart_cli.metrics import color
from medart_cli.metrics.arrays import Indices
from medart_cli.metrics.comparison import Effort, compare_features
from medart_cli.metrics.features import read_features
from medart_cli.ranks import ask_first, is_first
from medart_cli.versions import read_versions


def measure_sets(
    config: EvaluateConfig,
    read: tuple[list[ImageSet], Hashed | None],
    output: Output,
    run: TrainedRun | None,
) -> dict[str, Any]:
    """Compute the features, measure, and write the report; a shard computes its features alone.

    Args:
        config: The options.
        read: The sets, and the same with their keys, where they have been read already.
        output: The report folder.
        run: What drew a synthetic set, where that is said.
    """
    started, cache = time.monotonic(), make_cache(config.cache)
    # Before all images are read: these may refuse.
    networks = build_networks(config, cache)
    judge, reteller = load_judge(config, read[0]), find_reteller(config, read[0])
    if judge is not None:
        networks = replace(networks, more=[judge.extractor])
    hashed = read[1] or hash_and_settle(config, read[0], run)
    real = hashed[0][0]
    networks = replace(networks, region=ask_first(partial(find_region, config, real, cache)))
    if config.shard is not None:
        _, failures = extract(config, hashed, networks, cache)
        log.info("shard %s is done; when all are, run without --shard to measure", config.shard)
        return {"result": str(cache), "failures": len(failures)}
    masks = hash_masks(real, cache) if is_first() else []
    with open_output(output) if is_first() else nullcontext():
        if is_first():
            forget_finished(config.out)
        sets, failures = extract(config, hashed, networks, cache)
        if not is_first():  # the features are computed; one process measures
            return {"result": str(config.out)}
        facts = measure(
            config, (sets, failures), networks, run, contents=(judge, reteller), started=started
        )
        summary = summarize(config, facts)
        made_of = None
        if not failures:
            more = [*describe_run(config, hashed[0], run), *masks]
            made_of = describe_work(config, hashed, cache, more)
        if made_of is not None:
            note_finished(config.out, made_of, summary)
        show(facts)
        fail_on_copies(config, facts)
        return summary


def measure(
    config: EvaluateConfig,
    readable: tuple[list[ImageSet], dict[str, str]],
    networks: Networks,
    run: TrainedRun | None,
    *,
    contents: tuple[Judge | None, Reteller | None] = (None, None),
    started: float,
) -> dict[str, Any]:
    """Measure, write all files of the report, and return what metrics.json holds."""
    (sets, failures), cache = readable, make_cache(config.cache)
    real, synthetic = sets[0], sets[1 : 1 + len(config.synthetic)]
    warn_of_shapes(real, synthetic)
    facts: dict[str, Any] = {
        "format": REPORT_FORMAT,
        "inputs": [item.account.facts() for item in sets],
        "sets": [
            {
                "name": item.name,
                "n": len(item),
                "patients": item.count_patients(),
                "labels": item.count_labels(),
            }
            for item in sets
        ],
        "features": [
            {"name": item.name, "width": item.width, "fingerprint": item.fingerprint}
            | distance_names(item.name)
            for item in networks.main
        ],
        "comparisons": compare_sets(config, real, synthetic, networks, cache),
        "color": compare_colors(config, real, synthetic, networks.colors, cache),
        **compare_parts(config, real, synthetic, networks.region, cache),
        "diversity": measure_diversity(config, real, synthetic, networks.main[0], cache),
        "recognition": measure_recognition(config, sets, contents[0], cache),
        "unmatched_labels": find_unmatched(real, synthetic),
        "failures": [{"file": name, "reason": why} for name, why in failures.items()],
        "demonstration": any(bool(item.demonstration.any()) for item in sets),
    }
    facts["demonstration"] |= contents[1] is not None and contents[1].demonstration
    facts["retelling"], retold = measure_captions(config, sets, contents[1], cache)
    found = find_copies(config, sets, networks, cache)
    facts["copies"] = [sum_up(pairs) for pairs in found]
    facts["membership"] = measure_membership(config, sets, run)
    facts["ranking"] = rank(config, sets, networks, cache, find_suspected(facts))
    if facts["ranking"]:
        facts["ranking"]["reason"] += qualify_winner(facts)

    facts["subgroups"] = compare_subgroups(config, sets, networks, cache)
    facts |= {"settings": config.settings(), "versions": read_versions()}
    facts["seconds"] = round(time.monotonic() - started, 1)
    write_manifest(config.out / "copies.jsonl", list_copies(found))
    if retold:
        write_manifest(config.out / "captions.jsonl", retold)
    write_json(config.out / "metrics.json", facts)
    histograms = {
        item.name: color.pooled_histograms(read_features(item.keys, networks.colors, cache))
        for item in [real, *synthetic]
    }
    trained = find_training(config, sets)
    write_page(config.out, facts, [real, *synthetic], found, histograms, trained=trained)
    return facts


def compare_sets(
    config: EvaluateConfig,
    real: ImageSet,
    synthetic: list[ImageSet],
    networks: Networks,
    cache: Path,
) -> list[dict[str, Any]]:
    """Compare each synthetic set with the real one, in each feature space, overall and by label."""
    effort = Effort(config.seed, config.bootstrap, config.floor_repeats)
    jobs = [
        (extractor, item, label)
        for extractor in networks.main
        for item in synthetic
        for label in [None, *(shared_labels(real, item) if config.per_label else [])]
    ]
    found = []
    with progress("measure", len(jobs)) as bar:
        for extractor, item, label in jobs:
            stop.check()
            rows = real.rows_of(label)
            columns = item.rows_of(label)
            first = read_features(real.keys[rows], extractor, cache)
            second = read_features(item.keys[columns], extractor, cache)
            place = {"set": item.name, "features": extractor.name, "label": label}
            known = label is None and real.labels and item.labels
            facts = compare_features(
                first,
                second,
                real.groups[rows],
                effort,
                labels=code_labels([real, item])[1] if known else None,
                patients=find_patients(real, item, rows, columns),
            )
            found.append(place | facts)
            bar.advance()
    return found


def find_patients(
    real: ImageSet, item: ImageSet, rows: Indices, columns: Indices
) -> tuple[Indices, Indices] | None:
    """Return the patients of some images of both sets; None where neither set names any."""
    if real.patients is None and item.patients is None:
        return None
    return real.clusters[rows], item.clusters[columns]


def find_unmatched(real: ImageSet, synthetic: list[ImageSet]) -> dict[str, list[str]]:
    """Say for each set which labels cannot be compared, and why; empty where none."""
    found = {}
    for item in synthetic:
        first, second = real.count_labels(), item.count_labels()
        if not second and not first:
            continue
        reasons = [
            f"{label}: {first.get(label, 0)} real and {second.get(label, 0)} synthetic images"
            for label in sorted(first.keys() | second.keys())
            if min(first.get(label, 0), second.get(label, 0)) < 2
        ]
        if reasons:
            found[item.name] = reasons
            log.warning("%s: not compared by label: %s", item.name, "; ".join(reasons))
    return found


def show(facts: dict[str, Any]) -> None:
    """Print the main tables on standard error."""
    for network in facts["features"]:
        rows = [
            format_short(item)
            for item in facts["comparisons"]
            if item["features"] == network["name"]
        ]
        table(network["title"], head_short(network), rows)
    for item in facts["color"]:
        log.info("%s: %s", item["set"], tell_gaps(item))
        log.info("%s: %s", item["set"], tell_variety(item))
        for line in tell_parts(facts, item["set"]):
            log.info("%s", line)
    lines = (*tell_patients(facts), *tell_recall(facts), *tell_contents(facts))
    for line in (*lines, *tell_shortfalls(facts["subgroups"])):
        log.info("%s", line)
    for line in tell_closeness(facts):
        log.warning("%s", line)
    for item in facts["copies"]:
        log.info(
            "%s: %d near-copies of %d (%.1f%%, 95%% interval %.1f to %.1f%%); %s",
            *(item["set"], item["copies"], item["n"], 100 * item["share"]),
            *(100 * item["interval"][0], 100 * item["interval"][1], tell_rate(item)),
        )
        log.info("%s: %s", item["set"], tell_copied(item))
    for line in tell_membership(facts["membership"]):
        log.info("%s", line)
    if facts["ranking"]:
        for line in tell_ranking(facts["ranking"]):
            log.info("%s", line)


def fail_on_copies(config: EvaluateConfig, facts: dict[str, Any]) -> None:
    """End with exit code 1 where more near-copies were found than allowed.

    Raises:
        RunError: Names the first such set and its count, or says that real images are too few to
            tell; all outputs are written by then.
    """
    if config.fail_on_copies is None:
        return
    if not facts["copies"]:
        raise RunError("--fail-on-copies: near-copies were not detectable; see the warning above")
    for item in facts["copies"]:
        known = item["false_alarms"] is not None  # else only the same bytes are sure
        count = item["copies" if known else "identical_files"]
        if count / item["n"] > config.fail_on_copies:
            raise RunError(
                f"{item['set']}: {count} of {item['n']} images are near-copies of real "
                f"ones, more than --fail-on-copies {config.fail_on_copies:g}; see "
                f"{config.out / 'copies.jsonl'}"
            )
        if not known:
            raise RunError(f"--fail-on-copies: {item['set']}: {tell_rate(item)}")


def summarize(config: EvaluateConfig, facts: dict[str, Any]) -> dict[str, Any]:
    """Make the summary that --json prints."""
    primary = facts["features"][0]["name"]
    overall = {
        item["set"]: item
        for item in facts["comparisons"]
        if item["label"] is None and item["features"] == primary
    }
    share = {item["set"]: item["share"] for item in facts["copies"]}
    copied = {item["set"]: item["copied"]["share"] for item in facts["copies"]}
    close = find_close(facts)
    collapsed = {item["set"]: item["collapsed"] for item in facts["color"]}
    alike = find_collapsed(facts)
    shows, tells = (
        {item["set"]: item["verdict"] for item in facts[name]}
        for name in ("recognition", "retelling")
    )
    return {
        "result": str(config.out),
        "features": primary,
        "n_real": facts["sets"][0]["n"],
        "sets": {
            name: {
                "n": item["n_synthetic"],
                "frechet": item["frechet"]["value"],
                "interval": item["frechet"]["interval"],
                "kernel": item["kernel"] and item["kernel"]["value"],
                "copies": share.get(name),
                "copied": copied.get(name),
                "collapsed": collapsed[name],
                "closer": close[name],
                "alike": alike[name],
                "shows_class": shows.get(name),
                "shows_caption": tells.get(name),
            }
            for name, item in overall.items()
        },
        "winner": facts["ranking"] and facts["ranking"]["winner"],
        "membership": facts["membership"]
        and {key: facts["membership"][key] for key in ("auc", "interval", "p_value", "shown")},
        "subgroups": tell_shortfalls(facts["subgroups"]),
        "inputs": facts["inputs"],
        "failures": len(facts["failures"]),
    }
