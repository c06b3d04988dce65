"""The notebooks run, and what is stored in them is what their code prints and draws."""

import copy
import importlib.util
import json
import re
from pathlib import Path

import black
import nbformat
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
NAMES = ["01_bpe", "02_attention", "03_gpt_vs_gpt2", "04_generation", "05_huggingface"]
# these train models, or load all of transformers
SLOW = set(NAMES[1:])
LARGEST = 1_500_000

spec = importlib.util.spec_from_file_location("execute", ROOT / "notebooks" / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def raw(name):
    return (ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8")


def test_these_are_the_notebooks():
    assert [path.stem for path in execute.notebooks()] == NAMES


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NAMES],
)
def test_executed_anew_it_gives_what_is_stored(name):
    stored = read(name)
    exactly = execute.recorded_environment(stored) == execute.environment()
    executed = execute.execute(ROOT / "notebooks" / f"{name}.ipynb")
    assert not execute.differences(stored, executed, exactly=exactly)


@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_are_of_this_code(name):
    notebook = read(name)
    nbformat.validate(notebook)
    cells = execute.code_cells(notebook)
    assert notebook.metadata.executed.code == execute.code_digest(
        notebook
    ), f"the code has changed: uv run python notebooks/execute.py notebooks/{name}.ipynb"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_are_of_the_locked_versions(name):
    lock = (ROOT / "uv.lock").read_text("utf-8")
    recorded = execute.recorded_environment(read(name))
    for package in execute.PACKAGES:
        entry = f'[[package]]\nname = "{package}"\nversion = "{recorded[package]}"\n'
        assert entry in lock, f"{package} has changed: uv run python notebooks/execute.py"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_machine_is_stored(name):
    notebook = read(name)
    assert execute.clean(copy.deepcopy(notebook), notebook.metadata.executed) == notebook
    without_pictures = re.sub(r'"image/png": "[^"]*"', "", raw(name))
    assert not re.search(r"/(home|root|tmp|usr|Users)/", without_pictures)
    assert not re.search(r"\d\d:\d\d:\d\d|ipykernel", without_pictures)


@pytest.mark.parametrize("name", NAMES)
def test_the_code_is_formatted(name):
    mode = black.Mode(line_length=100)
    for cell in execute.code_cells(read(name)):
        assert black.format_str(cell.source, mode=mode) == cell.source + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_student_can_read_it(name):
    notebook = read(name)
    text = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    title, russian = text[0].splitlines()[0:3:2]
    assert re.match(rf"# {int(name[:2])}\. ", title)
    assert re.match(r"\*По-русски: .*\*$", russian)
    assert text[-1].startswith(("## Things to try", "**What to look at.**"))
    assert "## Things to try" in text[-1]
    assert "TODO" not in "".join(text)
    # each picture is followed by what to see in it
    for cell, following in zip(notebook.cells, notebook.cells[1:], strict=False):
        outputs = cell.get("outputs", [])
        if any("image/png" in output.get("data", {}) for output in outputs):
            assert "**What to look at.**" in following.source, following.source
    linked = re.findall(r"\]\((\w+\.ipynb)\)", "".join(text))
    assert all((ROOT / "notebooks" / link).is_file() for link in linked)


def test_they_are_small():
    assert sum(path.stat().st_size for path in execute.notebooks()) < LARGEST


def test_the_readme_names_each():
    readme = (ROOT / "notebooks" / "README.md").read_text("utf-8")
    assert re.findall(r"\((\w+)\.ipynb\)", readme) == NAMES


