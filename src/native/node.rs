//! Places in autograd's graph whose backward pass is a function of ours.

use std::ffi::{c_char, c_void};

use anyhow::{Result, ensure};
use tch::Tensor;

use super::guard::guard;
use super::shim::{Handle, check, handles};

type Call = unsafe extern "C" fn(
    *mut c_void,
    *const Handle,
    usize,
    *mut Handle,
    usize,
    *mut c_char,
    usize,
) -> bool;

unsafe extern "C" {
    fn distill_attach(
        inputs: *const Handle,
        input_count: usize,
        outputs: *const Handle,
        output_count: usize,
        backward: Call,
        release: unsafe extern "C" fn(*mut c_void),
        state: *mut c_void,
    ) -> *mut c_char;
    fn distill_grad_mode() -> bool;
}

/// Gradients, one a tensor; none where nothing depends on it.
pub type Gradients = Vec<Option<Tensor>>;

/// Takes the gradients of the outputs and gives those of the inputs, in their order.
type Backward = Box<dyn FnOnce(Gradients) -> Result<Gradients> + Send>;

/// Makes `outputs`, which were computed of `inputs` without history, depend on them: their gradients go
/// through `backward`, at most once and possibly on another thread. What `backward` holds is freed then, or
/// with the graph. Nothing happens where no history is recorded, or no input wants a gradient.
///
/// # Errors
/// libtorch refuses an output.
pub fn attach(
    inputs: &[&Tensor],
    outputs: &[&Tensor],
    backward: impl FnOnce(Gradients) -> Result<Gradients> + Send + 'static,
) -> Result<()> {
    if !records_history() || !inputs.iter().any(|input| input.requires_grad()) {
        return Ok(());
    }
    let shared = |tensors: &[&Tensor]| -> Vec<Tensor> {
        tensors.iter().map(|tensor| tensor.shallow_clone()).collect()
    };
    let (inputs, outputs) = (shared(inputs), shared(outputs));
    let (inputs, outputs) = (handles(&inputs), handles(&outputs));
    let state = Box::into_raw(Box::new(Box::new(backward) as Backward));
    // SAFETY: live tensors, borrowed during the call. `state` is what both functions expect, and each node
    // hands it to one of them once.
    check(unsafe {
        distill_attach(
            inputs.as_ptr(),
            inputs.len(),
            outputs.as_ptr(),
            outputs.len(),
            call,
            release,
            state.cast(),
        )
    })
}

/// Whether operators of this thread are recorded for a backward pass.
pub fn records_history() -> bool {
    // SAFETY: reads a flag of this thread.
    unsafe { distill_grad_mode() }
}

/// # Safety
/// `state` is a [`Backward`] of [`attach`] that nobody else has; `gradients` are so many tensors that are ours
/// now, or null; `results` has room for so many, and `message` for `length` bytes.
unsafe extern "C" fn call(
    state: *mut c_void,
    gradients: *const Handle,
    output_count: usize,
    results: *mut Handle,
    input_count: usize,
    message: *mut c_char,
    length: usize,
) -> bool {
    // SAFETY: as the caller promises.
    let (backward, gradients) = unsafe {
        let gradients = std::slice::from_raw_parts(gradients, output_count).iter();
        let gradients: Gradients =
            gradients.map(|one| (!one.is_null()).then(|| Tensor::from_ptr(one.cast()))).collect();
        (Box::from_raw(state.cast::<Backward>()), gradients)
    };
    let found = guard(|| {
        let found = backward(gradients)?;
        ensure!(found.len() == input_count, "{} gradients of {input_count} inputs", found.len());
        Ok(found)
    });
    match found {
        Ok(found) => {
            for (place, gradient) in found.into_iter().enumerate() {
                let Some(gradient) = gradient else { continue };
                // SAFETY: there are so many places. The address is that of an `at::Tensor` of its own, which the
                // caller frees in the owner's place.
                unsafe { *results.add(place) = gradient.as_ptr().cast_mut().cast() };
                std::mem::forget(gradient);
            }
            true
        }
        Err(error) => {
            let text = format!("{error:#}");
            let text = &text.as_bytes()[..text.len().min(length - 1)];
            // SAFETY: no more than there is room for, with a zero behind.
            unsafe {
                std::ptr::copy_nonoverlapping(text.as_ptr(), message.cast(), text.len());
                *message.add(text.len()) = 0;
            }
            false
        }
    }
}

/// # Safety
/// `state` is a [`Backward`] of [`attach`] that nobody else has.
unsafe extern "C" fn release(state: *mut c_void) {
    // SAFETY: as the caller promises.
    drop(unsafe { Box::from_raw(state.cast::<Backward>()) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use tch::{Device, Kind};

    fn leaf(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    #[test]
    fn gradients_go_through_the_function() {
        let (a, b) = (leaf(&[2.0, 3.0]), leaf(&[5.0, 7.0]));
        let (sum, product) = tch::no_grad(|| (&a + &b, &a * &b));
        let (held_a, held_b) = (a.detach(), b.detach());
        attach(&[&a, &b], &[&sum, &product], move |gradients| {
            let [of_sum, of_product] = gradients.try_into().unwrap();
            assert!(of_sum.is_none(), "nothing depends on the sum");
            let of_product = of_product.unwrap();
            Ok(vec![Some(&of_product * held_b), Some(of_product * held_a)])
        })
        .unwrap();
        (product * 10.0).sum(Kind::Float).backward();
        assert_eq!(a.grad(), Tensor::from_slice(&[50f32, 70.0]));
        assert_eq!(b.grad(), Tensor::from_slice(&[20f32, 30.0]));
    }

    #[test]
    fn what_fails_in_it_is_the_backward_pass_error() {
        for panics in [false, true] {
            let input = leaf(&[1.0]);
            let output = tch::no_grad(|| &input * 2.0);
            attach(&[&input], &[&output], move |_| {
                assert!(!panics, "torch: a kernel broke");
                anyhow::bail!("a kernel broke")
            })
            .unwrap();
            let error = crate::native::backward_from(&output, &output.ones_like()).unwrap_err();
            assert!(error.to_string().contains("a kernel broke"), "{error:#}");
        }
    }

    #[test]
    fn what_it_holds_is_freed_once() {
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_add(1, SeqCst);
            }
        }
        let freed = Arc::new(AtomicUsize::new(0));
        let input = leaf(&[1.0]);
        let make = || {
            let held = Counted(freed.clone());
            let output = tch::no_grad(|| &input * 2.0);
            attach(&[&input], &[&output], move |gradients| {
                let _held = held;
                Ok(gradients)
            })
            .unwrap();
            output
        };
        drop(make());
        assert_eq!(freed.load(SeqCst), 1, "with the graph");
        make().backward();
        assert_eq!(freed.load(SeqCst), 2, "after the backward pass");
        let unrecorded = tch::no_grad(make);
        assert_eq!((freed.load(SeqCst), unrecorded.requires_grad()), (3, false));
        let constant = Tensor::zeros([1], (Kind::Float, Device::Cpu));
        let output = &constant + 1.0;
        attach(&[&constant], &[&output], Ok).unwrap();
        assert!(!output.requires_grad());
    }
}
