//! What fits where: which backend computes a model, and in which dtype its weights are kept, decided from what the model
//! needs and what the machine has. Nothing here measures anything; numbers come in, a choice and its reason go out.

mod choose;
mod dtype;
mod explain;
mod kv_type;
mod machine;
mod need;
mod say;
mod screen;
mod table;

pub use choose::{Choice, Side, Wish, choose, choose_all};
pub use dtype::{Dtype, Stored};
pub use kv_type::KvType;
pub use machine::{Backend, Card, Features, Kernels, Machine, Place, Room, check_kernels};
pub use need::{Bytes, Demand, Part, Parts, Sizes};
pub use say::bytes;
pub use screen::Screen;
pub use table::{Row, table};

#[cfg(test)]
mod tests;
