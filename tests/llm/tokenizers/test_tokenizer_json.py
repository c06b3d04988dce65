"""The tokenizer.json of the tokenizers library: its ids, or an error that names what is missing."""

import copy
import json
import random
import re
import unicodedata
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from llm.tokenizers import BPETokenizer
from llm.tokenizers._byte_level import from_printable, to_printable

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(add_prefix_space=False, use_regex=True):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def publish(corpus, pre_tokenizer, *, post_processor=None, normalizer=None, **model):
    """A tokenizer of the library, with the settings of a published model."""
    library = Tokenizer(models.BPE(**model))
    library.pre_tokenizer = pre_tokenizer
    library.decoder = decoders.ByteLevel()
    if normalizer is not None:
        library.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(corpus, trainer)
    if post_processor is not None:
        library.post_processor = post_processor
    return library


def gpt2(corpus):
    return publish(corpus, byte_level(), post_processor=processors.ByteLevel(trim_offsets=False))


def llama3(corpus):
    template = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)]
    )
    library = publish(
        corpus,
        pre_tokenizers.Sequence([split(LLAMA3), byte_level(use_regex=False)]),
        post_processor=processors.Sequence([processors.ByteLevel(), template]),
        ignore_merges=True,
    )
    library.add_special_tokens(["<|begin_of_text|>", "<|x|>"])
    return library


def qwen2(corpus):
    library = publish(
        corpus,
        pre_tokenizers.Sequence([split(QWEN2), byte_level(use_regex=False)]),
        normalizer=normalizers.NFC(),
        post_processor=processors.ByteLevel(trim_offsets=False),
    )
    library.add_special_tokens(["<|x|>"])
    library.add_tokens(["tool", AddedToken("и\u0306", normalized=True)])
    return library


def roberta(corpus):
    library = publish(
        corpus,
        byte_level(add_prefix_space=True),
        post_processor=processors.RobertaProcessing(("</s>", 1), ("<s>", 0)),
        unk_token="</s>",
        fuse_unk=True,
    )
    library.add_special_tokens([AddedToken("[MASK]", lstrip=True, rstrip=True)])
    return library


def starcoder(corpus):
    digits = pre_tokenizers.Digits(individual_digits=True)
    return publish(corpus, pre_tokenizers.Sequence([digits, byte_level()]))


def gpt_neox(corpus):
    library = publish(corpus, byte_level(), normalizer=normalizers.NFC())
    library.add_tokens([AddedToken(" " * count, normalized=True) for count in (4, 3, 2)])
    library.add_tokens([AddedToken("Ġ"), AddedToken("жизнь", normalized=False)])
    return library


def deepseek(corpus):
    steps = [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(LLAMA3)]
    steps.append(pre_tokenizers.Split(" <", "isolated"))
    library = publish(
        corpus,
        pre_tokenizers.Sequence([*steps, byte_level(use_regex=False)]),
        normalizer=normalizers.Sequence([]),
    )
    library.add_special_tokens(["<｜begin▁of▁sentence｜>"])
    return library


PUBLISHED = [gpt2, llama3, qwen2, roberta, starcoder, gpt_neox, deepseek]


@pytest.fixture(scope="module", params=PUBLISHED, ids=lambda make: make.__name__)
def published(request, corpus, tmp_path_factory):
    """A tokenizer of the library and ours, loaded from its file."""
    library = request.param(corpus)
    path = tmp_path_factory.mktemp("published") / "tokenizer.json"
    library.save(str(path))
    return library, BPETokenizer.load(path)


def same_normal_form(library, text):
    """Python's tables of NFC may be older than the library's; see BPETokenizer."""
    normalizer = library.normalizer
    normalized = normalizer.normalize_str(text) if normalizer else text
    return normalized in (text, unicodedata.normalize("NFC", text))


