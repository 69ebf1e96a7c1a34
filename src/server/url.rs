//! Addresses as the flags spell them: http, https, unix and unixs, with etcd's complaints.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

/// One address. Sorted by its text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    scheme: Scheme,
    /// `host:port`, or the first part of a socket's file name.
    host: String,
    path: String,
}

impl Url {
    /// Reads a comma list: each item trimmed, the result sorted and without repeats.
    pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
        let mut urls = text
            .split(',')
            .map(|item| Url::parse(item.trim()))
            .collect::<Result<Vec<Url>, String>>()?;
        urls.sort();
        urls.dedup();
        Ok(urls)
    }

    pub fn parse(text: &str) -> Result<Url, String> {
        let unknown = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        check_as_go_does(text)?;
        let (name, rest) = text.split_once(':').ok_or_else(unknown)?;
        let scheme = match name.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(unknown()),
        };
        let authority = rest.strip_prefix("//").unwrap_or("");
        let authority = authority
            .split_once(['?', '#'])
            .map_or(authority, |(before, _)| before);
        let cut = authority.find('/').unwrap_or(authority.len());
        let (host, path) = authority.split_at(cut);
        let url = Url {
            text: text.to_string(),
            scheme,
            host: host.to_string(),
            path: path.to_string(),
        };
        if matches!(scheme, Scheme::Http | Scheme::Https) {
            if split_host_port(host).is_none() {
                return Err(format!(
                    "URL address does not have the form \"host:port\": {text}"
                ));
            }
            if !path.is_empty() {
                return Err(format!("URL must not contain a path: {text}"));
            }
        }
        Ok(url)
    }

    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub fn is_secure(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    pub fn is_unix(&self) -> bool {
        matches!(self.scheme, Scheme::Unix | Scheme::Unixs)
    }

    /// `host:port` as it was written.
    pub fn address(&self) -> &str {
        &self.host
    }

    pub fn host(&self) -> &str {
        split_host_port(&self.host).map_or(&self.host, |(host, _)| host)
    }

    pub fn port(&self) -> &str {
        split_host_port(&self.host).map_or("", |(_, port)| port)
    }

    /// The file of a unix socket.
    pub fn socket_file(&self) -> PathBuf {
        PathBuf::from(format!("{}{}", self.host, self.path))
    }

    /// Returns true if a socket can be bound to it without asking a name server.
    pub fn can_be_bound(&self) -> bool {
        let host = self.host();
        self.is_unix() || host == "localhost" || host.parse::<IpAddr>().is_ok()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Splits `host:port` and `[v6]:port`.
fn split_host_port(address: &str) -> Option<(&str, &str)> {
    if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return rest.strip_prefix(':').map(|port| (host, port));
    }
    let (host, port) = address.rsplit_once(':')?;
    (!host.contains(':')).then_some((host, port))
}

/// The refusals of Go's own URL parser that users meet.
fn check_as_go_does(text: &str) -> Result<(), String> {
    let refuse = |reason: &str| Err(format!("parse {}: {reason}", go_quoted(text)));
    if text.chars().any(|c| c.is_ascii_control()) {
        return refuse("net/url: invalid control character in URL");
    }
    let Some((scheme, rest)) = text.split_once(':') else {
        return Ok(());
    };
    if scheme.is_empty() {
        return refuse("missing protocol scheme");
    }
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    if !valid && !scheme.contains('/') {
        return refuse("first path segment in URL cannot contain colon");
    }
    let authority = rest.strip_prefix("//").unwrap_or("");
    let authority = authority.split(['/', '?', '#']).next().unwrap_or("");
    if authority.contains(' ') {
        return refuse("invalid character \" \" in host name");
    }
    let port = authority
        .rsplit_once(':')
        .filter(|(_, port)| !port.ends_with(']'))
        .map_or("", |(_, port)| port);
    if !port.chars().all(|c| c.is_ascii_digit()) && valid {
        return refuse(&format!(
            "invalid port {} after host",
            go_quoted(&format!(":{port}"))
        ));
    }
    Ok(())
}

/// Quotes a text as Go's `%q` does.
pub fn go_quoted(text: &str) -> String {
    format!("{text:?}").replace("\\'", "'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_refused_in_the_words_of_etcd() {
        let cases = [
            ("bad", "URL scheme must be http, https, unix, or unixs: bad"),
            (
                "ftp://127.0.0.1:1",
                "URL scheme must be http, https, unix, or unixs: ftp://127.0.0.1:1",
            ),
            (
                "http://127.0.0.1",
                "URL address does not have the form \"host:port\": http://127.0.0.1",
            ),
            (
                "http://127.0.0.1:1/path",
                "URL must not contain a path: http://127.0.0.1:1/path",
            ),
            (
                "127.0.0.1:1",
                "parse \"127.0.0.1:1\": first path segment in URL cannot contain colon",
            ),
            (
                "http://a:b",
                "parse \"http://a:b\": invalid port \":b\" after host",
            ),
            (
                "http://a:1,",
                "URL scheme must be http, https, unix, or unixs: ",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(Url::parse_list(text), Err(message.to_string()), "{text}");
        }
    }

    #[test]
    fn lists_are_trimmed_sorted_and_unique() {
        let urls = Url::parse_list(" http://b:2,http://a:1 ,http://b:2").expect("good addresses");
        let texts: Vec<String> = urls.iter().map(Url::to_string).collect();
        assert_eq!(texts, ["http://a:1", "http://b:2"]);
    }

    #[test]
    fn parts_of_an_address() {
        let v6 = Url::parse("https://[::1]:2379").expect("a good address");
        assert_eq!(
            (v6.host(), v6.port(), v6.is_secure()),
            ("::1", "2379", true)
        );
        let unix = Url::parse("unix://sock:1").expect("a good address");
        assert_eq!(unix.socket_file(), PathBuf::from("sock:1"));
        let deep = Url::parse("unix:///tmp/a").expect("a good address");
        assert_eq!(deep.socket_file(), PathBuf::from("/tmp/a"));
        assert!(unix.can_be_bound());
        assert!(
            !Url::parse("http://example.com:1")
                .expect("good")
                .can_be_bound()
        );
    }
}
