"""`HFAdapter.generate`, which is transformers' own: all that it does equals the stock class's."""

from threading import Thread

import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    CompileConfig,
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    StaticCache,
    StoppingCriteria,
    TextIteratorStreamer,
    TextStreamer,
)
from transformers.generation.streamers import BaseStreamer

from hf_proxy import HFAdapter
from llm.tokenizers import BPETokenizer

MAX_LENGTH = 40
PAD, EOS = 0, 1
CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture
def prompts(random_rows):
    """Three rows of different lengths."""
    return random_rows(4, 9, 6)


@pytest.fixture
def rolling(make_model):
    """Logits less peaked than those of `make_model`, so that sampling has a choice."""

    def make(model_type, **options):
        return HFAdapter.from_llm_model(make_model(model_type, std=0.1, **options))

    return make


def generate(model, input_ids, *, seed=0, **options):
    torch.manual_seed(seed)
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": PAD, **options}
    return model.generate(input_ids, **options)


def varied(output, prompt_length):
    """How many different tokens were generated."""
    return len(output[:, prompt_length:].unique())


class TestGreedy:
    def test_is_transformers_own(self):
        assert HFAdapter.generate is GenerationMixin.generate

    def test_equals_that_of_the_model(self, make_model, prompts, pad, model_type):
        model = make_model(model_type)
        input_ids, attention_mask = pad(prompts)
        expected = model.generate(input_ids, attention_mask=attention_mask, max_new_tokens=20)
        actual = generate(
            HFAdapter.from_llm_model(model),
            input_ids,
            attention_mask=attention_mask,
            max_new_tokens=20,
        )
        assert actual.tolist() == expected.tolist()
        assert varied(actual, input_ids.shape[1]) > 3

    def test_equals_that_of_the_stock_class(self, make_adapter, make_stock, random_ids, model_type):
        input_ids = random_ids(3, 6)
        expected = generate(make_stock(model_type), input_ids, max_new_tokens=MAX_LENGTH - 6)
        actual = generate(make_adapter(model_type), input_ids, max_new_tokens=MAX_LENGTH - 6)
        assert actual.tolist() == expected.tolist()
        assert actual.shape == (3, MAX_LENGTH)

    def test_rows_end_at_the_end_token(self, make_model, prompts, pad, model_type):
        free = HFAdapter.from_llm_model(make_model(model_type))
        input_ids, attention_mask = pad(prompts)
        length = input_ids.shape[1]
        whole = generate(free, input_ids, attention_mask=attention_mask)[:, length:].tolist()
        # what the first row says fourth ends it, and each other where it says that
        eos = whole[0][3]
        adapter = HFAdapter.from_llm_model(
            make_model(model_type, eos_token_id=eos, pad_token_id=PAD)
        )
        output = adapter.generate(
            input_ids, attention_mask=attention_mask, max_new_tokens=12, do_sample=False
        )[:, length:].tolist()
        for row, expected in zip(output, whole, strict=True):
            end = expected.index(eos) + 1 if eos in expected else 12
            assert row[:end] == expected[:end]
            assert set(row[end:]) <= {PAD}

    def test_from_embeddings_equals_that_from_ids(self, make_adapter, prompts, pad, model_type):
        adapter = make_adapter(model_type)
        input_ids, attention_mask = pad(prompts)
        expected = generate(adapter, input_ids, attention_mask=attention_mask)
        embeddings = adapter.get_input_embeddings()(input_ids)
        actual = generate(adapter, None, inputs_embeds=embeddings, attention_mask=attention_mask)
        assert actual.tolist() == expected[:, input_ids.shape[1] :].tolist()

    def test_scores_and_logits_are_those_of_a_forward_pass(
        self, make_adapter, random_ids, model_type
    ):
        adapter, input_ids = make_adapter(model_type), random_ids(2, 5)
        adapter.set_attn_implementation("eager")
        output = generate(
            adapter,
            input_ids,
            max_new_tokens=4,
            output_logits=True,
            output_scores=True,
            output_hidden_states=True,
            output_attentions=True,
            return_dict_in_generate=True,
            suppress_tokens=[7],
        )
        with torch.no_grad():
            whole = adapter(
                output.sequences[:, :-1], output_hidden_states=True, output_attentions=True
            )
        logits = torch.stack(output.logits, dim=1)
        torch.testing.assert_close(logits, whole.logits[:, 4:], **CLOSE)
        scores = torch.stack(output.scores, dim=1)
        assert (scores[..., 7] == -torch.inf).all()
        kept = [i for i in range(67) if i != 7]
        assert torch.equal(scores[..., kept], logits[..., kept])
        for layer in range(4):
            steps = torch.cat([states[layer] for states in output.hidden_states], dim=1)
            torch.testing.assert_close(steps, whole.hidden_states[layer], **CLOSE)
        for layer in range(3):
            last = output.attentions[-1][layer]
            torch.testing.assert_close(last, whole.attentions[layer][:, :, -1:], **CLOSE)

    def test_in_bfloat16_equals_that_of_the_stock_class(
        self, make_adapter, make_stock, random_ids, model_type
    ):
        adapter = make_adapter(model_type).to(torch.bfloat16)
        adapter.set_attn_implementation("eager")
        stock, input_ids = make_stock(model_type).to(torch.bfloat16), random_ids(2, 6)
        options = {
            "max_new_tokens": 6, "output_logits": True, "return_dict_in_generate": True,
        }  # fmt: skip
        actual, expected = (generate(model, input_ids, **options) for model in (adapter, stock))
        # by the rounding of bfloat16, the tokens too may differ later on
        torch.testing.assert_close(actual.logits[0], expected.logits[0], atol=0.1, rtol=0.02)
        assert actual.logits[0].dtype == torch.float32
        assert actual.sequences[:, :7].tolist() == expected.sequences[:, :7].tolist()


