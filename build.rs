//! Compiles the C++ shim against the libtorch that torch-sys found, and links that libtorch so
//! that the program finds it (and its CUDA half) at run time.

use std::path::PathBuf;

fn main() {
    let lib =
        PathBuf::from(std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names its lib"));
    compile_shim(&lib);
}

fn compile_shim(lib: &std::path::Path) {
    let include = lib.with_file_name("include");
    println!("cargo:rerun-if-changed=src/native/shim.cpp");
    println!("cargo:rerun-if-changed=src/native/shim.h");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/native/shim.cpp")
        .compile("distill_shim");
}
