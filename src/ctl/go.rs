//! Texts as Go reads and prints them: quoted strings, numbers, switches, durations, CSV.

use std::time::Duration;

use crate::util::text;

/// Quotes bytes as Go's `%q`: what can be printed stays, the rest is escaped.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| quote_char(c, &mut out));
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

fn quote_char(c: char, out: &mut String) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        c if is_printable(c) => out.push(c),
        c if c < ' ' || c == '\x7f' => out.push_str(&format!("\\x{:02x}", c as u32)),
        c if c <= '\u{ffff}' => out.push_str(&format!("\\u{:04x}", c as u32)),
        c => out.push_str(&format!("\\U{:08x}", c as u32)),
    }
}

/// Letters, marks, numbers, punctuation, symbols and the blank.
fn is_printable(c: char) -> bool {
    // After another character, `escape_debug` escapes exactly what is none of these.
    let text = ['a', c].iter().collect::<String>();
    text.escape_debug().count() == 2 || matches!(c, '\'')
}

/// Reads a Go string literal in double quotes or backquotes off the front of `text`.
///
/// Returns its value and what follows it.
pub fn unquote_prefix(text: &str) -> Option<(Vec<u8>, &str)> {
    if let Some(rest) = text.strip_prefix('`') {
        let end = rest.find('`')?;
        return Some((rest.as_bytes()[..end].to_vec(), &rest[end + 1..]));
    }
    let mut value = Vec::new();
    let mut rest = text.strip_prefix('"')?;
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        match c {
            '"' => return Some((value, rest)),
            '\\' => rest = unescape(rest, &mut value)?,
            c => value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// Reads what follows a backslash; returns the rest.
fn unescape<'a>(text: &'a str, value: &mut Vec<u8>) -> Option<&'a str> {
    let c = text.chars().next()?;
    let rest = &text[c.len_utf8()..];
    let simple = match c {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' | '"' => c as u8,
        'x' => {
            value.push(u8::from_str_radix(rest.get(..2)?, 16).ok()?);
            return rest.get(2..);
        }
        '0'..='7' => {
            value.push(u8::from_str_radix(text.get(..3)?, 8).ok()?);
            return text.get(3..);
        }
        'u' | 'U' => {
            let digits = if c == 'u' { 4 } else { 8 };
            let code = u32::from_str_radix(rest.get(..digits)?, 16).ok()?;
            let c = char::from_u32(code)?;
            value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return rest.get(digits..);
        }
        _ => return None,
    };
    value.push(simple);
    Some(rest)
}

/// Reads a whole number as `strconv.ParseInt`; base 0 goes by the prefix.
pub fn parse_int(text: &str, base: u32) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let fail = |why| {
        format!(
            "strconv.ParseInt: parsing {}: {why}",
            quote(text.as_bytes())
        )
    };
    let magnitude = magnitude(digits, base).map_err(fail)?;
    let value = if negative {
        0i64.checked_sub_unsigned(magnitude)
    } else {
        i64::try_from(magnitude).ok()
    };
    value.ok_or_else(|| fail("value out of range"))
}

/// Reads a number without sign as `strconv.ParseUint`.
pub fn parse_uint(text: &str, base: u32) -> Result<u64, String> {
    magnitude(text, base).map_err(|why| {
        format!(
            "strconv.ParseUint: parsing {}: {why}",
            quote(text.as_bytes())
        )
    })
}

fn magnitude(text: &str, base: u32) -> Result<u64, &'static str> {
    const SYNTAX: &str = "invalid syntax";
    let (digits, base) = match base {
        0 => prefixed(text).ok_or(SYNTAX)?,
        base => (text.to_string(), base),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return Err(SYNTAX);
    }
    u64::from_str_radix(&digits, base).map_err(|_| "value out of range")
}

/// Splits `0x…`, `0b…`, `0o…`, `0…` and plain digits, with `_` allowed between digits.
fn prefixed(text: &str) -> Option<(String, u32)> {
    let lower = text.to_ascii_lowercase();
    let (digits, base) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (&lower[..], 10),
    };
    let misplaced =
        digits.ends_with('_') || digits.contains("__") || (base == 10 && digits.starts_with('_'));
    (!misplaced).then(|| (digits.replace('_', ""), base))
}

/// Reads a switch as `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "strconv.ParseBool: parsing {}: invalid syntax",
            quote(text.as_bytes())
        )),
    }
}

/// Reads a duration as `time.ParseDuration`; negative ones count as zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Some(nanos) = text::parse_duration_ns(text) {
        return Ok(Duration::from_nanos(nanos.max(0) as u64));
    }
    let quoted = quote(text.as_bytes());
    let is_number = |part: &str| part.chars().all(|c| c.is_ascii_digit() || c == '.');
    let unsigned = text.trim_start_matches(['-', '+']);
    let unit = unsigned
        .split(|c: char| c.is_ascii_digit() || c == '.')
        .rfind(|part| !part.is_empty());
    let begins_with_digit = unsigned.starts_with(|c: char| c.is_ascii_digit());
    Err(match unit {
        None if begins_with_digit && is_number(unsigned) => {
            format!("time: missing unit in duration {quoted}")
        }
        Some(unit) if begins_with_digit => format!(
            "time: unknown unit {} in duration {quoted}",
            quote(unit.as_bytes())
        ),
        _ => format!("time: invalid duration {quoted}"),
    })
}