def test_ids_are_those_of_the_library(published, corpus, hard_texts):
    library, ours = published
    texts = [text for text in [*corpus, *hard_texts, ""] if same_normal_form(library, text)]
    assert len(texts) > 120
    for text in texts:
        ids = library.encode(text).ids
        assert ours.encode(text, allowed_special="all") == ids
        plain = library.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, add_special_tokens=False, allowed_special="all") == plain
        assert ours.decode(ids, skip_special_tokens=True) == library.decode(ids)


@given(data=st.data())
def test_ids_of_any_text_are_those_of_the_library(published, any_text, data):
    library, ours = published
    text = data.draw(any_text.filter(lambda text: same_normal_form(library, text)))
    assert ours.encode(text, allowed_special="all") == library.encode(text).ids
    library.encode_special_tokens = True
    assert ours.encode(text) == library.encode(text).ids
    library.encode_special_tokens = False


@given(data=st.data())
def test_any_ids_are_decoded_as_by_the_library(published, data):
    library, ours = published
    ids = data.draw(st.lists(st.integers(0, ours.vocab_size - 1), max_size=12))
    assert ours.decode(ids) == library.decode(ids, skip_special_tokens=False)


def test_a_loaded_file_is_saved_complete(published, corpus, hard_texts, tmp_path):
    library, ours = published
    ours.save(tmp_path / "again.json")
    assert BPETokenizer.load(tmp_path / "again.json") == ours
    again = Tokenizer.from_file(str(tmp_path / "again.json"))
    for text in [*corpus, *hard_texts]:
        assert again.encode(text).ids == library.encode(text).ids
    assert again.get_vocab() == library.get_vocab() == ours.get_vocab()


