"""Between `llm` and the HuggingFace world: pipelines, arrivals, exports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_proxy._python_tokenizer import HFPythonTokenizerAdapter
from hf_proxy.hf_adapter import HFAdapter
from hf_proxy.hf_config import HFAdapterConfig
from hf_proxy.hf_tokenizer import HFTokenizerAdapter
from llm.core.base_model import BaseModel
from llm.core.eval_mode import eval_mode
from llm.core.model_folder import read_hf_config
from llm.models import load_pretrained
from llm.tokenizers import BaseTokenizer, BPETokenizer

if TYPE_CHECKING:
    from transformers import Pipeline

# weights that are pickled are not among them
HUB_FILES = ["*.json", "*.safetensors", "merges.txt"]
CHAT_TEMPLATE_FILE = "chat_template.jinja"
# what the published text-generation pipeline continues by, where a context has room for it
PIPELINE_TOKENS = 256
# fp32 logits of two correct implementations differ by less, relative to the largest
LOGIT_TOLERANCE = 1e-5
CERTIFICATE_TEXTS = (
    "The cat sat on the mat.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "  def f(x):\n\treturn x ** 2   # naïve\n\n",
    "2026-11-22: 3,14 × 10⁻³ — “quotes”, 🙂👩‍👩‍👧, 日本語, \u200b\u0301",
)


def create_hf_pipeline(
    model: BaseModel | HFAdapter,
    tokenizer: BaseTokenizer | PreTrainedTokenizerBase,
    task: str = "text-generation",
    **options: Any,
) -> Pipeline:
    """A transformers pipeline of a model and tokenizer of ours, or wrapped already.

    The model stays on its device; a transformers model is put into eval mode.
    Where `options` name no length, the continuation has at most 256 tokens, and
    half the context.

    Args:
        model: a model of ours, wrapped or not.
        tokenizer: a tokenizer of ours, or one of transformers'.
        task: as in `transformers.pipeline`.
        options: for `transformers.pipeline`, and for `generate`.

    Raises:
        ValueError: the tokenizer has more tokens than the model.
    """
    if isinstance(model, BaseModel):
        model = HFAdapter.from_llm_model(model)
    longest = model.config.max_position_embeddings
    if isinstance(tokenizer, BaseTokenizer):
        tokenizer = HFTokenizerAdapter(tokenizer, model_max_length=longest)
    _check_vocabulary(len(tokenizer), model.config.vocab_size)
    if not {"max_new_tokens", "max_length", "generation_config"} & set(options):
        options["max_new_tokens"] = max(min(PIPELINE_TOKENS, longest // 2), 1)
    # one that is spread over devices stays where it is
    if getattr(model, "hf_device_map", None) is None:
        options.setdefault("device", model.device)
    # imported here, for it loads the pipelines of images and sounds as well
    from transformers import pipeline

    # its overloads list the tasks one by one
    make: Callable[..., Pipeline] = pipeline
    return make(task, model=model.eval(), tokenizer=tokenizer, **options)


def load_llm_model(
    source: str | Path, *, with_tokenizer: bool = True
) -> tuple[BaseModel, BPETokenizer | None]:
    """Read a model and its tokenizer into our classes.

    Args:
        source: a folder that transformers, this package or `llm` wrote, of an
            architecture that `llm` has; or the id of such a one on the
            HuggingFace hub, the only case that uses the network.
        with_tokenizer: read the tokenizer too.

    Returns:
        The model, in eval mode on the CPU, and its tokenizer: None where the
        folder has none or it was not asked for.

    Raises:
        FileNotFoundError: there is no such folder, and it cannot be an id.
        ValueError: a file is damaged, or ours cannot express the model or the
            tokenizer (several end tokens, say); what it is, is named.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _download(str(source))
    model: BaseModel
    if read_hf_config(folder)["model_type"] == HFAdapterConfig.model_type:
        # with the option, it returns two things
        load: Callable[..., Any] = HFAdapter.from_pretrained
        adapter, info = load(folder, output_loading_info=True)
        # transformers begins anew what it does not find, and only warns
        wrong = sorted({*info["missing_keys"], *info["unexpected_keys"]})
        if wrong:
            raise ValueError(
                f"{folder} is not whole, or of another model: {', '.join(wrong[:3])} "
                "missing or not of it"
            )
        model = adapter.to_llm_model()
    else:
        model = load_pretrained(folder)
    return model, _load_tokenizer(folder) if with_tokenizer else None


