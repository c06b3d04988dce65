"""A process that has imported what takes seconds, and forks for each script that a test runs.

    python script_zygote.py MODULES...

Each line of its input is a JSON list: `["start", request]` is answered with the id of the new
process, `["poll", id]` with its exit status, negative for a signal and null while it runs. It ends
with its input, and what still runs with it. A request has `command` (what run_script.py takes),
`folder`, `environment`, `encoding`, and the paths `input`, `output` and `errors`.

A forked script has what a new interpreter has, but for the modules that are there already and for
the seed of string hashes, which it shares with its siblings: script_processes.py says what that
leaves to real processes.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import threading

from run_script import run_script


def serve(modules):
    """Answer requests; what a forked process is to run, and None where the input has ended."""
    for module in modules:
        importlib.import_module(module)
    # the garbage of imports is not looked at again, so its memory stays shared
    gc.collect()
    gc.freeze()
    # a fork has one thread: a lock that another one holds would never be released
    assert threading.active_count() == 1
    if os.path.isdir("/proc/self/task"):
        assert len(os.listdir("/proc/self/task")) == 1
    # control-C is the tests' to answer
    at_interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    running = set()
    print("ready", flush=True)
    # no read-ahead that a fork would share
    while line := sys.stdin.readline():
        what, of = json.loads(line)
        if what == "start":
            if (answer := os.fork()) == 0:
                signal.signal(signal.SIGINT, at_interrupt)
                return of
            running.add(answer)
        else:
            process, status = os.waitpid(of, os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if process else None
            if process:
                running.remove(process)
        print(json.dumps(answer), flush=True)
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return None


def become(request):
    """Turn a fork into a process that has just been started."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, (name, flag) in enumerate(
        {"input": os.O_RDONLY, "output": flags, "errors": flags}.items()
    ):
        file = os.open(request[name], flag)
        os.dup2(file, number)
        os.close(file)
    encoding = request["encoding"]
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding=encoding, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding=encoding, closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(
        2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False
    )
    # `random` seeds itself anew in a fork
    if numpy := sys.modules.get("numpy.random"):
        numpy.seed()


def exit_status(work):
    """Do the work, and what an interpreter does when its program ends; what it would exit with."""
    status = 0
    try:
        work()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if status and end.code is not status:
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for output in (sys.stdout, sys.stderr):
        # a script may have closed it
        if not output.closed:
            output.flush()
    return status


if __name__ == "__main__":
    sys.path[0] = ""
    if (request := serve(sys.argv[1:])) is not None:
        become(request)
        # taking apart all that was imported takes a second, and is not of the script
        os._exit(exit_status(lambda: run_script(*request["command"])))
