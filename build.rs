//! Compiles the C++ shim against the libtorch that torch-sys found, and links that libtorch so
//! that the program finds it, and its CUDA half, at run time without LD_LIBRARY_PATH.

use std::path::{Path, PathBuf};

fn main() {
    let lib =
        PathBuf::from(std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names its lib"));
    println!("cargo:rerun-if-changed=build.rs");
    compile_shim(&lib);
    link_libtorch(&lib);
}

fn compile_shim(lib: &Path) {
    println!("cargo:rerun-if-changed=src/native/shim.cpp");
    println!("cargo:rerun-if-changed=src/native/shim.h");
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    // As torch-sys has it: LIBTORCH_INCLUDE is the folder that holds `include`.
    let include = std::env::var_os("LIBTORCH_INCLUDE")
        .map_or_else(|| lib.with_file_name("include"), |root| PathBuf::from(root).join("include"));
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .debug(false)
        // It only calls into libtorch; optimising the headers' templates costs seconds.
        .opt_level(1)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("src/native/shim.cpp")
        .compile("distill_shim");
}

fn link_libtorch(lib: &Path) {
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    // No symbol of libtorch_cuda.so is used by name: it registers its kernels when it is loaded.
    // The linker would leave it out, and then no GPU is ever seen.
    let cuda = lib.join("libtorch_cuda.so");
    if cuda.exists() {
        for argument in ["-Wl,--no-as-needed", "-ltorch_cuda", "-Wl,--as-needed"] {
            println!("cargo:rustc-link-arg-bin=distill={argument}");
        }
    }
}
