"""What fewer bits of a weight cost in bits of a byte: a small model, trained on real text first."""

import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

# `experiments` has the text; a script's own folder is all that Python looks in
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.shared.data import built_in_corpus
from llm.core.base_model import BaseModel
from llm.evaluation import bits_per_byte
from llm.generation import prepare
from llm.models.gpt import GPT2
from llm.tokenizers import BPETokenizer

VOCAB_SIZE, CONTEXT, BATCH_SIZE = 2000, 128, 8
WAYS = {
    "float32": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "int8": {"quantize": "int8"},
}


def train(ids: Tensor, steps: int) -> GPT2:
    """A model of four layers that has seen the text about once."""
    torch.manual_seed(0)
    model = GPT2(
        {
            "vocab_size": VOCAB_SIZE,
            "embed_dim": 256,
            "num_heads": 4,
            "num_layers": 4,
            "max_position_embeddings": CONTEXT,
            "dropout": 0.0,
        }
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for _ in range(steps):
        starts = torch.randint(len(ids) - CONTEXT - 1, (BATCH_SIZE,))
        blocks = torch.stack([ids[start : start + CONTEXT + 1] for start in starts])
        logits = model(blocks[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), blocks[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def total_loss(model: BaseModel, blocks: Tensor) -> float:
    """Nats of all tokens but the first of each block (N, T)."""
    logits = [model(part[:, :-1]).flatten(0, 1) for part in blocks.split(16)]
    return float(cross_entropy(torch.cat(logits), blocks[:, 1:].flatten(), reduction="sum"))


def print_quality(steps: int = 400) -> list[dict[str, object]]:
    """Train, then print the bits per byte of text held out, by each kind of weight."""
    text = "".join(document.text for document in built_in_corpus())
    end = int(len(text) * 0.9)
    tokenizer = BPETokenizer()
    tokenizer.train([text[:end]], vocab_size=VOCAB_SIZE)
    start = time.perf_counter()
    model = train(torch.tensor(tokenizer.encode(text[:end])), steps)
    print(f"trained {steps} steps on {end:,} characters in {time.perf_counter() - start:.0f} s")
    held_out = torch.tensor(tokenizer.encode(text[end:]))
    blocks = held_out[: len(held_out) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    num_bytes = sum(len(tokenizer.decode_bytes(row[1:].tolist())) for row in blocks)
    records = []
    exact = bits_per_byte(total_loss(model, blocks), num_bytes)
    print(f"not prepared: {exact:.4f} bits per byte of {num_bytes:,} held out")
    for name, options in WAYS.items():
        bits = bits_per_byte(total_loss(prepare(model, **options), blocks), num_bytes)
        print(
            f"    {name:9} {bits:.4f}  {bits - exact:+.5f}  {(bits / exact - 1):+.3%}", flush=True
        )
        records.append({"weights": name, "bits_per_byte": bits, "cost": bits - exact})
    return records
