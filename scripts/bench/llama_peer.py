#!/usr/bin/env python3
"""llama.cpp beside `greedy`: llama_peer.py MODEL COUNT THREADS ID... prints seconds for the prompt, tokens per second, and the tokens."""
import ctypes
import json
import sys
import time

import llama_cpp
import numpy as np

model_path, count, threads, prompt = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), [int(id) for id in sys.argv[4:]]
quiet = llama_cpp.llama_log_callback(lambda *_: None)
llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()
model = llama_cpp.llama_load_model_from_file(model_path.encode(), llama_cpp.llama_model_default_params())
params = llama_cpp.llama_context_default_params()
params.n_ctx = params.n_batch = params.n_ubatch = max(512, len(prompt) + count)
params.n_threads = params.n_threads_batch = threads
context = llama_cpp.llama_new_context_with_model(model, params)
vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))


def step(ids):
    """The best token after these."""
    array = (llama_cpp.llama_token * len(ids))(*ids)
    if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(array, len(ids))):
        raise SystemExit("llama.cpp could not decode")
    logits = llama_cpp.llama_get_logits_ith(context, -1)
    return int(np.ctypeslib.as_array(logits, shape=(vocab,)).argmax())


begun = time.perf_counter()
tokens = [step(prompt)]
prompted = time.perf_counter()
while len(tokens) < count:
    tokens.append(step(tokens[-1:]))
ended = time.perf_counter()
print(json.dumps({"prompt_s": prompted - begun, "tokens_per_s": (count - 1) / (ended - prompted), "tokens": tokens}))
