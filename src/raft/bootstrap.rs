//! The start of a member: what the data directory is, and who the member is.
//!
//! A directory without a log is new: identity and members follow from the initial flags, exactly as in etcd.
//! With a log, the flags are ignored and the log says who this is. A directory that somebody else wrote is
//! refused by the name of the file that shows it, before anything in it is touched.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use tracing::info;
use tracing::warn;

use super::entry::LogId;
use super::entry::Peer;
use crate::cluster;
use crate::error::Fault;
use crate::storage;
use crate::storage::disk::DirLock;
use crate::storage::disk::Disk;

/// Who a member is, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
}

/// `--initial-cluster-state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitialState {
    #[default]
    New,
    Existing,
}

/// The flags that matter once, when the data directory is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initial {
    pub name: String,
    /// `name=url[,name=url...]`.
    pub cluster: String,
    pub token: String,
    pub state: InitialState,
    pub advertise_peer_urls: Vec<String>,
}

impl Default for Initial {
    fn default() -> Initial {
        Initial {
            name: "default".into(),
            cluster: "default=http://localhost:2380".into(),
            token: "etcd-cluster".into(),
            state: InitialState::New,
            advertise_peer_urls: vec!["http://localhost:2380".into()],
        }
    }
}

/// The first configuration of a cluster, and who of it we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub identity: Identity,
    pub members: BTreeMap<u64, Peer>,
}

/// Peer URLs by member name, sorted and without repeats.
type Members = BTreeMap<String, BTreeSet<String>>;

/// Reads `--initial-cluster`: repeated names collect URLs, empty items are skipped.
pub fn parse_initial_cluster(text: &str) -> Result<Members, Fault> {
    let mut members = Members::new();
    for item in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        let (name, url) = item.split_once('=').unwrap_or((item, ""));
        if url.is_empty() {
            return Err(Fault::Refused(format!(
                "empty URL given for {name:?} in --initial-cluster"
            )));
        }
        check_url(url)?;
        members.entry(name.into()).or_default().insert(url.into());
    }
    Ok(members)
}

/// Refuses what is not `scheme://host:port`, in etcd's words.
pub fn check_url(url: &str) -> Result<(), Fault> {
    let refuse = |text: &str| Err(Fault::Refused(format!("{text}: {url}")));
    let Some((scheme, rest)) = url.split_once("://") else {
        return refuse("URL scheme must be http, https, unix, or unixs");
    };
    match scheme {
        "unix" | "unixs" => return Ok(()),
        "http" | "https" => {}
        _ => return refuse("URL scheme must be http, https, unix, or unixs"),
    }
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    let port = address.rsplit_once(':').map(|(_, port)| port);
    if port.is_none_or(|port| port.parse::<u16>().is_err()) {
        return refuse("URL address does not have the form \"host:port\"");
    }
    if !path.is_empty() || rest.ends_with('/') {
        return refuse("URL must not contain a path");
    }
    Ok(())
}

impl Initial {
    /// The identity and the members that the flags describe.
    pub fn plan(&self) -> Result<Plan, Fault> {
        if self.state == InitialState::Existing {
            return Err(Fault::Refused(
                "--initial-cluster-state=existing: this version cannot join a running cluster"
                    .into(),
            ));
        }
        let members = parse_initial_cluster(&self.cluster)?;
        self.check(&members)?;
        let mut by_id = BTreeMap::new();
        let mut own = 0;
        for (name, urls) in members {
            let peer_urls: Vec<String> = urls.into_iter().collect();
            let id = cluster::member_id(&peer_urls, &self.token);
            if name == self.name {
                own = id;
            }
            if by_id.insert(id, Peer { peer_urls, name }).is_some() || id == 0 {
                return Err(Fault::Refused(format!(
                    "member exists with identical ID {id:x}"
                )));
            }
        }
        let ids: Vec<u64> = by_id.keys().copied().collect();
        Ok(Plan {
            identity: Identity {
                cluster_id: cluster::cluster_id(&ids),
                member_id: own,
            },
            members: by_id,
        })
    }

