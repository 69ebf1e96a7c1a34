//! The command line as pflag and cobra read it, brought into the one form clap reads.
//!
//! etcdctl accepts any unambiguous beginning of a command name, flags anywhere, `--switch=false`,
//! joined shorthands and values, and reports mistakes in fixed words. The clap definitions say which
//! flags exist and of which type; this module applies the rules.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use clap::Arg;
use clap::ArgAction;
use clap::Command;

use crate::ctl::failure::Failure;
use crate::ctl::go;
use crate::ctl::help;

/// A command line taken apart.
#[derive(Debug)]
pub struct Line<'a> {
    /// The program and the commands under it, outermost first.
    pub path: Vec<&'a Command>,
    /// The values of the flags that were given, by long name, checked against their types.
    pub flags: BTreeMap<String, Vec<OsString>>,
    pub words: Vec<OsString>,
    /// How many words stood before `--`.
    pub dash: Option<usize>,
}

impl Line<'_> {
    /// The same line for clap: full names, one value a flag, words behind `--`.
    pub fn normal(&self) -> Vec<OsString> {
        let names = self.path.iter().map(|command| command.get_name().into());
        let mut line: Vec<OsString> = names.collect();
        let flags = flags(&self.path);
        for (name, values) in self.flags.iter().filter(|(name, _)| *name != "help") {
            let is_switch = flags.iter().any(|flag| {
                flag.get_long() == Some(name) && matches!(flag.get_action(), ArgAction::SetTrue)
            });
            if is_switch {
                line.extend((values[0] == "true").then(|| format!("--{name}").into()));
                continue;
            }
            for value in values {
                let mut flag = OsString::from(format!("--{name}="));
                flag.push(value);
                line.push(flag);
            }
        }
        line.push("--".into());
        line.extend(self.words.iter().cloned());
        line
    }

    /// Returns true if help was asked for.
    pub fn wants_help(&self) -> bool {
        self.flags
            .get("help")
            .is_some_and(|values| values[0] == "true")
    }

    /// The command that was chosen.
    pub fn command(&self) -> &Command {
        self.path[self.path.len() - 1]
    }
}

/// The types a flag can have, as its help names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int,
    Uint,
    Duration,
    Text,
    List,
}

impl Kind {
    pub fn of(flag: &Arg) -> Kind {
        let value = flag.get_value_parser().type_id();
        match flag.get_action() {
            ArgAction::SetTrue | ArgAction::Help => Kind::Bool,
            ArgAction::Append => Kind::List,
            _ if value == TypeId::of::<bool>() => Kind::Bool,
            _ if value == TypeId::of::<i64>() => Kind::Int,
            _ if value == TypeId::of::<u64>() => Kind::Uint,
            _ if value == TypeId::of::<Duration>() => Kind::Duration,
            _ => Kind::Text,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Bool => "",
            Kind::Int => "int",
            Kind::Uint => "uint",
            Kind::Duration => "duration",
            Kind::Text => "string",
            Kind::List => "strings",
        }
    }

    /// Checks a value and brings it into the form clap reads.
    pub fn values(self, value: &OsStr) -> Result<Vec<OsString>, String> {
        let text = value.to_string_lossy();
        Ok(match self {
            Kind::Bool => vec![go::parse_bool(&text)?.to_string().into()],
            Kind::Int => vec![go::parse_int(&text, 0)?.to_string().into()],
            Kind::Uint => vec![go::parse_uint(&text, 0)?.to_string().into()],
            Kind::Duration => {
                go::parse_duration(&text)?;
                vec![value.into()]
            }
            Kind::Text => vec![value.into()],
            Kind::List => go::split_csv(&text)?
                .into_iter()
                .map(OsString::from)
                .collect(),
        })
    }
}

