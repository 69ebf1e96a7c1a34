//! One command of a golden text: a name, words, options and flags in any order.

use std::str::FromStr;

/// One command: its name and its words.
pub struct Line {
    pub command: String,
    words: Vec<String>,
}

impl Line {
    /// Splits at spaces. Double quotes keep spaces together and may be empty: `put a="b c"`.
    pub fn parse(text: &str) -> Line {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quoted = false;
        for c in text.chars() {
            match c {
                '"' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                ' ' if !quoted => words.extend(word.take()),
                c => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        assert!(!quoted, "a quote is not closed: {text}");
        Line::of(words)
    }

    /// A command whose words are split already.
    pub fn of(mut words: Vec<String>) -> Line {
        assert!(!words.is_empty(), "an empty command");
        Line {
            command: words.remove(0),
            words,
        }
    }

    /// Takes the next word.
    pub fn word(&mut self) -> Option<String> {
        (!self.words.is_empty()).then(|| self.words.remove(0))
    }

    /// Takes the next word, which must be there and of type `T`.
    pub fn need<T: FromStr>(&mut self) -> T {
        let word = self
            .word()
            .unwrap_or_else(|| panic!("{}: a word is missing", self.command));
        self.convert(&word)
    }

    /// Takes the word `name=value`, wherever it stands.
    pub fn option<T: FromStr>(&mut self, name: &str) -> Option<T> {
        let at = self.words.iter().position(|word| {
            word.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('='))
        })?;
        let word = self.words.remove(at);
        Some(self.convert(&word[name.len() + 1..]))
    }

    /// Takes the bare word `name`, wherever it stands.
    pub fn flag(&mut self, name: &str) -> bool {
        let at = self.words.iter().position(|word| word == name);
        at.map(|at| self.words.remove(at)).is_some()
    }

    /// Takes all words that are left.
    pub fn rest(&mut self) -> Vec<String> {
        std::mem::take(&mut self.words)
    }

    fn convert<T: FromStr>(&self, word: &str) -> T {
        word.parse()
            .unwrap_or_else(|_| panic!("{}: cannot read {word:?}", self.command))
    }
}

/// Reads `\xHH`, `\n` and `\\` in a word.
pub fn unescape(word: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = word.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let (byte, tail) = match (first, tail) {
            (b'\\', [b'x', hex, tail @ ..]) => {
                let (low, tail) = tail.split_first().expect("two hex digits");
                let digits = [*hex, *low];
                let digits = std::str::from_utf8(&digits).expect("ASCII");
                (u8::from_str_radix(digits, 16).expect("hex digits"), tail)
            }
            (b'\\', [b'n', tail @ ..]) => (b'\n', tail),
            (b'\\', [b'\\', tail @ ..]) => (b'\\', tail),
            (byte, tail) => (byte, tail),
        };
        bytes.push(byte);
        rest = tail;
    }
    bytes
}

#[test]
fn words_may_be_quoted_and_escaped() {
    let mut line = Line::parse(r#"say a "b c" limit=3 "" fast"#);
    assert_eq!((line.option("limit"), line.flag("fast")), (Some(3), true));
    assert!(!line.flag("fast"));
    assert_eq!(line.rest(), ["a", "b c", ""]);
    assert_eq!(unescape(r"a\x00\\x\n"), b"a\0\\x\n");
}
