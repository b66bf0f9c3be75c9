"""One engine in one precision, in a process of its own: `python -m eyespot.bench.engine` with a `Job` on stdin."""

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from statistics import median

import numpy as np
from pydantic import TypeAdapter

from eyespot.bench import samples
from eyespot.bench.figures import Agreement, Bound, EngineFigures, Job
from eyespot.bench.host import resident_mb
from eyespot.errors import EyespotError
from eyespot.pool import Plan
from eyespot.vision import preprocess
from eyespot.vision.classifier import Classifier
from eyespot.vision.engines import Confidences, Engine, Pixels, softmax


def measure(job: Job) -> EngineFigures:
    """The figures of the engine, in this process. Memory comes first, before the rest of them needs some."""
    plan, seconds = job.setup.plan, job.setup.seconds
    images = samples.load(job.setup.images, job.setup.max_bytes)
    classifier = _open(job, plan)
    bound = measure_bound(classifier, images, plan, seconds)
    if job.only_bound:
        return EngineFigures(job.engine, job.precision, bound)
    engine = classifier.engine
    pixels = [preprocess.preprocess(data, job.recipe).pixels[None] for data in images]
    return EngineFigures(
        job.engine,
        job.precision,
        bound,
        agreement=agree(np.stack([softmax(engine.infer(image)[0][0]) for image in pixels]), job),
        inferences_per_second=rate(lambda turn: engine.infer(pixels[turn % len(pixels)]), plan.streams, seconds),
        all_threads_ms=one_image_ms(engine, pixels, seconds),
        one_thread_ms=one_image_ms(_open(job, Plan(1, 1, 1, 1)).engine, pixels, seconds),
        chosen=_is_chosen(job),
    )


def _is_chosen(job: Job) -> bool:
    if (job.engine, job.precision) not in (("openvino", "f32"), ("openvino", "bf16")):
        return False  # spares the others the comparison
    info = _open(replace(job, engine="auto", precision="auto"), job.setup.plan).info
    return (info.engine, info.precision) == (job.engine, job.precision)


def _open(job: Job, plan: Plan) -> Classifier:
    return Classifier.open(
        job.setup.manifest,
        job.setup.model,
        engine=job.engine,
        precision=job.precision,
        labels_dir=job.setup.labels_dir,
        data_dir=job.setup.data_dir,
        streams=plan.streams,
        threads=plan.threads,
        latency_threads=plan.latency_threads,
    )


def measure_bound(classifier: Classifier, images: list[bytes], plan: Plan, seconds: float) -> Bound:
    """Images a second of a loop of decode, crop and inference, by as many threads as a server has workers."""
    resident: list[float] = []
    images_per_second = rate(
        lambda turn: classifier.scores(images[turn % len(images)]),
        plan.workers,
        seconds,
        meanwhile=lambda: resident.append(resident_mb()),
    )
    return Bound(images_per_second, resident[0])


def rate(
    work: Callable[[int], object], threads: int, seconds: float, meanwhile: Callable[[], None] = lambda: None
) -> float:
    """Calls of `work` a second, by that many threads; it is given the number of the call.

    The first call of each thread is not counted. `meanwhile` is called at the end, while the threads still work.
    """
    ready, stop = threading.Barrier(threads + 1), threading.Event()

    def loop(number: int) -> int:
        try:
            work(number)
            ready.wait()
        except BaseException:
            ready.abort()
            raise
        for done, turn in enumerate(count(number, threads)):
            work(turn)
            if stop.is_set():  # as those that a server answers too late
                return done
        raise AssertionError

    with ThreadPoolExecutor(threads) as pool:
        loops = [pool.submit(loop, number) for number in range(threads)]
        try:
            ready.wait()
            time.sleep(seconds)
            meanwhile()
        except threading.BrokenBarrierError:
            pass  # the loop that broke it says why
        finally:
            stop.set()
        return sum(one.result() for one in loops) / seconds


def one_image_ms(engine: Engine, pixels: list[Pixels], seconds: float) -> float:
    """Median milliseconds of one inference, when there is no other."""
    engine.infer(pixels[0], exclusive=True)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        engine.infer(pixels[len(times) % len(pixels)], exclusive=True)
        times.append(time.perf_counter() - started)
    return median(times) * 1000


def agree(confidences: Confidences, job: Job) -> Agreement | None:
    """How confidences (images, classes) compare with those that torch left; torch leaves its own."""
    if job.reference and job.engine == "torch":
        np.savez(job.reference, confidences=confidences)
    if not job.reference or not job.reference.exists():
        return None
    with np.load(job.reference) as left:
        expected = left["confidences"]
    best = expected.argmax(1)
    apart = np.abs(np.take_along_axis(expected - confidences, best[:, None], 1))
    return Agreement(float((confidences.argmax(1) == best).mean()), float(apart.max()))


if __name__ == "__main__":
    try:
        figures = measure(TypeAdapter(Job).validate_json(sys.stdin.buffer.read()))
    except EyespotError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(TypeAdapter(EngineFigures).dump_json(figures))
