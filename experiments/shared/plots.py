"""Plots of a run."""

from __future__ import annotations

import json
from pathlib import Path


def plot_losses(run_folder: Path) -> Path:
    """Draw training and validation loss against tokens into the run's `loss.png`."""
    import matplotlib

    matplotlib.use("Agg")  # draws into files, where there is no screen too
    from matplotlib import pyplot

    with open(run_folder / "metrics.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for key, label, style in (("loss", "training", "-"), ("validation_loss", "validation", "o-")):
        points = [(line["tokens"], line[key]) for line in lines if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), style, markersize=4, label=label)
    axes.set_xlabel("tokens trained on")
    axes.set_ylabel("loss, nats per token")
    axes.set_title(run_folder.name)
    axes.grid(alpha=0.3)
    axes.legend()
    path = run_folder / "loss.png"
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path
