//! A version in 24 bytes.

use super::Freed;
use super::Version;
use crate::mvcc::Revision;

/// Bits of the version number kept beside the revision. With the 32 that have a field of their own
/// they count 17.6 trillion writes of one key in one life.
const HIGH_BITS: u32 = 12;

/// Revisions stay below 4.5 quadrillion: a million a second for 140 years.
const REVISION_LIMIT: i64 = 1 << (63 - HIGH_BITS);

/// A [`Version`], packed: history keeps one for each version that was superseded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// The main revision, then the high bits of the version number.
    main: i64,
    created: i64,
    sub: u32,
    low: u32,
}

const _: () = assert!(size_of::<Stamp>() == 24);

impl Stamp {
    /// Returns true if [`new`](Stamp::new) can pack the version.
    pub(super) fn fits(version: &Version) -> bool {
        (0..REVISION_LIMIT).contains(&version.modified.main)
            && (0..1 << (32 + HIGH_BITS)).contains(&version.version)
    }

    pub(super) fn new(version: Version) -> Stamp {
        let Revision { main, sub } = version.modified;
        assert!((0..REVISION_LIMIT).contains(&main), "revision {main}");
        let high = version.version >> 32;
        assert!(
            (0..1 << HIGH_BITS).contains(&high),
            "version {} of one key",
            version.version
        );
        Stamp {
            main: main << HIGH_BITS | high,
            created: version.created,
            sub,
            low: version.version as u32,
        }
    }

    #[inline]
    pub(super) fn version(&self) -> Version {
        let high = self.main & ((1 << HIGH_BITS) - 1);
        Version {
            modified: self.modified(),
            created: self.created,
            version: high << 32 | i64::from(self.low),
        }
    }

    #[inline]
    pub(super) fn modified(&self) -> Revision {
        Revision {
            main: self.main(),
            sub: self.sub,
        }
    }

    #[inline]
    pub(super) fn main(&self) -> i64 {
        self.main >> HIGH_BITS
    }

    pub(super) fn freed(&self) -> Freed {
        Freed {
            at: self.modified(),
            tombstone: !self.is_live(),
        }
    }

    #[inline]
    pub(super) fn created(&self) -> i64 {
        self.created
    }

    #[inline]
    pub(super) fn is_live(&self) -> bool {
        self.low != 0 || self.main & ((1 << HIGH_BITS) - 1) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_loses_nothing() {
        let cases = [
            (1, 0, 0, 0),
            (2, 1, 2, 1),
            (REVISION_LIMIT - 1, u32::MAX, REVISION_LIMIT - 1, 1 << 32),
            (1 << 40, 7, 1 << 39, (1 << 44) - 1),
        ];
        for (main, sub, created, version) in cases {
            let version = Version {
                modified: Revision { main, sub },
                created,
                version,
            };
            let stamp = Stamp::new(version);
            assert_eq!(stamp.version(), version);
            assert_eq!(stamp.main(), main);
            assert_eq!(stamp.is_live(), !version.is_tombstone());
        }
    }
}