/// Takes a command line apart; the first argument is the program's name and is skipped.
pub fn parse<'a>(root: &'a Command, args: &[OsString]) -> Result<Line<'a>, Failure> {
    let mut path = vec![root];
    let mut rest = args.get(1..).unwrap_or_default().to_vec();
    while let Some(at) = first_word(&rest, &flags(&path)) {
        let Some(command) = find(path[path.len() - 1], &rest[at]) else {
            break;
        };
        rest.remove(at);
        path.push(command);
    }
    let mut line = Line {
        path,
        flags: BTreeMap::new(),
        words: Vec::new(),
        dash: None,
    };
    if let (true, Some(at)) = (line.path.len() == 1, first_word(&rest, &flags(&line.path))) {
        return Err(unknown_command(root, &rest[at]));
    }
    read_flags(&mut line, rest).map_err(|mistake| {
        Failure::error(mistake).with_advice(format!("{}\n", help::usage(&line.path)))
    })?;
    Ok(line)
}

/// Takes apart a line that is for one command alone, as within a transaction.
pub fn parse_for<'a>(command: &'a Command, args: &[OsString]) -> Result<Line<'a>, String> {
    let mut line = Line {
        path: vec![command],
        flags: BTreeMap::new(),
        words: Vec::new(),
        dash: None,
    };
    read_flags(&mut line, args.to_vec())?;
    Ok(line)
}

/// The flags that may be given at the end of `path`: its own, and those its parents pass on.
pub fn flags<'a>(path: &[&'a Command]) -> Vec<&'a Arg> {
    let last = path.len() - 1;
    let all = path.iter().enumerate().flat_map(|(level, command)| {
        let flags = command
            .get_arguments()
            .filter(|arg| arg.get_long().is_some());
        flags.filter(move |flag| level == last || flag.is_global_set())
    });
    all.collect()
}

/// Where the first argument stands that is neither a flag nor the value of one.
fn first_word(args: &[OsString], flags: &[&Arg]) -> Option<usize> {
    let mut at = 0;
    while at < args.len() {
        let bytes = args[at].as_bytes();
        match bytes {
            b"--" => return None,
            [b'-', b'-', name @ ..] if !name.contains(&b'=') => {
                at += usize::from(!is_switch(flags, |flag| {
                    flag.get_long().is_some_and(|long| long.as_bytes() == name)
                }));
            }
            [b'-', letter] if *letter != b'-' => {
                at += usize::from(!is_switch(flags, |flag| {
                    flag.get_short() == Some(*letter as char)
                }));
            }
            [b'-', _, ..] | [] => {}
            _ => return Some(at),
        }
        at += 1;
    }
    None
}

/// Returns true if the flag is known and takes no value of its own. Help is known everywhere.
fn is_switch(flags: &[&Arg], named: impl Fn(&Arg) -> bool) -> bool {
    let help = Arg::new("help").long("help").short('h');
    named(&help)
        || flags
            .iter()
            .any(|flag| named(flag) && Kind::of(flag) == Kind::Bool)
}

/// The command `word` names: exactly, by an alias, or as the only one that begins with it.
fn find<'a>(parent: &'a Command, word: &OsStr) -> Option<&'a Command> {
    let word = word.to_str()?;
    let names = |command: &&'a Command| command.get_name_and_visible_aliases();
    let exact = parent
        .get_subcommands()
        .find(|command| command.get_name() == word || command.get_all_aliases().any(|a| a == word));
    let mut beginning = parent
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .filter(|command| names(command).iter().any(|name| name.starts_with(word)));
    let only = beginning.next().filter(|_| beginning.next().is_none());
    exact.or(only)
}

fn unknown_command(root: &Command, word: &OsStr) -> Failure {
    let (name, word) = (root.get_name(), word.to_string_lossy());
    let mut message = format!(
        "unknown command {} for \"{name}\"",
        go::quote(word.as_bytes())
    );
    let likely: Vec<&str> = root
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .map(Command::get_name)
        // Never suggested, as in cobra.
        .filter(|name| *name != "help")
        .filter(|name| {
            let (word, name) = (word.to_lowercase(), name.to_lowercase());
            edit_distance(&word, &name) <= 2 || name.starts_with(&word)
        })
        .collect();
    if !likely.is_empty() {
        message.push_str("\n\nDid you mean this?\n");
        likely
            .iter()
            .for_each(|name| message.push_str(&format!("\t{name}\n")));
    }
    Failure::error(message).with_advice(format!("Run '{name} --help' for usage.\n"))
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Reads flags and words in any order until `--`, after which all are words.
fn read_flags(line: &mut Line<'_>, args: Vec<OsString>) -> Result<(), String> {
    let known = flags(&line.path);
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_bytes() {
            b"--" => {
                line.dash = Some(line.words.len());
                line.words.extend(args);
                return Ok(());
            }
            [b'-', b'-', ..] => read_long(line, &known, &arg, &mut args)?,
            [b'-', _, ..] => read_short(line, &known, &arg, &mut args)?,
            _ => line.words.push(arg),
        }
    }
    Ok(())
}

