//! State dicts that the real torch saved: what is read from them, and what is not executed.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use distill::encoders::EncoderWeights;
use tch::Kind;
use tempfile::TempDir;

use crate::support::python::python_module;

use super::{Tensors, assert_same, golden, load_error, python, read_all, read_independently, run};

/// The files that `make_pth.py` writes, made once.
static SAVED: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let source = golden("infer_native/pixio.safetensors");
    run(python("make_pth.py").arg(source).arg(folder.path()));
    folder
});

fn saved(name: &str) -> std::path::PathBuf {
    SAVED.path().join(format!("{name}.pth"))
}

fn original() -> Tensors {
    read_independently(&golden("infer_native/pixio.safetensors"))
}

/// Asserts that no pickle has been executed: the hostile ones leave a file behind.
fn assert_nothing_was_executed() {
    assert!(!SAVED.path().join("executed").exists(), "a pickle was executed");
}

/// Plain state dicts, those under a key beside optimizer and arguments, wrapped names, newer
/// pickles, and tensors that share a storage or do not lie densely in theirs.
#[test]
fn every_form_of_state_dict_loads() {
    for name in [
        "plain",
        "under_model",
        "under_state_dict",
        "training",
        "wrapped",
        "protocol4",
        "shared",
        "transposed",
        "spread",
    ] {
        assert_same(&read_all(&saved(name)), &original());
    }
}

/// bf16, f16 and f64 state dicts.
#[test]
fn number_formats_of_state_dicts_load() {
    for (name, kind) in
        [("bfloat16", Kind::BFloat16), ("float16", Kind::Half), ("float64", Kind::Double)]
    {
        let expected = original().iter().map(|(k, v)| (k.clone(), v.to_kind(kind))).collect();
        assert_same(&read_all(&saved(name)), &expected);
    }
}

/// A pickle that would run a command does not, whether it stands beside the weights (which then
/// load), among them, or alone.
#[test]
fn hostile_pickles_are_not_executed() {
    assert_same(&read_all(&saved("evil_beside")), &original());
    for (name, says) in [
        ("evil_within", "norm.weight: the entry is a call of posix.system, which is not done here"),
        ("evil_whole", "the file holds a call of posix.system"),
        ("pickle_only", "torch.save"),
    ] {
        let error = load_error(&saved(name), &original());
        assert!(error.contains(says), "`{says}` is not in: {error}");
        assert!(error.contains(&saved(name).display().to_string()), "no path in: {error}");
    }
    assert_nothing_was_executed();
}

/// Files of torch.save that hold something else than dense weights are named with the way out.
#[test]
fn other_files_of_torch_are_refused() {
    for (name, says) in [
        ("legacy", "torch.save(torch.load(OLD, weights_only=True), NEW)"),
        ("module", "save `model.state_dict()`"),
        ("list", "something else than a state dict"),
        ("integers", "norm.weight (stored as torch.LongStorage, which is not a format of weights)"),
        ("sparse", "norm.weight: the entry is a call of torch._utils._rebuild_sparse_tensor"),
    ] {
        let error = load_error(&saved(name), &original());
        assert!(error.contains(says), "`{says}` is not in: {error}");
    }
}

/// An archive that is cut short is refused.
#[test]
fn cut_archives_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.pth");
    let whole = fs::read(saved("training")).unwrap();
    for length in [4, 1000, whole.len() / 2, whole.len() - 30] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = load_error(&path, &original());
        assert!(error.contains("not a whole zip archive"), "{error}");
    }
}

/// Opens a damaged file and reads all that it claims to hold. Errors are welcome; a panic or a
/// crash fails the test.
fn poke(path: &Path) {
    let Ok(EncoderWeights { file, .. }) = EncoderWeights::open(path) else { return };
    for (name, shape) in file.shapes() {
        // A damaged stride can make a small storage look like a huge tensor, as a view.
        assert!(file.read(name).is_ok_and(|tensor| tensor.size() == shape), "{name}");
    }
}

/// Whatever byte of the pickle is wrong: an error or tensors, never a panic. The archive's pickle
/// is not compressed, so its bytes can be changed where they stand.
#[test]
fn damaged_pickles_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.pth");
    for name in ["few2", "few4"] {
        let whole = fs::read(saved(name)).unwrap();
        assert_eq!(read_all(&saved(name)).len(), 3);
        let find =
            |needle: &[u8]| whole.windows(needle.len()).position(|part| part == needle).unwrap();
        // The pickle lies between its own local header and that of the member after it.
        let pickle = find(b"data.pkl")..find(b".format_version");
        assert!(pickle.len() > 400, "the pickle was not found");
        for position in pickle {
            for value in [whole[position] ^ 1, 0xff, b'.', b'R', b'2'] {
                let mut bytes = whole.clone();
                bytes[position] = value;
                fs::write(&path, bytes).unwrap();
                poke(&path);
            }
        }
    }
    assert_nothing_was_executed();
}

/// What stands behind `#` is a key of the file, perhaps one above the only state dict there, and then what names
/// begin with is found as ever; tensors beside a model are none of it; and a key that is not there is never ignored.
#[test]
fn a_part_is_taken_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = golden("infer_native/pixio.safetensors");
    run(python("make_parts.py").arg(&source).arg(folder.path()));
    let open = |name: &str| read_all(&folder.path().join(name));
    for right in [
        "above.pth#ema",
        "above.pth#ema.module",
        "dino.pth#teacher",
        "loose.pth",
        "loose.pth#model",
        "two.pth#model_ema",
        "old",
        "wrapped.pth",
        "wrapped_two.pth#teacher.backbone",
    ] {
        let found = open(right);
        for (name, expected) in original() {
            assert!(
                found.get(&name).is_some_and(|found| found.equal(&expected)),
                "{right}: {name}"
            );
        }
    }
    for (wrong, words) in [
        ("two.pth#nope", &["nothing in the file is called `nope`", "model, model_ema"][..]),
        ("plain.pth#model_ema", &["nothing in the file is called `model_ema`"]),
        ("plain.safetensors#blocks", &["nothing in it is called `blocks`"]),
        ("plain.safetensors#ema", &["nothing in it is called `ema`"]),
    ] {
        let error =
            format!("{:#}", EncoderWeights::open(&folder.path().join(wrong)).err().unwrap());
        for word in words {
            assert!(error.contains(word), "{wrong}: `{word}` is not in {error}");
        }
    }
}

/// A distributed checkpoint of torch is refused, and what the message says makes a file of it that is read.
#[test]
fn a_distributed_checkpoint_says_what_makes_a_file_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let source = golden("infer_native/pixio.safetensors");
    run(python("make_parts.py").arg(&source).arg(folder.path()));
    let saved = folder.path().join("dcp");
    let command = format!("format_utils dcp_to_torch {} weights.pth", saved.display());
    for path in [saved.clone(), saved.join("__0_0.distcp")] {
        let error = format!("{:#}", EncoderWeights::open(&path).err().unwrap());
        assert!(error.contains(&command), "`{command}` is not in {error}");
    }
    let file = folder.path().join("weights.pth");
    let mut convert = python_module("torch.distributed.checkpoint.format_utils");
    run(convert.arg("dcp_to_torch").arg(&saved).arg(&file));
    let found = read_all(&file);
    for (name, expected) in original() {
        assert!(found.get(&name).is_some_and(|found| found.equal(&expected)), "{name}");
    }
}
