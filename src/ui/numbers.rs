//! Numbers as people read them.

use chrono::DateTime;

/// `value` with this many significant digits, without zeros at its end: `0.0628`, `1e-5`, `12000`.
pub fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let scientific = format!("{value:.*e}", digits.saturating_sub(1));
    let rounded: f64 = scientific.parse().unwrap_or(value);
    if (1e-3..1e6).contains(&rounded.abs()) { rounded.to_string() } else { format!("{rounded:e}") }
}

/// Seconds in the two largest units that they have: `3 min 49 s`, `2 d 5 h`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole} s"),
        (0, 0, _) => format!("{minutes} min {} s", whole % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Seconds since 1970 as a date and a time of day in UTC; empty where no calendar has them.
pub fn date(seconds: f64) -> String {
    let time = DateTime::from_timestamp(seconds as i64, 0);
    time.map_or_else(String::new, |time| time.format("%Y-%m-%d %H:%M UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_right() {
        let cases = [
            (0.0, "0"),
            (0.1 + 0.2, "0.3"),
            (0.062_84, "0.0628"),
            (0.000_999_96, "0.001"),
            (0.000_01, "1e-5"),
            (-12.345, "-12.3"),
            (99_950.0, "100000"),
            (2.5e9, "2.5e9"),
        ];
        for (value, expected) in cases {
            assert_eq!(significant(value, 3), expected);
        }
    }

    #[test]
    fn times_have_their_two_largest_units() {
        let cases =
            [(0.4, "0 s"), (229.0, "3 min 49 s"), (7_260.0, "2 h 1 min"), (180_000.0, "2 d 2 h")];
        for (seconds, expected) in cases {
            assert_eq!(duration(seconds), expected);
        }
        assert_eq!(date(1_700_000_000.9), "2023-11-14 22:13 UTC");
    }
}
