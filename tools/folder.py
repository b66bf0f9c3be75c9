"""How `eyespot classify` over a folder compares with what this machine can do at most, and what memory it takes.

python tools/folder.py --images photos/ --files 2000

The images are linked into a folder until there are so many files. In turn: the bound, which is decode, crop and
inference of those images in a loop, by as many threads; then the command over the folder. The rate of the command is
the one that it reports, from the first file on. Medians over the rounds. `EYESPOT_MODEL` and the other settings choose
the network.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import islice
from pathlib import Path
from statistics import median

from eyespot import pool, settings
from eyespot.bench import machine
from eyespot.bench.figures import Setup
from eyespot.bench.host import resident_mb
from eyespot.errors import EyespotError
from eyespot.types import ModelInfo
from eyespot.vision import weights

RATE = re.compile(r"([\d,]+) images recognised in ([\d.]+) s")


def fill(folder: Path, images: Path, files: int) -> None:
    """Links to the images, in folders of a thousand."""
    found = sorted(path.resolve() for path in images.iterdir() if path.suffix.lower() in (".jpg", ".png", ".webp"))
    for number in range(files):
        source = found[number % len(found)]
        place = folder / f"{number // 1000:04}"
        place.mkdir(exist_ok=True)
        (place / f"{number:07}{source.suffix}").symlink_to(source)


def run(folder: Path, seconds_between: float) -> tuple[float, list[float]]:
    """Images a second, and the resident memory in MB meanwhile."""
    with tempfile.TemporaryDirectory() as place:
        command = [Path(sys.executable).with_name("eyespot"), "classify", folder, "-o", Path(place, "found.jsonl")]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
            resident = []
            while process.poll() is None:
                with suppress(ProcessLookupError):  # it has just ended
                    resident.append(resident_mb(process.pid))
                time.sleep(seconds_between)
            assert process.stderr
            told = process.stderr.read()
    match = RATE.search(told)
    if not match:
        sys.exit(told)
    return int(match[1].replace(",", "")) / float(match[2]), resident


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    config = settings.load()
    planned = pool.plan(config.workers, config.threads)
    setup = Setup(
        config.manifest, config.model, config.labels_dir, config.data_dir, planned, 5, wanted.images, config.max_bytes
    )
    try:
        entry = weights.choose(weights.read_manifest(config.manifest), config.model)
        engine = "openvino" if config.engine == "auto" else config.engine
        info = ModelInfo(entry.name, entry.sha256, engine, config.precision)
        bound = machine.bound(setup, info)
    except EyespotError as error:
        sys.exit(str(error))
    ratios = []
    with tempfile.TemporaryDirectory() as place:
        fill(Path(place), wanted.images, wanted.files)
        for _ in range(wanted.rounds):
            possible = bound()
            reached, resident = run(Path(place), 0.2)
            ratios.append(reached / possible)
            # The first tenth is the start; what grows with the number of files would show in the rest.
            steady = list(islice(resident, len(resident) // 10, None))
            print(
                f"bound {possible:.1f} images/s, classify {reached:.1f}, ratio {ratios[-1]:.3f}; "
                f"memory {steady[0]:.0f} MB at first, {max(steady):.0f} at most, {steady[-2]:.0f} at last",
                flush=True,
            )
    print(f"median ratio {median(ratios):.3f} over {wanted.files:,} files, {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
