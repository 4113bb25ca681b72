//! Contract suites: what every adapter of a port promises, one function per promise. An adapter's own tests call them.

pub mod block_engine;
pub mod fixtures;
pub mod golden;
pub mod local_model;
pub mod remote_swarm;
pub mod run;
pub mod session_store;
pub mod tiny;
pub mod tokenizer;
