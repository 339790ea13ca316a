//! Warnings and errors among the lines of a log, of either format.

use serde_json::Value;

/// A level stands within so many characters of a line's beginning: after the time, or a launcher's mark.
const HEAD: usize = 60;

/// What a line of a log warns of, in words; none where it is no warning and no error.
pub fn warning_in(line: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(line);
    if let Ok(Value::Object(fields)) = serde_json::from_str(&text) {
        return of_json(&fields);
    }
    // A terminal's bars end their lines by returns alone.
    let text = without_escapes(text.rsplit('\r').find(|part| !part.is_empty())?);
    let is_told = [" warning: ", " error: "]
        .iter()
        .any(|level| text.find(level).is_some_and(|at| text[..at].chars().count() < HEAD));
    (is_told || text.starts_with("error: ")).then(|| text.trim().to_string())
}

/// A line of `--log-format json`.
fn of_json(fields: &serde_json::Map<String, Value>) -> Option<String> {
    let level = match fields.get("level")?.as_str()? {
        "WARN" => "warning",
        "ERROR" => "error",
        _ => return None,
    };
    let time = fields.get("timestamp").and_then(Value::as_str).unwrap_or_default();
    // The time of day of 2026-11-28T01:02:03.45Z.
    let time = time.split_once('T').and_then(|(_, time)| time.get(..8)).unwrap_or_default();
    let message = fields.get("message").and_then(Value::as_str).unwrap_or_default();
    let rest = fields.iter().filter(|(key, _)| {
        !["level", "timestamp", "message", "target", "span"].contains(&key.as_str())
    });
    let rest: String = rest.map(|(key, value)| format!(" {key}={value}")).collect();
    Some(format!("{time} {level}: {message}{rest}").trim().to_string())
}

/// `text` without what colours it, and without anything else that moves a terminal.
fn without_escapes(text: &str) -> String {
    let mut clean = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\x1b' => {
                // A sequence ends by a letter.
                characters.by_ref().find(char::is_ascii_alphabetic);
            }
            control if control.is_control() => clean.push(' '),
            plain => clean.push(plain),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_found_in_logs_of_either_format() {
        let cases = [
            ("10:00:00 training step=3 loss=0.4", None),
            (
                "10:00:00 warning: an image does not decode",
                Some("10:00:00 warning: an image does not decode"),
            ),
            ("10:00:00\x1b[1;31m error:\x1b[0m lost", Some("10:00:00 error: lost")),
            (
                "bars\r\x1b[2K10:00:00\x1b[1;33m warning:\x1b[0m late\r",
                Some("10:00:00 warning: late"),
            ),
            ("error: the disk is full", Some("error: the disk is full")),
            (
                "10:00:00 an image called x warning: y",
                Some("10:00:00 an image called x warning: y"),
            ),
            (
                r#"{"timestamp":"2026-01-02T03:04:05.6Z","level":"INFO","message":"a warning: none"}"#,
                None,
            ),
            (
                r#"{"timestamp":"2026-01-02T03:04:05.6Z","level":"WARN","message":"slow","rank":3}"#,
                Some("03:04:05 warning: slow rank=3"),
            ),
            ("", None),
        ];
        for (line, expected) in cases {
            assert_eq!(warning_in(line.as_bytes()).as_deref(), expected, "{line}");
        }
    }
}
