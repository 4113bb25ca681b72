//! The committed descriptions are those that the binary prints.

use std::path::Path;

#[test]
fn the_committed_descriptions_are_current() {
    for (file, version) in [("openapi.yaml", "3.0"), ("openapi-3.1.yaml", "3.1")] {
        let output = crate::server::corolla().args(["openapi", "--oas", version]).output().unwrap();
        assert!(output.status.success());
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let committed = std::fs::read_to_string(committed).unwrap_or_default();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert!(
            committed == printed,
            "{file} is not what `corolla openapi --oas {version}` prints: run `make spec` and commit it"
        );
    }
}
