//! Text forms that etcd prints and parses: durations in Go's notation.

use std::time::Duration;

const UNITS: &[(&str, f64)] = &[
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Parses a Go duration such as `1h30m`, `2.5s`, `300ms` or `0`; nanoseconds, may be negative.
pub fn parse_duration_ns(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|&at| at > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let (_, scale) = UNITS.iter().find(|(unit, _)| *unit == &rest[..end])?;
        total += number * scale;
        rest = &rest[end..];
    }
    (total <= i64::MAX as f64).then_some(if negative {
        -total as i64
    } else {
        total as i64
    })
}

/// Parses a Go duration that must not be negative.
pub fn parse_duration(text: &str) -> Option<Duration> {
    u64::try_from(parse_duration_ns(text)?)
        .ok()
        .map(Duration::from_nanos)
}

/// Prints a duration as Go does: `1h30m0s`, `1.5s`, `200ms`, `12.5µs`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let trimmed = |value: f64, digits: usize| {
        let text = format!("{value:.digits$}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        } else {
            text
        }
    };
    match nanos {
        0 => "0s".into(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", trimmed(nanos as f64 / 1e3, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", trimmed(nanos as f64 / 1e6, 6)),
        _ => {
            let seconds = duration.as_secs();
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let rest = trimmed(
                (seconds % 60) as f64 + f64::from(duration.subsec_nanos()) / 1e9,
                9,
            );
            match (hours, minutes) {
                (0, 0) => format!("{rest}s"),
                (0, m) => format!("{m}m{rest}s"),
                (h, m) => format!("{h}h{m}m{rest}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_print_as_go_does() {
        let cases = [
            ("0", 0, "0s"),
            ("300ms", 300_000_000, "300ms"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("2m3.5s", 123_500_000_000, "2m3.5s"),
            ("12.5us", 12_500, "12.5µs"),
            ("7ns", 7, "7ns"),
        ];
        for (text, nanos, printed) in cases {
            assert_eq!(parse_duration_ns(text), Some(nanos), "{text}");
            assert_eq!(format_duration(Duration::from_nanos(nanos as u64)), printed);
        }
        for bad in ["", "5", "s", "1x", "-", "1.5"] {
            assert_eq!(parse_duration_ns(bad), None, "{bad}");
        }
        assert_eq!(parse_duration_ns("-1s"), Some(-1_000_000_000));
        assert_eq!(parse_duration("-1s"), None);
    }
}
