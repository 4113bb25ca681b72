"""LiteLLM's `petals/` provider and its generic OpenAI one, unmodified, against a running server: litellm_petals.py URL"""

import json
import sys

import litellm

URL = sys.argv[1]
MODEL = "smollm2-135m-instruct"
litellm.telemetry = False
litellm.suppress_debug_info = True


def a_form_to_v1():
    """The provider posts a form to `api_base` and reads `outputs`."""
    question = [{"role": "user", "content": "The capital of France is"}]
    reply = litellm.completion(model=f"petals/{MODEL}", messages=question, api_base=f"{URL}/api/v1/generate", max_tokens=8)
    assert "Paris" in reply.choices[0].message.content, reply


def parameters_of_sampling():
    """Its parameters in the names of v1: `do_sample` travels as `true`."""
    question = [{"role": "user", "content": "Once upon a time"}]
    reply = litellm.completion(
        model=f"petals/{MODEL}", messages=question, api_base=f"{URL}/api/v1/generate", max_tokens=8, temperature=0.7, top_p=0.9, do_sample=True
    )
    assert reply.choices[0].message.content.strip(), reply


def the_chat_of_openai():
    question = [{"role": "user", "content": "What is the capital of France?"}]
    reply = litellm.completion(
        model=f"openai/{MODEL}", messages=question, api_base=f"{URL}/v1", api_key="none", temperature=0, max_tokens=30, stream=True
    )
    assert "Paris" in "".join(piece.choices[0].delta.content or "" for piece in reply)


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "How the weather is in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
NOW = {"type": "function", "function": {"name": "get_time", "description": "The time of day."}}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
RAIN = {"role": "user", "content": "How will the weather be in Rome in the next 3 days?"}


def with_tools(**more):
    """As `openai/MODEL`, what LiteLLM passes on is OpenAI's request."""
    fixed = {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": "none", "temperature": 0, "max_tokens": 200}
    return litellm.completion(**{**fixed, "messages": [RAIN], "tools": [NOW, WEATHER], **more})


def is_weather(call):
    assert call.type == "function" and call.function.name == "get_weather" and call.id.startswith("call_"), call
    arguments = json.loads(call.function.arguments)
    assert arguments.keys() == {"city", "days"} and isinstance(arguments["city"], str) and 1 <= arguments["days"] <= 7, arguments


def a_call_of_a_named_tool():
    choice = with_tools(tool_choice=NAMED).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None, choice
    (call,) = choice.message.tool_calls
    is_weather(call)


def a_call_in_pieces():
    pieces = list(with_tools(tool_choice=NAMED, stream=True))
    assert pieces[-1].choices[0].finish_reason == "tool_calls", pieces[-1]
    assert not any(piece.choices[0].delta.content for piece in pieces), pieces
    whole = litellm.stream_chunk_builder(pieces).choices[0].message
    (call,) = whole.tool_calls
    is_weather(call)
    (same,) = with_tools(tool_choice=NAMED).choices[0].message.tool_calls
    assert call.function.arguments == same.function.arguments, "streamed or whole, it is the same call"


def any_tool_once():
    choice = with_tools(tool_choice="required", parallel_tool_calls=False).choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and call.function.name in ("get_time", "get_weather"), choice


def what_a_tool_returned_is_read():
    asked = with_tools(tool_choice=NAMED).choices[0].message
    returned = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": "It is sunny in Rome, 31 degrees."}
    told = with_tools(messages=[RAIN, asked.model_dump(exclude_none=True), returned], tool_choice="none", max_tokens=30)
    assert told.choices[0].message.content and not told.choices[0].message.tool_calls, told
    assert told.usage.prompt_tokens > with_tools(tool_choice="none", max_tokens=1).usage.prompt_tokens + 20, "it went into the prompt"


def what_is_refused_is_named():
    try:
        with_tools(tool_choice={"type": "function", "function": {"name": "nobody"}})
    except litellm.BadRequestError as error:
        assert "tool_choice" in str(error) and "nobody" in str(error), error
        return
    raise AssertionError("a tool was called that nobody offered")


TESTS = [
    a_form_to_v1,
    parameters_of_sampling,
    the_chat_of_openai,
    a_call_of_a_named_tool,
    a_call_in_pieces,
    any_tool_once,
    what_a_tool_returned_is_read,
    what_is_refused_is_named,
]
for test in TESTS:
    test()
    print(f"ok      litellm: {test.__name__.replace('_', ' ')}", flush=True)
