r"""Compare a training step with those of transformers, nanoGPT and litgpt on a CPU.

    uv run python benchmarks/training.py --nanogpt ~/nanoGPT
    uv run python benchmarks/training.py --only S --precision fp32 --profile

A step is forward, backward, clip, AdamW, of a GPT-2 of three sizes: S (width 256, 4 layers,
context 128, vocabulary 8192, batch 16), M (384, 6, 256, 8192, 8) and L (GPT-2 124M, context 1024,
batch 1), in float32 and under bfloat16 autocast. All have the same weights and tokens; the first
loss and gradient are compared before anything is timed, and a difference ends the run.

Rounds are interleaved: a step of ours, a step of each peer, a step of ours again. A ratio is the
peer's time over ours in the same round, so that above 1 ours is the faster; the table has the
median over the rounds, the lowest and the highest. Times are those of the CPU, on one thread, and
of the clock where two threads are compared with one. Memory is the peak of a process of its own,
less what it held before the model.

litgpt asks for other versions of what this project uses, so that it has a folder of its own:

    uv pip install --no-deps --target FOLDER litgpt lightning lightning-utilities torchmetrics \
        jsonargparse
    uv run python benchmarks/training.py --litgpt FOLDER
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from training_contenders import (
    SHAPES,
    Contender,
    DifferenceError,
    Shape,
    check_equal,
    litgpt,
    nanogpt,
    ours,
    transformers_model,
)

from llm.core.fast_linear import choose_linear, fast_linear, is_available
from llm.core.flops import training_flops

Maker = Callable[[Shape, bool], Contender]

# at least, aim; of S, M and L
TIME_TARGETS = {
    ("nanoGPT", "fp32"): dict.fromkeys("SML", (1.6, 1.8)),
    ("nanoGPT", "bf16"): {"S": (1.4, 1.5), "M": (1.15, 1.25), "L": (1.15, 1.3)},
    ("transformers", "fp32"): dict.fromkeys("SML", (1.7, 2.0)),
    ("transformers", "bf16"): {"S": (1.4, 1.6), "M": (1.3, 1.4), "L": (1.3, 1.5)},
}
# at most, aim
MEMORY_TARGETS = {"nanoGPT": (1.0, 0.8), "transformers": (0.85, 0.6)}
THREAD_TARGET = (1.7, 1.9)

HEADER = ("step", "peer", "ratio", "min–max", "bar", "aim", "", "ours", "theirs", "unit")
WIDTHS = (8, 18, 5, 11, 5, 5, 6, 7, 7, 8)

# kinds of operators by what their names hold, in this order
PARTS = {
    "attention": ("scaled_dot_product", "baddbmm", "bmm", "_softmax"),
    "matrix products": ("linear", "mm", "_Product"),
    "loss, without its products": ("log_softmax", "nll_loss", "exp_", "scatter", "CrossEntropy"),
    "activation": ("gelu",),
    "norms": ("layer_norm",),
    "optimizer and clipping": ("adam", "foreach", "vector_norm", "_norm"),
    "copies and casts": ("copy_", "cat", "contiguous", "clone", "fill_", "zero_"),
}


def print_row(*cells: object) -> None:
    """Print one line of a Markdown table."""
    padded = (f"{cell!s:{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    print("|", " | ".join(padded), "|", flush=True)


class Table:
    """Prints rows and keeps them for `--json`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.misses = 0

    def add(
        self,
        step: str,
        peer: str,
        ratios: list[float],
        target: tuple[float, float] | None,
        figures: tuple[float, float],
        unit: str,
        *,
        at_most: bool = False,
    ) -> None:
        """One comparison; `at_most` says that a ratio is better the lower it is."""
        ratio = median(ratios)
        missed = target is not None and (ratio > target[0] if at_most else ratio < target[0])
        self.misses += missed
        print_row(
            *(step, peer, f"{ratio:.2f}", f"{min(ratios):.2f}–{max(ratios):.2f}"),
            *(target or ("", "")),
            "MISSED" if missed else "",
            *(f"{figure:,.0f}" for figure in figures),
            unit,
        )
        self.rows.append(
            {
                "step": step,
                "peer": peer,
                "ratio": ratio,
                "ratios": ratios,
                "bar": target and target[0],
                "aim": target and target[1],
                "missed": missed,
                "ours": figures[0],
                "theirs": figures[1],
                "unit": unit,
            }
        )


