//! The contract suites and golden files on a GPU, for whoever has one: `make cuda-selftest`.

use corolla_candle::{Target, cuda_devices};
use corolla_domain::fit;
use testkit::tiny::{Dtype, Size, Tiny};

use crate::{
    contract::{SIZE, in_folder},
    golden::transformers_agree,
};

/// The GPU that `CUDA_SELFTEST` names, or the first.
fn device() -> usize {
    let nth = std::env::var("CUDA_SELFTEST").map_or(0, |nth| nth.parse().unwrap());
    eprintln!("on GPU {nth}: {:?}", cuda_devices().unwrap()[nth]);
    nth
}

#[tokio::test]
#[ignore = "needs a GPU: make cuda-selftest"]
async fn the_contracts_hold_on_a_gpu() {
    let device = device();
    let on = |dtype| Target::Cuda { dtype, device };
    let even = Tiny::llama(Size { hidden: 64, inner: 128, heads: 4, kv: 2, blocks: 2 });
    in_folder(&even, Dtype::F32, on(fit::Dtype::Q8_0), 0.02).await;
    for (dtype, tolerance) in [(fit::Dtype::F32, 1e-4), (fit::Dtype::F16, 0.01), (fit::Dtype::Bf16, 0.05)] {
        in_folder(&Tiny::llama(SIZE), Dtype::F32, on(dtype), tolerance).await;
        in_folder(&Tiny::bloom(48, 6, 3), Dtype::F32, on(dtype), tolerance).await;
    }
}

#[tokio::test]
#[ignore = "needs a GPU: make cuda-selftest"]
async fn transformers_agrees_on_a_gpu() {
    let device = device();
    for name in ["tiny-bloom", "tiny-llama", "tiny-llama3"] {
        transformers_agree(name, Target::Cuda { dtype: fit::Dtype::F32, device }).await;
    }
}
