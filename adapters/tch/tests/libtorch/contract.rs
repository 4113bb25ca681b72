//! The contract suites, over every family and stored form.

use tempfile::TempDir;
use testkit::{
    block_engine, local_model,
    tiny::{Dtype, Size, Tiny},
};

use crate::{config, load_as};

/// libtorch takes another way for one row than for some or many: sums in another order.
const TOLERANCE: f32 = 2e-5;

async fn both_contracts(tiny: &Tiny, dtype: Dtype) {
    let folder = TempDir::new().unwrap();
    tiny.write_folder(folder.path(), dtype, 1);
    let load = || load_as(config(folder.path()));
    local_model::all(|| async { local_model::Subject { model: load().await.local, tolerance: TOLERANCE } }).await;
    block_engine::all(|| async {
        let model = load().await;
        block_engine::Subject { engine: model.engine, width: model.local.spec().hidden, tolerance: TOLERANCE }
    })
    .await;
}

#[tokio::test]
async fn llama() {
    let tiny = Tiny::llama(Size { hidden: 48, inner: 80, heads: 6, kv: 2, blocks: 3 });
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        both_contracts(&tiny, dtype).await;
    }
}

#[tokio::test]
async fn bloom() {
    let tiny = Tiny::bloom(48, 6, 3);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        both_contracts(&tiny, dtype).await;
    }
}
