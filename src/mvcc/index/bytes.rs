//! Small questions about byte strings that both kinds of node ask.

use std::cmp::Ordering;
use std::ops::Range;

/// How many leading bytes `a` and `b` share.
pub(super) fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// What follows `prefix` in `key`, or where `key` stands relative to all strings that start so.
#[inline]
pub(super) fn strip<'a>(key: &'a [u8], prefix: &[u8]) -> Result<&'a [u8], Ordering> {
    let (start, rest) = key.split_at(prefix.len().min(key.len()));
    match start.cmp(prefix) {
        Ordering::Equal => Ok(rest),
        // A proper prefix of the prefix comes out as `Less`, which is where it sorts.
        other => Err(other),
    }
}

/// The first `W` bytes, padded with zeros. Equal heads leave the order open, others settle it.
#[inline]
pub(super) fn head<const W: usize>(suffix: &[u8]) -> [u8; W] {
    let mut head = [0; W];
    match suffix.first_chunk::<W>() {
        Some(chunk) => head = *chunk,
        None => head[..suffix.len()].copy_from_slice(suffix),
    }
    head
}

/// The first index of `range` for which `before` is false.
#[inline]
pub(super) fn bisect(range: Range<usize>, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        match before(middle) {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    low
}

/// The shortest string that is above `left` and not above `right`.
pub(super) fn separator(left: &[u8], right: &[u8]) -> Vec<u8> {
    debug_assert!(left < right, "separating keys that are out of order");
    right[..shared(left, right) + 1].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_order_like_their_strings_or_tie() {
        let strings: [&[u8]; 8] = [b"", b"\0", b"a", b"a\0", b"ab", b"abcd", b"abcde", b"b"];
        for a in strings {
            for b in strings {
                let heads = head::<4>(a).cmp(&head::<4>(b));
                assert!(heads == Ordering::Equal || heads == a.cmp(b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn separator_is_short_and_between() {
        let cases: [(&[u8], &[u8], &[u8]); 4] = [
            (b"", b"abc", b"a"),
            (b"abc", b"abd", b"abd"),
            (b"abc", b"abcdef", b"abcd"),
            (b"a", b"b123", b"b"),
        ];
        for (left, right, expected) in cases {
            assert_eq!(separator(left, right), expected, "{left:?} {right:?}");
        }
    }

    #[test]
    fn strip_places_keys_around_a_prefix() {
        let cases = [
            (&b"abc"[..], Ok(&b"c"[..])),
            (b"ab", Ok(b"")),
            (b"a", Err(Ordering::Less)),
            (b"ac", Err(Ordering::Greater)),
        ];
        for (key, expected) in cases {
            assert_eq!(strip(key, b"ab"), expected, "{key:?}");
        }
    }
}
