r"""Compare generation on the CPU with transformers, litgpt and nanoGPT: tokens a second, greedy.

    uv run python benchmarks/generation.py
    uv run python benchmarks/generation.py --only "L, batch 1" --rounds 5 --json speed.json
    uv run python benchmarks/generation.py --litgpt ~/litgpt --nanogpt ~/nanoGPT --profile

Everything runs in one process, on one core, with the same weights, in turns: ours, each peer, ours
again. Before a row is timed, the tokens of all that compute in float32 are compared, and a
difference ends the run; of those in fewer bits, the share of equal tokens is printed. A time is of
the whole call, the prompt included, by the clock of the CPU. A ratio is ours by the best of
transformers' modes in the same round, so that above 1 ours is the faster; the table has the median
over the rounds, the lowest and the highest. Beside it stand how fast this core reads memory, and
which share of it a token at batch 1 makes use of: bytes of weights times tokens a second.

litgpt asks for an older huggingface_hub than transformers does, so that the two do not install
together. A folder of its own serves:

    uv pip install --no-deps --target ~/litgpt litgpt lightning lightning-utilities \
        pytorch-lightning jsonargparse torchmetrics typeshed-client
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

# Read when torch is imported, so that the script starts itself anew with them.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

SHAPES = {
    "S": {"embed_dim": 256, "num_heads": 4, "num_layers": 4, "vocab_size": 8192},
    "L": {"embed_dim": 768, "num_heads": 12, "num_layers": 12, "vocab_size": 50257},
}
NEW_TOKENS = {"S": 128, "L": 48}
BATCHES, PROMPTS = (1, 8), (32, 512)
CONTEXT = 1024

PLAIN, FLOAT32 = "ours, not prepared", "ours, float32"
BFLOAT16, FLOAT16, INT8 = "ours, bfloat16", "ours, float16", "ours, int8"
DYNAMIC, STATIC = "transformers, dynamic", "transformers, static"
BYTES = {PLAIN: 4, FLOAT32: 4, BFLOAT16: 2, FLOAT16: 2, INT8: 1}

# (contestant, shape, batch) -> at least, aim; against the best of transformers
TARGETS = {
    (FLOAT32, "S", 1): (1.5, 1.8),
    (FLOAT32, "L", 1): (1.2, 1.45),
    (FLOAT32, "S", 8): (1.6, 2.5),
    (FLOAT32, "L", 8): (1.5, 2.4),
    (INT8, "L", 1): (3.5, 5),
    **{(FLOAT16, shape, batch): (2.0, 3) for shape in SHAPES for batch in BATCHES},
    **{(BFLOAT16, shape, batch): (2.0, 3) for shape in SHAPES for batch in BATCHES},
}

HEADER = ("row", "who", "tokens/s", "ratio", "min–max", "at least", "aim", "equal", "")
WIDTHS = (26, 22, 8, 5, 11, 8, 4, 6, 6)


def print_row(*cells: object) -> None:
    """Print one line of a Markdown table."""
    padded = (f"{cell!s:{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    print("|", " | ".join(padded), "|", flush=True)


def processor() -> str:
    """What the machine calls its processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "")


def bandwidth(megabytes: int = 512) -> float:
    """GB/s at which a core reads memory: the best of some sums over more than fits a cache."""
    import torch

    numbers = torch.ones(megabytes * 2**18)
    return max(numbers.numel() * 4 / seconds(numbers.sum) / 1e9 for _ in range(8))


