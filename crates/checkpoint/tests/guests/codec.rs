//! A codec: repetitions are found through a hash table, and what is left goes through an adaptive range coder.

const PROBABILITY_BITS: u32 = 11;
const RANGE_MIN: u32 = 1 << 24;
const MATCH_MIN: usize = 4;
const WINDOW: usize = 1 << 16;

/// The probability that a bit is zero, of 2,048.
type Bit = u16;

struct Models {
    is_match: Bit,
    literals: Vec<[Bit; 256]>,
    length: [Bit; 256],
    distance: [[Bit; 256]; 2],
}

impl Models {
    fn new() -> Self {
        let even = [1_024; 256];
        Self { is_match: 1_024, literals: vec![even; 8], length: even, distance: [even; 2] }
    }
}

/// What codes a bit, one way or the other.
trait Coder {
    fn bit(&mut self, model: &mut Bit, bit: u32) -> u32;

    /// A byte, from its highest bit on, each bit with the model of those before it.
    fn byte(&mut self, models: &mut [Bit; 256], byte: u8) -> u8 {
        let mut seen = 1;
        for place in (0..8).rev() {
            seen = seen << 1 | self.bit(&mut models[seen as usize], u32::from(byte) >> place & 1);
        }
        seen as u8
    }
}

fn adapt(model: &mut Bit, bit: u32) {
    match bit {
        0 => *model += ((1 << PROBABILITY_BITS) - *model) >> 5,
        _ => *model -= *model >> 5,
    }
}

struct Packer {
    low: u64,
    range: u32,
    held: u8,
    pending: usize,
    packed: Vec<u8>,
}

impl Packer {
    fn shift(&mut self) {
        if self.low < 0xff00_0000 || self.low > 0xffff_ffff {
            let carry = (self.low >> 32) as u8;
            let mut byte = self.held;
            for _ in 0..self.pending {
                self.packed.push(byte.wrapping_add(carry));
                byte = 0xff;
            }
            self.pending = 0;
            self.held = (self.low >> 24) as u8;
        }
        self.pending += 1;
        self.low = (self.low & 0x00ff_ffff) << 8;
    }
}

impl Coder for Packer {
    fn bit(&mut self, model: &mut Bit, bit: u32) -> u32 {
        let bound = (self.range >> PROBABILITY_BITS) * u32::from(*model);
        if bit == 0 {
            self.range = bound;
        } else {
            self.low += u64::from(bound);
            self.range -= bound;
        }
        adapt(model, bit);
        while self.range < RANGE_MIN {
            self.range <<= 8;
            self.shift();
        }
        bit
    }
}

struct Unpacker<'p> {
    code: u32,
    range: u32,
    rest: std::slice::Iter<'p, u8>,
}

impl Unpacker<'_> {
    fn shift(&mut self) {
        self.code = self.code << 8 | u32::from(self.rest.next().copied().unwrap_or(0));
    }
}

impl Coder for Unpacker<'_> {
    fn bit(&mut self, model: &mut Bit, _: u32) -> u32 {
        let bound = (self.range >> PROBABILITY_BITS) * u32::from(*model);
        let bit = u32::from(self.code >= bound);
        if bit == 0 {
            self.range = bound;
        } else {
            self.code -= bound;
            self.range -= bound;
        }
        adapt(model, bit);
        while self.range < RANGE_MIN {
            self.range <<= 8;
            self.shift();
        }
        bit
    }
}

fn pack(text: &[u8]) -> Vec<u8> {
    let mut packer = Packer { low: 0, range: u32::MAX, held: 0, pending: 1, packed: Vec::new() };
    let mut models = Models::new();
    let mut last_seen = vec![usize::MAX; 1 << 14];
    let mut at = 0;
    while at < text.len() {
        let (mut length, mut distance) = (0, 0);
        if let Some(next) = text[at..].first_chunk::<4>() {
            let place = (u32::from_le_bytes(*next).wrapping_mul(0x9e37_79b1) >> 18) as usize;
            let seen = std::mem::replace(&mut last_seen[place], at);
            if seen != usize::MAX && at - seen < WINDOW {
                let same = text[seen..].iter().zip(&text[at..]).take(255 + MATCH_MIN);
                length = same.take_while(|(left, right)| left == right).count();
                distance = at - seen;
            }
        }
        if length >= MATCH_MIN {
            packer.bit(&mut models.is_match, 1);
            packer.byte(&mut models.length, (length - MATCH_MIN) as u8);
            packer.byte(&mut models.distance[0], (distance >> 8) as u8);
            packer.byte(&mut models.distance[1], distance as u8);
            at += length;
        } else {
            packer.bit(&mut models.is_match, 0);
            let before = at.checked_sub(1).map_or(0, |before| text[before] >> 5);
            packer.byte(&mut models.literals[before as usize], text[at]);
            at += 1;
        }
    }
    (0..5).for_each(|_| packer.shift());
    packer.packed
}

fn unpack(packed: &[u8], length: usize) -> Vec<u8> {
    let mut unpacker = Unpacker { code: 0, range: u32::MAX, rest: packed.iter() };
    (0..5).for_each(|_| unpacker.shift());
    let mut models = Models::new();
    let mut text: Vec<u8> = Vec::with_capacity(length);
    while text.len() < length {
        if unpacker.bit(&mut models.is_match, 0) == 0 {
            let before = text.last().map_or(0, |before| before >> 5);
            text.push(unpacker.byte(&mut models.literals[before as usize], 0));
        } else {
            let count = usize::from(unpacker.byte(&mut models.length, 0)) + MATCH_MIN;
            let high = usize::from(unpacker.byte(&mut models.distance[0], 0));
            let distance = high << 8 | usize::from(unpacker.byte(&mut models.distance[1], 0));
            for _ in 0..count {
                text.push(text[text.len() - distance]);
            }
        }
    }
    text
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
    let words = ["stop", "anywhere", "and", "go", "on", "elsewhere", "frame", "memory", "of", "the"];
    let mut text = Vec::new();
    let mut state = 1_u32;
    while text.len() < 60_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(words[(state >> 24) as usize % words.len()].as_bytes());
        text.push(b' ' + (state >> 20 & 1) as u8);
    }
    let packed = pack(&text);
    assert_eq!(unpack(&packed, text.len()), text);
    let sum = packed.iter().fold(0_u32, |sum, &byte| sum.rotate_left(5) ^ u32::from(byte));
    println!("{} {} {sum:08x}", text.len(), packed.len());
}
