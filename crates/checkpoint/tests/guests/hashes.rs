//! A chain of hashes, each of the one before: the compression function of SHA-256.

const INITIAL: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

/// The fractions of the cube roots of the first primes.
fn constants() -> [u32; 64] {
    let mut found = [0; 64];
    let primes = (2_u32..).filter(|number| (2..*number).all(|divisor| number % divisor != 0));
    for (place, prime) in found.iter_mut().zip(primes) {
        let root = f64::from(prime).cbrt();
        *place = ((root - root.floor()) * 4_294_967_296.0) as u32;
    }
    found
}

fn compress(state: &mut [u32; 8], block: &[u32; 16], constants: &[u32; 64]) {
    let mut words = [0_u32; 64];
    words[..16].copy_from_slice(block);
    for at in 16..64 {
        let (first, last) = (words[at - 15], words[at - 2]);
        let small = first.rotate_right(7) ^ first.rotate_right(18) ^ (first >> 3);
        let large = last.rotate_right(17) ^ last.rotate_right(19) ^ (last >> 10);
        words[at] = words[at - 16]
            .wrapping_add(small)
            .wrapping_add(words[at - 7])
            .wrapping_add(large);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for at in 0..64 {
        let sum = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let first = h
            .wrapping_add(sum)
            .wrapping_add(choice)
            .wrapping_add(constants[at])
            .wrapping_add(words[at]);
        let sum = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let second = sum.wrapping_add((a & b) ^ (a & c) ^ (b & c));
        (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(first), c, b, a, first.wrapping_add(second));
    }
    for (word, new) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(new);
    }
}

/// How often it does its work: the first argument, or once.
fn rounds() -> u32 {
    std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1)
}

fn main() {
    for _ in 0..rounds() {
        work();
    }
}

fn work() {
    let constants = constants();
    let mut state = INITIAL;
    for round in 0..800 {
        let mut block = [round; 16];
        block[..8].copy_from_slice(&state);
        compress(&mut state, &block, &constants);
        if round % 200 == 0 {
            println!("{round}: {state:08x?}");
        }
    }
    println!("{state:08x?}");
}
