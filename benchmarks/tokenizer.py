"""Compare `BPETokenizer` with the compiled tokenizers: tiktoken, tokenizers and rustbpe.

    uv run --group peers python benchmarks/tokenizer.py
    uv run --group peers python benchmarks/tokenizer.py --only encode --russian ~/books
    uv run --group peers python benchmarks/tokenizer.py --equality-only 100

Everything runs in one process, on one core, in turns: ours, each peer, ours again. A ratio is the
peer's time over ours in the same round, so that above 1 ours is the faster; the table has the
median over the rounds, the lowest and the highest. Times are those of the CPU, of all threads,
and of the clock where two threads are measured. Merges and ids are compared as it goes, and a
difference ends the run; rustbpe resolves ties in its own way, so of its merges only the number
that agree is printed.

No text is ever encoded twice by the same object, since ours remembers chunks: every round has a
slice of the corpus of its own, and before the first round each object encodes one slice untimed.
In the rows named "first" that is left out, and every round has a fresh object; in that of "known
words" ours has encoded the very lines before.
"""

import argparse
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median

from tokenizer_cases import (
    PATHOLOGICAL,
    Bench,
    Case,
    DifferenceError,
    cases,
    check_equality,
    run_as_child,
    run_pathological,
)
from tokenizer_corpora import Corpus, english_files, russian_documents, text_files

# The libraries read it when they are imported, so that the script starts itself anew with it.
ONE_THREAD = {
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

HEADER = ("work", "MB", "ours", "peer", "theirs", "ratio", "min–max", "at least", "aim", "")
WIDTHS = (30, 5, 12, 15, 12, 5, 11, 8, 5, 6)


def print_row(*cells: object) -> None:
    """Print one line of a Markdown table."""
    padded = (f"{cell!s:{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    print("|", " | ".join(padded), "|", flush=True)


def run_case(case: Case, bench: Bench) -> int:
    """Print the rows of a case; return how many of them miss their 'at least'."""
    rounds = list(case.measure(bench))
    megabytes = median(measured["MB"] for measured in rounds)
    ours = case.figure(median(measured["ours"] for measured in rounds))
    misses = 0
    for peer, target in case.peers.items():
        ratios = sorted(measured[peer] / measured["ours"] for measured in rounds)
        ratio = median(ratios)
        missed = target is not None and ratio < target[0]
        misses += missed
        print_row(
            *(case.name, f"{megabytes:.3g}", ours, peer),
            *(case.figure(median(measured[peer] for measured in rounds)), f"{ratio:.2f}"),
            f"{ratios[0]:.2f}–{ratios[-1]:.2f}",
            *(target or ("", "")),
            "MISSED" if missed else "",
        )
    for note in bench.take_notes():
        print(f"    {note}", flush=True)
    return misses


def print_table(bench: Bench, only: str) -> None:
    """Run the cases whose name holds `only`."""
    chosen = [case for case in cases(quick=bench.quick) if only in case.name]
    if not chosen:
        sys.exit(f"no row has {only!r} in its name")
    print(
        f"{bench.rounds} rounds, each on its own slice of the corpus, none encoded twice by the "
        "same object;\nratio: the peer's time by ours, median; MB: text per round, UTF-8; "
        "vocabulary 32k unless said;\ntheirs of tokenizers' encode: on the first fifth of the "
        "slice, scaled by its bytes\n"
    )
    if bench.quick:
        print("--quick: vocabulary 4k, and too little text for the targets to mean anything\n")
    print_row(*HEADER)
    print_row(*("-" * width for width in WIDTHS))
    misses = sum(run_case(case, bench) for case in chosen)
    print(f"\n{misses} below 'at least'; every merge and id compared is equal")


def print_pathological(limit: int) -> None:
    """Seconds of each library on each hostile input."""
    libraries = ("ours", "tiktoken", "tokenizers", "rustbpe")
    print(f"\n| {'pathological input, CPU s':40} |", " | ".join(f"{x:16}" for x in libraries), "|")
    print(f"| {'-' * 40} |", " | ".join("-" * 16 for _ in libraries), "|")
    for name in PATHOLOGICAL:
        cells = run_pathological(name, libraries, limit)
        print(f"| {name:40} |", " | ".join(f"{cell:16}" for cell in cells), "|", flush=True)


def describe(language: str, corpus: Corpus, wanted: float) -> None:
    """Say how much text there is."""
    print(f"{language}: {corpus.megabytes:.1f} MB in {len(corpus.documents)} documents")
    if corpus.megabytes < 0.99 * wanted:
        print(
            f"    {wanted:.0f} MB were wanted: the rows use what there is; "
            f"give more with --{language} PATH"
        )


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--english", type=Path, help="file or folder of text; else site-packages")
    parser.add_argument("--russian", type=Path, help="the same; else catalogues and manual pages")
    parser.add_argument("--rounds", type=int, help="5 by default, 2 with --quick")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="rows with it in the name")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--pathological", action="store_true", help="hostile inputs instead")
    parser.add_argument("--limit", type=int, default=60, help="seconds for a hostile input")
    parser.add_argument(
        "--equality-only",
        type=float,
        nargs="?",
        const=100,
        metavar="MB",
        help="time nothing; compare ids of that much text (100 by default), and merges",
    )
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure what was asked for."""
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **ONE_THREAD})
    arguments = parse_arguments()
    if arguments.child:
        run_as_child(*arguments.child)
        return
    all_cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if all_cores:
        os.sched_setaffinity(0, {max(all_cores)})
    peers = ", ".join(f"{name} {version(name)}" for name in ("tiktoken", "tokenizers", "rustbpe"))
    print(f"Python {platform.python_version()}, numpy {version('numpy')}; {peers}")
    if arguments.pathological:
        print_pathological(arguments.limit)
        return

    rounds = arguments.rounds or (2 if arguments.quick else 5)
    if arguments.equality_only:
        wanted = {"english": arguments.equality_only, "russian": arguments.equality_only / 3}
    elif arguments.quick:
        wanted = {"english": 1.5 + 0.5 * (rounds + 1), "russian": 0.5 + 0.25 * (rounds + 1)}
    else:
        # 20 MB and 5 MB are the slices that are encoded; what precedes them is trained on
        wanted = {"english": 100 + 20 * (rounds + 1), "russian": 10 + 5 * (rounds + 1)}
    paths = {"english": arguments.english, "russian": arguments.russian}
    found = {"english": english_files, "russian": russian_documents}
    corpora = {
        language: Corpus(text_files(path) if path else found[language](), wanted[language])
        for language, path in paths.items()
    }
    if arguments.equality_only:  # English makes up for the Russian that is not there
        wanted["english"] -= corpora["russian"].megabytes
        corpora["english"].truncate(wanted["english"])
    for language, corpus in corpora.items():
        describe(language, corpus, wanted[language])
    try:
        if arguments.equality_only:
            check_equality(corpora)
        else:
            bench = Bench(corpora, rounds=rounds, quick=arguments.quick, all_cores=all_cores)
            print_table(bench, arguments.only)
    except DifferenceError as difference:
        sys.exit(f"\nDIFFERENCE: {difference}")


if __name__ == "__main__":
    main()
