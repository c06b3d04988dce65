"""A script as `python SCRIPT ARGUMENTS...` runs it, but with its runs in a folder of the test's.

    python run_script.py CHECKPOINTS SCRIPT ARGUMENTS...

An empty CHECKPOINTS leaves them where they are.
"""

import runpy
import sys
from pathlib import Path


def run_script(checkpoints, script, *arguments):
    if checkpoints:
        from experiments.shared import configs

        configs.CHECKPOINTS = Path(checkpoints)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    run_script(*sys.argv[1:])
