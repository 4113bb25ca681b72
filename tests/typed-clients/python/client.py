"""Uses the API through a client that was generated from openapi.yaml: client.py BASE KEY"""

import sys

from corolla_client import AuthenticatedClient, Client
from corolla_client.api.chat import create_chat_completion
from corolla_client.api.models import list_models
from corolla_client.api.operations import check_readiness
from corolla_client.api.v1 import close_inference_session, generate_text, open_inference_session
from corolla_client.models import ChatCompletion, ChatError, ChatMessage, ChatMessageRole, ChatRequest, Error, GenerateForm, ModelList, ModelState
from corolla_client.models import Readiness

base, key = sys.argv[1:]
client = AuthenticatedClient(base_url=base, token=key, timeout=120)

models = list_models.sync(client=client)
assert isinstance(models, ModelList), models
assert models.models[0].state is ModelState.READY and models.models[0].blocks > 0, models

opened = open_inference_session.sync(client=client, max_length=64)
assert opened.ok and opened.session_id, opened
text = generate_text.sync(client=client, body=GenerateForm(inputs="The capital of France is", max_new_tokens=4, session_id=opened.session_id))
assert text.ok and "Paris" in text.outputs, text
assert close_inference_session.sync(client=client, session_id=opened.session_id).ok


def message(words: str) -> ChatMessage:
    return ChatMessage(role=ChatMessageRole.USER, content=words)


chat = create_chat_completion.sync(client=client, body=ChatRequest(messages=[message("Who wrote Hamlet?")], max_tokens=24, temperature=0.0))
assert isinstance(chat, ChatCompletion), chat
assert "Shakespeare" in chat.choices[0].message.content and chat.usage.completion_tokens > 0, chat

wrong = create_chat_completion.sync_detailed(client=client, body=ChatRequest(model="nobody", messages=[message("?")]))
assert wrong.status_code == 404 and isinstance(wrong.parsed, ChatError) and wrong.parsed.error.code == "model_not_found", wrong

refused = list_models.sync_detailed(client=Client(base_url=base))
assert refused.status_code == 401 and isinstance(refused.parsed, Error) and refused.parsed.code == "missing_api_key", refused

ready = check_readiness.sync(client=client)
assert isinstance(ready, Readiness) and ready.models[0].missing_blocks == [], ready
print("python: models, a session, a text, a chat, errors")