class TestTheCheckItself:
    """What it calls the same, and what it does not."""

    def notebook(self, *outputs, tags=()):
        cell = nbformat.v4.new_code_cell("1", outputs=list(outputs), metadata={"tags": list(tags)})
        return nbformat.v4.new_notebook(cells=[cell])

    def differ(self, old, new, *, exactly=True, tags=()):
        before, after = (self.notebook(*outputs, tags=tags) for outputs in (old, new))
        return execute.differences(before, after, exactly=exactly)

    def stream(self, text):
        return nbformat.v4.new_output("stream", text=text)

    def picture(self, content):
        return nbformat.v4.new_output(
            "display_data", {"image/png": content, "text/plain": "Figure"}
        )

    def test_another_number_text_picture_or_output_is_a_difference(self):
        assert self.differ([self.stream("loss 1.25")], [self.stream("loss 1.26")])
        assert self.differ([self.stream("a")], [self.stream("b")], exactly=False)
        assert self.differ([self.picture("AAAA")], [self.picture("AAAB")])
        assert self.differ([self.stream("a")], [])
        assert self.differ([], [self.stream("a")], exactly=False)
        assert self.differ([self.picture("AAAA")], [self.stream("a")], exactly=False)
        assert not self.differ([self.stream("a 1")], [self.stream("a 1")])
        assert not self.differ([self.picture("AAAA")], [self.picture("AAAA")])

    def test_timings_and_addresses_are_not(self):
        old, new = [self.stream("took 1.25 s")], [self.stream("took  13 s")]
        assert not self.differ(old, new, tags=["timing"])
        assert self.differ([self.stream("took 1 s")], [self.stream("took 1 h")], tags=["timing"])
        assert not self.differ([self.picture("AAAA")], [self.picture("AAAB")], tags=["timing"])
        old, new = [self.stream("<A at 0x7f12ab>")], [self.stream("<A at 0x7e99cd>")]
        assert not self.differ(old, new)

    def test_on_another_processor_numbers_and_what_was_trained_may_differ(self):
        assert not self.differ(
            [self.stream("loss 1.25 nats")], [self.stream("loss 1.3 nats")], exactly=False
        )
        trained = [self.stream("The cat sleeps")], [self.stream("The cat waits")]
        assert self.differ(*trained, exactly=False)
        assert not self.differ(*trained, exactly=False, tags=["varies"])
        assert self.differ(*trained, tags=["varies"])
        assert self.differ(trained[0], [], exactly=False, tags=["varies"])

    def test_a_processor_is_known_again(self):
        environments = []
        for seed in range(2):
            torch.manual_seed(seed)
            environments.append(execute.environment())
        assert environments[0] == environments[1]

    def test_the_digest_is_of_code_and_order(self):
        notebook = read(NAMES[0])
        digest = execute.code_digest(notebook)
        cells = execute.code_cells(notebook)
        cells[0].source += "\n"
        assert execute.code_digest(notebook) != digest
        cells[0].source = cells[0].source[:-1]
        assert execute.code_digest(notebook) == digest
        notebook.cells.reverse()
        assert execute.code_digest(notebook) != digest

    def test_a_notebook_that_raises_warns_or_leaves_files_is_refused(self, tmp_path):
        path = tmp_path / "bad.ipynb"
        for code, message in {
            "1 / 0": "ZeroDivisionError",
            "import sys; print('careful', file=sys.stderr)": "stderr: careful",
            "open('left.txt', 'w').close()": "left.txt",
        }.items():
            self.write(path, code)
            before = path.read_bytes()
            with pytest.raises(ValueError, match=message):
                execute.main([str(path)])
            assert path.read_bytes() == before

    def test_what_is_stored_is_all_that_a_reader_needs(self, tmp_path, capsys):
        path = tmp_path / "good.ipynb"
        self.write(path, "print('two'); 1 + 1", tags=["varies"], collapsed=True)
        execute.main([str(path)])
        assert capsys.readouterr().out.startswith("good.ipynb: ")
        stored = nbformat.read(path, as_version=4)
        (cell,) = stored.cells
        assert cell.metadata == {"tags": ["varies"]}
        assert [output.get("text") for output in cell.outputs] == ["two\n", None]
        assert cell.outputs[1].data == {"text/plain": "2"}
        assert set(stored.metadata) == {"executed", "kernelspec", "language_info"}
        assert execute.recorded_environment(stored) == execute.environment()

    def write(self, path, code, **metadata):
        cell = nbformat.v4.new_code_cell(code, metadata=metadata)
        path.write_text(json.dumps(nbformat.v4.new_notebook(cells=[cell])), "utf-8")
