"""OpenAI's client for Python, unmodified, against a running server: openai_client.py URL"""

import sys
import time
import traceback
import urllib.request

import openai
import pydantic

URL = sys.argv[1]
MODEL = "smollm2-135m-instruct"
CLIENT = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def broken_off():
    """How many replies ended because their client left."""
    text = urllib.request.urlopen(f"{URL}/metrics").read().decode()
    name = f'corolla_turns_ended_total{{model="{MODEL}",how="broken_off"}} '
    return next((int(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name)), 0)


def chat(**more):
    return CLIENT.chat.completions.create(**{"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 30, **more})


def a_chat_in_one_piece():
    reply = chat(max_tokens=200)
    assert "Paris" in reply.choices[0].message.content, reply
    assert reply.choices[0].finish_reason == "stop", reply
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def a_chat_in_pieces_with_counts():
    whole = chat()
    pieces = list(chat(stream=True, stream_options={"include_usage": True}))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == whole.choices[0].message.content, text
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(pieces) > 3


def stop_texts_and_lengths():
    whole = chat().choices[0].message.content
    cut = chat(stop=["France", "nothing"]).choices[0]
    assert cut.message.content == whole[: whole.index("France")], cut
    assert cut.finish_reason == "stop"
    short = CLIENT.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=2)
    assert short.usage.completion_tokens == 2 and short.choices[0].finish_reason == "length", short


def the_same_seed_gives_the_same_text():
    sampled = [chat(temperature=1.5, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2], sampled


def several_replies_and_log_probabilities():
    reply = chat(n=2, seed=3, temperature=1, max_tokens=6, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in reply.choices] == [0, 1]
    for choice in reply.choices:
        assert choice.logprobs.content
        for row in choice.logprobs.content:
            assert row.logprob <= 0 and len(row.top_logprobs) == 2, row
            assert bytes(row.bytes).decode() == row.token, row


def a_bias_makes_a_token():
    paris = "7042"  # as tests/fixtures/golden/smollm2-f32.json has it
    assert chat(max_tokens=1, logit_bias={paris: 100}).choices[0].message.content == " Paris"
    assert chat(max_tokens=1).choices[0].message.content != " Paris"


class Garden(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=20)
    trees: int = pydantic.Field(ge=0, le=1000)
    colours: list[str] = pydantic.Field(max_length=2)
    open: bool


def json_of_a_schema():
    question = [{"role": "user", "content": "Describe a garden as JSON."}]
    for seed in range(3):
        reply = CLIENT.chat.completions.parse(model=MODEL, messages=question, response_format=Garden, seed=seed, max_tokens=400)
        assert isinstance(reply.choices[0].message.parsed, Garden), reply


def completions():
    prompts = ["The capital of France is", "Two plus two is"]
    reply = CLIENT.completions.create(model=MODEL, prompt=prompts, max_tokens=5, temperature=0, echo=True, logprobs=1)
    assert reply.choices[0].text.startswith("The capital of France is Paris"), reply
    assert len(reply.choices) == 2
    logprobs = reply.choices[0].logprobs
    assert "".join(logprobs.tokens) == reply.choices[0].text
    assert len(logprobs.token_logprobs) == len(logprobs.tokens) and logprobs.token_logprobs[0] is None
    stream = CLIENT.completions.create(model=MODEL, prompt=prompts[0], max_tokens=5, temperature=0, stream=True)
    assert prompts[0] + "".join(piece.choices[0].text for piece in stream) == reply.choices[0].text


def a_prompt_is_scored():
    def total(text):
        reply = CLIENT.completions.create(model=MODEL, prompt=text, max_tokens=0, echo=True, logprobs=0)
        return sum(logprob for logprob in reply.choices[0].logprobs.token_logprobs if logprob is not None)

    assert total("The capital of France is Paris.") > total("The capital of France is Apple.") + 3


def models():
    assert [card.id for card in CLIENT.models.list()] == [MODEL]
    assert CLIENT.models.retrieve(MODEL).id == MODEL
    try:
        CLIENT.models.retrieve("org/other")
    except openai.NotFoundError:
        return
    raise AssertionError("there is a model that is not there")


def embeddings_which_this_client_asks_for_in_base64():
    texts = ["A cat", "A dog"]
    rows = CLIENT.embeddings.create(model=MODEL, input=texts).data
    plain = CLIENT.embeddings.create(model=MODEL, input=texts, encoding_format="float").data
    for one, other in zip(rows, plain, strict=True):
        assert len(one.embedding) == 576
        assert max(abs(a - b) for a, b in zip(one.embedding, other.embedding, strict=True)) < 1e-6


def errors():
    for more, kind, code in [
        ({"model": "gpt-9"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": "hot"}, openai.BadRequestError, "invalid_parameter"),
        ({"n": 99}, openai.BadRequestError, "invalid_parameter"),
        ({"messages": []}, openai.BadRequestError, "invalid_parameter"),
        ({"messages": [{"role": "user", "content": "long " * 20000}]}, openai.BadRequestError, "context_length_exceeded"),
    ]:
        try:
            chat(**more)
        except kind as error:
            assert error.code == code, error
            continue
        raise AssertionError(f"{more} was taken")


def an_abort_stops_the_compute():
    before = broken_off()
    stream = chat(messages=[{"role": "user", "content": "Tell me a very long story about a garden."}], max_tokens=2000, stream=True)
    for piece in stream:
        if piece.choices[0].delta.content:
            break
    stream.close()
    begun = time.monotonic()
    while broken_off() == before:
        assert time.monotonic() - begun < 60, "it went on to its end"


TESTS = [
    a_chat_in_one_piece,
    a_chat_in_pieces_with_counts,
    stop_texts_and_lengths,
    the_same_seed_gives_the_same_text,
    several_replies_and_log_probabilities,
    a_bias_makes_a_token,
    json_of_a_schema,
    completions,
    a_prompt_is_scored,
    models,
    embeddings_which_this_client_asks_for_in_base64,
    errors,
    an_abort_stops_the_compute,
]


def main():
    failed = 0
    for test in TESTS:
        name = test.__name__.replace("_", " ")
        try:
            test()
            print(f"ok      python: {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  python: {name}", flush=True)
            traceback.print_exc()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