/// Splits one line of comma separated values, where items may stand in double quotes.
pub fn split_csv(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut items = Vec::new();
    let mut rest = text;
    loop {
        let (item, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_item(quoted).ok_or_else(|| csv_error(text, rest, "\""))?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err(csv_error(text, rest, "bare \" in non-quoted-field"));
                }
                (rest[..end].to_string(), &rest[end..])
            }
        };
        items.push(item);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(items),
            None => {
                return Err(csv_error(
                    text,
                    rest,
                    "extraneous or missing \" in quoted-field",
                ));
            }
        }
    }
}

/// An item after its opening quote, in which `""` stands for a quote.
fn quoted_item(text: &str) -> Option<(String, &str)> {
    let mut item = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        item.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                item.push('"');
                rest = after;
            }
            None => return Some((item, rest)),
        }
    }
}

fn csv_error(text: &str, rest: &str, what: &str) -> String {
    let column = text.len() - rest.len() + 1;
    format!("parse error on line 1, column {column}: {what}")
}

/// A lease ID as Go's `%016x` has it: a minus sign takes the place of a digit.
pub fn lease_id(id: i64) -> String {
    match id < 0 {
        true => format!("-{:015x}", id.unsigned_abs()),
        false => format!("{id:016x}"),
    }
}

/// A size in units of 1000, as a person reads it.
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut exponent = 0;
    let mut unit = 1u64;
    while bytes / unit >= 1000 {
        unit *= 1000;
        exponent += 1;
    }
    let value = (bytes as f64 / unit as f64 * 10.0 + 0.5).floor() / 10.0;
    let name = UNITS[exponent];
    if value < 10.0 {
        format!("{value:.1} {name}")
    } else {
        format!("{value:.0} {name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_go_does() {
        let cases: &[(&[u8], &str)] = &[
            (b"foo", r#""foo""#),
            (b"a\"b\\", r#""a\"b\\""#),
            (b"\0\n\x1b\x7f", r#""\x00\n\x1b\x7f""#),
            (b"\xff\xc3", r#""\xff\xc3""#),
            (
                "ü'\u{a0}\u{200b}\u{301}".as_bytes(),
                "\"ü'\\u00a0\\u200b\u{301}\"",
            ),
            ("😀\u{e0001}".as_bytes(), "\"😀\\U000e0001\""),
        ];
        for (bytes, quoted) in cases {
            assert_eq!(quote(bytes), *quoted);
        }
    }

    #[test]
    fn literals_are_read_as_go_does() {
        type Case = (&'static str, Option<(&'static [u8], &'static str)>);
        let cases: &[Case] = &[
            (r#""a\tb" rest"#, Some((b"a\tb", " rest"))),
            (r#""\x00\377\u00fc""#, Some((b"\0\xff\xc3\xbc", ""))),
            (r"`a\n`)", Some((br"a\n", ")"))),
            (r#""open"#, None),
            (r#""\q""#, None),
            ("plain", None),
        ];
        for (text, wanted) in cases {
            let read = unquote_prefix(text);
            let read = read.as_ref().map(|(value, rest)| (&value[..], *rest));
            assert_eq!(read, *wanted, "{text}");
        }
    }

    #[test]
    fn numbers_are_read_with_go_errors() {
        assert_eq!(parse_int("-0x10", 0), Ok(-16));
        assert_eq!(parse_int("1_000", 0), Ok(1000));
        assert_eq!(parse_int("017", 0), Ok(15));
        assert_eq!(parse_int("0", 0), Ok(0));
        assert_eq!(parse_int("7fffffffffffffff", 16), Ok(i64::MAX));
        assert_eq!(parse_int("-9223372036854775808", 10), Ok(i64::MIN));
        let cases = [
            (
                parse_int("zz", 16).unwrap_err(),
                "strconv.ParseInt: parsing \"zz\": invalid syntax",
            ),
            (
                parse_int("8000000000000000", 16).unwrap_err(),
                "strconv.ParseInt: parsing \"8000000000000000\": value out of range",
            ),
            (
                parse_uint("-1", 10).unwrap_err(),
                "strconv.ParseUint: parsing \"-1\": invalid syntax",
            ),
            (
                parse_bool("x").unwrap_err(),
                "strconv.ParseBool: parsing \"x\": invalid syntax",
            ),
            (
                parse_duration("abc").unwrap_err(),
                "time: invalid duration \"abc\"",
            ),
            (
                parse_duration("1").unwrap_err(),
                "time: missing unit in duration \"1\"",
            ),
            (
                parse_duration("1x").unwrap_err(),
                "time: unknown unit \"x\" in duration \"1x\"",
            ),
        ];
        for (error, text) in cases {
            assert_eq!(error, text);
        }
    }

    #[test]
    fn lists_are_split_as_csv() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            ("a,b", &["a", "b"]),
            ("a, b,", &["a", " b", ""]),
            (r#""a,b",c"#, &["a,b", "c"]),
            (r#""a""b""#, &[r#"a"b"#]),
        ];
        for (text, items) in cases {
            assert_eq!(split_csv(text).unwrap(), *items, "{text}");
        }
        assert!(split_csv("a\"b").is_err());
    }

    #[test]
    fn lease_ids_have_sixteen_places() {
        assert_eq!(lease_id(0x1234), "0000000000001234");
        assert_eq!(lease_id(-1), "-000000000000001");
        assert_eq!(lease_id(i64::MIN), "-8000000000000000");
    }

    #[test]
    fn sizes_are_rounded_to_one_digit_below_ten() {
        let cases = [
            (0, "0 B"),
            (7, "7 B"),
            (20480, "20 kB"),
            (4_200_000, "4.2 MB"),
            (2_147_483_648, "2.1 GB"),
            (100_000_000, "100 MB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human_size(bytes), text);
        }
    }
}
