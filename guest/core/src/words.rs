//! Short texts compared and hashed eight bytes at a time.
//!
//! In WebAssembly the comparison of slices is a loop over bytes, and hashes that multiply
//! 64 by 64 bits are slow. Most of a decision is to find a few names again.

use std::hash::{BuildHasherDefault, Hasher};

/// Whether two texts are the same.
pub(crate) fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let (Some(end), Some(other_end)) = (one.last_chunk::<8>(), other.last_chunk::<8>()) else {
        return short(one) == short(other);
    };
    let ((words, _), (others, _)) = (one.as_chunks::<8>(), other.as_chunks::<8>());
    end == other_end && words.iter().zip(others).all(|(word, other)| word == other)
}

/// At most seven bytes as one number: another one for each text of the same length.
fn short(text: &[u8]) -> u64 {
    if let (Some(start), Some(end)) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        return (u64::from(u32::from_le_bytes(*start)) << 32) | u64::from(u32::from_le_bytes(*end));
    }
    text.iter()
        .fold(0, |word, byte| (word << 8) | u64::from(*byte))
}

/// A hash for keys that only operators choose: nobody else can make them collide.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WordHasher(u64);

/// Builds [`WordHasher`]s.
pub(crate) type WordHash = BuildHasherDefault<WordHasher>;

impl WordHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

impl Hasher for WordHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(end) = bytes.last_chunk::<8>() {
            let (words, _) = bytes.as_chunks::<8>();
            for word in words {
                self.add(u64::from_le_bytes(*word));
            }
            self.add(u64::from_le_bytes(*end));
        } else {
            self.add(short(bytes));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.add(u64::from(byte));
    }

    fn write_usize(&mut self, number: usize) {
        self.add(u64::try_from(number).unwrap_or(u64::MAX));
    }

    fn finish(&self) -> u64 {
        // The upper bits of a product are mixed best, and a table takes some of the lower ones.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn same_is_what_is_equal_at_every_length_and_place() {
        for length in 0..40_usize {
            let text: Vec<u8> = (0..length).map(|n| u8::try_from(n).unwrap()).collect();
            assert!(same(&text, &text.clone()), "{length}");
            assert!(!same(&text, &[&text[..], b"x"].concat()), "{length}");
            for place in 0..length {
                let mut other = text.clone();
                other[place] ^= 0x80;
                assert!(!same(&text, &other), "{length} {place}");
            }
        }
    }

    #[test]
    fn short_texts_of_one_length_have_numbers_of_their_own() {
        for length in 1..8_usize {
            let mut seen = HashSet::new();
            for place in 0..length {
                for byte in 1..=255 {
                    let mut text = vec![0; length];
                    text[place] = byte;
                    assert!(seen.insert(short(&text)), "{text:?}");
                }
            }
        }
    }

    /// Names that differ in a number only spread over a table as chance would have it.
    #[test]
    fn similar_names_spread() {
        for form in ["web-", "a-long-name-of-a-service-", ""] {
            let mut low = vec![0_usize; 1024];
            let mut high = vec![0_usize; 128];
            for number in 0..8192 {
                let hash = WordHash::default().hash_one(format!("{form}{number}"));
                low[usize::try_from(hash % 1024).unwrap()] += 1;
                high[usize::try_from(hash >> 57).unwrap()] += 1;
            }
            // Eight and 64 in the mean.
            assert!(low.iter().all(|count| *count < 32), "{form}");
            assert!(high.iter().all(|count| *count < 160), "{form}");
        }
    }
}
