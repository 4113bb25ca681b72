"""What progenitor reads of the description, as JSON: reduce.py OPENAPI.YAML OPENAPI.JSON

It takes one media type for a body, and one type for all successes and one for all errors of an operation. JSON bodies are kept, and of
errors those with the schema that most statuses have."""

import collections
import json
import sys

from ruamel.yaml import YAML

JSON = "application/json"
with open(sys.argv[1], encoding="utf-8") as file:
    document = YAML(typ="safe").load(file)
for item in document["paths"].values():
    for operation in item.values():
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        for body in bodies + list(operation["responses"].values()):
            if JSON in body.get("content", {}):
                body["content"] = {JSON: body["content"][JSON]}
        schemas = {
            status: json.dumps(response["content"][JSON]["schema"])
            for status, response in operation["responses"].items()
            if status[0] in "45" and JSON in response.get("content", {})
        }
        common = collections.Counter(schemas.values()).most_common(1)
        for status, schema in schemas.items():
            if schema != common[0][0]:
                del operation["responses"][status]
with open(sys.argv[2], "w", encoding="utf-8") as file:
    json.dump(document, file, indent=1)
