//! What is done to measurements before they are drawn.

/// A measurement at a step: `(step, value)`, both finite.
pub type Point = (f64, f64);

/// Fewer measurements than this are drawn as they are.
const SMOOTHED_FROM: usize = 20;

/// How many measurements on either side the mean of a smooth curve takes in.
pub fn reach(count: usize) -> usize {
    if count < SMOOTHED_FROM { 0 } else { (count / 40).max(2) }
}

/// For each measurement the value of a straight line fitted to it and its neighbours, `reach` on
/// either side: their mean, but at the ends of the curve, where a mean would be shifted.
pub fn smooth(points: &[Point], reach: usize) -> Vec<Point> {
    let values = || points.iter().map(|point| point.1);
    let (lowest, highest) =
        (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
    // Of the values, and of the values times their index, up to each index.
    let mut sums = vec![(0.0, 0.0)];
    for (index, value) in values().enumerate() {
        let (plain, weighted) = sums[index];
        sums.push((plain + value, weighted + index as f64 * value));
    }
    let fitted = |(index, &(step, _)): (usize, &Point)| {
        let (from, to) = (index.saturating_sub(reach), (index + reach + 1).min(points.len()));
        let count = (to - from) as f64;
        let centre = (from + to - 1) as f64 / 2.0;
        let sum = sums[to].0 - sums[from].0;
        let moment = sums[to].1 - sums[from].1 - centre * sum;
        let spread = (count * (count * count - 1.0) / 12.0).max(1.0);
        let value = sum / count + moment / spread * (index as f64 - centre);
        (step, value.clamp(lowest, highest))
    };
    points.iter().enumerate().map(fitted).collect()
}

/// The lowest and the highest point of each of `parts` parts of the steps, first come first, and
/// the very last point: what a curve shows that is no wider than `parts` pixels.
pub fn thin(points: &[Point], parts: usize) -> Vec<Point> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    if points.len() <= 2 * parts {
        return points.to_vec();
    }
    let width = (last.0 - first.0) / parts as f64;
    let part = |point: &Point| ((point.0 - first.0) / width) as usize;
    let mut kept = Vec::new();
    for group in points.chunk_by(|one, next| part(one) == part(next)) {
        let by_value = |one: &&Point, other: &&Point| one.1.total_cmp(&other.1);
        let ends = [group.iter().min_by(by_value), group.iter().max_by(by_value)];
        let mut ends: Vec<Point> = ends.into_iter().flatten().copied().collect();
        ends.sort_by(|one, other| one.0.total_cmp(&other.0));
        ends.dedup();
        kept.extend(ends);
    }
    if kept.last() != Some(last) {
        kept.push(*last);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A smooth curve is not shifted: straight lines stay as they are, up to both ends. Inside it is
    /// the mean, and nowhere does it leave what was measured.
    #[test]
    fn smoothing_shifts_nothing() {
        let line: Vec<Point> =
            (0..100).map(|step| (f64::from(step), 3.0 * f64::from(step))).collect();
        for ((step, value), (_, expected)) in smooth(&line, 9).into_iter().zip(&line) {
            assert!((value - expected).abs() < 1e-9, "step {step}: {value}, not {expected}");
        }
        let jump: Vec<Point> = (0..6).map(|step| (f64::from(step), f64::from(step / 3))).collect();
        let values: Vec<f64> = smooth(&jump, 1).into_iter().map(|point| point.1).collect();
        let expected = [0.0, 0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0];
        for (value, expected) in values.into_iter().zip(expected) {
            assert!((value - expected).abs() < 1e-9, "{value}, not {expected}");
        }
        let peak: Vec<Point> = [9.0, 1.0, 1.0, 1.0].map(|value| (value, value)).into();
        assert!(smooth(&peak, 2).iter().all(|point| (1.0..=9.0).contains(&point.1)));
        assert_eq!(smooth(&line, 0), line);
        assert_eq!(smooth(&[], 3), []);
    }

    /// A long run's page stays small, and a peak of a single step stays visible.
    #[test]
    fn thinning_keeps_peaks_and_ends() {
        let mut points: Vec<Point> = (0..60_000).map(|step| (f64::from(step), 1.0)).collect();
        points[31_415].1 = 9.0;
        points[59_998].1 = -4.0;
        let thinned = thin(&points, 800);
        assert!(thinned.len() <= 1601, "{}", thinned.len());
        for peak in [31_415, 59_998, 59_999] {
            assert!(thinned.contains(&points[peak]), "{peak}");
        }
        assert!(thinned.is_sorted_by(|one, next| one.0 < next.0), "in the order of steps");
        assert_eq!(thin(&points[..50], 800), points[..50]);
        assert_eq!(thin(&[], 800), []);
    }
}
