//! Other inputs out of known ones, by chance that can be repeated.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

/// Numbers that programs trip over.
const NUMBERS: [&str; 10] = [
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "9223372036854775807",
    "18446744073709551615",
    "1e309",
];
/// Longest input that is made.
const LONGEST: usize = 1 << 16;

/// Another input, made from one of `known` with one to six changes; the same for the same number.
pub fn mutate(known: &[Vec<u8>], number: u64) -> Vec<u8> {
    let mut rng = StdRng::seed_from_u64(number);
    let mut bytes = known.choose(&mut rng).cloned().unwrap_or_default();
    for _ in 0..rng.random_range(1..=6) {
        change(&mut bytes, known, &mut rng);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn change(bytes: &mut Vec<u8>, known: &[Vec<u8>], rng: &mut StdRng) {
    let at = |bytes: &[u8], rng: &mut StdRng| rng.random_range(0..=bytes.len());
    let span = |bytes: &[u8], rng: &mut StdRng| {
        let begin = rng.random_range(0..=bytes.len());
        let longest = (bytes.len() - begin).min(64);
        begin..begin + rng.random_range(0..=longest)
    };
    match rng.random_range(0..9) {
        0 if !bytes.is_empty() => {
            let one = rng.random_range(0..bytes.len());
            bytes[one] ^= 1 << rng.random_range(0..8);
        }
        1 if !bytes.is_empty() => {
            let one = rng.random_range(0..bytes.len());
            bytes[one] = *[0, 1, 0x1e, b'\n', 0x7f, 0x80, 0xff]
                .choose(rng)
                .unwrap_or(&0);
        }
        2 => drop(bytes.drain(span(bytes, rng))),
        3 => {
            let (place, again) = (at(bytes, rng), bytes[span(bytes, rng)].to_vec());
            bytes.splice(place..place, again);
        }
        4 => bytes.truncate(at(bytes, rng)),
        5 => {
            let place = at(bytes, rng);
            let fresh: Vec<u8> = (0..rng.random_range(1..16)).map(|_| rng.random()).collect();
            bytes.splice(place..place, fresh);
        }
        6 => {
            if let Some(other) = known.choose(rng) {
                let (place, part) = (at(bytes, rng), other[span(other, rng)].to_vec());
                bytes.splice(place..place, part);
            }
        }
        7 => {
            // A number in a text.
            if let Some(begin) = bytes.iter().position(u8::is_ascii_digit) {
                let numbers: Vec<usize> = (begin..bytes.len())
                    .filter(|i| {
                        bytes[*i].is_ascii_digit() && (*i == 0 || !bytes[i - 1].is_ascii_digit())
                    })
                    .collect();
                let begin = *numbers.choose(rng).unwrap_or(&begin);
                let digits = bytes[begin..].iter().take_while(|b| b.is_ascii_digit());
                let end = begin + digits.count();
                let number = NUMBERS.choose(rng).unwrap_or(&"0");
                bytes.splice(begin..end, number.bytes());
            }
        }
        _ => {
            // A whole one behind, as if it had been said twice.
            if let Some(other) = known.choose(rng) {
                bytes.extend_from_slice(other);
            }
        }
    }
}
