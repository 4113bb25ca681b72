#!/usr/bin/env python3
"""Replies that must keep to a JSON schema: schemas.py URL [--count 200] [--seed 1] [--speed PAIRS]

Draws schemas and prompts from the seed, asks for each through OpenAI's client, and looks at the replies with a validator that is not ours.
Every text that such a schema allows has an end: where one does not, as in a fraction of a second, a small model may write on and on.
With --speed, compares the tokens a second of such replies with those of free ones, in turns, at the server's own word.
"""
import argparse
import json
import random
import statistics
import string
import sys
import time

import jsonschema
import openai

MODEL = "smollm2-135m-instruct"
SUBJECTS = ["a garden", "a train", "a small shop", "three friends", "the weather", "a book", "a city by the sea", "an invoice", "a bird", "a game of chess"]
ASKS = ["Describe {} as JSON.", "Give me data about {}.", "{}?", "Write one record on {}.", "Tell me of {} in the agreed form."]
MOST_TOKENS = 600


def name(draw):
    return draw.choice(string.ascii_lowercase) + "".join(draw.choices(string.ascii_lowercase + "_", k=draw.randint(1, 8)))


def text(draw):
    kind = draw.randrange(4)
    if kind == 0:
        return {"type": "string", "enum": sorted({name(draw) for _ in range(draw.randint(1, 5))})}
    if kind == 1:
        return {"type": "string", "pattern": draw.choice(["^[a-z]{2,6}$", "^[0-9]{3}-[0-9]{2}$", "^(yes|no|maybe)$", "^#[0-9a-f]{6}$"])}
    if kind == 2:
        return {"type": "string", "format": draw.choice(["date", "uuid"])}
    least = draw.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + draw.randint(1, 20)}


def number(draw):
    least = draw.randint(-1000, 1000)
    bounds = {"minimum": least, "maximum": least + draw.randint(0, 5000)}
    return {"type": "integer", **bounds}


def schema(draw, depth):
    kinds = [text, number, lambda _: {"type": "boolean"}, lambda _: {"type": "null"}, lambda _: {"const": draw.choice([1, "x", True, None])}]
    if depth == 0:
        return draw.choice(kinds)(draw)
    kind = draw.randrange(6)
    if kind < 3:
        members = {name(draw): schema(draw, depth - 1) for _ in range(draw.randint(1, 4))}
        required = [member for member in members if draw.random() < 0.8]
        return {"type": "object", "properties": members, "required": required, "additionalProperties": False}
    if kind == 3:
        least = draw.randint(0, 2)
        return {"type": "array", "items": schema(draw, depth - 1), "minItems": least, "maxItems": least + draw.randint(1, 3)}
    if kind == 4:
        return {"anyOf": [schema(draw, depth - 1) for _ in range(draw.randint(2, 3))]}
    return draw.choice(kinds)(draw)


def root(draw):
    members = {name(draw): schema(draw, draw.randint(0, 2)) for _ in range(draw.randint(1, 5))}
    return {"type": "object", "properties": members, "required": sorted(members), "additionalProperties": False}


def ask(client, prompt, wanted, seed):
    choice = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": prompt}],
        response_format={"type": "json_schema", "json_schema": {"name": "reply", "schema": wanted, "strict": True}},
        max_tokens=MOST_TOKENS,
        temperature=0.8,
        seed=seed,
    ).choices[0]
    return choice.message.content, choice.finish_reason


def fault(reply, finish, wanted):
    if finish != "stop":
        return f"it ended with {finish}"
    try:
        jsonschema.validate(json.loads(reply), wanted, jsonschema.Draft202012Validator, format_checker=jsonschema.FormatChecker())
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).split("\n", 1)[0]
    return None


def valid(client, count, seed):
    draw, faults, begun = random.Random(seed), 0, time.monotonic()
    for nth in range(count):
        wanted, prompt = root(draw), draw.choice(ASKS).format(draw.choice(SUBJECTS))
        reply, finish = ask(client, prompt, wanted, nth)
        found = fault(reply, finish, wanted)
        if found:
            faults += 1
            print(f"schema {nth}: {found}\n  {json.dumps(wanted)}\n  {reply}", flush=True)
    print(f"{count - faults} of {count} replies keep to their schemas ({time.monotonic() - begun:.0f} s, seed {seed}).")
    return faults


def rate(client, **more):
    """Tokens a second of one reply while it is written, first token left out."""
    begun, count = None, 0
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "List the numbers from 100 on."}], temperature=0, max_tokens=256, stream=True,
        extra_body={"ignore_eos": True}, **more,
    )
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            begun, count = begun or time.monotonic(), count + 1
    return (count - 1) / (time.monotonic() - begun), count


def cost(client, pairs):
    """What the grammar takes of the time of a token: the same model, free and bound, in turns."""
    numbers = {"type": "object", "properties": {"list": {"type": "array", "items": {"type": "integer"}, "minItems": 120}}, "required": ["list"], "additionalProperties": False}
    words = {"type": "object", "properties": {"list": {"type": "array", "items": {"type": "string"}, "minItems": 120}}, "required": ["list"], "additionalProperties": False}
    for what, wanted in (("numbers", numbers), ("words", words)):
        form = {"type": "json_schema", "json_schema": {"name": "reply", "schema": wanted}}
        rate(client, response_format=form)
        ratios = []
        for _ in range(pairs):
            (free, _), (bound, tokens) = rate(client), rate(client, response_format=form)
            ratios.append(free / bound - 1)
        print(f"\nA list of {what}: the schema adds {100 * statistics.median(ratios):.1f} % to the time of a token ({tokens} tokens, median of {pairs} pairs).")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=int, default=0, metavar="PAIRS")
    asked = parser.parse_args()
    client = openai.OpenAI(base_url=f"{asked.url}/v1", api_key="none", max_retries=0)
    faults = valid(client, asked.count, asked.seed) if asked.count else 0
    if asked.speed:
        cost(client, asked.speed)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
