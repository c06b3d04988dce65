"""Text: pieces that add up, stop strings, and characters that are never cut."""

import codecs

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm.generation import generate, generate_text, stream_text

EOS = 256
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class ByteTokenizer:
    """A token is a byte; 256 is a special one."""

    def __init__(self, bos_token_id=None, eos_token_id=None):
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id

    def __len__(self):
        return 257

    def encode(self, text, add_special_tokens=False):
        return list(text.encode("utf-8"))

    def decode_bytes(self, ids, skip_special_tokens=True):
        text = b""
        for token in ids:
            if token == EOS:
                text += b"" if skip_special_tokens else b"<eos>"
            else:
                text += bytes([token])
        return text


class WordTokenizer:
    """A token is one of the given byte strings."""

    bos_token_id = eos_token_id = None

    def __init__(self, *words):
        self.words = [word.encode() if isinstance(word, str) else word for word in words]

    def __len__(self):
        return len(self.words)

    def encode(self, text, add_special_tokens=False):
        return [self.words.index(text.encode())]

    def decode_bytes(self, ids, skip_special_tokens=True):
        return b"".join(self.words[token] for token in ids)


@pytest.fixture
def recite(make_scripted):
    """(model, tokenizer, prompt, options) such that the model recites bytes after the prompt."""

    def make(data, prompt=">", **fields):
        data = data.encode() if isinstance(data, str) else data
        script = list(data) if isinstance(data, bytes) else data
        model = make_scripted(script, prompt_length=len(prompt.encode()), **fields)
        return (model, ByteTokenizer(), prompt), {"max_new_tokens": len(script)}

    return make


TEXTS = [
    "plain ascii",
    "Привет, мир! Ёжик в тумане.",
    "смайлик 👋🏽 и семья 👨‍👩‍👧‍👦 конец",
    "日本語と한국어 mixed with é and ß",
    "tabs\tand\r\nnewlines\n\n",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("model_type", ["gpt", "gpt2"])
def test_the_text_is_what_the_model_said_without_the_prompt(recite, model_type, text):
    args, options = recite(text, prompt="Да: ", model_type=model_type)
    assert generate_text(*args, **options) == text
    assert "".join(stream_text(*args, **options)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_given_as_soon_as_they_are_complete(recite, text, count_tokens):
    args, options = recite(text)
    lengths = count_tokens(args[0])
    said = ""
    for piece in stream_text(*args, **options):
        assert piece != ""
        assert "\ufffd" not in piece
        said += piece
        assert len(lengths) == len(said.encode())
    assert said == text


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"a\x80b",
        b"\xd0A",
        "Привет".encode()[:-1],
        "👋".encode()[:3],
        "👋".encode()[:1] + b"x",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"ok\xe2\x82",
    ],
)
def test_bytes_that_are_not_text_become_replacement_characters(recite, data):
    args, options = recite(data)
    assert generate_text(*args, **options) == data.decode("utf-8", errors="replace")
    assert "".join(stream_text(*args, **options)) == data.decode("utf-8", errors="replace")


@quick
@given(
    st.one_of(
        st.binary(max_size=14), st.text(max_size=8).map(lambda t: t.encode("utf-8", "replace"))
    )
)
def test_pieces_add_up_to_the_text_for_any_bytes(recite, data):
    args, options = recite(data)
    text = generate_text(*args, **options)
    assert text == data.decode("utf-8", errors="replace")
    assert "".join(stream_text(*args, **options)) == text


# -------------------------------------------------------------------- stop strings

STOPS = [
    ("hello##world", ("##",), "hello"),
    ("hello#world##", ("##",), "hello#world"),
    ("hello", ("##",), "hello"),
    ("hello#", ("##",), "hello#"),
    ("##hello", ("##",), ""),
    ("hello##", ("##",), "hello"),
    ("aaab", ("aab",), "a"),
    ("abababc", ("ababc",), "ab"),
    ("a###b", ("##",), "a"),
    ("one\ntwo", ("\n",), "one"),
    ("one. two! three", ("!", "."), "one"),
    ("one. two! three", ("three", "!"), "one. two"),
    ("Привет, мир", ("мир",), "Привет, "),
    ("Привет 👋🏽 мир", ("👋",), "Привет "),
    ("Привет 👋 мир", ("ир", "Z"), "Привет 👋 м"),
    ("x User: y", ("\nUser:", " User:"), "x"),
]