def test_our_file_is_the_librarys_own_serialization(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    ours = json.loads((tmp_path / "t.json").read_text("utf-8"))
    assert json.loads(Tokenizer.from_file(str(tmp_path / "t.json")).to_str()) == ours


@pytest.fixture(scope="module")
def document(corpus):
    """A file with something in every section."""
    library = llama3(corpus)
    library.normalizer = normalizers.NFC()
    return json.loads(library.to_str())


def load(document, tmp_path):
    path = tmp_path / "tokenizer.json"
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_text(text, "utf-8")
    return BPETokenizer.load(path)


def replaced(document, path, value):
    """A copy of the document with another value at a path such as `model.dropout`."""
    document = copy.deepcopy(document)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    target = document
    for step in parents:
        target = target[step]
    target[last] = value
    return document


def test_older_spellings_are_read(document, tmp_path):
    expected = load(document, tmp_path)
    older = copy.deepcopy(document)
    model = older["model"]
    model["merges"] = [" ".join(merge) for merge in model["merges"]]
    model.update(continuing_subword_prefix="", end_of_word_suffix="", dropout=0.0)
    for key in ("type", "fuse_unk", "byte_fallback"):
        del model[key]
    older["decoder"] = None
    del older["truncation"], older["padding"]
    assert load(older, tmp_path) == expected
    assert expected.decode(expected.encode("да, ёж!", add_special_tokens=False)) == "да, ёж!"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("truncation", {"max_length": 5}, "truncation="),
        ("padding", {"strategy": "BatchLongest"}, "padding="),
        ("model.type", "WordPiece", 'model type="WordPiece" is not supported'),
        ("model.dropout", 0.1, "model dropout=0.1 is not supported"),
        ("model.continuing_subword_prefix", "##", 'continuing_subword_prefix="##"'),
        ("model.end_of_word_suffix", "</w>", 'end_of_word_suffix="</w>"'),
        ("model.byte_fallback", True, "byte_fallback=true"),
        ("decoder", {"type": "Metaspace"}, 'decoder type="Metaspace"'),
        ("normalizer", {"type": "Lowercase"}, 'normalizer type="Lowercase"'),
        (
            "normalizer",
            {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]},
            'normalizer.normalizers[1] type="NFKC"',
        ),
        ("pre_tokenizer", None, "pre_tokenizer is null"),
        ("pre_tokenizer", {"type": "Whitespace"}, "'Whitespace'"),
        ("pre_tokenizer.pretokenizers.0", {"type": "Punctuation"}, "'Punctuation'"),
        ("pre_tokenizer.pretokenizers.0", {"type": "ByteLevel"}, "pretokenizers[0] is 'ByteLevel'"),
        ("pre_tokenizer.pretokenizers", [], "pre_tokenizer is empty"),
        ("pre_tokenizer.pretokenizers.0.behavior", "Removed", 'behavior="Removed"'),
        ("pre_tokenizer.pretokenizers.0.pattern", {"Regex": r"\w"}, r"pretokenizers[0] pattern"),
        ("post_processor", {"type": "Weird"}, "post_processor of type 'Weird'"),
        ("added_tokens.0.single_word", True, "added_tokens[0] single_word=true"),
    ],
)
def test_what_is_not_supported_is_an_error_that_names_it(document, tmp_path, path, value, message):
    with pytest.raises(ValueError, match=r"tokenizer\.json: .*" + re.escape(message)):
        load(replaced(document, path, value), tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model", None, "model is null, not an object"),
        ("model.vocab", {}, "model.vocab has no token for any byte"),
        ("model.vocab", {"a": 0, "▁the": 1, "<s>": 2, "</s>": 3}, "'!' and has '▁the', which"),
        ("model.vocab", {"a": 0, " the": 1, "<s>": 2, "</s>": 3}, "'!' and has ' the', which"),
        ("model.vocab.he", -1, "model vocab: the id of 'he' is -1"),
        ("model.vocab.he", 3.0, "model vocab: the id of 'he' is 3.0"),
        ("model.vocab.he", True, "model vocab: the id of 'he' is True"),
        ("model.vocab.he", 5, "id 5 is both"),
        ("model.vocab.he", 5000, "ids go up to 5000, but id"),
        ("model.vocab.\ud800", 802, r"the token '\ud800' has a lone surrogate"),
        ("model.merges.3", ["q", "zzz"], "model.merges[3]: 'zzz' is not in the vocabulary"),
        ("model.merges.3", ["q", "q"], "model.merges[3]: 'qq' is not in the vocabulary"),
        ("model.merges.3", "a", "merges[3] is 'a', not a pair"),
        ("model.merges.3", ["a", "b", "c"], "merges[3] is"),
        ("model.merges.3", ["a", 1], "merges[3] is"),
        ("model.merges", {}, "model merges is {}, not an array"),
        ("model.ignore_merges", 1, "model ignore_merges is 1, not true or false"),
        ("added_tokens", 5, "added_tokens is 5, not an array"),
        ("added_tokens.1", "x", 'added_tokens[1] is "x", not an object'),
        ("added_tokens.1.content", "<s>", "added_tokens[1] content '<s>' is empty or occurs twice"),
        ("added_tokens.1.id", "1", 'added_tokens[1].id is "1"'),
        ("added_tokens.1.id", 700, "added_tokens[1]: '</s>' has id 700 and 1"),
        ("post_processor.processors.1.special_tokens", {}, "<s> is missing, not an object"),
        (
            "post_processor.processors.1.special_tokens.<s>.ids",
            [9999],
            "id 9999 is not in [0, 802)",
        ),
        ("post_processor.processors.1.single", [], "single holds the sequence 0 times"),
        ("pre_tokenizer.pretokenizers.0.pattern", {}, "pattern Regex is missing, not a string"),
        ("pre_tokenizer.pretokenizers.0.type", 3, "type is 3, not a string"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_the_field(document, tmp_path, path, value, message):
    with pytest.raises(ValueError, match=r"tokenizer\.json: .*" + re.escape(message)):
        load(replaced(document, path, value), tmp_path)


def test_merges_that_damage_the_meaning_are_errors(document, tmp_path):
    merges = document["model"]["merges"]
    with pytest.raises(ValueError, match=r"merges\[\d+\]: .* is listed twice"):
        load(replaced(document, "model.merges", [*merges, merges[0]]), tmp_path)
    forged = {"id": document["model"]["vocab"]["he"], "content": "he", "special": True}
    with pytest.raises(ValueError, match="spells the special token 'he': any text could forge it"):
        load(replaced(document, "added_tokens", [forged]), tmp_path)
    forged = {"id": document["model"]["vocab"]["h"], "content": "h", "special": True}
    with pytest.raises(ValueError, match="the special token 'h' is also a single byte"):
        load(replaced(document, "added_tokens", [forged]), tmp_path)


def test_ignored_merges_do_not_make_a_special_token_of_a_chunk(document, tmp_path):
    # the merges do not reach the word, but it is a chunk and in the vocabulary
    word = {"id": 802, "content": "zyzzyva", "special": True, "normalized": False}
    changed = replaced(document, "model.vocab.zyzzyva", 802)
    changed = replaced(changed, "added_tokens", [*document["added_tokens"], word])
    ours = load(changed, tmp_path)
    assert 802 not in ours.encode("zyzzyva")
    assert ours.encode("zyzzyva", add_special_tokens=False, allowed_special="all") == [802]


def test_text_that_is_no_json_is_an_error_that_names_the_file(document, tmp_path):
    text = json.dumps(document)
    for damaged in ("", text[: len(text) // 2], text[:-1], text + "}", "[" * 100_000, "\x00"):
        with pytest.raises(ValueError, match=r"tokenizer\.json is not valid JSON"):
            load(damaged, tmp_path)
    with pytest.raises(ValueError, match=r"tokenizer\.json: the key 'a' occurs twice"):
        load('{"a": 1, "a": 2}', tmp_path)
    with pytest.raises(ValueError, match=r"tokenizer\.json: is \[\], not an object"):
        load([], tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not UTF-8"):
        BPETokenizer.load(tmp_path)


def paths_of(value, path=()):
    """Where the values of a document are; of the vocabulary and merges, the first few."""
    yield path
    children = value.items() if isinstance(value, dict) else ()
    children = enumerate(value) if isinstance(value, list) else children
    for count, (key, child) in enumerate(children):
        if count < 7 or len(path) < 2:
            yield from paths_of(child, (*path, key))


def test_any_single_damage_is_a_value_error_or_harmless(document, tmp_path):
    small = copy.deepcopy(document)
    small["model"]["merges"] = []
    kept = {*list(small["model"]["vocab"])[:258]}
    small["model"]["vocab"] = {t: i for t, i in small["model"]["vocab"].items() if t in kept}
    for token_id, token in enumerate(small["added_tokens"][2:], start=258):
        token["id"] = token_id
    load(small, tmp_path)
    paths = [path for path in paths_of(small) if path]
    assert len(paths) > 80
    messages = []
    for path in paths:
        for junk in (None, -1, "\ud800", [None], {}, {"type": []}):
            damaged = copy.deepcopy(small)
            target = damaged
            for step in path[:-1]:
                target = target[step]
            target[path[-1]] = junk
            try:
                load(damaged, tmp_path).encode("any text")
            except ValueError as error:
                messages.append(str(error))
    assert len(messages) > 250
    assert [message for message in messages if "tokenizer.json: " not in message] == []


# vocabularies that no training of ours gives


def every_way(tokenizer, text, **options):
    """Ids of a text by each method, which have to be one."""
    ids = tokenizer.encode(text, **options)
    assert all(type(token_id) is int for token_id in ids)
    assert tokenizer.encode_numpy(text, **options).tolist() == ids
    assert tokenizer.encode_batch([text], **options) == [ids]
    return ids


@pytest.mark.parametrize("ignore_merges", [False, True])
@pytest.mark.parametrize("published_in", [gpt2, deepseek])
@pytest.mark.parametrize("seed", range(4))
def test_ids_in_any_order_are_those_of_the_library(
    published_in, ignore_merges, seed, corpus, hard_texts, tmp_path
):
    # special tokens first, bytes anywhere, merged tokens in another order than their merges
    rng = random.Random(seed)
    document = json.loads(published_in(corpus).to_str())
    model = document["model"]
    model["ignore_merges"] = ignore_merges
    specials = {token["content"] for token in document["added_tokens"]}
    others = [token for token in model["vocab"] if token not in specials]
    rng.shuffle(others)
    ids = {token: token_id for token_id, token in enumerate([*sorted(specials), *others])}
    model["vocab"] = ids
    for token in document["added_tokens"]:
        token["id"] = ids[token["content"]]
    if seed % 2:  # and merges in another order than their parts, as far as these allow
        rng.shuffle(model["merges"])
    ours = load(document, tmp_path)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    long_text = "".join(hard_texts) * 5
    assert len(long_text) > 8000
    for text in [*corpus, *hard_texts, long_text, "word" * 3000]:
        ids = library.encode(text).ids
        assert every_way(ours, text, allowed_special="all") == ids
        library.encode_special_tokens = True
        assert every_way(ours, text) == library.encode(text).ids
        library.encode_special_tokens = False
        assert ours.decode(ids) == library.decode(ids, skip_special_tokens=False)


def lacking_bytes(corpus, **options):
    """A vocabulary of the bytes that English and a special token have."""
    ascii_text = corpus[0].encode("ascii", "ignore").decode()[:60_000]
    library = Tokenizer(models.BPE(**options))
    library.pre_tokenizer = byte_level()
    library.decoder = decoders.ByteLevel()
    specials = ["<s>", "<ё>", *([options["unk_token"]] if "unk_token" in options else [])]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, show_progress=False)
    library.train_from_iterator([ascii_text], trainer)
    return library


# Long, and so many distinct chunks that they are merged together.
MANY_WORDS = "".join(f"{''.join(letters)} " for letters in product("abcdef", repeat=3)) * 5


@pytest.fixture(scope="module", params=["plain", "unk", "ignore_merges"])
def lacking(request, corpus, tmp_path_factory):
    """The library's and ours; with `ignore_merges` there are whole chunks of missing bytes."""
    options = {"unk": {"unk_token": "<unk>", "fuse_unk": True}}.get(request.param, {})
    document = json.loads(lacking_bytes(corpus, **options).to_str())
    if request.param == "ignore_merges":
        document["model"]["ignore_merges"] = True
        for word in (" ещё", "ещё"):
            token = to_printable(word.encode())
            document["model"]["vocab"][token] = len(document["model"]["vocab"])
    folder = tmp_path_factory.mktemp("lacking")
    ours = load(document, folder)
    ours.save(folder / "again")
    assert BPETokenizer.load(folder / "again") == ours
    return Tokenizer.from_file(str(folder / "again" / "tokenizer.json")), ours


def missing_in(library, ours, text):
    """The chunks of a text that cannot be encoded, each with its first byte that is missing."""
    missing = {*ours.missing_bytes}
    chunks = []
    for chunk, _ in library.pre_tokenizer.pre_tokenize_str(text):
        data = from_printable(chunk)
        found = [byte for byte in data if byte in missing]
        # no token has a missing byte, but those of whole chunks
        if found and ours.token_to_id(chunk) is None:
            chunks.append((data.decode(), found[0]))
    return chunks


def assert_ids_or_the_byte(library, ours, text):
    """Ids are those of the library, which leaves out missing bytes: there it is an error."""
    chunks = missing_in(library, ours, text)
    library.encode_special_tokens = True
    if not chunks:
        assert every_way(ours, text) == library.encode(text).ids
        assert ours.decode(ours.encode(text)) == text
        return
    expected = "|".join(f"no token for the byte {byte:#04x} of " for _, byte in chunks)
    for encode in (
        ours.encode,
        ours.encode_numpy,
        lambda text: ours.encode_batch(["some", text, "words"]),
        lambda text: ours.encode_batch(["some", text, "words"], num_threads=2),
        lambda text: ours.encode_batch([text], allowed_special={"<s>"}),
    ):
        with pytest.raises(ValueError, match=expected):
            encode(text)


def test_a_vocabulary_that_lacks_bytes_is_read(lacking, corpus):
    library, ours = lacking
    assert len(ours.missing_bytes) > 128
    assert [chr(byte) for byte in ours.missing_bytes if byte < 128 and chr(byte).islower()] == []
    assert ours.get_vocab() == library.get_vocab()
    known = corpus[0][:60_000].encode("ascii", "ignore").decode()
    for text in ("", "word", known[:3900], known[:4100], known, "a" * 1000, "ab" * 4000):
        assert missing_in(library, ours, text) == []
        assert_ids_or_the_byte(library, ours, text)


@pytest.mark.parametrize("padding", ["", "word " * 5, MANY_WORDS, "word " * 60_000])
@pytest.mark.parametrize("bad", ["ё", "aё", "\x00", "😀", "x\ud800", "é" * 300])
def test_a_missing_byte_is_an_error_that_names_it(lacking, padding, bad):
    library, ours = lacking
    # of a long chunk only what is near the byte
    shown = "\ufffd" if "\ud800" in bad else repr(bad[:20])[1:-1]
    for text in (bad + "\n" + padding, padding + bad, padding + bad + " " + padding):
        for encode in (ours.encode, ours.encode_numpy, lambda text: ours.encode_batch([text])):
            with pytest.raises(ValueError, match=r"no token for the byte 0x") as error:
                encode(text)
            assert f"{shown}': this text cannot be encoded" in str(error.value)
    # what failed has left nothing behind
    assert_ids_or_the_byte(library, ours, padding + "word\n" + padding)


@given(data=st.data())
def test_any_text_has_the_ids_of_the_library_or_a_missing_byte(lacking, any_text, data):
    library, ours = lacking
    some_text = st.one_of(any_text, st.text(st.sampled_from("ab t\n'sё\x00")))
    text = data.draw(some_text)
    assert_ids_or_the_byte(library, ours, text)
    assert_ids_or_the_byte(library, ours, MANY_WORDS + text)


def test_chunks_that_are_tokens_need_no_bytes(lacking):
    library, ours = lacking
    is_token = ours.token_to_id(to_printable("ещё".encode())) is not None
    for text in (" ещё", "ещё ещё\nещё", MANY_WORDS + "\nещё ещё"):
        assert (missing_in(library, ours, text) == []) == is_token
        assert_ids_or_the_byte(library, ours, text)


def test_special_tokens_need_no_bytes(lacking):
    library, ours = lacking
    library.encode_special_tokens = False
    for text in ("<ё>", "a<ё>b <s>", MANY_WORDS + "<ё>x"):
        assert every_way(ours, text, allowed_special="all") == library.encode(text).ids
        assert ours.decode(ours.encode(text, allowed_special="all")) == text
        with pytest.raises(ValueError, match="no token for the byte 0xd1"):
            ours.encode(text)


def test_any_ids_of_a_vocabulary_that_lacks_bytes_are_decoded(lacking):
    library, ours = lacking
    rng = random.Random(0)
    for _ in range(200):
        ids = rng.choices(range(ours.vocab_size), k=rng.randrange(9))
        ids = [token_id for token_id in ids if ours.id_to_token(token_id) != "<ё>"]
        assert ours.decode(ids) == library.decode(ids, skip_special_tokens=False)


def test_an_added_token_named_as_a_missing_byte_is_its_own_text(corpus, tmp_path):
    library = lacking_bytes(corpus)
    library.add_tokens(["é"])
    library.save(str(tmp_path / "tokenizer.json"))
    ours = BPETokenizer.load(tmp_path)
    ids = ours.encode("caféy")
    assert ids == library.encode("caféy").ids
    assert ours.decode(ids) == "caféy"
