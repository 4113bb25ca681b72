"""LiteLLM's `petals/` provider and its generic OpenAI one, unmodified, against a running server: litellm_petals.py URL"""

import sys

import litellm

URL = sys.argv[1]
MODEL = "smollm2-135m-instruct"
litellm.telemetry = False


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


for test in (a_form_to_v1, parameters_of_sampling, the_chat_of_openai):
    test()
    print(f"ok      litellm: {test.__name__.replace('_', ' ')}", flush=True)
