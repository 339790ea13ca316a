//! How far images are from each other.

/// Mean and largest absolute difference, and PSNR in dB.
pub fn compare(found: &[u8], expected: &[u8]) -> (f64, u8, f64) {
    assert_eq!(found.len(), expected.len());
    let differences = || found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
    let count = found.len() as f64;
    let mean = differences().map(f64::from).sum::<f64>() / count;
    let square = differences().map(|d| f64::from(d).powi(2)).sum::<f64>() / count;
    (mean, differences().max().unwrap(), 10.0 * (255.0f64.powi(2) / square).log10())
}
