//! Trees in boxes, walked by closures behind dynamic calls; recursion without loops.

enum Tree {
    Leaf(u64),
    Fork(Box<Tree>, Box<Tree>),
}

fn build(depth: u32, seed: u64) -> Tree {
    if depth == 0 {
        return Tree::Leaf(seed);
    }
    let next = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    Tree::Fork(Box::new(build(depth - 1, next)), Box::new(build(depth - 1, next ^ seed)))
}

fn walk(tree: &Tree, visit: &mut dyn FnMut(u64)) {
    match tree {
        Tree::Leaf(value) => visit(*value),
        Tree::Fork(left, right) => {
            walk(left, visit);
            walk(right, visit);
        }
    }
}

fn ackermann(m: u64, n: u64) -> u64 {
    match (m, n) {
        (0, n) => n + 1,
        (m, 0) => ackermann(m - 1, 1),
        (m, n) => ackermann(m - 1, ackermann(m, n - 1)),
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
    let tree = build(12, 42);
    let operations: [Box<dyn Fn(u64, u64) -> u64>; 3] = [
        Box::new(|sum, value| sum.wrapping_add(value)),
        Box::new(|sum, value| sum.rotate_left(7) ^ value),
        Box::new(|sum, value| if value == 0 { sum } else { sum.wrapping_mul(value | 1) }),
    ];
    for operation in &operations {
        let mut sum = 1;
        walk(&tree, &mut |value| sum = operation(sum, value));
        println!("{sum}");
    }
    println!("{}", ackermann(2, 40));
}
