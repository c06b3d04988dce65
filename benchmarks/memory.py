"""Compare the memory that `llm.preflight` works out with what a process takes on the CPU.

    uv run python benchmarks/memory.py
    uv run python benchmarks/memory.py --only "gpt2, wide" --json memory.json

Each row runs in a process of its own: three steps of training, or the continuation of a prompt.
Measured is the most that was resident (VmHWM) beyond what was so after a tiny model had run the
same code, so that libraries count for nothing; of a generation, once the model was made. Ratios
are predicted by measured; outside of 0.8 to 1.2 a row is MISSED, and the exit code is 1. It needs
Linux, and 4 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

SHAPES = {
    "small": {"vocab_size": 8192, "embed_dim": 256, "num_layers": 4, "context": 256},
    "medium": {"vocab_size": 16384, "embed_dim": 384, "num_layers": 6, "context": 512},
    "wide": {"vocab_size": 50257, "embed_dim": 512, "num_layers": 4, "context": 256},
}
# architecture, shape, dropout, fields of TrainingConfig
TRAINING = [
    ("gpt", "small", 0.1, {"batch_size": 16}),
    ("gpt2", "small", 0.0, {"batch_size": 16}),
    ("gpt2", "small", 0.1, {"batch_size": 8, "precision": "bf16"}),
    ("gpt", "small", 0.0, {"batch_size": 16, "gradient_checkpointing": True}),
    ("gpt2", "small", 0.1, {"batch_size": 16, "gradient_checkpointing": True}),
    ("gpt2", "medium", 0.0, {"batch_size": 4}),
    ("gpt", "medium", 0.1, {"batch_size": 4}),
    ("gpt", "medium", 0.0, {"batch_size": 4, "precision": "bf16"}),
    ("gpt", "medium", 0.1, {"batch_size": 4, "gradient_checkpointing": True}),
    ("gpt2", "wide", 0.0, {"batch_size": 4}),
    ("gpt", "wide", 0.0, {"batch_size": 1}),
    ("gpt", "wide", 0.0, {"batch_size": 4, "precision": "bf16", "ema_decay": 0.99}),
    ("gpt2", "wide", 0.1, {"batch_size": 4, "max_tokens": 512}),
    ("gpt2", "wide", 0.0, {"batch_size": 2, "accumulation_steps": 2, "optimizer": "sgd"}),
]
# architecture, shape, fields of generation_memory
GENERATION = [
    ("gpt", "wide", {"batch_size": 1, "prompt_length": 32, "max_new_tokens": 32}),
    ("gpt2", "wide", {"batch_size": 32, "prompt_length": 200, "max_new_tokens": 8}),
    ("gpt2", "medium", {"batch_size": 32, "prompt_length": 504, "max_new_tokens": 8}),
    (
        *("gpt", "medium"),
        {"batch_size": 16, "prompt_length": 448, "max_new_tokens": 8, "precision": "bf16"},
    ),
]
WIDTHS = (58, 9, 9, 5, 6)


def print_row(*cells: object) -> None:
    """Print one line of a Markdown table."""
    padded = (f"{cell!s:{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    print("|", " | ".join(padded), "|", flush=True)


def model_fields(shape: dict[str, int], dropout: float = 0.0) -> dict[str, object]:
    """Those of the configuration."""
    fields = {**shape, "num_heads": shape["embed_dim"] // 64, "dropout": dropout}
    fields["max_position_embeddings"] = fields.pop("context")
    return fields


TINY = {"vocab_size": 300, "embed_dim": 64, "num_layers": 1}


def resident(name: str) -> int:
    """Bytes of this process: now (VmRSS), or at the most (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(name)))


def train(model_type: str, model: dict[str, object], options: dict[str, object]) -> None:
    """Three steps on random ids."""
    import torch

    from llm.models import ARCHITECTURES
    from llm.training import Trainer, TrainingConfig

    class Examples:
        def __len__(self) -> int:
            return 64

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            generator = torch.Generator().manual_seed(index)
            length = model["max_position_embeddings"]
            ids = torch.randint(model["vocab_size"], (length,), generator=generator)
            return {"input_ids": ids, "labels": ids}

    trainer = Trainer(
        *(ARCHITECTURES[model_type].model(model), Examples()),
        TrainingConfig(steps=3, device="cpu", **options),
        show_progress=False,
    )
    for _ in range(3):
        trainer.train_step()


