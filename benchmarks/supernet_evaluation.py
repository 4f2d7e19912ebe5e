"""How much faster one supernet ranks all pooling placements of ResNet-20 when they share prefixes, and that nothing changes.

Both ways run in turns in one process: all 36 placements with shared prefixes, then one by one, on the same batches of CIFAR-10 (or
random images where NAS_DATA holds none). Prints the ratio of macs, which is the most that sharing can give, and the ratio of
seconds, each repeat and their median; writes them with versions and hardware to --out.

    python benchmarks/supernet_evaluation.py --images 500 --repeats 5 --out results/supernet_evaluation_cpu_202611
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.on_images import predicted
from estimators.counting import CostModel
from nas.data import ImageData, Split, load_data
from nas.runtime import environment, resolve_device, write_json
from nas.tasks import Images
from search_spaces import Architecture, SearchSpace, Supernet, make_space
from search_spaces.core import Local


def main() -> None:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    data, source = images(arguments.images)
    rows = [measure(bn, data, arguments, device) for bn in ("paper", "affine")]
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "images": source,
        "settings": {"images": arguments.images, "batch_size": arguments.batch_size, "device": str(device)},
        **environment(),
        "results": rows,
    }
    if arguments.out:
        write_json(arguments.out / "supernet_evaluation.json", result)


def measure(bn: str, data: ImageData, arguments: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """Time both ways in turns for one kind of normalisation; raise if a single prediction differs."""
    space = make_space("resnet20-pooling", bn=bn)
    supernet = Supernet(space.net).to(device).eval()
    archs = list(space.enumerate())
    locals = [space.locals(arch) for arch in archs]
    validation, train = Images(data, data.validation), Images(data, data.train)
    calibration = train if bn == "affine" else None

    def run(paths: Sequence[Sequence[Local]]) -> np.ndarray:
        return predicted(supernet, paths, validation, batch_size=arguments.batch_size, calibration=calibration)

    run(locals[:2])
    shared, single = [], []
    for _ in range(arguments.repeats):
        started = time.perf_counter()
        together = run(locals)
        shared.append(time.perf_counter() - started)
        started = time.perf_counter()
        apart = np.concatenate([run([path]) for path in locals])
        single.append(time.perf_counter() - started)
        if not np.array_equal(together, apart):
            raise AssertionError("shared prefixes changed a prediction")
    ratios = [b / a for a, b in zip(shared, single, strict=True)]
    limit = macs_ratio(space, archs)
    print(
        f"bn={bn}: macs allow {limit:.2f}x, measured {statistics.median(ratios):.2f}x "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} repeats), same prediction for every image"
    )
    return {
        "bn": bn,
        "architectures": len(locals),
        "macs_ratio": limit,
        "time_ratio_median": statistics.median(ratios),
        "time_ratios": ratios,
        "seconds_shared": shared,
        "seconds_one_by_one": single,
        "predictions_equal": True,
    }


def macs_ratio(space: SearchSpace, archs: Sequence[Architecture]) -> float:
    """Macs of the architectures one by one, over those of their distinct prefixes."""
    model = CostModel(space)
    single = int(model.batch(space.encode(archs))["macs"].sum())
    prefixes = {}
    for arch in archs:
        path, costs = space.locals(arch), model.blocks(arch)
        prefixes |= {path[: depth + 1]: cost.macs for depth, cost in enumerate(costs)}
    return single / sum(prefixes.values())


def images(count: int) -> tuple[ImageData, str]:
    """CIFAR-10 where it is, else random images of its shape: time does not depend on what they show."""
    folder = Path(os.environ.get("NAS_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10"
    if folder.exists():
        return load_data(folder, limit=2 * count, test_limit=10), "CIFAR-10"
    rng = np.random.default_rng(0)
    split = Split(
        torch.from_numpy(rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, 10, count)),
    )
    names = tuple(map(str, range(10)))
    return ImageData("random", split, split, split, names, (0.5,) * 3, (0.25,) * 3, 4, True), "random"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="validation images")
    parser.add_argument("--batch-size", type=int, default=250, help="images at a time")
    parser.add_argument("--repeats", type=int, default=5, help="times that both ways are run")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="folder for the result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
