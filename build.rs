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
    println!("cargo:rerun-if-changed=src/native");
    // As torch-sys has it: LIBTORCH_INCLUDE is the folder that holds `include`.
    let include = variable("LIBTORCH_INCLUDE")
        .map_or_else(|| lib.with_file_name("include"), |root| root.join("include"));
    let mut shim = cc::Build::new();
    shim.cpp(true)
        .std("c++17")
        .warnings(false)
        .debug(false)
        // It only calls into libtorch; optimising the headers' templates costs seconds.
        .opt_level(1)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        .file("src/native/shim.cpp")
        .file("src/native/backends.cpp")
        .file("src/native/backward.cpp")
        .file("src/native/device.cpp")
        .file("src/native/facts.cpp")
        .file("src/native/graph.cpp")
        .file("src/native/host_copy.cpp")
        .file("src/native/linear_gelu.cpp")
        .file("src/native/node.cpp")
        .file("src/native/profiler.cpp")
        .file("src/native/c10d.cpp");
    if let Some(headers) = nccl_headers(lib) {
        shim.includes(headers);
        shim.define("USE_C10D_NCCL", None);
    }
    shim.compile("distill_shim");
}

/// Folders with the headers that NCCL's process group needs. None where libtorch has no CUDA half,
/// or where they are missing, which is warned about: such a build trains on one GPU, or on CPUs.
fn nccl_headers(lib: &Path) -> Option<Vec<PathBuf>> {
    let own = variable("DISTILL_CUDA_HEADERS");
    if !lib.join("libtorch_cuda.so").exists() {
        return None;
    }
    // torch's wheel lies beside those of NVIDIA that it came with: site-packages/{torch,nvidia}.
    let packages = lib.parent().and_then(Path::parent)?.join("nvidia");
    let folders: Vec<PathBuf> = own
        .into_iter()
        .flat_map(|root| [root.join("nvidia/cu13/include"), root])
        .chain(["nccl/include", "cu13/include"].map(|folder| packages.join(folder)))
        .chain([PathBuf::from("/usr/local/cuda/include")])
        .filter(|folder| folder.is_dir())
        .collect();
    // The last two are in packages that torch does not bring: nvidia-cuda-crt, nvidia-cuda-cccl.
    for header in ["nccl.h", "cuda_runtime_api.h", "crt/host_defines.h", "nv/target"] {
        if !folders.iter().any(|folder| folder.join(header).exists()) {
            println!(
                "cargo:warning=built without NCCL, for one GPU only: the header {header} is \
                 missing; scripts/distill brings it, or name its folder in DISTILL_CUDA_HEADERS"
            );
            return None;
        }
    }
    Some(folders)
}

fn variable(name: &str) -> Option<PathBuf> {
    println!("cargo:rerun-if-env-changed={name}");
    std::env::var_os(name).map(PathBuf::from)
}

fn link_libtorch(lib: &Path) {
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    // The compiler of the teacher's kernels is opened by name at run time. It comes with torch's
    // wheel, beside it.
    if let Some(nvidia) =
        lib.parent().and_then(Path::parent).map(|site| site.join("nvidia/cu13/lib"))
        && nvidia.is_dir()
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", nvidia.display());
    }
    // No symbol of libtorch_cuda.so is used by name: it registers its kernels when it is loaded.
    // The linker would leave it out, and then no GPU is ever seen.
    let cuda = lib.join("libtorch_cuda.so");
    if cuda.exists() {
        for argument in ["-Wl,--no-as-needed", "-ltorch_cuda", "-Wl,--as-needed"] {
            println!("cargo:rustc-link-arg-bin=distill={argument}");
        }
    }
}