def generate(model_type: str, model: dict[str, object], options: dict[str, object]) -> None:
    """Continue prompts of random ids, drawing."""
    import torch

    from llm.models import ARCHITECTURES
    from llm.training.precision import PRECISIONS

    dtype = PRECISIONS[options.get("precision", "fp32")]
    torch.set_default_dtype(dtype)
    built = ARCHITECTURES[model_type].model(model).eval()
    torch.set_default_dtype(torch.float32)
    # the model is made with more than it has: of weights that are tied, two
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    shape = (options["batch_size"], options["prompt_length"])
    ids = torch.randint(model["vocab_size"], shape)
    built.generate(
        ids, max_new_tokens=options["max_new_tokens"], do_sample=True, top_k=50, top_p=0.9
    )


def measure(case: dict[str, object]) -> int:
    """Bytes that the case takes, in this process."""
    import torch

    torch.set_num_threads(1)
    work = train if case["work"] == "train" else generate
    smaller = {**case["options"], "batch_size": 1}
    if "max_tokens" in smaller:
        smaller["max_tokens"] = 0
    work(case["type"], {**case["model"], **TINY, "num_heads": 1}, smaller)
    before = resident("VmRSS")
    work(case["type"], case["model"], case["options"])
    return resident("VmHWM") - before


def predict(case: dict[str, object]) -> int:
    """Bytes that the case should take."""
    from llm.models import ARCHITECTURES
    from llm.preflight import generation_memory, training_memory
    from llm.training import TrainingConfig

    config = ARCHITECTURES[case["type"]].config(**case["model"])
    if case["work"] == "train":
        return training_memory(config, TrainingConfig(steps=3, **case["options"])).total
    return generation_memory(config, **case["options"]).total


def cases() -> list[dict[str, object]]:
    """All rows, each with a name."""
    found = []
    for model_type, shape, dropout, options in TRAINING:
        model = model_fields(SHAPES[shape], dropout)
        said = [f"dropout {dropout}", *(f"{key} {value}" for key, value in options.items())]
        found.append({"type": model_type, "model": model, "options": options, "work": "train"})
        found[-1]["name"] = f"{model_type}, {shape}, {', '.join(said)}"
    for model_type, shape, options in GENERATION:
        model = model_fields(SHAPES[shape])
        said = " ".join(str(value) for value in options.values())
        found.append({"type": model_type, "model": model, "options": options, "work": "generate"})
        found[-1]["name"] = f"{model_type}, {shape}, generate {said}"
    return found


def main() -> None:
    """Print a row for each case, and whether all are within 20%."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="rows that begin with it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--measure", metavar="CASE", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(json.loads(arguments.measure)))
        return
    if not sys.platform.startswith("linux"):
        sys.exit("error: resident memory is read from /proc, which only Linux has")
    print_row("case", "predicted", "measured", "ratio", "")
    print_row(*("-" * width for width in WIDTHS))
    records = []
    for case in cases():
        if not case["name"].startswith(arguments.only):
            continue
        done = subprocess.run(
            [sys.executable, __file__, "--measure", json.dumps(case)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        predicted, measured = predict(case), int(done.stdout)
        ratio = predicted / measured
        verdict = "" if 0.8 <= ratio <= 1.2 else "MISSED"
        shown = (f"{size / 2**20:,.0f} MiB" for size in (predicted, measured))
        print_row(case["name"], *shown, f"{ratio:.2f}", verdict)
        records.append({"case": case["name"], "predicted": predicted, "measured": measured})
    if not records:
        sys.exit(f"error: no row begins with {arguments.only!r}")
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=2), encoding="utf-8")
    missed = sum(not 0.8 <= record["predicted"] / record["measured"] <= 1.2 for record in records)
    print(f"\n{len(records) - missed} of {len(records)} within 20%")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
