//! Walks a tree whose nodes are called through tables, with vectors, text and floats live, and tells the host at each.

#[link(wasm_import_module = "host")]
unsafe extern "C" {
    safe fn log(number: i32);
}

trait Step {
    fn take(&self, at: f64, path: &mut Vec<u64>) -> f64;
}

struct Leaf(u64);

struct Fork(Vec<Box<dyn Step>>, String);

impl Step for Leaf {
    fn take(&self, at: f64, path: &mut Vec<u64>) -> f64 {
        let mut number = self.0;
        let mut sum = at;
        for round in 0..4 {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            sum = (sum * 1.000_3 + number as f64).rem_euclid(1e9);
            log((number >> 32) as i32 ^ round);
        }
        path.push(number);
        sum
    }
}

impl Step for Fork {
    fn take(&self, at: f64, path: &mut Vec<u64>) -> f64 {
        let before: Vec<u64> = path.iter().rev().take(3).copied().collect();
        let mut sum = at;
        for (place, step) in self.0.iter().enumerate() {
            sum += step.take(sum / 3.0, path) * (place + 1) as f64;
            log(self.1.len() as i32 + place as i32);
        }
        let told = format!("{}:{:?}:{sum:.3}", self.1, before);
        log(told.bytes().fold(7, |hash: i32, byte| hash.wrapping_mul(31) ^ i32::from(byte)));
        sum
    }
}

fn grow(depth: u64, seed: u64) -> Box<dyn Step> {
    if depth == 0 {
        return Box::new(Leaf(seed * 0x9e37_79b9_7f4a_7c15 | 1));
    }
    let children = (1..=3).map(|child| grow(depth - 1, seed * 3 + child));
    Box::new(Fork(children.collect(), "fork".repeat(depth as usize)))
}

fn main() {
    let mut path = Vec::new();
    let sum = grow(3, 1).take(0.5, &mut path);
    println!("{sum:.6} {} {:x}", path.len(), path.iter().fold(0, |all: u64, one| all.rotate_left(5) ^ one));
}
