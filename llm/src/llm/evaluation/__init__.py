"""How good a model is, in units that compare across tokenizers and architectures."""

from llm.evaluation.baseline_scores import count_baselines, evaluate_baselines, unigram_loss
from llm.evaluation.baselines import Baseline, Bigram, Pairs, Uniform, Unigram
from llm.evaluation.choice_score import ChoiceScore, score_choices
from llm.evaluation.cloze_score import ClozeScore, score_cloze
from llm.evaluation.generation_report import GenerationReport, report_generation
from llm.evaluation.log_likelihood import LogLikelihood, log_likelihoods
from llm.evaluation.metrics import bits_per_byte
from llm.evaluation.perplexity import TextScore, evaluate_text, perplexity
from llm.evaluation.task_scores import score_task
from llm.evaluation.tasks import Choice, Cloze, read_task
from llm.evaluation.text_model import TextModel, text_model

__all__ = [
    "Baseline",
    "Bigram",
    "Choice",
    "ChoiceScore",
    "Cloze",
    "ClozeScore",
    "GenerationReport",
    "LogLikelihood",
    "Pairs",
    "TextModel",
    "TextScore",
    "Uniform",
    "Unigram",
    "bits_per_byte",
    "count_baselines",
    "evaluate_baselines",
    "evaluate_text",
    "log_likelihoods",
    "perplexity",
    "read_task",
    "report_generation",
    "score_choices",
    "score_cloze",
    "score_task",
    "text_model",
    "unigram_loss",
]
