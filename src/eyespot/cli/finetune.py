"""`eyespot finetune`."""

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from eyespot import cpus
from eyespot._version import __version__
from eyespot.cli.labelled import confused, left_out, measures, report_of
from eyespot.cli.output import printable
from eyespot.cli.terminal import bar, err, load_settings, out, say
from eyespot.errors import EngineUnavailable
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
        typer.Option(metavar="LAYERS", help="Train these layers too, such as layer4 of a ResNet; takes much longer."),
    ] = None,
    epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of epochs with --unfreeze.")] = 10,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, max=2**32 - 1, help="Random seed; the same seed gives the same result.")
    ] = 0,
) -> None:
    """Train a model on your own classes.

    Each subfolder is a class: 40 images of each are a good start, five the minimum. Images that show none of the
    classes go into a subfolder `other` or `_`: the model learns to say "unsure" for such images. A file `labels.csv` in
    FOLDER, with the columns folder, label, zh, group and group_zh, can rename classes and add Chinese names and groups.

    The model of EYESPOT_MODEL computes each image's features once; only a new last layer is trained on them, which
    takes about a minute per thousand images. Run it again to resume. The accuracy is cross-validated: each image is
    judged by a layer that has not seen it. The model goes into `models` in EYESPOT_DATA_DIR.

    Example: `eyespot finetune flowers/ --name flowers`, then `EYESPOT_MODEL=flowers eyespot serve`
    """
    from eyespot.vision import fitting

    try:
        import torchvision  # noqa: F401

        from eyespot.vision.finetune import dataset, model
        from eyespot.vision.finetune.layers import Unfreeze
        from eyespot.vision.finetune.training import train
    except ModuleNotFoundError as error:
        raise EngineUnavailable(f"finetune needs `pip install 'eyespot[models]'`: {error}") from error

    started = time.monotonic()
    config = load_settings(quiet=True)
    model.check_name(name, config.manifest)
    found = dataset.read(folder)
    base = weights.verify(weights.choose(weights.read_manifest(config.manifest, config.data_dir), config.model))
    checkpoint = weights.own_manifest(config.data_dir).with_name(f"{name}.checkpoint")
    threads = cpus.plan(config.workers, config.threads).workers
    plan = Unfreeze(unfreeze, epochs, seed, checkpoint, config.max_pixels, threads) if unfreeze is not None else None
    try:
        classes, features = _features(config, base, found)
        with bar() as progress:
            trained = train(base, classes, found, features, seed, plan, progress)
        calibration = _usable(fitting.fit(trained.samples))
        accuracy = _show(trained.samples, "held out" if unfreeze else "cross-validated")
        with err.status("exporting the model and checking it against torch"):
            entry = model.save(
                trained.network, base, found.labels, features.sha256, name, config.data_dir, calibration, accuracy
            )
    except KeyboardInterrupt:
        say("interrupted; run the same command to resume", err)
        raise
    checkpoint.unlink(missing_ok=True)
    say(f"saved to {entry.path} after {time.monotonic() - started:.0f} s")
    elsewhere = (
        f"EYESPOT_DATA_DIR={shlex.quote(str(config.data_dir))} " if "data_dir" in config.model_fields_set else ""
    )
    say(f"{elsewhere}EYESPOT_MODEL={name} eyespot serve")


def _features(config: Settings, base: weights.Entry, found: "Dataset") -> "tuple[int, Features]":
    """The base's number of classes, and the features of the images; names what is left out."""
    from eyespot import assembly
    from eyespot.vision import export
    from eyespot.vision.finetune.features import FeatureFile, check_counts, extract

    plan = cpus.plan(config.workers, config.threads)
    own = config.model_copy(update={"model": base.name, "precision": "f32"})  # what is exported is trained on float32
    with err.status("loading the model (about 15 s the first time)"):
        classifier = assembly.open_classifier(own, plan)
        count = classifier.embedding_size
    kept = f"{export.folder_name(base, classifier.info.engine)}-{__version__}"  # which says how images are decoded
    path = weights.own_manifest(config.data_dir).parent / "features" / kept
    with FeatureFile(path, count) as file, bar() as progress:
        features = extract(found, classifier, file, plan.workers, progress)
    for stray in found.strays:
        say(printable(f"{stray}: not in a class's folder, left out"), err)
    left_out(features.skipped, features.doubles)
    check_counts(found.labels, features.truth)
    return len(classifier.labels), features


def _usable(fitted: Calibration) -> Calibration:
    """A threshold no higher than the default: on few images, 95 % right answers can mean hardly any answers."""
    return replace(fitted, min_says=min(fitted.min_says, Calibration().min_says))


def _show(samples: "Samples", how: str) -> Accuracy:
    """Print how often the model is right, measured in this way, and which classes it confuses."""
    from eyespot.vision import fitting

    report = report_of((_usable(fitted), part) for fitted, part in fitting.crossed(samples))
    images = len(samples.truth)
    table = Table(f"{images} images, {how}", "")
    for row in measures([report], samples.labels):
        table.add_row(*row)
    out.print(table)
    confused(samples)
    return Accuracy(round(100 * report.top1.value, 1), f"{images} images, {how}")
