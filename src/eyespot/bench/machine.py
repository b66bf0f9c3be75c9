"""The figures of this machine: each engine and precision in a process of its own, and decoding by image size."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from pydantic import TypeAdapter

from eyespot import assembly, cpus, settings
from eyespot.bench import samples
from eyespot.bench.figures import EngineFigures, Report, Task
from eyespot.bench.measure import Threads, median_ms, resident_mb
from eyespot.choices import ENGINES
from eyespot.errors import EngineUnavailable, EyespotError
from eyespot.settings import Settings
from eyespot.vision import preprocess, weights
from eyespot.vision.engines import Confidences, softmax

Run = Callable[[Task], EngineFigures]

DECODED = [("JPEG", 500), ("JPEG", 1600), ("JPEG", 4000), ("PNG", 1000), ("WEBP", 1000)]  # width, of 4:3
# The heap of `eyespot serve`: see eyespot/__main__.py.
_HEAP = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "2097152",
    "MALLOC_TRIM_THRESHOLD_": "16777216",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def run(task: Task) -> EngineFigures:
    """`measure_engine` in a new process, whose memory is the engine's alone. Raises `EngineUnavailable` if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "eyespot.bench.machine"],
        env={**os.environ, **_HEAP},
        input=TypeAdapter(Task).dump_json(task),
        capture_output=True,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise EngineUnavailable(lines[-1] if lines else f"the process ended with {done.returncode}")
    return TypeAdapter(EngineFigures).validate_json(done.stdout)


def measure(
    report: Report, config: Settings, task: Task, engines: Collection[str] = (), run: Run = run
) -> Iterator[str]:
    """Fill the report with decoding, and all engines or those named. Yields the name of each step before it is taken.

    Raises `StartError` if the model or an engine is unknown, or there are no images.
    """
    if unknown := [engine for engine in engines if engine not in ENGINES]:
        raise EngineUnavailable(f"unknown engine {unknown[0]!r}; known are {', '.join(ENGINES)}")
    names = sorted(engines or ENGINES, key=lambda name: name != "torch")  # torch first: the others compare with it
    wanted = [(name, precision) for name in names for precision in ENGINES[name].precisions]
    entry = weights.verify(weights.choose(weights.read_manifest(config.manifest, config.data_dir), config.model))
    images = samples.load(task.images, config.max_bytes)
    report.model, report.digest, report.images = entry.name, entry.sha256, len(images)
    for kind, width in DECODED:
        yield f"decode and crop, {kind} {width}"
        original = Image.open(BytesIO(images[0])).convert("RGB")
        image = samples.encode(ImageOps.fit(original, (width, width * 3 // 4)), kind)
        work = partial(preprocess.preprocess, image, entry.recipe)
        report.decode_ms[f"{kind} {width} x {width * 3 // 4}"] = median_ms(work, task.seconds)
    with tempfile.TemporaryDirectory() as folder:
        task = replace(task, model=entry.name, reference=Path(folder, "torch.npy"))
        for name, precision in wanted:
            yield f"{name} {precision}"
            try:
                report.engines.append(run(replace(task, engine=name, precision=precision)))
            except EngineUnavailable as error:
                report.skipped[f"{name} {precision}"] = str(error)


def measure_engine(task: Task) -> EngineFigures:
    """The figures of one engine, in this process. Memory comes first, since the other figures need some."""
    chosen = {name: value for name in ("model", "engine", "precision") if (value := getattr(task, name))}
    config = settings.load().model_copy(update=chosen)
    plan, images = cpus.plan(config.workers, config.threads), samples.load(task.images, config.max_bytes)
    classifier = assembly.open_classifier(config, plan)
    info, recipe, engine = classifier.info, classifier.recipe, classifier.engine
    with Threads(plan.workers, lambda number, _: map(classifier.scores, islice(cycle(images), number, None))) as loop:
        figures = EngineFigures(info.engine, info.precision, loop.rate(task.seconds), resident_mb())
    if task.only_bound:
        return figures
    single = assembly.open_classifier(config, cpus.Plan(1, 1, 1, 1)).engine
    default = assembly.open_classifier(config.model_copy(update={"engine": "auto", "precision": "auto"}), plan)
    pixels = [preprocess.preprocess(data, recipe).pixels[None] for data in images]
    same_top1, max_difference = agreement(np.stack([softmax(engine.infer(image)[0][0]) for image in pixels]), task)
    return replace(
        figures,
        one_thread_ms=median_ms(partial(single.infer, pixels[0], exclusive=True), task.seconds),
        all_threads_ms=median_ms(partial(engine.infer, pixels[0], exclusive=True), task.seconds),
        same_top1=same_top1,
        max_difference=max_difference,
        auto=default.info == info,
    )


def agreement(confidences: Confidences, task: Task) -> tuple[float, float] | tuple[None, None]:
    """Share of images with torch's top class, and the largest difference of that class's confidence.

    `confidences` has shape (images, classes). torch writes the reference; without it, (None, None).
    """
    if task.reference and task.engine == "torch":
        np.save(task.reference, confidences)
    if not task.reference or not task.reference.exists():
        return None, None
    expected = np.load(task.reference)
    best = expected.argmax(1)
    difference = np.abs(np.take_along_axis(expected - confidences, best[:, None], 1))
    return float((confidences.argmax(1) == best).mean()), float(difference.max())


if __name__ == "__main__":
    try:
        figures = measure_engine(TypeAdapter(Task).validate_json(sys.stdin.buffer.read()))
    except EyespotError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(TypeAdapter(EngineFigures).dump_json(figures))
