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


class Weather(pydantic.BaseModel):
    """How the weather is in a city."""

    city: str = pydantic.Field(max_length=20)
    days: int = pydantic.Field(ge=1, le=7)


WEATHER = openai.pydantic_function_tool(Weather, name="get_weather")
NOW = {"type": "function", "function": {"name": "get_time", "description": "The time of day."}}


def weather_of(call):
    assert call.type == "function" and call.function.name == "get_weather" and call.id.startswith("call_"), call
    return Weather.model_validate_json(call.function.arguments)


def a_call_of_a_named_tool():
    question = [{"role": "user", "content": "How will the weather be in Rome in the next 3 days?"}]
    named = {"type": "function", "function": {"name": "get_weather"}}
    for seed in range(3):
        choice = chat(messages=question, tools=[NOW, WEATHER], tool_choice=named, temperature=1, seed=seed, max_tokens=200).choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content is None, choice
        (call,) = choice.message.tool_calls
        weather_of(call)


def a_call_is_streamed_and_parsed():
    question = [{"role": "user", "content": "What time is it?"}]
    with CLIENT.chat.completions.stream(
        model=MODEL, messages=question, tools=[NOW, WEATHER], tool_choice="required", parallel_tool_calls=False, temperature=0, max_tokens=200
    ) as stream:
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls" and len(choice.message.tool_calls) == 1, choice
    assert choice.message.tool_calls[0].function.name in ("get_time", "get_weather"), choice
    named = {"type": "function", "function": {"name": "get_weather"}}
    parsed = CLIENT.chat.completions.parse(model=MODEL, messages=question, tools=[WEATHER], tool_choice=named, temperature=0, max_tokens=200)
    assert isinstance(parsed.choices[0].message.tool_calls[0].function.parsed_arguments, Weather), parsed


def what_a_tool_returned_is_read():
    question = {"role": "user", "content": "How is the weather in Rome?"}
    named = {"type": "function", "function": {"name": "get_weather"}}
    asked = chat(messages=[question], tools=[WEATHER], tool_choice=named, max_tokens=200).choices[0].message
    returned = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "It is sunny in Rome, 31 degrees."}
    for tools in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
        told = chat(messages=[question, asked, returned], **tools)
        assert told.choices[0].message.content and not told.choices[0].message.tool_calls, told
    assert told.usage.prompt_tokens > chat(messages=[question]).usage.prompt_tokens + 20, "it went into the prompt"


def a_strict_tool_leaves_words_alone():
    reply = chat(tools=[WEATHER], max_tokens=60).choices[0]  # pydantic_function_tool makes it strict
    for call in reply.message.tool_calls or []:
        weather_of(call)
    assert reply.message.content or reply.message.tool_calls, reply


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
        ({"tool_choice": "required"}, openai.BadRequestError, "invalid_parameter"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, openai.BadRequestError, "unsupported_parameter"),
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
    a_call_of_a_named_tool,
    a_call_is_streamed_and_parsed,
    what_a_tool_returned_is_read,
    a_strict_tool_leaves_words_alone,
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