fn read_long(
    line: &mut Line<'_>,
    known: &[&Arg],
    arg: &OsStr,
    args: &mut impl Iterator<Item = OsString>,
) -> Result<(), String> {
    let bytes = &arg.as_bytes()[2..];
    if matches!(bytes[0], b'-' | b'=') {
        return Err(format!("bad flag syntax: {}", arg.to_string_lossy()));
    }
    let (name, value) = match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (
            &bytes[..at],
            Some(OsStr::from_bytes(&bytes[at + 1..]).to_owned()),
        ),
        None => (bytes, None),
    };
    let name = String::from_utf8_lossy(name);
    let flag = known.iter().find(|flag| flag.get_long() == Some(&name));
    let Some(flag) = flag else {
        if name == "help" {
            return set(line, "help", &help_flag(), value.unwrap_or("true".into()));
        }
        return Err(format!("unknown flag: --{name}"));
    };
    let value = match value {
        Some(value) => value,
        None if Kind::of(flag) == Kind::Bool => "true".into(),
        None => args
            .next()
            .ok_or_else(|| format!("flag needs an argument: --{name}"))?,
    };
    set(line, &name, flag, value)
}

fn read_short(
    line: &mut Line<'_>,
    known: &[&Arg],
    arg: &OsStr,
    args: &mut impl Iterator<Item = OsString>,
) -> Result<(), String> {
    let mut letters = &arg.as_bytes()[1..];
    while let [letter, rest @ ..] = letters {
        let letter = *letter as char;
        let joined = || String::from_utf8_lossy(letters);
        let help = help_flag();
        let flag = known
            .iter()
            .copied()
            .find(|flag| flag.get_short() == Some(letter));
        let flag = match flag {
            None if letter == 'h' => &help,
            None => {
                return Err(format!(
                    "unknown shorthand flag: '{letter}' in -{}",
                    joined()
                ));
            }
            Some(flag) => flag,
        };
        let value = match rest {
            [b'=', value @ ..] if !value.is_empty() => Some(OsStr::from_bytes(value).to_owned()),
            _ if Kind::of(flag) == Kind::Bool => None,
            [] => {
                Some(args.next().ok_or_else(|| {
                    format!("flag needs an argument: '{letter}' in -{}", joined())
                })?)
            }
            value => Some(OsStr::from_bytes(value).to_owned()),
        };
        let name = flag.get_long().unwrap_or_default();
        letters = if value.is_some() { &[] } else { rest };
        set(line, name, flag, value.unwrap_or("true".into()))?;
    }
    Ok(())
}

fn help_flag() -> Arg {
    Arg::new("help")
        .long("help")
        .short('h')
        .action(ArgAction::SetTrue)
}

/// Notes a value: the last one counts, except that lists grow.
fn set(line: &mut Line<'_>, name: &str, flag: &Arg, value: OsString) -> Result<(), String> {
    let kind = Kind::of(flag);
    let values = kind.values(&value).map_err(|why| {
        let short = flag.get_short().map(|letter| format!("-{letter}, "));
        let shown = go::quote(value.as_bytes());
        let label = format!("{}--{name}", short.unwrap_or_default());
        format!("invalid argument {shown} for \"{label}\" flag: {why}")
    })?;
    let known = line.flags.entry(name.to_string()).or_default();
    if kind != Kind::List {
        known.clear();
    }
    known.extend(values);
    Ok(())
}

/// The bytes of words, which need not be text.
pub fn bytes(words: Vec<OsString>) -> Vec<Vec<u8>> {
    words.into_iter().map(OsString::into_vec).collect()
}
