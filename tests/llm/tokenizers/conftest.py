"""Corpora, and tokenizers of ours and of the tokenizers library made of them."""

import json
import pydoc_data.topics
import random
import unicodedata
import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from llm.tokenizers import BPETokenizer

settings.register_profile("tokenizers", deadline=None, max_examples=40)
settings.load_profile("tokenizers")

SPECIALS = ["<pad>", "<unk>", "<bos>", "<eos>"]

ENGLISH = "\n".join(pydoc_data.topics.topics.values())[:120_000]
RUSSIAN = (
    "Съешь же ещё этих мягких французских булок, да выпей чаю. В чащах юга жил бы цитрус? Да, но "
    "фальшивый экземпляр!\nВ 1924 году на реке стояло 35 мельниц — и ни одна не работала.\r\n"
    "«Широкая электрификация южных губерний даст мощный толчок подъёму сельского хозяйства».\n"
    "Ёлка, ёж и подъезд; объём — 12 345,67 м³.  Два пробела,\tтабуляция.\n\n\n"
)
MIXED = (
    "I'll say it's DON'T, we'Ve 'ſ x̂ é 日本語 ٣٤٥ Ⅷ ½ ¼\n\n  \u3000\x85\x1c\u200b😀👩‍👩‍👧‍👦 "
    "<pad><eos> <bos> [MASK]  <|x|> 1234567 {a} ^$ ǅ ʰ ا ك \ufffd\ufeff \U0001e900\U00016ea0"
)
CORPUS = [ENGLISH, RUSSIAN, MIXED]


@pytest.fixture(scope="session")
def train_library():
    """Function that trains a tokenizer of the tokenizers library, by default as ours are."""

    def train(texts, vocab_size, special_tokens=(), pre_tokenizer=None):
        library = Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special_tokens),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        library.train_from_iterator(texts, trainer)
        return library

    return train


@pytest.fixture(scope="session")
def library_model(train_library):
    """Function of the same arguments: vocabulary and merges that BpeTrainer learns."""

    def model_of(*args):
        model = json.loads(train_library(*args).to_str())["model"]
        return model["vocab"], [tuple(merge) for merge in model["merges"]]

    return model_of


@pytest.fixture
def counted_text():
    """Class of strings that knows the most of them that were alive at a time."""

    class Text(str):
        alive = most = 0

        def __init__(self, *_):
            Text.alive += 1
            Text.most = max(Text.most, Text.alive)
            weakref.finalize(self, Text.leave)

        @classmethod
        def leave(cls):
            cls.alive -= 1

    return Text


@pytest.fixture(scope="session")
def corpus():
    """English, Russian and a mixture of scripts."""
    return CORPUS


@pytest.fixture(scope="session")
def tokenizer():
    """A trained tokenizer; tests must not change it."""
    tokenizer = BPETokenizer()
    tokenizer.train(CORPUS, vocab_size=1000, special_tokens=SPECIALS, show_progress=False)
    return tokenizer


@pytest.fixture(scope="session")
def hard_texts():
    """Texts of assigned and unassigned characters, white space, contractions and specials."""
    return make_hard_texts(count=160, seed=0)


def make_hard_texts(count, seed):
    rng = random.Random(seed)
    scalars = [code for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    assigned = [code for code in scalars if unicodedata.category(chr(code)) != "Cn"]
    pieces = [*" \n\r\t'sStTlLdD019.,!-/<>|_ёЖ", "'s", "'LL", "'Re", "  ", "\r\n", "жизнь", "word"]
    pieces += ["<pad>", "<eos>", "<|x|>", "[MASK]", " [MASK] ", "tool", "   "]

    def piece():
        which = rng.random()
        if which < 0.6:
            return rng.choice(pieces)
        return chr(rng.choice(assigned if which < 0.9 else scalars))

    return ["".join(piece() for _ in range(rng.randrange(60))) for _ in range(count)]


@pytest.fixture(scope="session")
def any_text():
    """Strategy of Unicode text: any scalar values, and runs that make merges."""
    return st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.text(st.sampled_from("ab \n'stё1й<pad>eos|")),
        st.lists(st.sampled_from([" the", "Съешь", " ещё", "\n\n", "'ll", "<eos>", "😀"])).map(
            "".join
        ),
    )
