//! Compiles the stand-in against the libtorch that torch-sys found, and the header of the program's shim.

use std::path::PathBuf;

fn main() {
    let lib =
        PathBuf::from(std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names its lib"));
    println!("cargo:rerun-if-env-changed=LIBTORCH_INCLUDE");
    let include = std::env::var_os("LIBTORCH_INCLUDE")
        .map_or_else(|| lib.with_file_name("include"), |root| PathBuf::from(root).join("include"));
    for file in ["build.rs", "stand_in.cpp", "../../src/native/backends.h"] {
        println!("cargo:rerun-if-changed={file}");
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .debug(false)
        .opt_level(1)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .include("../../src/native")
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        .file("stand_in.cpp")
        .compile("distill_stand_in");
}