@pytest.mark.parametrize(("text", "stop", "expected"), STOPS)
def test_text_ends_before_a_stop_string(recite, text, stop, expected):
    args, options = recite(text)
    assert generate_text(*args, stop=stop, **options) == expected
    assert "".join(stream_text(*args, stop=list(stop), **options)) == expected


def test_a_single_stop_string_need_not_be_in_a_list(recite):
    args, options = recite("hello##world")
    assert generate_text(*args, stop="##", **options) == "hello"


def test_generation_ends_at_a_stop_string(recite, count_tokens):
    args, options = recite("hello##world")
    lengths = count_tokens(args[0])
    generate_text(*args, stop=("##",), **options)
    assert len(lengths) == len("hello##")


def test_only_what_may_become_a_stop_string_is_held_back(recite, count_tokens):
    args, options = recite("ab#c##d")
    lengths = count_tokens(args[0])
    pieces = [(piece, len(lengths)) for piece in stream_text(*args, stop=("##",), **options)]
    assert pieces == [("a", 1), ("b", 2), ("#c", 4)]


def test_a_stop_string_is_sought_in_the_new_text_alone(recite):
    args, options = recite("#b##c", prompt="a##a#")
    assert generate_text(*args, stop=("##",), **options) == "#b"


def test_a_stop_string_inside_a_token_keeps_what_stands_before_it(make_scripted):
    tokenizer = WordTokenizer(">", "Hello wor", "ld. The", " end")
    model = make_scripted([1, 2, 3], vocab_size=4)
    for stop, expected in {
        ". ": "Hello world",
        "wor": "Hello ",
        "world": "Hello ",
        "The end": "Hello world. ",
        "d. The e": "Hello worl",
        "absent": "Hello world. The end",
        "endless": "Hello world. The end",
        ("The", "ld"): "Hello wor",
        ("ld", "The"): "Hello wor",
    }.items():
        args = (model, tokenizer, ">")
        assert generate_text(*args, max_new_tokens=3, stop=stop) == expected
        assert "".join(stream_text(*args, max_new_tokens=3, stop=stop)) == expected


def test_characters_split_over_tokens_are_put_together(make_scripted):
    wave = "👋".encode()
    tokenizer = WordTokenizer(">", b"a" + wave[:1], wave[1:3], wave[3:] + b"b" + wave[:2], wave[2:])
    model = make_scripted([1, 2, 3, 4], vocab_size=5)
    pieces = list(stream_text(model, tokenizer, ">", max_new_tokens=4))
    assert pieces == ["a", "👋b", "👋"]


@quick
@given(st.text("ab#я", max_size=12), st.text("ab#я", min_size=1, max_size=4))
def test_any_stop_string_cuts_at_its_first_occurrence(recite, text, stop):
    args, options = recite(text)
    expected = text.split(stop)[0]
    assert generate_text(*args, stop=(stop,), **options) == expected
    assert "".join(stream_text(*args, stop=(stop,), **options)) == expected


def test_an_empty_stop_string_is_an_error(recite):
    args, options = recite("hello")
    with pytest.raises(ValueError, match="stop"):
        generate_text(*args, stop=("##", ""), **options)


# ------------------------------------------------------------------------- options


def test_eos_ends_the_text_and_is_not_in_it(recite):
    script = [*b"hi", EOS, *b" there"]
    args, options = recite(script, eos_token_id=EOS)
    assert generate_text(*args, **options) == "hi"
    assert "".join(stream_text(*args, **options)) == "hi"
    assert generate_text(*args, eos_token_id=(), **options) == "hi there"
    assert generate_text(*args, eos_token_id=ord("i"), **options) in ("h", "hi")