class TestPadding:
    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}])
    def test_left_padded_rows_equal_single_ones(
        self, make_adapter, prompts, pad, model_type, options
    ):
        adapter = make_adapter(model_type)
        input_ids, attention_mask = pad(prompts)
        options = {**options, "disable_compile": True}
        batch = generate(adapter, input_ids, attention_mask=attention_mask, **options)
        for row, prompt in zip(batch, prompts, strict=True):
            alone = generate(adapter, torch.tensor([prompt]), **options)[0, len(prompt) :]
            assert row[input_ids.shape[1] :].tolist() == alone.tolist()

    def test_padding_is_guessed_from_the_pad_token(self, make_adapter, prompts, pad, model_type):
        adapter = make_adapter(model_type)
        input_ids, attention_mask = pad(prompts)
        expected = generate(adapter, input_ids, attention_mask=attention_mask)
        assert generate(adapter, input_ids).tolist() == expected.tolist()
        unmasked = torch.ones_like(attention_mask)
        assert generate(adapter, input_ids, attention_mask=unmasked).tolist() != expected.tolist()


class Favour(LogitsProcessor):
    """Token 9 becomes likelier."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, 9] += 2
        return scores


FILTERS = {
    "plain": {"top_k": 0},
    "temperature": {"temperature": 0.7, "top_k": 0},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.6, "top_k": 0},
    "min_p": {"min_p": 0.2, "top_k": 0},
    "top_h": {"top_h": 0.5, "top_k": 0},
    "typical_p": {"typical_p": 0.5, "top_k": 0},
    "epsilon_cutoff": {"epsilon_cutoff": 0.02, "top_k": 0},
    "eta_cutoff": {"eta_cutoff": 0.3, "top_k": 0},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2, "top_k": 2},
    "bad_words_ids": {"bad_words_ids": [[3], [5, 8], [20]]},
    "sequence_bias": {"sequence_bias": {(4,): 3.0, (4, 6): 5.0}},
    "suppress_tokens": {"suppress_tokens": list(range(2, 30))},
    "begin_suppress_tokens": {"begin_suppress_tokens": list(range(2, 40))},
    "forced_eos_token_id": {"forced_eos_token_id": 11},
    "min_new_tokens": {"min_new_tokens": 8, "eos_token_id": list(range(20, 60))},
    "exponential_decay": {"exponential_decay_length_penalty": (3, 1.5), "eos_token_id": 12},
    "renormalize_logits": {"renormalize_logits": True, "top_p": 0.5, "temperature": 2.0},
    "guidance_scale": {"guidance_scale": 1.8},
    "watermark": {"watermarking_config": {"bias": 3.0, "seeding_scheme": "lefthash"}},
    "logits_processor": {"logits_processor": LogitsProcessorList([Favour()])},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": lambda i, ids: [3, 4, 5, 6, 7 + i]},
    "all": {
        "temperature": 1.3,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
    },
}


class TestSampling:
    @pytest.mark.parametrize("name", FILTERS)
    def test_equals_that_of_the_stock_class(
        self, rolling, make_stock, random_ids, model_type, name
    ):
        if (model_type, name) == ("gpt", "guidance_scale"):
            pytest.skip("transformers' OpenAIGPTLMHeadModel has no cache, which this needs")
        input_ids, options = random_ids(3, 6), {"do_sample": True, **FILTERS[name]}
        adapter, stock = rolling(model_type), make_stock(model_type, std=0.1)
        actual = generate(adapter, input_ids, **options)
        assert actual.tolist() == generate(stock, input_ids, **options).tolist()
        assert varied(actual, 6) > 4
        # another seed or no filter would have been noticed
        assert actual.tolist() != generate(adapter, input_ids, seed=1, **options).tolist()
        if name != "plain":
            plain = {"do_sample": True, "top_k": 0}
            assert actual.tolist() != generate(adapter, input_ids, **plain).tolist()

    def test_of_several_a_prompt_equals_that_of_the_stock_class(
        self, rolling, make_stock, random_ids, model_type
    ):
        input_ids = random_ids(2, 6)
        options = {"do_sample": True, "num_return_sequences": 3}
        actual = generate(rolling(model_type), input_ids, **options)
        expected = generate(make_stock(model_type, std=0.1), input_ids, **options)
        assert actual.tolist() == expected.tolist()
        assert actual.shape == (6, 18)
        assert actual[:, :6].tolist() == input_ids.repeat_interleave(3, dim=0).tolist()
        assert len({tuple(row) for row in actual.tolist()}) == 6

    def test_is_repeated_by_its_seed(self, rolling, random_ids, model_type):
        adapter, input_ids = rolling(model_type), random_ids(2, 6)
        once = generate(adapter, input_ids, do_sample=True)
        assert torch.equal(generate(adapter, input_ids, do_sample=True), once)
        uncached = generate(adapter, input_ids, do_sample=True, use_cache=False)
        assert torch.equal(uncached, once)


BEAMS = {
    "plain": {"num_beams": 4},
    "several": {"num_beams": 4, "num_return_sequences": 3},
    "early": {"num_beams": 3, "early_stopping": True, "eos_token_id": list(range(2, 20))},
    "long": {"num_beams": 3, "length_penalty": 2.0, "eos_token_id": list(range(2, 20))},
    "never": {"num_beams": 3, "early_stopping": "never", "eos_token_id": list(range(2, 20))},
    "sampled": {"num_beams": 4, "do_sample": True},
    "sampled several": {
        "num_beams": 4,
        "do_sample": True,
        "num_return_sequences": 2,
        "temperature": 1.5,
    },
    "penalised": {"num_beams": 4, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
}


class TestBeams:
    @pytest.mark.parametrize("name", BEAMS)
    def test_equal_those_of_the_stock_class(
        self, rolling, make_stock, random_ids, model_type, name
    ):
        input_ids = random_ids(2, 6)
        options = {
            **BEAMS[name], "output_scores": True, "return_dict_in_generate": True,
        }  # fmt: skip
        actual = generate(rolling(model_type), input_ids, **options)
        expected = generate(make_stock(model_type, std=0.1), input_ids, **options)
        assert actual.sequences.tolist() == expected.sequences.tolist()
        assert actual.beam_indices.tolist() == expected.beam_indices.tolist()
        torch.testing.assert_close(
            actual.sequences_scores, expected.sequences_scores, atol=1e-4, rtol=0
        )
        # a beam that was left and taken again has to take its cache along
        assert len(set(actual.beam_indices.flatten().tolist())) > 2

    def test_scores_are_the_log_probabilities(self, rolling, random_ids, model_type):
        adapter, input_ids = rolling(model_type), random_ids(1, 6)
        output = generate(
            adapter, input_ids, num_beams=5, output_scores=True, return_dict_in_generate=True
        )
        with torch.no_grad():
            log_probs = adapter(output.sequences).logits[0, 5:-1].log_softmax(-1)
        tokens = output.sequences[0, 6:]
        total = log_probs.gather(-1, tokens[:, None]).sum().item()
        assert output.sequences_scores.item() * 12 == pytest.approx(total, abs=1e-3)
        greedy = generate(adapter, input_ids)
        with torch.no_grad():
            log_probs = adapter(greedy).logits[0, 5:-1].log_softmax(-1)
        assert total >= log_probs.gather(-1, greedy[0, 6:, None]).sum().item() - 1e-4


class TestAssisted:
    @pytest.mark.parametrize("same", [True, False])
    def test_by_a_model_equals_greedy(self, make_adapter, random_ids, model_type, same):
        adapter, input_ids = make_adapter(model_type), random_ids(1, 6)
        assistant = make_adapter(
            model_type, seed=0 if same else 1, **({} if same else {"num_layers": 1})
        )
        options = {"max_new_tokens": 25}
        expected = generate(adapter, input_ids, **options)
        assert varied(expected, 6) > 3
        calls = []
        handle = adapter.register_forward_hook(lambda *_: calls.append(1))
        actual = generate(adapter, input_ids, assistant_model=assistant, **options)
        handle.remove()
        assert actual.tolist() == expected.tolist()
        # an assistant that is the model itself is always right
        assert len(calls) <= (13 if same else 25)

    def test_by_a_model_of_another_architecture_equals_greedy(
        self, make_adapter, random_ids, model_type
    ):
        other = "gpt" if model_type == "gpt2" else "gpt2"
        adapter, input_ids = make_adapter(model_type), random_ids(1, 6)
        actual = generate(adapter, input_ids, assistant_model=make_adapter(other))
        assert actual.tolist() == generate(adapter, input_ids).tolist()

    def test_up_to_the_longest_sequence_equals_greedy(self, make_adapter, random_ids, model_type):
        adapter, input_ids = make_adapter(model_type), random_ids(1, 6)
        options = {"max_new_tokens": MAX_LENGTH - 6}
        expected = generate(adapter, input_ids, **options)
        assistant = make_adapter(model_type)
        actual = generate(adapter, input_ids, assistant_model=assistant, **options)
        assert actual.tolist() == expected.tolist()

    def test_sampled_equals_that_of_the_stock_class(
        self, rolling, make_stock, random_ids, model_type
    ):
        if model_type == "gpt":
            pytest.skip("transformers' OpenAIGPTLMHeadModel has no cache, which this needs")
        input_ids = random_ids(1, 6)
        ours = generate(
            rolling(model_type), input_ids, do_sample=True, max_new_tokens=20,
            assistant_model=rolling(model_type, seed=1),
        )  # fmt: skip
        theirs = generate(
            make_stock(model_type, std=0.1), input_ids, do_sample=True, max_new_tokens=20,
            assistant_model=make_stock(model_type, std=0.1, seed=1),
        )  # fmt: skip
        assert ours.tolist() == theirs.tolist()

    def test_by_looking_into_the_prompt_equals_greedy(self, make_adapter, random_ids, model_type):
        adapter = make_adapter(model_type)
        input_ids = random_ids(1, 5).repeat(1, 3)
        options = {"max_new_tokens": 20}
        expected = generate(adapter, input_ids, **options)
        # and where it has said before what it will say; clear of the longest
        # sequence, for transformers looks up more than it has been asked for
        known = torch.cat([expected[:, 15:], expected[:, :15]], dim=1)[:, -24:]
        for prompt in (input_ids, known):
            want = generate(adapter, prompt, max_new_tokens=10)
            got = generate(adapter, prompt, max_new_tokens=10, prompt_lookup_num_tokens=4)
            assert got.tolist() == want.tolist()


class TestCaches:
    @pytest.mark.parametrize("name", ["dynamic", "static", "offloaded", "offloaded_static", None])
    @pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
    def test_equal_no_cache(self, make_adapter, prompts, pad, model_type, name, options):
        if name in ("offloaded", "offloaded_static") and not torch.accelerator.is_available():
            pytest.skip("these move keys and values to an accelerator and back")
        adapter = make_adapter(model_type)
        input_ids, attention_mask = pad(prompts)
        options = {**options, "attention_mask": attention_mask}
        expected = generate(adapter, input_ids, use_cache=False, **options)
        actual = generate(
            adapter, input_ids, cache_implementation=name, disable_compile=True, **options
        )
        assert actual.tolist() == expected.tolist()

    @pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
    def test_handed_in_is_filled_and_continued(self, make_adapter, random_ids, model_type, kind):
        adapter, input_ids = make_adapter(model_type), random_ids(2, 6)
        expected = generate(adapter, input_ids, max_new_tokens=12)
        sizes = {} if kind is DynamicCache else {"max_cache_len": 30}
        cache = kind(config=adapter.config, **sizes)
        options = {"past_key_values": cache, "disable_compile": True, "max_new_tokens": 6}
        first = generate(adapter, input_ids, **options)
        assert cache.get_seq_length() == 6 + 6 - 1
        second = generate(adapter, first, **options)
        assert second.tolist() == expected.tolist()

    def test_prompt_read_in_chunks_gives_the_same(self, make_adapter, random_ids, model_type):
        adapter, input_ids = make_adapter(model_type), random_ids(2, 11)
        expected = generate(adapter, input_ids)
        assert generate(adapter, input_ids, prefill_chunk_size=4).tolist() == expected.tolist()

    def test_is_not_run_over_tokens_that_are_in_it(self, make_adapter, random_ids, model_type):
        adapter, lengths = make_adapter(model_type), []
        adapter.model.decoder.register_forward_pre_hook(
            lambda module, args: lengths.append(args[0].shape[1])
        )
        generate(adapter, random_ids(2, 6), max_new_tokens=5)
        assert lengths == [6, 1, 1, 1, 1]

    def test_only_the_logits_of_the_last_token_are_computed(
        self, make_adapter, random_ids, model_type
    ):
        adapter, lengths = make_adapter(model_type), []
        adapter.lm_head.register_forward_pre_hook(
            lambda module, args: lengths.append(args[0].shape[1])
        )
        generate(adapter, random_ids(2, 6), max_new_tokens=3)
        assert lengths == [1, 1, 1]


class TestCompiled:
    @pytest.mark.parametrize(
        "implementation", [pytest.param("eager", marks=pytest.mark.slow), "sdpa"]
    )
    def test_step_over_a_static_cache_is_one_graph(
        self, make_adapter, random_ids, model_type, implementation
    ):
        torch.compiler.reset()
        adapter, input_ids = make_adapter(model_type), random_ids(2, 6)
        adapter.set_attn_implementation(implementation)
        with torch.no_grad():
            whole = adapter(input_ids).logits
            cache = StaticCache(config=adapter.config, max_cache_len=16)
            adapter(input_ids[:, :3], past_key_values=cache)
            graphs = []

            def backend(graph, inputs):
                graphs.append(graph)
                return graph.forward

            step = torch.compile(adapter.forward, fullgraph=True, backend=backend)
            for i in range(3, 6):
                position_ids = torch.full((2, 1), i)
                logits = step(
                    input_ids=input_ids[:, i : i + 1].clone(),
                    position_ids=position_ids,
                    past_key_values=cache,
                    use_cache=True,
                ).logits
                torch.testing.assert_close(logits[:, 0], whole[:, i], **CLOSE)
        # not one for each token
        assert len(graphs) == 1

    @pytest.mark.parametrize(
        "backend",
        [
            "eager",
            pytest.param("aot_eager", marks=pytest.mark.slow),
            pytest.param("inductor", marks=pytest.mark.slow),
        ],
    )
    def test_generation_equals_the_plain_one(self, make_adapter, prompts, pad, model_type, backend):
        torch.compiler.reset()
        adapter = make_adapter(model_type)
        input_ids, attention_mask = pad(prompts)
        expected = generate(adapter, input_ids, attention_mask=attention_mask)
        # by this switch, transformers' own tests have it compile on a CPU
        compile_config = CompileConfig(fullgraph=True, backend=backend, mode="default")
        compile_config._compile_all_devices = True
        actual = generate(
            adapter, input_ids, attention_mask=attention_mask, cache_implementation="static",
            compile_config=compile_config,
        )  # fmt: skip
        assert actual.tolist() == expected.tolist()
        assert hasattr(adapter, "_compiled_call")
        assert adapter._can_compile_fullgraph


class Recorder(BaseStreamer):
    def __init__(self):
        self.pieces, self.ended = [], False

    def put(self, value):
        self.pieces.append(value.flatten().tolist())

    def end(self):
        self.ended = True


@pytest.fixture(scope="module")
def tokenizer():
    bpe = BPETokenizer()
    text = "The cat sat on the mat, and the dog lay by the door. "
    special = ["<pad>", "<unk>", "<eos>"]
    bpe.train([text], vocab_size=290, special_tokens=special, show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(bpe.to_json()),
        pad_token="<pad>",
        eos_token="<eos>",
    )


class TestText:
    def adapter(self, make_adapter, tokenizer, model_type):
        return make_adapter(model_type, vocab_size=len(tokenizer))

    def test_streamer_gets_each_token_at_once(self, make_adapter, random_ids, model_type):
        adapter, input_ids, recorder = make_adapter(model_type), random_ids(1, 6), Recorder()
        output = generate(adapter, input_ids, streamer=recorder)[0].tolist()
        assert recorder.pieces == [output[:6], *([token] for token in output[6:])]
        assert recorder.ended

    def test_text_streamer_prints_what_is_generated(
        self, make_adapter, tokenizer, model_type, capsys
    ):
        adapter = self.adapter(make_adapter, tokenizer, model_type)
        input_ids = tokenizer("the cat", return_tensors="pt").input_ids
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        output = generate(adapter, input_ids, streamer=streamer)[0]
        text = tokenizer.decode(output[input_ids.shape[1] :], skip_special_tokens=True)
        assert capsys.readouterr().out == text + "\n"
        assert text

    def test_iterator_streamer_yields_what_is_generated(self, make_adapter, tokenizer, model_type):
        adapter = self.adapter(make_adapter, tokenizer, model_type)
        input_ids = tokenizer("the dog", return_tensors="pt").input_ids
        expected = generate(adapter, input_ids)[0, input_ids.shape[1] :]
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=30)
        thread = Thread(target=generate, args=(adapter, input_ids), kwargs={"streamer": streamer})
        thread.start()
        text = "".join(streamer)
        thread.join()
        assert text == tokenizer.decode(expected)

    def test_stops_at_a_string(self, make_adapter, tokenizer, model_type):
        adapter = self.adapter(make_adapter, tokenizer, model_type)
        input_ids = tokenizer("the cat", return_tensors="pt").input_ids
        length = input_ids.shape[1]
        free = generate(adapter, input_ids, max_new_tokens=20)[0, length:].tolist()
        ascii_tokens = {i for i in range(len(tokenizer)) if tokenizer.decode([i]).isascii()}
        stops = [i for i, token in enumerate(free) if token in ascii_tokens]
        assert stops, "no token of ASCII to stop at: take another seed"
        where = next((i for i in stops if i > 1), stops[0])
        where = free.index(free[where])
        output = generate(
            adapter, input_ids, max_new_tokens=20, tokenizer=tokenizer,
            stop_strings=[tokenizer.decode([free[where]])],
        )[0, length:].tolist()  # fmt: skip
        assert output == free[: len(output)]
        assert len(output) <= where + 1 < 20

    def test_stops_by_a_criterion(self, make_adapter, random_ids, model_type):
        class AtNine(StoppingCriteria):
            def __call__(self, input_ids, scores, **_):
                return torch.full((len(input_ids),), input_ids.shape[1] >= 9)

        adapter, input_ids = make_adapter(model_type), random_ids(2, 6)
        free = generate(adapter, input_ids)
        output = generate(adapter, input_ids, stopping_criteria=[AtNine()])
        assert output.tolist() == free[:, :9].tolist()


class TestContinuousBatching:
    @pytest.mark.parametrize(
        "implementation", [pytest.param("eager", marks=pytest.mark.slow), "sdpa"]
    )
    def test_equals_single_prompts(self, make_adapter, random_rows, model_type, implementation):
        adapter = make_adapter(model_type)
        adapter.set_attn_implementation(implementation)
        rows = random_rows(4, 9, 6, 13, 1)
        expected = [generate(adapter, torch.tensor([row]))[0, len(row) :].tolist() for row in rows]
        outputs = adapter.generate_batch(
            inputs=rows,
            generation_config=GenerationConfig(
                max_new_tokens=12, do_sample=False, eos_token_id=-1, pad_token_id=PAD
            ),
            # rooms too few for all at once
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=16, num_blocks=8, max_batch_tokens=16
            ),
        )
        actual = [outputs[f"req_{i}"].generated_tokens for i in range(len(rows))]
        assert actual == expected


class TestLength:
    @pytest.fixture
    def forbidden(self, make_adapter, model_type):
        """An adapter that may not take a step."""
        adapter = make_adapter(model_type)
        adapter.model.decoder.register_forward_pre_hook(
            lambda *_: pytest.fail("a step was taken before the error")
        )
        return adapter

    @pytest.mark.parametrize(
        "options",
        [
            {"max_new_tokens": 31},
            {"max_new_tokens": None, "max_length": 41},
            {"max_new_tokens": 31, "num_beams": 2},
            {"max_new_tokens": 31, "cache_implementation": "static"},
            {"max_new_tokens": 31, "prompt_lookup_num_tokens": 3},
        ],
    )
    def test_past_it_is_an_error_before_any_step(self, forbidden, random_ids, model_type, options):
        with pytest.raises(ValueError, match=r"max_position_embeddings=40.*max_new_tokens=30"):
            generate(forbidden, random_ids(1, 10), **options)

    def test_past_it_with_an_assistant_is_an_error_before_any_step(
        self, forbidden, make_adapter, random_ids, model_type
    ):
        with pytest.raises(ValueError, match="max_position_embeddings=40"):
            generate(
                forbidden, random_ids(1, 10), max_new_tokens=31,
                assistant_model=make_adapter(model_type),
            )  # fmt: skip

    @pytest.mark.parametrize("with_ids", [False, True])
    def test_past_it_from_embeddings_is_an_error_before_any_step(
        self, forbidden, random_ids, model_type, with_ids
    ):
        input_ids = random_ids(1, 10)
        embeddings = forbidden.get_input_embeddings()(input_ids)
        given = input_ids if with_ids else None
        with pytest.raises(ValueError, match="max_position_embeddings=40"):
            generate(forbidden, given, inputs_embeds=embeddings, max_new_tokens=31)

    def test_up_to_it_from_embeddings(self, make_adapter, random_ids, model_type):
        adapter, input_ids = make_adapter(model_type), random_ids(1, 10)
        expected = generate(adapter, input_ids, max_new_tokens=30)
        embeddings = adapter.get_input_embeddings()(input_ids)
        actual = generate(adapter, None, inputs_embeds=embeddings, max_new_tokens=30)
        assert actual.tolist() == expected[:, 10:].tolist()

    def test_up_to_it_by_default(self, make_adapter, random_ids, model_type):
        adapter, input_ids = make_adapter(model_type), random_ids(1, 30)
        output = adapter.generate(input_ids, do_sample=False)
        assert output.shape == (1, 40)
        assert output.tolist() == generate(adapter, input_ids, max_new_tokens=10).tolist()


class TestConfig:
    def test_token_ids_of_the_model_are_used(self, make_model, random_ids, model_type):
        adapter = HFAdapter.from_llm_model(
            make_model(model_type, bos_token_id=5, eos_token_id=6, pad_token_id=7)
        )
        config = adapter.generation_config
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (5, 6, 7)
        begun = adapter.generate(max_new_tokens=4, do_sample=False)
        expected = adapter.generate(torch.tensor([[5]]), max_new_tokens=4, do_sample=False)
        assert begun.tolist() == expected.tolist()

    def test_saved_and_loaded_ends_at_any_of_several_tokens(
        self, make_adapter, random_ids, tmp_path, model_type
    ):
        adapter, input_ids = make_adapter(model_type), random_ids(1, 6)
        free = generate(adapter, input_ids)[0, 6:].tolist()
        ends = [free[4], free[2]]
        adapter.generation_config.eos_token_id = ends
        adapter.generation_config.repetition_penalty = 1.0
        adapter.save_pretrained(tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert loaded.generation_config.eos_token_id == ends
        output = generate(loaded, input_ids)[0, 6:].tolist()
        stop = min(free.index(end) for end in ends)
        assert output == free[: stop + 1]

    def test_several_end_tokens_in_the_config_are_kept_and_used(
        self, make_adapter, random_ids, tmp_path, model_type
    ):
        adapter, input_ids = make_adapter(model_type), random_ids(1, 6)
        free = generate(adapter, input_ids)[0, 6:].tolist()
        ends = [free[4], free[2]]
        adapter.config.eos_token_id = ends
        adapter.generation_config.eos_token_id = None
        adapter.save_pretrained(tmp_path)
        (tmp_path / "generation_config.json").unlink()
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
        assert loaded.config.eos_token_id == ends
        output = generate(loaded, input_ids)[0, 6:].tolist()
        assert output == free[: min(free.index(end) for end in ends) + 1]
