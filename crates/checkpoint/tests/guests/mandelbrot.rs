//! How many points of a grid never leave the circle: three loops and nothing else.

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
    const SIDE: u32 = 64;
    let mut inside = 0;
    let mut steps = 0_u64;
    for row in 0..SIDE {
        for column in 0..SIDE {
            let (re, im) = (f64::from(column) / 24.0 - 2.0, f64::from(row) / 26.0 - 1.25);
            let (mut x, mut y) = (0.0, 0.0);
            let mut left = 200;
            while left > 0 && x * x + y * y < 4.0 {
                (x, y) = (x * x - y * y + re, 2.0 * x * y + im);
                left -= 1;
                steps += 1;
            }
            inside += u32::from(left == 0);
        }
    }
    println!("{inside} {steps}");
}
