#!/usr/bin/env python3
"""A reply of llama.cpp from a cold start: cold_peer.py MODEL TOKENS THREADS PROMPT writes the text as it comes; greedy, and on after its end."""
import sys

model, tokens, threads, prompt = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
import llama_cpp  # noqa: E402

llama = llama_cpp.Llama(model, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)
end = {llama.token_eos(): float("-inf")}  # what `--ignore-eos` of llama.cpp does
for piece in llama(prompt, max_tokens=tokens, temperature=0, repeat_penalty=1.0, logit_bias=end, stream=True):
    sys.stdout.write(piece["choices"][0]["text"])
    sys.stdout.flush()