def token_ids(shape: Shape) -> torch.Tensor:
    """The batch that every step trains on."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(shape.vocab_size, (shape.batch_size, shape.context), generator=generator)


def measure(
    contenders: list[Contender], ids: torch.Tensor, rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each step of each contender, in turns."""
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            began = clock()
            contender.step(ids)
            seconds[contender.name].append(clock() - began)
    return seconds


def compare_times(
    table: Table, name: str, precision: str, makers: dict[str, Maker], rounds: int, kernel: str
) -> None:
    """Rows of time of a shape, and of our own two threads."""
    shape, bf16 = SHAPES[name], precision == "bf16"
    step, ids = f"{name} {precision}", token_ids(shape)
    contenders = [ours(shape, bf16, kernel), *(make(shape, bf16) for make in makers.values())]
    check_equal(contenders, shape, ids)
    seconds = measure(contenders, ids, rounds, time.process_time)
    own = seconds.pop("ours")
    speed = shape.tokens / median(own)
    gflops = speed * training_flops(shape.config, shape.context) / 1e9
    print(f"    {step}: ours {speed:,.0f} tokens/s, {gflops:.0f} GFLOP/s", flush=True)
    for peer, theirs in seconds.items():
        target = TIME_TARGETS.get((peer.split()[0], precision), {}).get(name)
        ratios = [b / a for a, b in zip(own, theirs, strict=True)]
        table.add(step, peer, ratios, target, (speed, shape.tokens / median(theirs)), "tokens/s")
    del contenders[1:]
    if (os.cpu_count() or 1) < 2:
        return
    alone, both = [], []
    for _ in range(rounds):
        alone += measure(contenders, ids, 1, time.perf_counter)["ours"]
        torch.set_num_threads(2)
        # the kernels for two threads are made in the first step
        measure(contenders, ids, 1 if both else 2, time.perf_counter)
        both += measure(contenders, ids, 1, time.perf_counter)["ours"]
        torch.set_num_threads(1)
    ratios = [a / b for a, b in zip(alone, both, strict=True)]
    table.add(
        *(step, "ours, one thread", ratios, THREAD_TARGET),
        *((shape.tokens / median(both), shape.tokens / median(alone)), "tokens/s"),
    )


def compare_memory(
    table: Table, name: str, precision: str, makers: dict[str, Maker], rest: list[str]
) -> None:
    """Rows of memory: each contender takes three steps in a process of its own."""
    peaks = {}
    for contender in ("ours", *makers):
        command = [sys.executable, __file__, *rest, "--child", contender]
        command += ["--only", name, "--precision", precision]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            sys.exit(f"the process of {contender} failed:\n{result.stderr}")
        peaks[contender] = float(result.stdout.split()[-1])
    for peer in makers:
        target = MEMORY_TARGETS.get(peer.split()[0])
        ratio = peaks["ours"] / peaks[peer]
        table.add(
            *(f"{name} {precision}", peer, [ratio], target),
            *((peaks["ours"], peaks[peer]), "MiB peak"),
            at_most=True,
        )


def print_child_memory(make: Maker, shape: Shape, bf16: bool) -> None:
    """MiB that training takes above what the process held before it."""
    # what is imported counts for nobody
    make(SHAPES["tiny"], bf16).step(token_ids(SHAPES["tiny"]))
    before = memory("VmRSS")
    contender, ids = make(shape, bf16), token_ids(shape)
    for _ in range(3):
        contender.step(ids)
    # getrusage would tell of the process that started this one, too
    print(memory("VmHWM") - before)


def memory(field: str) -> float:
    """A field of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(field + ":"))
    return int(kilobytes) / 2**10


def best_of(function: Callable[[], Any], amount: float) -> float:
    """The most of `amount` a second, of ten calls."""
    seconds = []
    for _ in range(10):
        began = time.process_time()
        function()
        seconds.append(time.process_time() - began)
    return amount / min(seconds)


def machine() -> dict[str, Any]:
    """What the machine can do on one core."""
    a, w = torch.randn(2048, 2048), torch.randn(2048, 2048)
    a16, w16 = a.bfloat16(), w.bfloat16()
    large = torch.randn(2**26)
    flop = 2 * 2048**3 / 1e9
    return {
        "processor": processor_name(),
        "torch": torch.__version__,
        "fp32 product, MKL or plain, GFLOP/s": best_of(lambda: a @ w, flop),
        "fp32 product, oneDNN, GFLOP/s": (
            best_of(lambda: fast_linear(a, w), flop) if is_available() else None
        ),
        "bf16 product, GFLOP/s": best_of(lambda: a16 @ w16, flop),
        "memory, GB/s read and written": best_of(lambda: large.mul_(1.0), 8 * 2**26 / 1e9),
        "fp32 kernel by the probe": choose_linear("auto"),
    }


def processor_name() -> str:
    """As Linux calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = {line.split(":")[0].strip(): line.split(":")[-1].strip() for line in lines}
    fields = ("model name", "cpu family", "model")
    return ", ".join(f"{field} {found[field]}" for field in fields if field in found)


