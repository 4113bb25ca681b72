//! Tells the binary where libtorch is at run time, if it has libtorch: where it was built, or beside the binary.

fn main() {
    if let Ok(folder) = std::env::var("DEP_COROLLA_TCH_LIBTORCH_LIB") {
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,$ORIGIN/libtorch/lib");
        println!("cargo:rustc-link-arg-bins=-Wl,-rpath,{folder}");
    }
}
