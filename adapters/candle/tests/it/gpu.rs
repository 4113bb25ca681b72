//! The contract suites and golden files on a GPU, for whoever has one: `make cuda-selftest`.

use corolla_candle::{DtypeChoice, Target, cuda_devices};
use corolla_checkpoint::GgmlType;
use testkit::tiny::{Dtype, Size, Tiny};

use crate::{
    contract::{SIZE, in_folder},
    golden::transformers_agree,
};

/// The GPU that `CUDA_SELFTEST` names; `None` where the tests are to be left out.
fn device() -> Option<usize> {
    let Some(nth) = std::env::var("CUDA_SELFTEST").ok().and_then(|nth| nth.parse().ok()) else {
        eprintln!("NOT RUN on a GPU: CUDA_SELFTEST names none");
        return None;
    };
    let devices = cuda_devices().unwrap();
    eprintln!("on GPU {nth}: {:?}", devices[nth]);
    Some(nth)
}

#[tokio::test]
async fn the_contracts_hold_on_a_gpu() {
    let Some(device) = device() else { return };
    let on = |dtype| Target::Cuda { dtype, device };
    let even = Tiny::llama(Size { hidden: 64, inner: 128, heads: 4, kv: 2, blocks: 2 });
    in_folder(&even, Dtype::F32, on(DtypeChoice::Quantised(GgmlType::Q8_0)), 0.02).await;
    for (dtype, tolerance) in [(DtypeChoice::F32, 1e-4), (DtypeChoice::F16, 0.01), (DtypeChoice::Bf16, 0.05)] {
        in_folder(&Tiny::llama(SIZE), Dtype::F32, on(dtype), tolerance).await;
        in_folder(&Tiny::bloom(48, 6, 3), Dtype::F32, on(dtype), tolerance).await;
    }
}

#[tokio::test]
async fn transformers_agrees_on_a_gpu() {
    let Some(device) = device() else { return };
    for name in ["tiny-bloom", "tiny-llama", "tiny-llama3"] {
        transformers_agree(name, Target::Cuda { dtype: DtypeChoice::F32, device }).await;
    }
}
