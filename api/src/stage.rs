//! A small stage for tests.
