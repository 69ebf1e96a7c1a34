//! What people type: words of a line, passwords.

use std::io;
use std::io::BufRead;

use crate::ctl::context;
use crate::ctl::failure::Failure;
use crate::ctl::go;

/// Splits a line into words: `"quoted"` as in Go, `'quoted'` as it stands, or up to a blank.
pub fn words(line: &str) -> Result<Vec<Vec<u8>>, Failure> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        rest = match c {
            c if c.is_whitespace() => &rest[c.len_utf8()..],
            '"' => match closing_quote(rest) {
                Some(end) => {
                    let (word, _) = go::unquote_prefix(&rest[..=end])
                        .ok_or_else(|| Failure::input("invalid syntax"))?;
                    words.push(word);
                    &rest[end + 1..]
                }
                None => &rest[1..],
            },
            '\'' => match rest[1..].find('\'') {
                Some(length) => {
                    words.push(rest.as_bytes()[1..=length].to_vec());
                    &rest[length + 2..]
                }
                None => &rest[1..],
            },
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                words.push(rest.as_bytes()[..end].to_vec());
                &rest[end..]
            }
        };
    }
    Ok(words)
}

/// Where the double quote that opens `text` is closed.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    let inside = text.bytes().enumerate().skip(1);
    for (at, byte) in inside {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

/// Reads one line; input that ends before the end of the line is an error.
pub fn line(input: &mut impl BufRead) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    input
        .read_until(b'\n', &mut bytes)
        .map_err(Failure::input)?;
    if bytes.pop() != Some(b'\n') {
        return Err(Failure::input("EOF"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Asks for a password on standard output and reads it, unseen if a terminal is there.
pub fn ask_password(prompt: &str) -> Result<String, Failure> {
    context::write(prompt.as_bytes())?;
    let hidden = Hidden::start();
    let mut bytes = Vec::new();
    let read = io::stdin().lock().read_until(b'\n', &mut bytes);
    drop(hidden);
    context::write(b"\n")?;
    read.map_err(|error| Failure::args(format!("failed to ask password: {error}")))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.trim_end_matches(['\n', '\r']).to_string())
}

/// While it lives, the terminal does not show what is typed.
struct Hidden {
    was: rustix::termios::Termios,
}

impl Hidden {
    fn start() -> Option<Hidden> {
        let stdin = io::stdin();
        let was = rustix::termios::tcgetattr(&stdin).ok()?;
        let mut quiet = was.clone();
        quiet.local_modes.remove(rustix::termios::LocalModes::ECHO);
        let now = rustix::termios::OptionalActions::Now;
        rustix::termios::tcsetattr(&stdin, now, &quiet).ok()?;
        Some(Hidden { was })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let now = rustix::termios::OptionalActions::Now;
        // The terminal may be gone.
        let _ = rustix::termios::tcsetattr(io::stdin(), now, &self.was);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_into_words() {
        let cases: &[(&str, &[&str])] = &[
            ("put a b", &["put", "a", "b"]),
            ("  put  a\tb ", &["put", "a", "b"]),
            (r#"put "a \"b\"\t" c"#, &["put", "a \"b\"\t", "c"]),
            (r"put 'a \n b'", &["put", r"a \n b"]),
            (r#"put d plain\nword"#, &["put", "d", r"plain\nword"]),
            (r#"put "open word"#, &["put", "open", "word"]),
            (r#"a"b c"#, &[r#"a"b"#, "c"]),
            ("put e ''", &["put", "e", ""]),
        ];
        for (line, wanted) in cases {
            let words = words(line).unwrap();
            let words: Vec<&str> = words.iter().map(|w| str::from_utf8(w).unwrap()).collect();
            assert_eq!(words, *wanted, "{line}");
        }
        assert!(words(r#"put "\q""#).is_err());
    }
}
