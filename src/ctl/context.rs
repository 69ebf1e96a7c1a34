//! What a command works with: settings, a client, input and output.

use std::collections::BTreeMap;
use std::io;
use std::io::BufRead;
use std::io::Write;
use std::time::Duration;

use tracing::Level;

use crate::client::Client;
use crate::client::Config;
use crate::ctl::failure::Exit;
use crate::ctl::failure::Failure;
use crate::ctl::flags::Globals;
use crate::ctl::flags::Typed;
use crate::ctl::input;
use crate::ctl::log;
use crate::ctl::parse::Line;
use crate::ctl::render;
use crate::ctl::render::Format;
use crate::ctl::render::Render;

/// The surroundings of one run of one command.
pub struct Context {
    typed: Typed,
    /// The flag of the endpoint group may be given as a variable to commands of that group.
    endpoint_group: bool,
    env: BTreeMap<String, String>,
    /// How many words stood before `--` on the command line.
    pub dash: Option<usize>,
    settings: Option<Settings>,
}

/// What the flags and the environment come to.
#[derive(Clone)]
pub struct Settings {
    pub globals: Globals,
    pub config: Config,
    pub format: Format,
}

impl Context {
    pub fn new(line: &Line<'_>) -> Context {
        let env = std::env::vars_os().map(|(name, value)| {
            let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
            (text(name), text(value))
        });
        Context {
            typed: line.flags.clone(),
            endpoint_group: line
                .path
                .iter()
                .any(|command| command.get_name() == "endpoint"),
            env: env.collect(),
            dash: line.dash,
            settings: None,
        }
    }

    /// The value of an environment variable, empty if it is not set.
    pub fn variable(&self, name: &str) -> &str {
        self.env.get(name).map_or("", String::as_str)
    }

    /// Reads flags and environment, the first time it is asked.
    pub fn settings(&mut self) -> Result<&Settings, Failure> {
        if self.settings.is_none() {
            self.settings = Some(self.read_settings()?);
        }
        Ok(self.settings.as_ref().expect("set above"))
    }

    fn read_settings(&self) -> Result<Settings, Failure> {
        let globals = Globals::read(&self.typed, &self.env, self.endpoint_group)?;
        log::start(if globals.debug {
            Level::DEBUG
        } else {
            Level::WARN
        });
        if globals.debug {
            for line in globals.variables() {
                eprintln!("{line}");
            }
        }
        let format = Format::parse(&globals.write_out)
            .ok_or_else(|| Failure::feature("unsupported output format"))?;
        let mut config = globals.config(&self.typed)?;
        if globals.needs_password() {
            config.password = Some(input::ask_password("Password: ")?);
        }
        Ok(Settings {
            globals,
            config,
            format,
        })
    }

    /// A client that gives each call the time of `--command-timeout`.
    pub async fn client(&mut self) -> Result<Client, Failure> {
        let config = self.settings()?.config.clone();
        connect(config).await
    }

    /// A client whose calls wait as long as it takes.
    pub async fn patient_client(&mut self) -> Result<Client, Failure> {
        Ok(self.client().await?.with_timeout(None))
    }

    /// A client of one endpoint.
    pub async fn client_of(&mut self, endpoint: &str) -> Result<Client, Failure> {
        let config = self.settings()?.config.clone();
        connect(Config {
            endpoints: vec![endpoint.to_string()],
            ..config
        })
        .await
    }

    pub fn command_timeout(&mut self) -> Result<Duration, Failure> {
        Ok(self.settings()?.globals.command_timeout)
    }

    /// Returns true if the flag was given on the command line or through its variable.
    pub fn is_set(&self, flag: &str) -> bool {
        let variable = format!("ETCDCTL_{}", flag.to_uppercase().replace('-', "_"));
        self.typed.contains_key(flag) || !self.variable(&variable).is_empty()
    }

    pub fn format(&mut self) -> Result<Format, Failure> {
        Ok(self.settings()?.format)
    }

    /// Prints a reply in the format that was asked for.
    pub fn print(&mut self, reply: &dyn Render) -> Result<(), Failure> {
        let bytes = self.render(reply)?;
        self.write(&bytes)
    }

    /// A reply in the format that was asked for.
    pub fn render(&mut self, reply: &dyn Render) -> Result<Vec<u8>, Failure> {
        let settings = self.settings()?;
        let format = settings.format;
        render::render(reply, format, settings.globals.hex).ok_or_else(|| {
            Failure::feature(format!("{} not supported as output format", format.name()))
        })
    }

    pub fn line(&mut self, text: impl std::fmt::Display) -> Result<(), Failure> {
        self.write(format!("{text}\n").as_bytes())
    }

    pub fn write(&self, bytes: &[u8]) -> Result<(), Failure> {
        write(bytes)
    }

    /// Standard input, line by line or whole.
    pub fn input(&mut self) -> impl BufRead + use<> {
        io::BufReader::new(io::stdin())
    }
}

/// Writes to standard output at once: readers may wait for it, and the next may be a child's.
pub fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    let written = output.write_all(bytes).and_then(|()| output.flush());
    // Nobody reads any more; like a broken pipe elsewhere, that ends the program.
    written.map_err(|_| Failure::told(Exit::Child(141)))
}

async fn connect(config: Config) -> Result<Client, Failure> {
    Client::connect(config)
        .await
        .map_err(|error| Failure::new(Exit::BadConnection, error))
}
