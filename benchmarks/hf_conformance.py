"""Run transformers' own common test suites on our models and tokenizer, beside HuggingFace's GPT-2.

    uv run --with pip --with parameterized python benchmarks/hf_conformance.py
    uv run --with pip --with parameterized python benchmarks/hf_conformance.py gpt2 -k embeddings

What HuggingFace's classes pass must be passed by ours, under the same name of test, and what they
skip must not fail: where ours do worse the test is named, and there must be none. The suites are
those of the installed version, from its source distribution, which pip fetches once into
~/.cache/llm-arch-research. It lacks some, those of generation above all: a clone of transformers
has them (`--clone FOLDER`). Nothing else is fetched: the hub is switched off for all alike.
Options that this script does not know are pytest's (`-x`, `--tb=long`); `RUN_SLOW=1` in the
environment adds transformers' slow tests.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

CASES = Path(__file__).with_name("hf_conformance_cases.py")
# name on the command line: its class in hf_conformance_cases.py, and that of its reference
SUITES = {
    "gpt": ("TestGPT", "TestReferenceModel"),
    "gpt2": ("TestGPT2", "TestReferenceModel"),
    "tokenizer": ("TestTokenizer", "TestReferenceTokenizer"),
}
# Tests of the reference that ours need not pass, and why.
NOT_APPLICABLE = {
    "test_tokenizer_store_full_signature": (
        "settings are stored, but the parameter `tokenizer` is none: it is the vocabulary, which "
        "the test lets HuggingFace's classes leave out under the names `vocab` and `merges`"
    ),
}
OUTCOMES = ("missing", "failed", "skipped", "passed")  # worst first
# What the source distribution lacks of the modules that its suites import.
MISSING_MODULES = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "fixtures/sample_text.txt": "This is a test.\n\nIt has two sentences.\n",
}


def fetch_tests() -> Path:
    """The folder that holds `tests` of the installed transformers, fetched where it is not yet."""
    release = version("transformers")
    name = f"transformers-{release}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-arch-research"
    folder = cache / f"{name}-tests"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work]
        source_only = ["--no-binary", "transformers"]
        if subprocess.run([*pip, *source_only, f"transformers=={release}"]).returncode:
            sys.exit(f"pip could not fetch the source distribution of transformers {release}")
        with tarfile.open(next(Path(work).glob("*.tar.gz"))) as archive:
            tests = [m for m in archive.getmembers() if m.name.startswith(f"{name}/tests/")]
            archive.extractall(work, tests, filter="data")
        unpacked = Path(work) / name
        for path, text in MISSING_MODULES.items():
            file = unpacked / "tests" / path
            if not file.exists():
                file.parent.mkdir(exist_ok=True)
                file.write_text(text, encoding="utf-8")
        # a package, lest our own `tests` be found
        (unpacked / "tests/__init__.py").touch()
        unpacked.rename(folder)
    return folder


def run_tests(root: Path, classes: set[str], pytest_options: list[str]) -> dict[str, dict]:
    """Run those classes; return the outcome of each test by name, for each class."""
    environment = {**os.environ, "PYTHONPATH": str(root), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "report.xml"
        nodes = [f"{CASES}::{name}" for name in sorted(classes)]
        options = ["-c", os.devnull, "--rootdir", work, "-p", "no:cacheprovider"]
        options += ["-W", "ignore", "--tb=short", f"--junitxml={report}"]
        command = [sys.executable, "-m", "pytest", "-q", *options, *nodes, *pytest_options]
        subprocess.run(command, cwd=work, env=environment)
        if not report.exists():
            sys.exit("pytest wrote no report: see above")
        cases = list(ElementTree.parse(report).iter("testcase"))
    outcomes: dict[str, dict] = {name: {} for name in classes}
    for case in cases:
        # several tags where it has subtests: the worst counts
        tags = {part.tag for part in case}
        outcome = "skipped" if "skipped" in tags else "passed"
        outcome = "failed" if tags & {"failure", "error"} else outcome
        class_name = case.get("classname", "").rpartition(".")[2]
        if class_name not in outcomes:
            sys.exit("the cases could not be loaded: see above")
        outcomes[class_name][case.get("name")] = outcome
    return outcomes


def main() -> None:
    """Run the suites; print the counts and the differences."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", help=f"of {', '.join(SUITES)}; all by default")
    parser.add_argument("--clone", type=Path, help="a clone of transformers at this version's tag")
    parser.add_argument("-k", metavar="EXPR", help="only tests that match, as in pytest")
    arguments, pytest_options = parser.parse_known_args()
    missing = [name for name in ("pip", "parameterized") if find_spec(name) is None]
    if missing:
        sys.exit(f"needs {' and '.join(missing)}: uv run --with pip --with parameterized python …")
    for name in set(arguments.suites) - set(SUITES):
        parser.error(f"no suite is called {name!r}: there are {', '.join(SUITES)}")
    if arguments.k:
        pytest_options += ["-k", arguments.k]

    suites = {name: SUITES[name] for name in arguments.suites or SUITES}
    classes = {name for pair in suites.values() for name in pair}
    root = arguments.clone.resolve() if arguments.clone else fetch_tests()
    outcomes = run_tests(root, classes, pytest_options)

    print(f"\n{'':24}{'passed':>8}{'failed':>8}{'skipped':>8}")
    for name in sorted(classes):
        count = Counter(outcomes[name].values())
        print(f"{name:24}{count['passed']:8}{count['failed']:8}{count['skipped']:8}")
        if "Reference" in name and not count["passed"]:
            sys.exit("the reference passes none of these tests: there is nothing to compare with")
    differences = [
        f"{suite}: {test} {found}, the reference {expected}"
        for suite, (ours, reference) in suites.items()
        for test, expected in outcomes[reference].items()
        for found in [outcomes[ours].get(test, "missing")]
        if OUTCOMES.index(found) < OUTCOMES.index(expected) and test not in NOT_APPLICABLE
    ]
    print(f"\n{len(differences)} tests in which ours do worse", *differences, sep="\n  ")
    sys.exit(bool(differences))


if __name__ == "__main__":
    main()
