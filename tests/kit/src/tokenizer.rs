//! Contract of `tokenizer`.
