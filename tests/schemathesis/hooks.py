"""What schemathesis cannot know of this API, and no configuration can say.

Event streams: the description gives one as OpenAPI 3.0 can: the array of what each event's `data` holds, up to
`[DONE]`. It takes the schema for that of each event by itself, as an object with a text named `data`; here it is shown one event, which is
that array.

`response_format: null` is taken, as null is for every member that may be left out. That a union of named shapes may be null, OpenAPI 3.0
cannot say in words that all generators read."""

import json

import schemathesis

DONE = "[DONE]"


@schemathesis.deserializer("text/event-stream")
def data_of_all_events(_, response):
    lines = response.content.decode().split("\n")
    data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    # Of a long stream only the beginning is read.
    if DONE in data[:-1] or not (data[-1:] == [DONE] or response.stream_cut_short):
        raise ValueError(f"a whole stream ends with {DONE}, and only there; this one: {data[-3:]}")
    return [[json.loads(text) for text in data if text != DONE]]


@schemathesis.hook
def filter_case(context, case):
    return not (isinstance(case.body, dict) and case.body.get("response_format", "absent") is None)