    /// The URLs of `--initial-cluster` and of `--initial-advertise-peer-urls` must say the same.
    fn check(&self, members: &Members) -> Result<(), Fault> {
        let refuse = |text: String| Err(Fault::Refused(text));
        let Some(planned) = members.get(&self.name) else {
            return refuse(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                self.name
            ));
        };
        let mut seen = BTreeSet::new();
        if !members.values().flatten().all(|url| seen.insert(url)) {
            return refuse(format!(
                "initial cluster {} has duplicate url",
                canonical(members)
            ));
        }
        let advertised: BTreeSet<String> = self.advertise_peer_urls.iter().cloned().collect();
        let missing: Vec<String> = planned
            .difference(&advertised)
            .map(|url| format!("{}={url}", self.name))
            .collect();
        if !missing.is_empty() {
            return refuse(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={}",
                missing.join(","),
                joined(&advertised)
            ));
        }
        let missing: Vec<&str> = advertised.difference(planned).map(String::as_str).collect();
        if !missing.is_empty() {
            let own = Members::from([(self.name.clone(), advertised.clone())]);
            return refuse(format!(
                "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
                missing.join(","),
                canonical(&own)
            ));
        }
        Ok(())
    }
}

fn joined(urls: &BTreeSet<String>) -> String {
    urls.iter().cloned().collect::<Vec<_>>().join(",")
}

fn canonical(members: &Members) -> String {
    let pairs = members.iter();
    let pairs = pairs.flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
    let mut pairs: Vec<String> = pairs.collect();
    pairs.sort();
    pairs.join(",")
}

/// A data directory that is ours, held while this value lives.
pub struct DataDir {
    pub wal: PathBuf,
    pub snap: PathBuf,
    /// True if there is a log already.
    pub has_log: bool,
    pub lock: DirLock,
}

/// First bytes of a page of etcd's database file that tell what it is, and where they stand.
const BBOLT_MAGIC: ([u8; 4], u64) = (0xED0C_DAED_u32.to_le_bytes(), 16);

impl DataDir {
    /// Looks at `path`, refuses what is not ours, makes what is missing, and takes the lock. The log may
    /// have a directory of its own elsewhere.
    pub fn open(disk: &dyn Disk, path: &Path, wal: Option<&Path>) -> Result<DataDir, Fault> {
        let (member, elsewhere) = (path.join("member"), wal);
        let wal = elsewhere.map_or_else(|| member.join("wal"), Path::to_path_buf);
        let snap = member.join("snap");
        let names = names(disk, path)?;
        classify(path, &names)?;
        refuse_foreign(disk, &snap)?;
        for dir in [&member, &wal, &snap] {
            disk.create_dir(dir)?;
        }
        let lock = disk.lock(&member)?;
        let above = path.parent().filter(|it| !it.as_os_str().is_empty());
        disk.sync_dir(above.unwrap_or(Path::new(".")))?;
        disk.sync_dir(path)?;
        disk.sync_dir(&member)?;
        let has_log = self::names(disk, &wal)?
            .iter()
            .any(|name| name.ends_with(".wal"));
        Ok(DataDir {
            wal,
            snap,
            has_log,
            lock,
        })
    }
}