def test_an_incomplete_character_before_eos_becomes_a_replacement_character(recite):
    args, options = recite([*b"hi", 0xD0, EOS, *b"x"], eos_token_id=EOS)
    assert generate_text(*args, **options) == "hi\ufffd"


def test_options_reach_generate(model_type, make_model):
    """The text of sampled ids is the text of `generate` with the same seed."""
    model = make_model(model_type, vocab_size=257)
    tokenizer, prompt = ByteTokenizer(), "Q: "
    options = {"do_sample": True, "temperature": 1.4, "top_k": 90, "repetition_penalty": 1.2}
    for use_cache in (True, False):
        ids = generate(
            model,
            torch.tensor([tokenizer.encode(prompt)]),
            max_new_tokens=10,
            generator=torch.Generator().manual_seed(4),
            use_cache=use_cache,
            **options,
        )
        expected = tokenizer.decode_bytes(ids[0, 3:].tolist()).decode("utf-8", errors="replace")
        for text in (generate_text, lambda *a, **o: "".join(stream_text(*a, **o))):
            got = text(
                model,
                tokenizer,
                prompt,
                max_new_tokens=10,
                generator=torch.Generator().manual_seed(4),
                use_cache=use_cache,
                **options,
            )
            assert got == expected


@pytest.mark.filterwarnings("ignore")
def test_text_may_run_past_the_context(model_type, make_model):
    model = make_model(model_type, vocab_size=257)
    steps = model.config.max_position_embeddings + 10
    pieces = list(stream_text(model, ByteTokenizer(), "ab", max_new_tokens=steps))
    ids = generate(model, torch.tensor([[97, 98]]), max_new_tokens=steps)[0, 2:].tolist()
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    expected = decoder.decode(ByteTokenizer().decode_bytes(ids), final=True)
    assert "".join(pieces) == expected


def test_no_new_tokens_is_no_text(recite):
    args, _ = recite("hello")
    assert generate_text(*args, max_new_tokens=0) == ""
    assert list(stream_text(*args, max_new_tokens=0)) == []


def test_an_empty_prompt_begins_with_bos(recite):
    (model, _, _), options = recite("hello")
    assert generate_text(model, ByteTokenizer(bos_token_id=EOS), "", **options) == "hello"


def test_an_empty_prompt_without_a_bos_is_an_error(recite):
    (model, tokenizer, _), options = recite("hello")
    with pytest.raises(ValueError, match=r"(?i)prompt|empty"):
        generate_text(model, tokenizer, "", **options)


def test_a_misspelt_option_is_an_error(recite):
    args, options = recite("hello")
    with pytest.raises((ValueError, TypeError), match="stops"):
        generate_text(*args, stops=("##",), **options)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_restored(recite, training):
    args, options = recite("hello##", dropout=0.5)
    args[0].train(training)
    assert generate_text(*args, stop=("##",), **options) == "hello"
    assert all(module.training == training for module in args[0].modules())


def test_an_empty_prompt_begins_after_eos_rather_than_bos(make_scripted):
    model = make_scripted(list(b"hi"))
    seen = []
    forward = model.hidden_states
    model.hidden_states = lambda ids, **rest: (seen.append(ids.tolist()), forward(ids, **rest))[1]
    tokenizer = ByteTokenizer(bos_token_id=1, eos_token_id=EOS)
    assert generate_text(model, tokenizer, "", max_new_tokens=2, eos_token_id=()) == "hi"
    assert seen[0] == [[EOS]]


def test_a_vocabulary_beyond_the_tokenizers_is_never_chosen(make_scripted):
    model = make_scripted(list(b"hello"), vocab_size=300)
    with torch.no_grad():
        model.lm_head.weight[290] = 100.0  # likelier than anything the tokenizer knows
    assert generate_text(model, ByteTokenizer(), ">", max_new_tokens=5) == "hello"
