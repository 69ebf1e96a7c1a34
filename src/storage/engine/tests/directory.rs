//! Whose files these are: what is refused, and with which words.

use super::*;

fn refusal(kind: Kind, dir: &Path) -> String {
    let message = match super::super::open(kind, dir) {
        Ok(_) => panic!("{kind} opened {}", dir.display()),
        Err(fault) => fault.to_string(),
    };
    assert!(!message.contains('\n'), "{message}");
    message.replace(&*dir.to_string_lossy(), "<dir>")
}

#[test]
fn files_of_others_are_refused_by_name() {
    let dir = TempDir::new();
    drop(super::super::open(Kind::Sled, dir.path()).unwrap());
    assert_eq!(
        refusal(Kind::Redb, dir.path()),
        "<dir>/db belongs to the storage engine sled, not redb"
    );
    let held = super::super::open(Kind::Sled, dir.path()).unwrap();
    assert_eq!(
        refusal(Kind::Sled, dir.path()),
        "<dir>/db is in use by another process"
    );
    held.commit(&put(Table::Meta, b"a", b"1")).unwrap();
    held.flush().unwrap();
    drop(held);

    let marker = dir.path().join("db.format");
    let bytes = std::fs::read(&marker).unwrap();
    let mut newer = bytes.clone();
    newer[8] = 2;
    let sum = crc32c::crc32c(&newer[..16]);
    newer[16..20].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&marker, newer).unwrap();
    assert_eq!(
        refusal(Kind::Sled, dir.path()),
        "<dir>/db has format 2, newer than 1, the newest known here"
    );
    std::fs::remove_file(&marker).unwrap();
    assert_eq!(
        refusal(Kind::Sled, dir.path()),
        "<dir>/db is a sled directory, but db.format is missing beside it"
    );
    std::fs::write(&marker, bytes).unwrap();
    std::fs::remove_dir_all(dir.path().join("db")).unwrap();
    assert_eq!(
        refusal(Kind::Sled, dir.path()),
        "damaged data in <dir>/db: missing, yet <dir>/db.format was flushed to"
    );

    let dir = TempDir::new();
    drop(super::super::open(Kind::Redb, dir.path()).unwrap());
    assert_eq!(
        refusal(Kind::Sled, dir.path()),
        "<dir>/db belongs to the storage engine redb, not sled"
    );
    std::fs::remove_file(dir.path().join("db.format")).unwrap();
    assert_eq!(
        refusal(Kind::Redb, dir.path()),
        "<dir>/db is a redb file, but db.format is missing beside it"
    );
}

#[test]
fn a_database_of_etcd_is_refused_by_name() {
    let dir = TempDir::new();
    let mut page = vec![0; 4096];
    page[16..20].copy_from_slice(&[0xED, 0xDA, 0x0C, 0xED]);
    std::fs::write(dir.path().join("db"), page).unwrap();
    for kind in ON_DISK {
        assert_eq!(
            refusal(kind, dir.path()),
            "<dir>/db is a database of etcd (bbolt), which cannot be opened: save a snapshot from the etcd \
             that owns it and restore that"
        );
    }
}

#[test]
fn a_place_that_takes_no_files_is_named() {
    for kind in ON_DISK {
        let dir = TempDir::new();
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let message = refusal(kind, &file.join("snap"));
        assert!(message.starts_with("create directory <dir>: "), "{message}");
        // Where nobody may create a file, root included.
        let message = refusal(kind, Path::new("/proc/self"));
        assert!(message.starts_with("create <dir>/db.format: "), "{message}");
    }
}

/// What a creation that was cut short left is no data: it is made anew.
#[test]
fn a_creation_cut_short_is_made_anew() {
    for kind in ON_DISK {
        let dir = TempDir::new();
        drop(super::super::open(kind, dir.path()).unwrap());
        let db = dir.path().join("db");
        match kind {
            Kind::Sled => std::fs::write(db.join("durability_cookie"), "cut").unwrap(),
            _ => std::fs::write(&db, "cut").unwrap(),
        }
        let engine = super::super::open(kind, dir.path()).unwrap();
        engine.commit(&put(Table::Meta, b"a", b"1")).unwrap();
        engine.flush().unwrap();
        drop(engine);
        let engine = super::super::open(kind, dir.path()).unwrap();
        assert_eq!(all(&*engine, Table::Meta), pairs(&[("a", "1")]));
    }
}

/// An older copy of the engine under the marker of a newer one: durable writes would be gone.
#[test]
fn an_engine_that_went_back_is_refused() {
    for kind in ON_DISK {
        let (dir, older) = (TempDir::new(), TempDir::new());
        let engine = super::super::open(kind, dir.path()).unwrap();
        for number in 0..3 {
            if number == 2 {
                copy_dir(dir.path(), older.path());
            }
            engine.commit(&put(Table::Meta, b"a", &[number])).unwrap();
            engine.flush().unwrap();
        }
        drop(engine);
        let marker = "db.format";
        std::fs::copy(dir.path().join(marker), older.path().join(marker)).unwrap();
        let expected = match kind {
            // Its log is shorter than the marker says.
            Kind::Sled => "<dir>/db/metadata/log_0000000000000001: bad frame at offset ",
            _ => "<dir>/db: opened at flush 2, but flush 3 had been completed",
        };
        let refusal = refusal(kind, older.path());
        assert!(
            refusal.starts_with(&format!("damaged data in {expected}")),
            "{refusal}"
        );
    }
}
