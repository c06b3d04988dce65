"""Small synthetic tasks that tell what an architecture can do."""

from llm.evaluation.probes.arithmetic import ModularAddition
from llm.evaluation.probes.copying import Copying, LengthExtrapolation
from llm.evaluation.probes.probe import Probe, answer_example, draw_examples
from llm.evaluation.probes.recall import AssociativeRecall, Induction
from llm.evaluation.probes.run import ProbeScore, answer_accuracy, run_probe

__all__ = [
    "AssociativeRecall",
    "Copying",
    "Induction",
    "LengthExtrapolation",
    "ModularAddition",
    "Probe",
    "ProbeScore",
    "answer_accuracy",
    "answer_example",
    "draw_examples",
    "run_probe",
]
