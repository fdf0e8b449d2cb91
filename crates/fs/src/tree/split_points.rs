//! Names of a directory as numbers, so that the place of a name not yet seen can be guessed: where are we ten pages
//! from here, if names go on as they did?
//!
//! Each position of a name is a digit of its own base: the characters seen there, rounded up to what they are likely
//! taken from (decimal, hexadecimal, letters). `f0000999` is followed by `f0001000`, and `2f…` by `30…`. A guess that
//! is off costs a request; nothing else hangs on it.

use std::cmp::Ordering;
use std::collections::VecDeque;

/// Number of pages from which the density of names is taken.
const PAGES: usize = 10;
/// Number of bytes of a name that count: names that differ only behind them can't be told apart.
const POSITIONS: usize = 96;
/// Number of positions before the first one in which two names differ that still count: a carry reaches them.
const CARRIED: usize = 6;
/// Limit of what a number's digits are worth together, so that the number can be multiplied by a page's
/// entries.
const WORTH_MAX: u128 = 1 << 96;

/// ASCII characters that were seen at each position of the names.
#[derive(Clone, Debug, Default)]
pub struct SplitPoints {
    seen: Vec<u128>,
    /// True for positions where some name has a character of which no order is known.
    foreign: Vec<bool>,
}

/// Density of names: the latest pages, each from its first name to its last one, with its number of entries.
#[derive(Clone, Debug, Default)]
pub struct Density(VecDeque<(String, String, u64)>);

impl Density {
    pub fn note(&mut self, from: &str, to: &str, count: u64) {
        self.0.push_back((from.to_owned(), to.to_owned(), count));
        if self.0.len() > PAGES {
            self.0.pop_front();
        }
    }

    /// Returns with how many common bytes all names of the pages and this one begin.
    fn common(&self, at: &str) -> usize {
        let names = self.0.iter().flat_map(|(from, to, _)| [from, to]);
        names.map(|name| common(name, at)).min().unwrap_or(0)
    }
}

fn set(low: u8, high: u8) -> u128 {
    (low..=high).map(|c| 1u128 << c).sum()
}

/// Returns a set's characters, ascending.
fn symbols(set: u128) -> Vec<u8> {
    (0u8..128).filter(|c| set >> c & 1 == 1).collect()
}

fn common(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}

impl SplitPoints {
    pub fn learn(&mut self, name: &str) {
        let len = name.len().min(POSITIONS);
        if self.seen.len() < len {
            self.seen.resize(len, 0);
            self.foreign.resize(len, false);
        }
        for (at, byte) in name.bytes().take(len).enumerate() {
            match byte {
                b' '..=b'~' => self.seen[at] |= 1 << byte,
                _ => self.foreign[at] = true,
            }
        }
    }

    /// Returns the letters that stand among digits somewhere in the word that this position is in: its digits
    /// may be hexadecimal then.
    fn letters_beside(&self, at: usize) -> u128 {
        let (digits, letters) = (set(b'0', b'9'), set(b'a', b'z') | set(b'A', b'Z'));
        let word = |s: &&u128| *s & (digits | letters) != 0;
        let (left, right) = self.seen.split_at(at);
        let word = left.iter().rev().take_while(word).chain(right.iter().take_while(word));
        word.filter(|s| *s & digits != 0).fold(0, |all, s| all | s & letters)
    }

    /// Returns the digits of a position; `None` where no order is known.
    fn digits(&self, at: usize) -> Option<Vec<u8>> {
        let seen = *self.seen.get(at)?;
        if self.foreign[at] || seen == 0 {
            return None;
        }
        let mut all = seen;
        let classes = [(set(b'a', b'f'), set(b'a', b'z')), (set(b'A', b'F'), set(b'A', b'Z'))];
        if seen & set(b'0', b'9') != 0 {
            all |= set(b'0', b'9') | self.letters_beside(at);
        }
        for (hexadecimal, letters) in classes {
            // A letter that never changes is a word's, unless its neighbour does.
            let next = self.seen.get(at + 1).is_some_and(|s| (s & letters).count_ones() > 1);
            if seen & letters != 0 && (seen.count_ones() > 1 || next) {
                all |= if all & letters & !hexadecimal == 0 { hexadecimal } else { letters };
            }
        }
        Some(symbols(all))
    }