@dataclass(frozen=True, kw_only=True)
class ExportCertificate:
    """How transformers' own classes, opening an exported folder, compare with ours.

    Args:
        folder: where the export is.
        architecture: transformers' class that opened it.
        largest_logit_difference: over random prompts, in fp32.
        largest_logit: for comparison.
        greedy_tokens: compared, of continuations of the prompts.
        greedy_tokens_equal: how many of them were the same.
        texts: encoded by both tokenizers, 0 without one.
        texts_equal: how many got the same ids.
    """

    folder: Path
    architecture: str
    largest_logit_difference: float
    largest_logit: float
    greedy_tokens: int
    greedy_tokens_equal: int
    texts: int
    texts_equal: int

    def __str__(self) -> str:
        """One line for each finding."""
        lines = [
            f"{self.folder} opens in transformers as {self.architecture}",
            f"  largest logit difference  {self.largest_logit_difference:.1e}",
            f"  greedy tokens equal       {self.greedy_tokens_equal} of {self.greedy_tokens}",
        ]
        if self.texts:
            lines.append(f"  texts encoded alike       {self.texts_equal} of {self.texts}")
        return "\n".join(lines)


def export_native(
    model: BaseModel | HFAdapter,
    folder: str | Path,
    tokenizer: BaseTokenizer | HFTokenizerAdapter | None = None,
) -> ExportCertificate:
    """Write a folder that plain transformers opens, without this project, and prove it.

    The folder is opened again with transformers' own class, and compared.

    Args:
        model: a model of ours, wrapped or not; merge PEFT's adapters first.
        folder: made if it is not there.
        tokenizer: the model's, wrapped or not.

    Raises:
        TypeError: the model or the tokenizer is of another kind.
        ValueError: transformers' class cannot express the model (the field or
            weight is named), what it makes of the folder is not the model, or
            the tokenizer's vocabulary lacks some bytes.
    """
    folder = Path(folder)
    generation_config = None
    if isinstance(model, HFAdapter):
        generation_config = model.generation_config
        model = model.to_llm_model()
    if not isinstance(model, BaseModel):
        raise TypeError(f"expected a model of llm or an HFAdapter, not {type(model).__name__}")
    chat_template = None
    if isinstance(tokenizer, HFTokenizerAdapter):
        chat_template = tokenizer.chat_template
        tokenizer = tokenizer.to_llm_tokenizer()
    if tokenizer is not None and not isinstance(tokenizer, BPETokenizer):
        raise TypeError(f"expected a BPETokenizer, wrapped or not: {type(tokenizer).__name__}")
    if tokenizer is not None:
        _check_vocabulary(len(tokenizer), model.config.vocab_size)
        if tokenizer.missing_bytes:
            raise ValueError(
                f"the tokenizer has no token for {len(tokenizer.missing_bytes)} bytes, such as "
                f"{tokenizer.missing_bytes[0]:#04x}: plain transformers would leave them out of "
                "the text, where ours raises"
            )
    if not isinstance(chat_template, str | None):
        raise ValueError("chat_template is a mapping of several; an export has one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # beside its place, so that what is there stays whole if this fails
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        written = Path(temporary)
        model.save_pretrained(written)
        if generation_config is not None:
            generation_config.save_pretrained(written)
        if tokenizer is not None:
            tokenizer.save(written)
        if chat_template is not None:
            (written / CHAT_TEMPLATE_FILE).write_text(chat_template, encoding="utf-8")
        certificate = dataclasses.replace(_certify(model, written, tokenizer), folder=folder)
        allowed = LOGIT_TOLERANCE * max(certificate.largest_logit, 1.0)
        # written so that a NaN does not pass
        same = certificate.largest_logit_difference <= allowed
        if not same or certificate.texts_equal < certificate.texts:
            raise ValueError(f"the export is not the model that was exported:\n{certificate}")
        folder.mkdir(exist_ok=True)
        if tokenizer is not None:
            # of the tokenizer that was there
            (folder / CHAT_TEMPLATE_FILE).unlink(missing_ok=True)
        for file in written.iterdir():
            file.replace(folder / file.name)
    return certificate


@torch.no_grad()
def _certify(model: BaseModel, folder: Path, tokenizer: BPETokenizer | None) -> ExportCertificate:
    native = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = _on_cpu(model)
    longest = model.config.max_position_embeddings
    generator = torch.Generator().manual_seed(0)
    shape = (4, min(longest, 64))
    prompts = torch.randint(model.config.vocab_size, shape, generator=generator)
    with eval_mode(ours):
        expected, logits = ours(prompts), native(prompts).logits
    prompts = prompts[:, : max(shape[1] // 2, 1)]
    num_new = min(longest - prompts.shape[1], 32)
    equal = _greedy_native(native, prompts, num_new) == ours.generate(
        prompts, max_new_tokens=num_new, eos_token_id=()
    )
    return ExportCertificate(
        folder=folder,
        architecture=type(native).__name__,
        largest_logit_difference=float((logits - expected).abs().max()),
        largest_logit=float(expected.abs().max()),
        greedy_tokens=equal[:, prompts.shape[1] :].numel(),
        greedy_tokens_equal=int(equal[:, prompts.shape[1] :].sum()),
        texts=0 if tokenizer is None else len(CERTIFICATE_TEXTS),
        texts_equal=0 if tokenizer is None else _texts_equal(folder, tokenizer),
    )


def _check_vocabulary(num_tokens: int, vocab_size: int) -> None:
    if num_tokens > vocab_size:
        raise ValueError(
            f"the tokenizer has {num_tokens} tokens and the model {vocab_size}: it is another "
            "model's, or the model needs resize_token_embeddings"
        )


def _on_cpu(model: BaseModel) -> BaseModel:
    """A copy in fp32, made without a second one where the model is."""
    with torch.device("meta"):
        twin = type(model)(model.config)  # type: ignore[call-arg]
    weights = {name: w.to("cpu", torch.float32) for name, w in model.state_dict().items()}
    twin.load_state_dict(weights, assign=True)
    return twin


def _texts_equal(folder: Path, tokenizer: BPETokenizer) -> int:
    stranger = AutoTokenizer.from_pretrained(folder)
    return sum(
        stranger(text)["input_ids"] == tokenizer.encode(text, allowed_special="all")
        for text in CERTIFICATE_TEXTS
    )


def _greedy_native(native: PreTrainedModel, prompts: Tensor, num_new: int) -> Tensor:
    # nothing of the folder's generation_config: no end token, no penalty
    config = GenerationConfig(max_new_tokens=num_new, do_sample=False, pad_token_id=0)
    native.generation_config = config
    mask = torch.ones_like(prompts)
    return cast(Tensor, cast(Any, native).generate(prompts, attention_mask=mask))


def _download(source: str) -> Path:
    try:
        validate_repo_id(source)
    except HFValidationError:
        raise FileNotFoundError(
            f"{source} is not a folder, and cannot be the id of a model on the hub"
        ) from None
    return Path(snapshot_download(source, allow_patterns=HUB_FILES))


def _load_tokenizer(folder: Path) -> BPETokenizer | None:
    if (folder / "tokenizer.json").exists():
        return BPETokenizer.load(folder)
    if HFPythonTokenizerAdapter.is_saved_in(folder):
        raise ValueError(
            f"the tokenizer in {folder} is no BPETokenizer: HFTokenizerAdapter.from_pretrained "
            "reads it, and with_tokenizer=False the model alone"
        )
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return BPETokenizer.from_gpt2_files(folder / "vocab.json", folder / "merges.txt")
    return None