/// The names in `dir`; none if there is no such directory.
fn names(disk: &dyn Disk, dir: &Path) -> storage::Result<Vec<String>> {
    let paths = match disk.list(dir) {
        Err(Fault::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        paths => paths?,
    };
    let names = paths.iter().filter_map(|path| path.file_name());
    Ok(names.map(|it| it.to_string_lossy().into_owned()).collect())
}

fn classify(path: &Path, names: &[String]) -> Result<(), Fault> {
    let has = |name: &str| names.iter().any(|it| it == name);
    match (has("member"), has("proxy")) {
        (true, true) => {
            return Err(Fault::Refused(
                "invalid datadir; both member and proxy directories exist".into(),
            ));
        }
        (false, true) => {
            return Err(Fault::Refused(format!(
                "{} is the data directory of a v2 proxy",
                path.display()
            )));
        }
        (true, false) => info!(
            data_dir = %path.display(),
            dir_type = "member",
            "server has already been initialized"
        ),
        (false, false) => {}
    }
    let ours = ["member", "fixtures", "lost+found"];
    for name in names.iter().filter(|name| !ours.contains(&name.as_str())) {
        warn!(
            filename = %name,
            data_dir = %path.display(),
            "found invalid file under data directory"
        );
    }
    Ok(())
}

/// Refuses a directory in which etcd has kept its data: the formats have nothing in common.
fn refuse_foreign(disk: &dyn Disk, snap: &Path) -> Result<(), Fault> {
    let refuse = |path: &Path| {
        Err(Fault::Refused(format!(
            "{} was written by etcd; this server cannot read it and leaves it untouched",
            path.display()
        )))
    };
    for name in names(disk, snap)? {
        let path = snap.join(&name);
        if name.ends_with(".snap") || name.ends_with(".snap.db") {
            return refuse(&path);
        }
        if name == "db" && starts_like_bbolt(disk, &path) {
            return refuse(&path);
        }
    }
    Ok(())
}

/// An engine of ours may be a directory here, or a file of its own kind.
fn starts_like_bbolt(disk: &dyn Disk, path: &Path) -> bool {
    let (magic, offset) = BBOLT_MAGIC;
    let mut found = [0; 4];
    let read = disk
        .open(path, false)
        .and_then(|file| file.read_at(&mut found, offset));
    matches!(read, Ok(4)) && found == magic
}

/// Refuses an engine and a log that cannot belong together. `last` and `purged` are the log's, `applied` is
/// the engine's; `term_at` reads the term of an entry the log still has.
pub fn check_order(
    applied: Option<LogId>,
    last: Option<LogId>,
    purged: Option<LogId>,
    term_at: impl FnOnce(u64) -> Result<u64, Fault>,
) -> Result<(), Fault> {
    let damaged = |reason: String| Err(Fault::damaged("the data directory", reason));
    let Some(applied) = applied else {
        return match purged {
            Some(purged) => damaged(format!(
                "the log was purged up to entry {}, but the engine is empty",
                purged.index()
            )),
            None => Ok(()),
        };
    };
    let index = applied.index();
    let Some(last) = last.filter(|last| last.index() >= index) else {
        return damaged(format!(
            "the engine has applied entry {index}, but the log ends at {}",
            last.map_or("its beginning".into(), |last| last.index().to_string())
        ));
    };
    let term = match purged {
        Some(purged) if purged.index() > index => {
            return damaged(format!(
                "the log was purged up to entry {}, but the engine has only applied {index}",
                purged.index()
            ));
        }
        Some(purged) if purged.index() == index => super::entry::term(&purged),
        _ if last.index() == index => super::entry::term(&last),
        _ => term_at(index)?,
    };
    if term != super::entry::term(&applied) {
        return damaged(format!(
            "the engine has applied entry {index} of term {}, but the log has it in term {term}",
            super::entry::term(&applied)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::entry::log_id;

    fn initial(name: &str, cluster: &str, advertised: &str) -> Initial {
        Initial {
            name: name.into(),
            cluster: cluster.into(),
            advertise_peer_urls: advertised.split(',').map(String::from).collect(),
            ..Initial::default()
        }
    }

    #[test]
    fn initial_clusters_are_read_as_etcd_reads_them() {
        let cases = [
            ("a=http://h:1", "a=http://h:1"),
            ("b=http://h:2,a=http://h:1", "a=http://h:1,b=http://h:2"),
            ("a=http://h:2,,a=http://h:1,", "a=http://h:1,a=http://h:2"),
            ("a=unix:///run/x", "a=unix:///run/x"),
            ("a=https://[::1]:1", "a=https://[::1]:1"),
        ];
        for (text, read) in cases {
            let members = parse_initial_cluster(text).expect(text);
            assert_eq!(canonical(&members), read);
        }
        let refused = [
            ("a", "empty URL given for \"a\""),
            ("a=", "empty URL given for \"a\""),
            (
                "a=ftp://h:1",
                "URL scheme must be http, https, unix, or unixs",
            ),
            (
                "a=http://h",
                "URL address does not have the form \"host:port\"",
            ),
            ("a=http://h:1/path", "URL must not contain a path"),
        ];
        for (text, reason) in refused {
            let error = parse_initial_cluster(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        let cases = [
            (
                "b",
                "a=http://h:1",
                "http://h:1",
                "couldn't find local name \"b\"",
            ),
            (
                "a",
                "a=http://h:1,b=http://h:1",
                "http://h:1",
                "initial cluster a=http://h:1,b=http://h:1 has duplicate url",
            ),
            (
                "a",
                "a=http://h:1",
                "http://h:2",
                "--initial-cluster has a=http://h:1 but missing from --initial-advertise-peer-urls=http://h:2",
            ),
            (
                "a",
                "a=http://h:1",
                "http://h:1,http://h:2",
                "--initial-advertise-peer-urls has http://h:2 but missing from \
                 --initial-cluster=a=http://h:1,a=http://h:2",
            ),
        ];
        for (name, cluster, advertised, reason) in cases {
            let error = initial(name, cluster, advertised).plan().expect_err(reason);
            assert!(error.to_string().contains(reason), "{error}");
        }
        let existing = Initial {
            state: InitialState::Existing,
            ..Initial::default()
        };
        assert!(existing.plan().is_err());
    }

    #[test]
    fn ids_are_those_that_etcd_computes() {
        let plan = Initial::default().plan().expect("the defaults");
        assert_eq!(plan.identity.member_id, 0x8e9e_05c5_2164_694d);
        assert_eq!(plan.identity.cluster_id, 0xcdf8_1819_4e3a_8c32);
        let cluster = "infra1=http://127.0.0.1:12380,infra2=http://127.0.0.1:22380,\
                       infra3=http://127.0.0.1:32380";
        let three = Initial {
            token: "etcd-cluster-1".into(),
            ..initial("infra1", cluster, "http://127.0.0.1:12380")
        };
        let plan = three.plan().expect("three members");
        assert_eq!(plan.identity.cluster_id, 0xef37_ad9d_c622_a7c4);
        assert_eq!(plan.members.len(), 3);
        assert!(plan.members.contains_key(&plan.identity.member_id));
    }

    #[test]
    fn an_engine_and_a_log_that_do_not_belong_together_are_damage() {
        let id = |index| Some(log_id(2, index));
        let cases = [
            // applied, last, purged, term of the entry in the log, refused because
            (None, None, None, 0, ""),
            (None, id(9), None, 0, ""),
            (id(5), id(9), None, 2, ""),
            (id(9), id(9), None, 0, ""),
            (id(5), id(9), id(5), 0, ""),
            (id(5), id(9), id(3), 2, ""),
            (
                None,
                id(9),
                id(3),
                0,
                "purged up to entry 3, but the engine is empty",
            ),
            (id(5), None, None, 0, "the log ends at its beginning"),
            (
                id(10),
                id(9),
                None,
                0,
                "applied entry 10, but the log ends at 9",
            ),
            (
                id(2),
                id(9),
                id(3),
                0,
                "purged up to entry 3, but the engine has only applied 2",
            ),
            (
                id(5),
                id(9),
                id(3),
                1,
                "entry 5 of term 2, but the log has it in term 1",
            ),
        ];
        for (applied, last, purged, term, reason) in cases {
            let result = check_order(applied, last, purged, |_| Ok(term));
            match result {
                Ok(()) => assert!(reason.is_empty(), "{reason}"),
                Err(error) => {
                    assert!(!reason.is_empty(), "{error}");
                    assert!(error.to_string().contains(reason), "{error}");
                }
            }
        }
    }
}