    /// Guesses the name before which about `entries` more names lie, counted from `at`; `None` when there is
    /// no telling.
    pub fn guess(&self, density: &Density, at: &str, entries: u64) -> Option<String> {
        let start = density.common(at).saturating_sub(CARRIED);
        let (mut worth, mut bases) = (1u128, Vec::new());
        for at in start..POSITIONS {
            let Some(digits) = self.digits(at) else { break };
            let more = worth * digits.len() as u128;
            if more > WORTH_MAX {
                break;
            }
            worth = more;
            bases.push(digits);
        }
        let number = |name: &str| {
            let tail = name.as_bytes().get(start..).unwrap_or(&[]);
            let digit = |(i, base): (usize, &Vec<u8>)| match tail.get(i) {
                Some(c) => base.partition_point(|s| s < c).min(base.len() - 1),
                None => 0,
            };
            bases
                .iter()
                .enumerate()
                .fold(0u128, |n, (i, base)| n * base.len() as u128 + digit((i, base)) as u128)
        };
        // The median: a page that crosses a gap in the numbers says nothing of the others.
        let step = |(from, to, count): &(String, String, u64)| {
            let span = number(to).checked_sub(number(from)).filter(|s| *s > 0)?;
            Some((span * u128::from(entries) / u128::from((*count).max(1))).max(1))
        };
        let mut steps: Vec<u128> = density.0.iter().filter_map(step).collect();
        steps.sort_unstable();
        let step = *steps.get(steps.len().saturating_sub(1) / 2)?;
        let mut target = number(at).checked_add(step).filter(|t| *t < worth)?;
        let mut tail = Vec::new();
        for base in bases.iter().rev() {
            let (rest, digit) = (target / base.len() as u128, (target % base.len() as u128) as usize);
            // Lowest digits at the end say nothing.
            if digit > 0 || !tail.is_empty() || base.len() == 1 {
                tail.push(base[digit]);
            }
            target = rest;
        }
        tail.reverse();
        let name = format!("{}{}", at.get(..start)?, String::from_utf8(tail).ok()?);
        (name.as_str().cmp(at) == Ordering::Greater && !name.contains('/')).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many of `names` lie between the end of the first 2,000 and the name guessed 10,000 further
    /// on.
    fn guessed(names: impl Iterator<Item = String>) -> Option<usize> {
        let mut names: Vec<String> = names.collect();
        names.sort();
        let mut split_points = SplitPoints::default();
        names[..2000].iter().for_each(|n| split_points.learn(n));
        let mut density = Density::default();
        density.note(&names[0], &names[999], 1000);
        density.note(&names[1000], &names[1999], 1000);
        let guess = split_points.guess(&density, &names[1999], 10_000)?;
        Some(names.partition_point(|n| *n <= guess) - 2000)
    }

    fn hash(i: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes())
    }

    #[test]
    fn names_go_on_as_they_did() {
        let near = |what: &str, got: Option<usize>| {
            let got = got.unwrap_or_else(|| panic!("{what}: no guess"));
            assert!((8_000..=12_500).contains(&got), "{what}: {got} instead of 10000");
        };
        near("numbers with zeros", guessed((0..100_000).map(|i| format!("f{i:07}"))));
        near("and an end", guessed((0..100_000).map(|i| format!("IMG_{i:06}.jpeg"))));
        near("bare numbers", guessed((0..1_000_000).map(|i| i.to_string())));
        near("hashes", guessed((0..100_000).map(|i| format!("{:016x}", hash(i)))));
        near("many hashes", guessed((0..1_000_000).map(|i| format!("{:016x}.dat", hash(i)))));
        near("capitals", guessed((0..200_000).map(|i| format!("{:016X}", hash(i)))));
        let minute = |i: u64| format!("2026-{:02}-{:02}T{:02}", i / 744 % 12 + 1, i / 24 % 31 + 1, i % 24);
        let off = guessed((0..100_000).map(|i| format!("{}-{:08x}", minute(i), hash(i))));
        assert!(off.is_some_and(|n| (5_000..20_000).contains(&n)), "hours and hashes: {off:?}");
    }

    #[test]
    fn where_there_is_no_telling_there_is_no_guess() {
        assert_eq!(
            guessed((0..100_000).map(|i| {
                format!("{}", char::from_u32(0x4e00 + i % 20_000).unwrap()).repeat(1 + i as usize / 20_000)
            })),
            None
        );
        let split_points = SplitPoints::default();
        let mut density = Density::default();
        density.note("a", "b", 1000);
        assert_eq!(split_points.guess(&density, "b", 1000), None);
        assert_eq!(split_points.guess(&Density::default(), "", 1000), None);
    }

    proptest::proptest! {
        #[test]
        fn a_guess_lies_further_on_and_is_a_component(
            names in proptest::collection::vec("[^/]{0,12}", 2..20), at in "[^/]{0,12}", entries in 1u64..1 << 20,
        ) {
            let mut split_points = SplitPoints::default();
            names.iter().for_each(|n| split_points.learn(n));
            let mut density = Density::default();
            names.windows(2).for_each(|n| density.note(&n[0], &n[1], names.len() as u64));
            if let Some(guess) = split_points.guess(&density, &at, entries) {
                assert!(guess > at && !guess.contains('/') && guess.len() <= at.len().max(POSITIONS), "{guess}");
            }
        }
    }
}
