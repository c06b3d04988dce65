"""Speculation changes how many forwards a text takes, and not the text."""

import copy
import importlib

import pytest
import torch
import torch.nn.functional as F

from llm.generation import DraftModel, PromptLookup, generate, stream

SAMPLING = {"do_sample": True, "temperature": 1.3, "top_k": 20, "top_p": 0.95}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model(model_type, make_talkative):
    return make_talkative(model_type)


@pytest.fixture
def ids(model, random_ids):
    return random_ids(model.config.vocab_size, 3, 5)


class Oracle:
    """Guesses the right tokens, but for the places of which `wrong` is told."""

    def __init__(self, answer, *, size=4, wrong=()):
        self.answer, self.size, self.wrong = answer, size, wrong

    def start(self, model, batch_size, max_length):
        def draft(input_ids, attention_mask, *, room, choose, generator):
            length = input_ids.shape[1]
            guesses = self.answer[:, length : length + min(self.size, room)].clone()
            for place in range(guesses.shape[1]):
                if length + place in self.wrong:
                    guesses[:, place] = (guesses[:, place] + 1) % model.config.vocab_size
            return guesses

        return draft


def drafters(model):
    """Of each kind, and one that is wrong as often as can be."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.decoder.token_embeddings.weight.add_(0.3)
    return [
        PromptLookup(),
        PromptLookup(num_tokens=1, max_ngram=1),
        DraftModel(model=model, num_tokens=3),
        DraftModel(model=other),
    ]


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("options", [{}, SAMPLING, {"repetition_penalty": 1.4}], ids=str)
def test_the_tokens_are_those_without(model, ids, which, use_cache, options):
    options = {"max_new_tokens": 12, "use_cache": use_cache, **options}
    for rows in (ids[:1], ids):
        expected = generate(model, rows, generator=seeded(), **options)
        drafter = drafters(model)[which]
        for _ in range(2):  # a drafter may be used again
            got = generate(model, rows, generator=seeded(), drafter=drafter, **options)
            assert torch.equal(got, expected)


@pytest.mark.parametrize("wrong", [(), (5,), (6,), (8, 9), (7, 11, 12), range(20)], ids=str)
def test_wherever_a_draft_is_wrong_the_text_is_right(model, ids, count_tokens, wrong):
    expected = generate(model, ids, max_new_tokens=12)
    lengths = count_tokens(model)
    got = generate(model, ids, max_new_tokens=12, drafter=Oracle(expected, wrong=wrong))
    assert torch.equal(got, expected)
    if wrong == ():
        assert lengths == [5 + 4, 5, 2]  # 12 tokens: 5, 5 and 2
    if wrong == range(20):
        assert len(lengths) == 12


def test_a_repeating_text_is_guessed_from_itself(make_scripted, count_tokens):
    script = [1, 2, 3, 4] * 6
    model = make_scripted(script, vocab_size=9)
    lengths = count_tokens(model)
    prompt = torch.zeros(1, 1, dtype=torch.int64)
    got = generate(model, prompt, max_new_tokens=24, drafter=PromptLookup())
    assert got[0, 1:].tolist() == script
    assert len(lengths) < 12


def test_lookup_takes_the_longest_and_latest_match():
    draft = PromptLookup(num_tokens=2, max_ngram=2).start(None, 1, 99)

    def guess(*row, mask=None, room=9):
        mask = None if mask is None else torch.tensor([mask])
        return draft(torch.tensor([row]), mask, room=room, choose=None, generator=None).tolist()

    assert guess(7, 8, 1, 2, 8, 5, 6, 7, 8) == [[1, 2]]  # (7, 8), though 8 came later
    assert guess(8, 1, 1, 8, 2, 2, 8) == [[2, 2]]
    assert guess(8, 8) == [[8]]
    assert guess(1, 2, 3) == [[]]
    assert guess(5) == [[]]
    assert guess(8, 4, 9, 8, room=1) == [[4]]
    # what was padding says nothing
    assert guess(3, 1, 3, mask=[0, 1, 1]) == [[]]


def test_a_draft_model_that_is_the_model_is_always_right(model, ids, count_tokens):
    for options in ({}, SAMPLING):
        drafter = DraftModel(model=copy.deepcopy(model), num_tokens=3)
        lengths = count_tokens(model)
        generate(model, ids[:1], max_new_tokens=12, drafter=drafter, generator=seeded(), **options)
        assert len(lengths) == 3


def test_a_generator_and_the_global_one_are_left_as_without(model, ids):
    for generator in (seeded(), None):
        states = []
        for drafter in (None, DraftModel(model=copy.deepcopy(model))):
            torch.manual_seed(3)
            if generator is not None:
                generator.manual_seed(3)
            generate(model, ids, max_new_tokens=9, generator=generator, drafter=drafter, **SAMPLING)
            states.append((generator or torch.default_generator).get_state())
        assert torch.equal(*states)


def joint_counts(model, prompt, drafter, runs=4000):
    counts = torch.zeros(64)
    generator = seeded()
    for _ in range(runs):
        got = generate(
            *(model, prompt),
            max_new_tokens=3,
            do_sample=True,
            temperature=1.5,
            generator=generator,
            drafter=drafter,
        )
        counts[int(got[0, -3:] @ torch.tensor([16, 4, 1]))] += 1
    return counts


def joint_distribution(model, prompt):
    """Of three tokens of a vocabulary of four, from the logits, written out."""
    joint = torch.zeros(4, 4, 4)
    with torch.no_grad():
        first = (model(prompt)[0, -1] / 1.5).softmax(-1)
        for a in range(4):
            after_a = F.pad(prompt, (0, 1), value=a)
            second = (model(after_a)[0, -1] / 1.5).softmax(-1)
            for b in range(4):
                third = (model(F.pad(after_a, (0, 1), value=b))[0, -1] / 1.5).softmax(-1)
                joint[a, b] = first[a] * second[b] * third
    return joint.flatten()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lookup", "draft model", "lookup, all accepted"])
def test_samples_have_the_models_joint_distribution(
    make_talkative, chi_square_p, monkeypatch, kind
):
    """With a wrong rule of acceptance they have not, and this test notices."""
    model = make_talkative("gpt2", vocab_size=4)
    prompt = torch.tensor([[1, 3, 0, 1, 3, 0]])
    drafter = PromptLookup(num_tokens=2)
    if kind == "draft model":
        drafter = DraftModel(model=make_talkative("gpt2", vocab_size=4, seed=5), num_tokens=2)
    if kind == "lookup, all accepted":
        # the package's function of this name hides the module
        module = importlib.import_module("llm.generation.generate")
        monkeypatch.setattr(module, "_agree", lambda *_: True)
    p = chi_square_p(joint_counts(model, prompt, drafter), joint_distribution(model, prompt))
    assert p < 1e-6 if kind == "lookup, all accepted" else p > 1e-3


def test_left_padding_and_eos(model, random_ids, left_pad):
    rows = random_ids(model.config.vocab_size, 3, 6)
    padded, mask = left_pad([rows[0], rows[1, :2], rows[2, :4]])
    free = generate(model, padded, attention_mask=mask, max_new_tokens=12)
    for eos in ((), free[1, 9].item(), free[:, 8].tolist()):
        options = {"attention_mask": mask, "max_new_tokens": 12, "eos_token_id": eos}
        expected = generate(model, padded, **options)
        for drafter in [*drafters(model), Oracle(free)]:
            assert torch.equal(generate(model, padded, drafter=drafter, **options), expected)


@pytest.mark.filterwarnings("ignore")
def test_past_the_context_the_window_slides(model, ids):
    steps = model.config.max_position_embeddings + 4
    expected = generate(model, ids, max_new_tokens=steps)
    for drafter in drafters(model):
        assert torch.equal(generate(model, ids, max_new_tokens=steps, drafter=drafter), expected)


def test_a_draft_model_of_a_shorter_context_guesses_while_it_can(model_type, make_talkative, ids):
    model = make_talkative(model_type)
    drafter = DraftModel(model=make_talkative(model_type, max_position_embeddings=9))
    expected = generate(model, ids, max_new_tokens=12)
    assert torch.equal(generate(model, ids, max_new_tokens=12, drafter=drafter), expected)


def test_a_stream_yields_every_token(model, ids):
    expected = generate(model, ids, max_new_tokens=12)
    tokens = list(stream(model, ids, max_new_tokens=12, drafter=Oracle(expected)))
    assert torch.equal(torch.stack(tokens, dim=1), expected[:, 5:])


def test_the_draft_model_keeps_its_mode(model_type, make_talkative, ids):
    guessing = make_talkative(model_type, dropout=0.5).train()
    expected = generate(make_talkative(model_type), ids, max_new_tokens=8)
    got = generate(
        make_talkative(model_type), ids, max_new_tokens=8, drafter=DraftModel(model=guessing)
    )
    assert torch.equal(got, expected)
    assert all(part.training for part in guessing.modules())


def test_another_vocabulary_is_refused(model, model_type, make_talkative, ids):
    other = make_talkative(model_type, vocab_size=9)
    with pytest.raises(ValueError, match=r"9 tokens and the model \d+: .*same tokenizer"):
        generate(model, ids, max_new_tokens=8, drafter=DraftModel(model=other))


@pytest.mark.parametrize("fields", [{"num_tokens": 0}, {"max_ngram": 0}, {"num_tokens": 2.5}])
def test_a_wrong_count_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        PromptLookup(**fields)