def seconds(work: Callable[[], object]) -> float:
    """CPU time of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def contestants(shape: str, arguments: argparse.Namespace) -> tuple[object, dict[str, Callable]]:
    """The model, and a greedy continuation by each, with the same weights."""
    import torch
    from generation_peers import (
        litgpt_peer,
        make_model,
        nanogpt_peer,
        ours,
        transformers_peer,
    )
    from safetensors.torch import load_file

    model = make_model({**SHAPES[shape], "max_position_embeddings": CONTEXT})
    found = {
        PLAIN: ours(model, plain=True),
        FLOAT32: ours(model),
        BFLOAT16: ours(model, dtype=torch.bfloat16),
        FLOAT16: ours(model, dtype=torch.float16),
        INT8: ours(model, quantize="int8"),
    }
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        found[DYNAMIC] = transformers_peer(Path(folder), None)
        found[STATIC] = transformers_peer(Path(folder), "static")
        weights = load_file(Path(folder) / "model.safetensors")
    if arguments.litgpt:
        found["litgpt"] = litgpt_peer(model, weights, arguments.litgpt)
    if arguments.nanogpt and shape == "S":  # it keeps no cache: L would take hours
        found["nanoGPT"] = nanogpt_peer(model, weights, arguments.nanogpt)
    return model, found


def share_equal(expected: object, got: object, prompt: int) -> float:
    """Of the new tokens (B, T + N), the share before each row's first difference."""
    same = (expected == got)[:, prompt:]
    return float(same.int().cumprod(dim=1).float().mean())


def measure(
    shape: str,
    batch: int,
    prompt: int,
    model: object,
    runs: dict[str, Callable],
    arguments: argparse.Namespace,
) -> list[dict[str, object]]:
    """Compare the tokens, then time in turns: a record for each contestant."""
    import torch
    from generation_peers import is_tie

    count = NEW_TOKENS[shape] if not arguments.quick else 8
    if batch > 1:
        runs = {name: run for name, run in runs.items() if name != "nanoGPT"}
    generator = torch.Generator().manual_seed(batch + prompt)
    ids = torch.randint(SHAPES[shape]["vocab_size"], (batch, prompt), generator=generator)
    expected = runs[PLAIN](ids, count)
    varied = len(expected[:, prompt:].unique())
    if varied < batch * count // 4:
        sys.exit(f"{shape}: {varied} different tokens in all: the comparison would say little")
    equal = {name: share_equal(expected, run(ids, count), prompt) for name, run in runs.items()}
    for name, share in equal.items():
        if share < 1 and name not in (BFLOAT16, FLOAT16, INT8):
            for ours, theirs in zip(expected, runs[name](ids, count), strict=True):
                if not (ours.equal(theirs) or is_tie(model, ours, theirs, prompt)):
                    sys.exit(f"DIFFERENCE: {name} agrees with ours in {share:.1%} of the tokens")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            times[name].append(seconds(lambda run=run: run(ids, count)))
    records = []
    for name, taken in times.items():
        ratios = sorted(
            min(theirs) / mine
            for mine, *theirs in zip(taken, times[DYNAMIC], times[STATIC], strict=True)
        )
        low, aim = TARGETS.get((name, shape, batch), (None, None))
        records.append(
            {
                "shape": shape,
                "batch": batch,
                "prompt": prompt,
                "new_tokens": count,
                "who": name,
                "tokens_per_second": batch * count / median(taken),
                "ratio": median(ratios),
                "ratio_min": ratios[0],
                "ratio_max": ratios[-1],
                "at_least": low,
                "aim": aim,
                "equal_tokens": equal[name],
            }
        )
    if "nanoGPT" in times:
        for record in records:
            nano = median(times["nanoGPT"])
            record["ratio_to_nanogpt"] = nano / median(times[record["who"]])
    return records


def show(record: dict[str, object]) -> None:
    """Print a record as a row."""
    missed = record["at_least"] is not None and record["ratio"] < record["at_least"]
    print_row(
        f"{record['shape']}, batch {record['batch']}, prompt {record['prompt']}",
        record["who"],
        f"{record['tokens_per_second']:.0f}",
        f"{record['ratio']:.2f}",
        f"{record['ratio_min']:.2f}–{record['ratio_max']:.2f}",
        *(record["at_least"] or "", record["aim"] or ""),
        f"{record['equal_tokens']:.0%}",
        "MISSED" if missed else "",
    )