def print_profile(name: str, precision: str, kernel: str) -> dict[str, float]:
    """Say in which kinds of operators our step spends its time, as shares."""
    shape = SHAPES[name]
    contender, ids = ours(shape, precision == "bf16", kernel), token_ids(shape)
    for _ in range(2):
        contender.step(ids)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        for _ in range(3):
            contender.step(ids)
    totals = dict.fromkeys([*PARTS, "the rest"], 0.0)
    for event in profile.key_averages():
        names = (part for part, marks in PARTS.items() if any(m in event.key for m in marks))
        totals[next(names, "the rest")] += event.self_cpu_time_total
    whole = sum(totals.values())
    print(f"\n{name} {precision}, linear kernel {kernel}: {whole / 3e3:,.0f} ms a step")
    for part, spent in sorted(totals.items(), key=lambda item: -item[1]):
        print(f"    {part:28} {spent / whole:6.1%} {spent / 3e3:9,.1f} ms", flush=True)
    return {part: spent / whole for part, spent in totals.items()}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=["S", "M", "L"])
    parser.add_argument(
        "--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"]
    )
    parser.add_argument("--rounds", type=int, default=7, help="7 by default")
    parser.add_argument(
        "--linear", choices=("auto", "fast", "plain"), default="auto", help="our kernel"
    )
    parser.add_argument("--nanogpt", type=Path, metavar="PATH", help="a clone of karpathy/nanoGPT")
    parser.add_argument("--litgpt", type=Path, metavar="FOLDER", help="where it is installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--profile", action="store_true", help="where our time goes, instead")
    parser.add_argument("--no-memory", action="store_true", help="leave the rows of memory out")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for option, file in (("nanogpt", "model.py"), ("litgpt", "litgpt/__init__.py")):
        folder = getattr(arguments, option)
        if folder and not (folder / file).is_file():
            parser.error(f"--{option} {folder}: there is no {file} in it")
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: one is the least")
    return arguments


def main() -> None:
    """Measure what was asked for."""
    arguments = parse_arguments()
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    torch.set_num_threads(1)
    makers: dict[str, Maker] = {
        "transformers sdpa": transformers_model("sdpa"),
        "transformers eager": transformers_model("eager"),
    }
    if arguments.nanogpt:
        makers = {"nanoGPT": nanogpt(arguments.nanogpt), **makers}
    if arguments.litgpt:
        makers["litgpt"] = litgpt(arguments.litgpt)
    if arguments.child:
        make = {
            "ours": lambda shape, bf16: ours(shape, bf16, arguments.linear),
            **makers,
        }[arguments.child]
        print_child_memory(make, SHAPES[arguments.only[0]], arguments.precision == ["bf16"])
        return
    # decided once, for the processes that measure memory too
    described = machine()
    arguments.linear = choose_linear(arguments.linear)
    for what, figure in described.items():
        print(f"{what}: {figure:.0f}" if isinstance(figure, float) else f"{what}: {figure}")
    cases = [(name, precision) for name in arguments.only for precision in arguments.precision]
    result: dict[str, Any] = {"machine": described, "linear": arguments.linear}
    if arguments.profile:
        result["profile"] = {
            f"{name} {precision}": print_profile(name, precision, arguments.linear)
            for name, precision in cases
        }
    else:
        table = Table()
        print(f"our linear layers: {arguments.linear}; {arguments.rounds} rounds\n", flush=True)
        print_row(*HEADER)
        print_row(*("-" * width for width in WIDTHS))
        has_memory = not arguments.no_memory and Path("/proc/self/status").exists()
        rest = ["--linear", arguments.linear]
        for option in ("nanogpt", "litgpt"):
            if getattr(arguments, option):
                rest += [f"--{option}", str(getattr(arguments, option))]
        try:
            for case in cases:
                compare_times(table, *case, makers, arguments.rounds, arguments.linear)
                # that of the smallest is lost among the pages of the libraries
                if has_memory and case[0] != "tiny":
                    compare_memory(table, *case, makers, rest)
        except DifferenceError as difference:
            sys.exit(f"\nDIFFERENCE: {difference}")
        print(f"\n{table.misses} miss their bar; every loss and gradient compared is equal")
        result["rows"] = table.rows
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
