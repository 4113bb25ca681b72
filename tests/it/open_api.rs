//! The committed description is the one the binary prints.

use std::path::Path;

#[test]
fn the_committed_description_is_current() {
    let output = crate::server::corolla().arg("openapi").output().unwrap();
    assert!(output.status.success());
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.yaml");
    let committed = std::fs::read_to_string(committed).unwrap_or_default();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(committed == printed, "openapi.yaml is not what `corolla openapi` prints: run `make spec` and commit it");
}
