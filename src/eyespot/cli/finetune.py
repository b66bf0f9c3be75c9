"""`eyespot finetune`."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from eyespot import cpus
from eyespot.cli.labelled import confused, measures
from eyespot.cli.terminal import bar, err, load_settings, out, say
from eyespot.settings import Settings
from eyespot.types import Accuracy, Calibration
from eyespot.vision import weights

if TYPE_CHECKING:
    from eyespot.vision.finetune.dataset import Dataset
    from eyespot.vision.finetune.features import Features
    from eyespot.vision.samples import Samples


def finetune(
    folder: Annotated[
        Path,
        typer.Argument(
            exists=True, file_okay=False, metavar="FOLDER", help="Folder with one subfolder of images per class."
        ),
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the new model.")],
    unfreeze: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERS", help="Train these layers of the network too, such as layer4; takes much longer."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of epochs with --unfreeze.")] = 10,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="For the same result again.")] = 0,
) -> None:
    """Train a model on your own classes.

    Each subfolder is a class: 40 images of each are a good start, five the minimum. Images that show none of the
    classes go into a subfolder `other` or `_`: the model learns to answer such images with unsure. A file `labels.csv`
    in FOLDER, with the columns folder, label, zh, group and group_zh, may give other names, Chinese names and groups.

    The network of EYESPOT_MODEL computes features, and only its last layer is trained on them, which takes about a
    minute per thousand images. Its accuracy is measured by cross-validation: on images that were not trained on.
    Interrupted, it continues where it was. The model is written to `models` in EYESPOT_DATA_DIR.

    Example: `eyespot finetune flowers/ --name flowers`, then `EYESPOT_MODEL=flowers eyespot serve`
    """
    from eyespot.vision import fitting
    from eyespot.vision.finetune import dataset, model
    from eyespot.vision.finetune.layers import Unfreeze
    from eyespot.vision.finetune.training import train

    started = time.monotonic()
    config = load_settings(quiet=True)
    model.check_name(name, config.manifest)
    found = dataset.read(folder)
    base = weights.verify(weights.choose(weights.read_manifest(config.manifest, config.data_dir), config.model))
    checkpoint = weights.own_manifest(config.data_dir).with_name(f"{name}.checkpoint")
    threads = cpus.plan(config.workers, config.threads).workers
    plan = Unfreeze(unfreeze, epochs, seed, checkpoint, config.max_pixels, threads) if unfreeze else None
    try:
        classes, features = _features(config, base, found)
        with bar() as progress:
            trained = train(base, classes, found, features, seed, plan, progress)
    except KeyboardInterrupt:
        say("interrupted; the same command continues where it was", err)
        raise
    calibration, accuracy = _usable(fitting.fit(trained.samples)), _show(trained.samples)
    with err.status("exporting it, and comparing the export with torch"):
        entry = model.save(trained.network, base, found.labels, name, config.data_dir, calibration, accuracy)
    say(f"saved to {entry.path} after {time.monotonic() - started:.0f} s")
    say(f"EYESPOT_MODEL={name} eyespot serve")


def _features(config: Settings, base: weights.Entry, found: "Dataset") -> "tuple[int, Features]":
    """The base's number of classes, and the features of the images; tells what is left out."""
    from eyespot import assembly
    from eyespot.vision import export
    from eyespot.vision.finetune.features import FeatureFile, channels, extract

    plan = cpus.plan(config.workers, config.threads)
    own = config.model_copy(update={"model": base.name, "precision": "f32"})  # what is exported is trained on float32
    classifier = assembly.open_classifier(own, plan)
    kept = export.folder_name(base, classifier.info.engine)
    path = weights.own_manifest(config.data_dir).parent / "features" / kept
    with FeatureFile(path, channels(classifier)) as file, bar() as progress:
        features = extract(found, classifier, file, plan.workers, progress)
    for stray in found.strays:
        say(f"{stray}: not in a class's folder", err)
    for skipped in features.skipped:
        say(f"{skipped}: not a readable image", err)
    for copies in features.doubles:
        say(f"left out, the same image in several classes: {', '.join(map(str, copies))}", err)
    return len(classifier.labels), features


def _usable(fitted: Calibration) -> Calibration:
    """A threshold no higher than the default: on few images, 95 % right answers can mean hardly any answers."""
    return replace(fitted, min_says=min(fitted.min_says, Calibration().min_says))


def _show(samples: "Samples") -> Accuracy:
    """Print how often the model is right, and which classes it confuses."""
    from eyespot.vision import evaluation, fitting

    halves = [(part, _usable(fitted)) for fitted, part in fitting.crossed(samples)]
    parts = [(part.candidates(used.temperature), used) for part, used in halves]
    report, images = evaluation.report(parts), len(samples.truth)
    table = Table(f"{images} images that it was not trained on", "")
    for row in measures([report], samples.labels):
        table.add_row(*row)
    out.print(table)
    confused(samples)
    return Accuracy(round(100 * report.top1.value, 1), f"{images} images of your own")