def decode_rate(shape: str, run: Callable, rounds: int) -> float:
    """Tokens a second at batch 1, once the prompt is read: of two lengths, the difference."""
    import torch

    ids = torch.arange(32)[None]
    longer, shorter = NEW_TOKENS[shape], 2
    taken = [
        seconds(lambda: run(ids, longer)) - seconds(lambda: run(ids, shorter))
        for _ in range(rounds)
    ]
    return (longer - shorter) / median(taken)


def print_bandwidth(runs: dict[str, Callable], rounds: int) -> list[dict[str, object]]:
    """Share of the bandwidth that a token at L, batch 1 makes use of."""
    shape = SHAPES["L"]
    weights = shape["num_layers"] * 12 * shape["embed_dim"] ** 2
    weights += shape["vocab_size"] * shape["embed_dim"]
    records = []
    for name, size in BYTES.items():
        # measured beside each, for neighbours of this machine come and go
        before = bandwidth()
        rate = decode_rate("L", runs[name], rounds)
        speed = median([before, bandwidth()])
        limit = speed * 1e9 / (weights * size)
        records.append(
            {"who": name, "gb_per_second": speed, "tokens_per_second": rate, "share": rate / limit}
        )
        print(
            f"    {name:20} memory {speed:5.1f} GB/s: at most {limit:4.0f} tokens/s; "
            f"{rate:4.0f} reached, {rate / limit:.0%} (at least 50%, aim 75%)",
            flush=True,
        )
    return records


def print_profile(shape: str, batch: int, prompt: int, run: Callable) -> None:
    """Where the time of a generation goes, by operator."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    ids = torch.randint(8000, (batch, prompt))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run(ids, NEW_TOKENS[shape])
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    for event in events[:10]:
        share = event.self_cpu_time_total / total
        print(f"    {share:6.1%}  {event.count:6} calls  {event.key}", flush=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", metavar="TEXT", help="rows that begin with it")
    parser.add_argument("--quick", action="store_true", help="8 tokens, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--litgpt", type=Path, metavar="FOLDER", help="where litgpt is installed")
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="a clone of nanoGPT")
    parser.add_argument("--profile", action="store_true", help="the operators of each row, too")
    parser.add_argument(
        "--quality",
        action="store_true",
        help="time nothing: bits per byte by each kind of weight, a model trained first",
    )
    return parser.parse_args()


def main() -> None:
    """Measure what was asked for."""
    arguments = parse_arguments()
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **ONE_THREAD})
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{processor()}, one core; Python {platform.python_version()}, {versions}", flush=True)
    if arguments.quality:
        from generation_quality import print_quality

        print_quality()
        return
    print(f"memory: {bandwidth():.1f} GB/s; {arguments.rounds} rounds\n")
    print_row(*HEADER)
    print_row(*("-" * width for width in WIDTHS))
    records, shares = [], []
    for shape in SHAPES:
        rows = [(b, p) for b in BATCHES for p in PROMPTS]
        rows = [
            (b, p) for b, p in rows if f"{shape}, batch {b}, prompt {p}".startswith(arguments.only)
        ]
        if not rows:
            continue
        model, runs = contestants(shape, arguments)
        for batch, prompt in rows:
            measured = measure(shape, batch, prompt, model, runs, arguments)
            for record in measured:
                show(record)
            records += measured
            if arguments.profile:
                print_profile(shape, batch, prompt, runs[FLOAT32])
        if shape == "L":
            shares = print_bandwidth(runs, arguments.rounds)
    if not records:
        sys.exit(f"no row begins with {arguments.only!r}: they are 'S, batch 1, prompt 32' and so")
    if arguments.json:
        content = {
            "processor": processor(),
            "versions": versions,
            "rounds": arguments.rounds,
            "rows": records,
            "bandwidth": shares,
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
